"""docs/proxy-protocol.md: its examples load, and mean what they are shown for."""

from __future__ import annotations

import yaml
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.config import loads
from tcpmesh.dataplane.proxy_header import TlvType
from tcpmesh.dataplane.proxy_reader import MAX_HEADER_BYTES
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import Settings
from tests.documents import ROOT, blocks

FILE = ROOT / "docs" / "proxy-protocol.md"
BASE = {
    "version": 1,
    "trust_domain": "example.org",
    "identity": {
        "sources": {"local": {"plugin": "embedded", "state": "state"}},
        "workloads": {"orders": {"id": "spiffe://example.org/orders"}},
    },
    "authorization": [{"plugin": "rules", "policies": []}],
}
OUTBOUND = [{"name": "out", "listen": "127.0.0.1:15000", "service": "archive", "workload": "orders"}]


class DocumentTests(SynchronousTestCase):
    """The document."""

    def setUp(self) -> None:
        self.text = FILE.read_text()

    def examples(self) -> list[Settings]:
        """Each block of YAML, with what a whole file needs besides."""
        plugins = PluginRegistry()
        found = []
        for block in blocks(self.text):
            if block.language == "yaml":
                keys = yaml.safe_load(block.text)
                whole = BASE | keys | ({"outbound": OUTBOUND} if "services" in keys else {})
                found.append(loads(yaml.safe_dump(whole).encode(), FILE, plugins))
        return found

    def test_examples(self) -> None:
        """Whom to believe, what to tell an application, and a server."""
        behind, told, server = self.examples()
        accepted = behind.inbound[0].proxy_protocol
        self.assertEqual([str(source) for source in accepted.accept_from], ["10.0.0.5", "10.0.0.6", "fd00:5::/64"])
        self.assertEqual(told.inbound[0].proxy_protocol.send, "v2")
        self.assertEqual(server.services["archive"].proxy_protocol, "v2")

    def test_numbers(self) -> None:
        """Types and lengths are those of the code."""
        self.assertIn(f"at most {MAX_HEADER_BYTES} bytes", self.text)
        for kind in TlvType:
            if kind is not TlvType.NOOP:
                self.assertRegex(self.text, rf"(?i)\b{kind:#04x}\b")

    def test_codes(self) -> None:
        """The codes of headers are explained where the headers are."""
        for code in (codes.PROXY_HEADER_MISSING, codes.PROXY_HEADER_MALFORMED, codes.PROXY_HEADER_TIMEOUT):
            self.assertIn(f"| {code.id} |", self.text)
            self.assertIn(f"code={code.id} ", self.text)
            self.assertIn(code.next_step, self.text)
