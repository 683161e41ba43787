"""docs/upstream-endpoints.md: its configurations load, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from prometheus_client.metrics_core import Metric
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import endpoints as command
from tcpmesh.config import loads
from tcpmesh.discovery.positions import INDEX
from tcpmesh.health.states import ChangeWord, EndpointWord
from tcpmesh.observe.queue_waits import QueueWaits
from tcpmesh.observe.upstream_metrics import MAX_ENDPOINTS, UpstreamMetrics
from tcpmesh.plugins import PluginRegistry
from tcpmesh.port_ranges import MAX_PORTS, PortRange
from tcpmesh.settings import Settings
from tcpmesh.upstream_settings import CheckSettings, CircuitSettings, HealthSettings
from tests.documents import ROOT, Block, blocks, section
from tests.unit.record_samples import a_record
from tests.unit.upstreams import Fleet, endpoint

TEXT = (ROOT / "docs" / "upstream-endpoints.md").read_text(encoding="utf-8")
BEFORE = """\
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads:
    web:   {id: "spiffe://example.org/web"}
    kafka: {id: "spiffe://example.org/kafka"}
    redis: {id: "spiffe://example.org/redis"}
"""


def examples() -> list[Block]:
    """Its parts of configurations."""
    return [block for block in blocks(TEXT) if block.language == "yaml"]


def load(block: Block) -> Settings:
    return loads((BEFORE + block.text).encode(), Path("/etc/mesh/tcpmesh.yaml"), PluginRegistry())


class ConfigurationTests(SynchronousTestCase):
    """Its YAML."""

    def test_loads(self) -> None:
        """Every part, behind an identity for each workload that it names."""
        found = examples()
        self.assertGreater(len(found), 6)
        for block in found:
            self.assertIn("config", block.words, f"line {block.line}")
            load(block)

    def test_gives_each_endpoint_a_port(self) -> None:
        """Wherever there is a range; and the indexes of the second are in another order than the list."""
        ranges = 0
        for block in examples():
            settings = load(block)
            for outbound in settings.outbound:
                if isinstance(outbound.listen, PortRange):
                    ranges += 1
                    assert outbound.service is not None
                    listed = settings.services[outbound.service].discovery.settings.endpoints
                    self.assertEqual(len(outbound.listen), len(listed), f"line {block.line}")
        self.assertGreater(ranges, 6)
        indexed = load(examples()[1]).services["kafka"].discovery.settings.endpoints
        self.assertEqual([entry.metadata[INDEX] for entry in indexed], ["2", "0", "1"])

    def test_says_how_large_a_range_may_be(self) -> None:
        """And for how many endpoints there are labels."""
        self.assertIn(f"up to {MAX_PORTS:,} ports", TEXT)
        self.assertIn(f"for the first {MAX_ENDPOINTS:,} of all services together", " ".join(TEXT.split()))
        self.assertIn(f"at most {command._LISTED} endpoints are listed", TEXT)


class MetricTests(SynchronousTestCase):
    """Its table of metrics."""

    def setUp(self) -> None:
        fleet = Fleet()
        health = HealthSettings(check=CheckSettings("tcp"), circuit=CircuitSettings())
        upstream = fleet.add("orders", endpoint(1), health=health)
        booking = fleet.fail("orders")
        upstream.pool.counts.refused[next(iter(upstream.pool.counts_of(booking.endpoint).failed))] += 1
        waits = QueueWaits()
        waits.note(a_record(direction="outbound", dst_service="orders", queue_ms=1.0))
        self.families: list[Metric] = [*UpstreamMetrics(fleet.upstreams, dict, fleet.clock).collect()]
        self.families.append(waits.collect())

    def test_names_every_family_with_type_and_labels(self) -> None:
        """No more and no less."""
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \|", section(TEXT, "Metrics"), re.MULTILINE)
        documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
        found = {}
        for family in self.families:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (family.type, labels)
        self.assertEqual(documented, found)

    def test_names_every_word(self) -> None:
        """States of endpoints, and how they change."""
        stated = re.findall(r"^\| `([a-z-]+)` \|", section(TEXT, "How they stand"), re.MULTILINE)
        self.assertEqual(set(stated), {*get_args(EndpointWord), "full", "drain"})
        for change in get_args(ChangeWord):
            if not change.startswith("circuit"):
                self.assertIn(f"`{change}`", section(TEXT, "Metrics"))


class CommandTests(SynchronousTestCase):
    """Its output of tcpmesh endpoints."""

    def test_has_the_columns_that_there_are(self) -> None:
        """In their order."""
        columns = [*command._COLUMNS]
        heads = [line.split("  ") for line in TEXT.splitlines() if re.match(r"(NUMBER  )?ADDRESS ", line)]
        self.assertEqual(len(heads), 2)
        for head in heads:
            named = [word.strip() for word in head if word.strip() and word.strip() != "NUMBER"]
            self.assertEqual(named, [column for column in columns if column in named])
