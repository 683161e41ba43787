"""The authorization policy opa keeps its contract; the agent's answers come from the test."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.interfaces import IPolicyObserver, PluginContext
from tcpmesh.sources.opa import OpaFactory, OpaPolicy, OpaSettings
from tcpmesh.testing import FakePolicyObserver, PolicySourceContract, authorization_request
from tcpmesh.values import AuthorizationRequest, Effect


class Agent:
    """Allows one SPIFFE ID at one listener."""

    def ask(self, question: bytes) -> Deferred[bytes]:
        asked = json.loads(question)["input"]
        allow = (asked["source"]["spiffe_id"], asked["inbound"]) == ("spiffe://example.test/web", "orders-in")
        return succeed(json.dumps({"result": allow}).encode())

    def stop(self) -> Deferred[None]:
        return succeed(None)


class PolicyWithAgent(OpaPolicy):
    """Asks the test instead of the network."""

    def start(self, observer: IPolicyObserver) -> None:
        self._client: Any = Agent()


class FactoryWithAgent(OpaFactory):
    def create(self, settings: OpaSettings, context: PluginContext) -> PolicyWithAgent:
        super().create(settings, context)
        return PolicyWithAgent(settings, context)


class OpaContractTests(PolicySourceContract, SynchronousTestCase):
    """opa"""

    def make_factory(self) -> OpaFactory:
        return FactoryWithAgent()

    def make_settings(self) -> OpaSettings:
        return OpaSettings("http://127.0.0.1:8181/v1/data/tcpmesh/allow")

    def allowed(self) -> list[AuthorizationRequest]:
        return [authorization_request()]

    def denied(self) -> list[AuthorizationRequest]:
        return [
            authorization_request("spiffe://example.test/other"),
            authorization_request(inbound="admin-in"),
        ]

    def test_an_agent_that_cannot_be_asked_denies(self) -> None:
        """The contract lends no reactor, as `tcpmesh plugins test opa` has none: nobody is allowed, nothing breaks."""
        policy = OpaFactory().create(self.make_settings(), self.make_context())
        policy.start(FakePolicyObserver())
        self.addCleanup(policy.stop)
        decision = self.answer(policy, authorization_request())
        self.assertEqual(decision.effect, Effect.DENY)
        self.assertIn("Open Policy Agent at http://127.0.0.1:8181", decision.reason)
