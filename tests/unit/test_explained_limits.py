"""``tcpmesh explain`` names the limits that hold for whoever is allowed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.cli.explain_output import is_explanation
from tcpmesh.limit_interfaces import ILimitingPolicy, Limit
from tcpmesh.mesh_state import MeshState, NamedPolicy
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.policy.explain import explained, limits_of
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.unit.policy_samples import request
from tests.unit.test_cli_explain import MONDAY, ExplainCase

LIMITS = """\
  - {name: few, action: limit, from: [{any: authenticated}], limit: {connections: 2, rate: 30/m, per: [identity]}}
  - {name: trial, action: limit, mode: dry-run, from: [{any: authenticated}], limit: {connections: 9}}
  - {name: ledger, action: limit, from: [{any: authenticated}], to: {services: [ledger]}, limit: {connections: 1}}
"""


class AskedTests(ExplainCase):
    def test_names_the_limits_of_whoever_is_allowed(self) -> None:
        """With what they say and where; those about others are not named."""
        policies = self.policies.read_text()
        self.policies.write_text(policies + LIMITS)
        line = policies.count("\n") + 1
        status, out, err = self.explain("--from", "spiffe://a.test/web", "--to", "orders2-in", "--ip", "10.0.0.7")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(
            [shown for shown in out.splitlines() if shown.startswith("  limit")],
            [
                "  limit       policy few at most 2 connections and 30/m new ones (burst 1) for each identity: "
                f"policies[5] ({self.policies}:{line}:5)",
                f"  limit       policy trial (dry-run) at most 9 connections for all together: policies[6] "
                f"({self.policies}:{line + 1}:5)",
            ],
        )

    def test_names_none_of_whoever_is_denied(self) -> None:
        """They would not be asked."""
        self.policies.write_text(self.policies.read_text() + LIMITS)
        where = ("--from", "spiffe://a.test/web", "--at", MONDAY, "--json")
        self.assertNotIn("limits", json.loads(self.explain(*where, "--to", "service:ledger")[1]))
        found = json.loads(self.explain(*where, "--to", "orders2-in")[1])
        self.assertEqual(
            [(limit["policy"], limit["enforced"]) for limit in found["limits"]], [("few", True), ("trial", False)]
        )


@implementer(ILimitingPolicy)
class Broken:
    """Allows, and cannot say within which limits."""

    limits: Sequence[Limit] = (Limit("few", connections=1),)

    def decide(self, request: AuthorizationRequest) -> Decision:
        return Decision(Effect.ALLOW)

    def limits_of(self, request: AuthorizationRequest) -> Sequence[Limit]:
        raise ZeroDivisionError

    def describe(self) -> Sequence[str]:
        return ()


class PluginTests(SynchronousTestCase):
    def test_a_plugin_that_fails_is_named(self) -> None:
        """Connections would be refused, and the explanation says by whom."""
        state = MeshState(policies=(NamedPolicy("acme", Broken()),))
        verdict = decide_by(state, request(), Clock(), Logger())
        assert isinstance(verdict, Verdict)
        found = explained(verdict, None, limits_of(state, request()))
        self.assertEqual(
            found["limits"], [{"policy": "acme", "says": "its plugin failed: ZeroDivisionError", "enforced": True}]
        )
        self.assertTrue(is_explanation(found))
        self.assertFalse(is_explanation({**found, "limits": ["x"]}))
        self.assertFalse(is_explanation({**found, "limits": {}}))
