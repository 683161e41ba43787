"""docs/upstream.md: its examples load, and it names every plugin and every key of what it leads to."""

from __future__ import annotations

import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config import loads
from tcpmesh.interfaces import BALANCE, DISCOVERY, RETRY
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import OutboundSettings, ServiceSettings, keys
from tests.documents import ROOT, blocks
from tests.unit.config_samples import AROUND_A_SERVICE, SERVICE

TEXT = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
# Keys of a service or of an outbound listener that have nothing to do with the way to an endpoint.
_ELSEWHERE = {
    "clients", "expect", "listen", "name", "on_change", "on_expiry", "plaintext_network", "preface", "service", "sni",
    "timeouts", "tls", "truncation", "trust", "workload",
}  # fmt: skip


class OverviewTests(SynchronousTestCase):
    def test_every_example_loads(self) -> None:
        """Each is the rest of a service."""
        examples = [block for block in blocks(TEXT) if block.language == "yaml"]
        self.assertEqual(len(examples), 2)
        for block in examples:
            text = AROUND_A_SERVICE + SERVICE + textwrap.indent(block.text, "    ")
            service = loads(text.encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry()).services["orders"]
            self.assertNotEqual(service.retry.plugin, "none")

    def test_names_every_plugin(self) -> None:
        """Of the three kinds that it is about."""
        plugins = PluginRegistry()
        for kind in (DISCOVERY, BALANCE, RETRY):
            for name in plugins.names(kind):
                self.assertIn(f"`{name}`", TEXT)

    def test_names_every_key(self) -> None:
        """Whoever looks for one finds where it is explained."""
        for name in {*keys(ServiceSettings), *keys(OutboundSettings)} - _ELSEWHERE:
            self.assertRegex(TEXT, rf"\b{name}\b")

    def test_its_pictures_are_there(self) -> None:
        """The simulations, as plots."""
        pictures = [line.rpartition("(")[2].rstrip(")") for line in TEXT.splitlines() if line.startswith("![")]
        self.assertEqual(len(pictures), 3)
        for picture in pictures:
            self.assertIn("<svg", (ROOT / "docs" / picture).read_text(encoding="utf-8")[:2000])
