"""docs/upstream-balancing.md: its examples load, and its tables are what the simulations give."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.balancing_report import share_rows
from tcpmesh.balance.source_hash import _REMEMBERED
from tcpmesh.config import loads
from tcpmesh.interfaces import BALANCE
from tcpmesh.plugins import PluginRegistry
from tests.documents import ROOT, blocks, links, section
from tests.unit.config_samples import AROUND_A_SERVICE, SERVICE

TEXT = (ROOT / "docs" / "upstream-balancing.md").read_text(encoding="utf-8")
DISCOVERY = '    discovery: {plugin: static, endpoints: ["192.0.2.10:4143"]}\n'


def rows(text: str) -> list[list[str]]:
    """The cells of its tables' rows that begin with a name in code."""
    return [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in re.findall(r"^\| `.*$", text, re.MULTILINE)
    ]


def numbers(cells: Sequence[str]) -> list[float]:
    return [float(number) for cell in cells for number in re.findall(r"[0-9.]+", cell)]


class DocumentTests(SynchronousTestCase):
    def test_every_example_loads(self) -> None:
        """Whole ones, and those that stand below a service."""
        examples = [block for block in blocks(TEXT) if block.language == "yaml"]
        self.assertEqual(len(examples), 5)
        plugins = PluginRegistry()
        for block in examples:
            text = block.text
            if "service" in block.words:
                inner = textwrap.indent(block.text, "    ")
                text = SERVICE + inner + ("" if "discovery:" in inner else DISCOVERY)
            settings = loads((AROUND_A_SERVICE + text).encode(), Path("/etc/mesh/tcpmesh.yaml"), plugins)
            self.assertIn(settings.services["orders"].balance.plugin, plugins.names(BALANCE))

    def test_the_tables_are_what_comes_out(self) -> None:
        """As nearly as other mathematics than those of the machine on which they were made may differ."""
        shown = rows(section(TEXT, "When endpoints misbehave"))
        found = [row for ejects in (False, True) for row in share_rows(ejects=ejects)]
        self.assertEqual([row[0].strip("`") for row in shown], [name for name, _ in found])
        for cells, (name, values) in zip(shown, found, strict=True):
            for written, simulated in zip(numbers(cells[1:]), values, strict=True):
                self.assertTrue(abs(written - simulated) <= 0.1 + simulated * 0.25, (name, cells, values))

    def test_names_every_balancer(self) -> None:
        """In the first table and in that of costs."""
        names = set(PluginRegistry().names(BALANCE))
        first = {row[0].strip("`") for row in rows(TEXT.partition("## When")[0])}
        costs = {row[0].split("`")[1] for row in rows(section(TEXT, "What it costs"))}
        self.assertTrue(first <= names)
        self.assertEqual(first, costs)
        self.assertEqual(len(first), 5)

    def test_its_pictures_are_there(self) -> None:
        """Small ones."""
        pictures = [link for link in links(TEXT) if link.endswith(".svg")]
        self.assertEqual(len(pictures), 3)
        for picture in pictures:
            self.assertLess((ROOT / "docs" / picture).stat().st_size, 60_000, picture)

    def test_says_how_many_sources_are_remembered(self) -> None:
        """The number that the code has."""
        self.assertIn(f"remembers {_REMEMBERED} sources", section(TEXT, "What it costs"))
