"""docs/policy-linkerd.md: its example decides as its table says, and its keys are the plugin's."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import config
from tcpmesh.cli import main
from tcpmesh.composition import compose
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.plugins import PluginRegistry
from tcpmesh.policy.evaluate import Verdict, decide
from tcpmesh.settings import keys
from tcpmesh.sources.linkerd import LinkerdSettings, ListenerSettings
from tcpmesh.testing import authorization_request
from tcpmesh.values import TCPAddress
from tests.documents import ROOT, blocks, section

TEXT = (ROOT / "docs" / "policy-linkerd.md").read_text(encoding="utf-8")
REST = """
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {orders: {id: "spiffe://example.org/ns/shop/sa/orders"}}
inbound: [{name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}]
"""


class LinkerdDocumentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        (self.directory / "linkerd").mkdir(parents=True)
        for block in blocks(TEXT):
            if block.language == "yaml":
                (self.directory / next(iter(block.words))).write_text(block.text)
        self.mesh = self.directory / "mesh.yaml"
        self.mesh.write_text(REST + self.mesh.read_text())
        plugins, self.clock = PluginRegistry(), Clock()
        self.composition = compose(config.load(self.mesh, plugins), plugins, self.clock, lambda: 0.0)
        self.addCleanup(self.composition.policies.stop)

    def test_decides_as_its_table_says(self) -> None:
        """Each row, through everything that a connection is decided by."""
        self.composition.policies.start()
        rows = re.findall(r"^\| `(spiffe:.*?)` \| (.*?) \| (.*?) \| `(.*?)` \|$", TEXT, re.MULTILINE)
        self.assertEqual(len(rows), 5)
        for spiffe_id, source, answer, policy in rows:
            SpiffeId.parse(spiffe_id)
            request = authorization_request(spiffe_id, source=TCPAddress(source, 4711))
            verdict = decide(self.composition.policies.policies, request, self.clock, Logger())
            assert isinstance(verdict, Verdict)
            self.assertEqual((verdict.allowed, verdict.decision.policy), (answer == "allow", policy), spiffe_id)

    def test_names_every_key(self) -> None:
        """Of the plugin and of its listeners."""
        table = section(TEXT, "Keys")
        self.assertEqual(set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)), set(keys(LinkerdSettings)))
        (row,) = [line for line in table.splitlines() if line.startswith("| `listeners`")]
        self.assertTrue(set(keys(ListenerSettings)) <= set(re.findall(r"`(\w+)`", row)))

    def test_shows_what_the_log_says(self) -> None:
        """Of a change that refers to nothing; and `check` says the same."""
        self.composition.policies.start()
        file = self.directory / "linkerd" / "orders.yaml"
        file.write_text(file.read_text().replace("kind: Server, name: orders}", "kind: Server, name: order}"))
        self.composition.policies.reload()
        (shown,) = [block.text for block in blocks(TEXT) if block.language == "console"]
        (reason,) = self.composition.policies.failing.values()
        said = f"a change cannot be used, the policy of before goes on to decide: {reason}"
        self.assertEqual(shown.strip(), f"policy plugin 'linkerd': {said}".replace(str(self.directory), "/etc/mesh"))
        err = io.StringIO()
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, ["check", str(self.mesh)]).code
        self.assertEqual((err.getvalue().strip(), status), (reason, 1))

    def test_shows_what_is_imported(self) -> None:
        """Word for word, but for the place."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        arguments = ["policy", "import", "--from", "linkerd", "--config", str(self.mesh)]
        status = self.assertRaises(SystemExit, main, arguments).code
        (shown,) = [block.text for block in blocks(TEXT) if "imported.yaml" in block.words]
        self.assertEqual((out.getvalue().replace(str(self.directory), "/etc/mesh"), status), (shown, 0))
