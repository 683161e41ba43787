"""docs/policy-opa.md against a real Open Policy Agent: its policy, its table, and what is asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as _reactor  # noqa: TID251  trial installed it
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.trial.unittest import TestCase

from tcpmesh import config
from tcpmesh.composition import Composition, compose
from tcpmesh.plugins import PluginRegistry
from tcpmesh.policy.evaluate import Verdict, decide
from tcpmesh.policy.opa_exchange import write_question
from tcpmesh.settings import keys
from tcpmesh.sources.opa import OpaSettings
from tcpmesh.testing import authorization_request
from tcpmesh.values import AuthorizationRequest, TCPAddress
from tcpmesh.wall_clock import wall_clock
from tests.documents import ROOT, blocks, section
from tests.integration.opa import OpaAgent
from tests.integration.servers import temporary_directory

reactor: Any = _reactor
TEXT = (ROOT / "docs" / "policy-opa.md").read_text(encoding="utf-8")
FILES = {next(iter(block.words)): block.text for block in blocks(TEXT) if block.words}
SHOWN_SOCKET = "/run/opa/opa.sock"
REST = """
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {orders: {id: "spiffe://example.org/orders"}}
inbound: [{name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}]
"""
BUDGET = 30.0  # seconds: a busy machine may be slow


class DocumentTests(TestCase):
    """What can be said without an agent."""

    def test_names_every_key(self) -> None:
        """Of the plugin, and no other."""
        named = re.findall(r"^\| `(\w+)` \|", section(TEXT, "Keys"), re.MULTILINE)
        self.assertEqual(sorted(named), sorted(keys(OpaSettings)))

    def test_shows_what_is_asked(self) -> None:
        """The input of its example, word for word."""
        request = attrs.evolve(
            authorization_request("spiffe://example.org/team/shop/web", source=TCPAddress("10.1.2.3", 4711)),
            alpn="tcpmesh/1",
        )
        self.assertEqual(json.loads(write_question(request)), {"input": json.loads(FILES["input"])})

    def test_its_configuration_can_be_used(self) -> None:
        """As it is shown."""
        directory = Path(self.mktemp())
        directory.mkdir()
        file = directory / "mesh.yaml"
        file.write_text(REST + FILES["mesh.yaml"])
        self.assertEqual(config.load(file, PluginRegistry()).authorization[0].plugin, "opa")


class AgentTests(TestCase):
    """Against the real thing."""

    timeout = 120

    def start(self, document: str = "tcpmesh/decision", extra: str = "") -> tuple[OpaAgent, Composition]:
        agent = OpaAgent(self, {name: FILES[name] for name in ("policy.rego", "teams.json")})
        file = temporary_directory(self) / "mesh.yaml"
        text = FILES["mesh.yaml"].replace(SHOWN_SOCKET, str(agent.socket)).replace("tcpmesh/decision", document)
        file.write_text(REST + text + extra)
        plugins = PluginRegistry()
        composition = compose(config.load(file, plugins), plugins, reactor, wall_clock)
        composition.policies.start()
        self.addCleanup(composition.policies.stop)
        return agent, composition

    async def decide(self, composition: Composition, request: AuthorizationRequest | str) -> Verdict:
        if isinstance(request, str):
            request = authorization_request(request)
        verdict = decide(composition.policies.policies, request, reactor, Logger(), BUDGET)
        return await verdict if isinstance(verdict, Deferred) else verdict

    async def test_decides_as_its_table_says(self) -> None:
        """Each row, through everything that a connection is decided by; twice, the second time from memory."""
        _, composition = self.start()
        rows = re.findall(r"^\| `(spiffe:.*?)` \| `(.*?)` \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
        self.assertEqual(len(rows), 4)
        for _ in range(2):
            for spiffe_id, inbound, answer, reason in rows:
                verdict = await self.decide(composition, authorization_request(spiffe_id, inbound=inbound))
                self.assertEqual((verdict.allowed, verdict.decision.reason), (answer == "allow", reason), spiffe_id)
                self.assertEqual(verdict.decision.rule, "tcpmesh/decision")

    async def test_an_undefined_document_denies(self) -> None:
        """Or abstains where that is configured: then nobody allows."""
        for extra, code in (("", "TM-P101"), ("    undefined: abstain\n", "TM-P102")):
            _, composition = self.start(document="tcpmesh/nothing", extra=extra)
            verdict = await self.decide(composition, "spiffe://example.org/team/shop/web")
            assert verdict.code is not None
            self.assertEqual((verdict.allowed, verdict.code.id), (False, code))

    async def test_a_hundred_peers_at_once(self) -> None:
        """More than there are connections, all answered."""
        _, composition = self.start()
        asked = [
            Deferred.fromCoroutine(self.decide(composition, f"spiffe://example.org/team/shop/{n}")) for n in range(100)
        ]
        verdicts = await gatherResults(asked)
        self.assertTrue(all(verdict.allowed for verdict in verdicts))

    async def test_is_asked_again_after_a_restart(self) -> None:
        """While it is gone everybody is denied with TM-P103; nothing has to be told to the proxy."""
        agent, composition = self.start()
        self.assertTrue((await self.decide(composition, "spiffe://example.org/team/shop/a")).allowed)
        agent.process.kill()
        denied = await self.decide(composition, "spiffe://example.org/team/shop/b")
        assert denied.code is not None
        self.assertEqual((denied.allowed, denied.code.id), (False, "TM-P103"))
        remembered = await self.decide(composition, "spiffe://example.org/team/shop/a")
        self.assertTrue(remembered.allowed)
