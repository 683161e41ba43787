"""docs/upstream-discovery.md: its examples load, its lines and numbers are those of the code."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.config import loads
from tcpmesh.config.hints import schema
from tcpmesh.discovery.dns_answers import MAX_CHAIN, MAX_TARGETS
from tcpmesh.discovery.dns_guard import MAX_RECORDS
from tcpmesh.discovery.dns_settings import DnsSettings
from tcpmesh.discovery.endpoint_document import read_endpoints
from tcpmesh.discovery.endpoint_list import ListedEndpoint
from tcpmesh.discovery.endpoint_rules import MAX_ENDPOINTS, MAX_METADATA
from tcpmesh.discovery.intake import change
from tcpmesh.endpoint_control import EndpointControl
from tcpmesh.endpoint_lines import BURST, DiscoveryLines
from tcpmesh.errors import ConfigurationError
from tcpmesh.interfaces import DISCOVERY
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.removal import RETURN
from tcpmesh.observe.discovery_metrics import DiscoveryMetrics
from tcpmesh.plugins import PluginRegistry
from tcpmesh.sources.dns_lookup import ROUNDS
from tcpmesh.testing import endpoint
from tests.documents import ROOT, blocks, section
from tests.unit.config_samples import AROUND_A_SERVICE, SERVICE

TEXT = (ROOT / "docs" / "upstream-discovery.md").read_text(encoding="utf-8")


def first_cells(text: str) -> list[str]:
    """The first words in code of its tables' rows."""
    return re.findall(r"^\| `([a-z_-]+)`", text, re.MULTILINE)


class DocumentTests(SynchronousTestCase):
    def test_every_example_loads(self) -> None:
        """Those below a service, and files of endpoints."""
        plugins = PluginRegistry()
        chosen = []
        for block in blocks(TEXT):
            if "service" in block.words:
                text = AROUND_A_SERVICE + SERVICE + textwrap.indent(block.text, "    ")
                settings = loads(text.encode(), Path("/etc/mesh/tcpmesh.yaml"), plugins)
                chosen.append(settings.services["orders"].discovery.plugin)
            elif "endpoints" in block.words:
                self.assertEqual(len(read_endpoints(Path("/e"), block.text.encode())), 2)
            else:
                self.assertEqual(block.language, "", block.line)
        self.assertEqual(chosen, ["static", "file", "dns", "dns", "dns"])

    def test_names_every_plugin_and_every_key(self) -> None:
        """In its tables."""
        self.assertEqual(set(first_cells(TEXT.partition("## What")[0])), set(PluginRegistry().names(DISCOVERY)))
        self.assertEqual(first_cells(section(TEXT, "What an endpoint is")), list(schema(ListedEndpoint).fields))
        self.assertEqual(set(first_cells(section(TEXT, "`dns`"))), set(schema(DnsSettings).fields))
        self.assertEqual(first_cells(section(TEXT, "When endpoints go: `on_removed`")), ["drain", "close", "keep"])

    def test_its_numbers_are_those_of_the_code(self) -> None:
        """As far as it says them."""
        for said in (
            f"{MAX_ENDPOINTS} endpoints", f"up to {MAX_METADATA} texts", f"{MAX_RECORDS} records in an answer",
            f"{MAX_TARGETS} SRV targets", f"{MAX_CHAIN} CNAMEs in a row", f"back within {RETURN:g} seconds",
        ):  # fmt: skip
            self.assertIn(said, " ".join(TEXT.split()))
        self.assertEqual((ROUNDS, BURST), (2, 6))  # "twice each", "six lines"

    def test_names_every_metric(self) -> None:
        """Of discoveries."""
        families = DiscoveryMetrics(EndpointControl(MeshStateCell(), Clock())).collect()
        names = [f"{family.name}_total" if family.type == "counter" else family.name for family in families]
        self.assertEqual(first_cells(section(TEXT, "When endpoints change")), names)

    def test_complaints_about_a_file_are_real(self) -> None:
        """Those that tcpmesh check shows."""
        data = b"- 127.0.0.1:4143\n- {address: '127.0.0.2:4143', wieght: 2}\n- db.example.org:4143\n"
        error = self.assertRaises(ConfigurationError, read_endpoints, Path("/home/you/endpoints.yaml"), data)
        self.assertIn(textwrap.indent(str(error), "    "), TEXT)

    def test_its_log_lines_are_real(self) -> None:
        """As the code writes them."""
        events = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        lines = DiscoveryLines("db", Clock())
        two = [endpoint(5432, host="127.0.0.2"), endpoint(5432, host="127.0.0.3")]
        lines.changed(None, two, change((), two), quiet=False)
        lines.changed(two, two[1:], change(two, two[1:]), quiet=False)
        lines.failed("db.mesh.test (A): 127.0.0.1:5353: refuses datagrams: nobody listens there", 1)
        lines.recovered(7.0)
        why = "db.mesh.test does not exist (NXDOMAIN), says 127.0.0.1:5353"
        lines.changed(two[1:], [], change(two[1:], []), quiet=False, why_none=why)
        orders = DiscoveryLines("orders", Clock())
        orders.failed("/home/you/endpoints.yaml: there is no such file or directory", 1)
        self.assertEqual(len(events), 6)
        for event in events:
            line = f"    {event['log_level'].name.upper():<5} {formatEvent(event)}\n"
            self.assertIn(line, TEXT)
