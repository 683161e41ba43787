"""docs/routes.md: every example loads, and names go where the table says."""

from __future__ import annotations

import re
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import config
from tcpmesh.codes import all_codes
from tcpmesh.net.routing import another_may_do, ways
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import Settings
from tests.documents import ROOT, blocks, section

FILE = ROOT / "docs" / "routes.md"
TEXT = FILE.read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if not line.startswith("| ---") and not following.startswith("| ---")
    ]


def completed(text: str) -> str:
    """An example among services and workloads of the names that it uses."""
    written: dict[str, Any] = yaml.safe_load(text)
    routes = [
        route
        for one in (*written.get("outbound", ()), *written.get("inbound", ()))
        for route in one.get("routes", [one])
    ]
    services = {
        name for route in routes for name in (route.get("service"), *route.get("split", ()), *route.get("failover", ()))
    }
    for number, name in enumerate(sorted(filter(None, services)), 1):
        written.setdefault("services", {}).setdefault(
            name,
            {
                "expect": [f"spiffe://example.test/{name}"],
                "discovery": {"plugin": "static", "endpoints": [f"192.0.2.{number}:4143"]},
            },
        )
    return yaml.safe_dump(
        {
            "version": 1,
            "trust_domain": "example.test",
            "identity": {
                "sources": {"local": {"plugin": "embedded", "state": "state"}},
                "workloads": {name: {"id": f"spiffe://example.test/{name}"} for name in ("web", "orders", "billing")},
            },
            **written,
        }
    )


class DocumentTests(SynchronousTestCase):
    """What it says is so."""

    def examples(self) -> list[Settings]:
        found = [block.text for block in blocks(TEXT) if block.language == "yaml"]
        self.assertEqual(len(found), TEXT.count("```yaml"))
        return [config.loads(completed(text).encode(), ROOT / "example.yaml", PluginRegistry()) for text in found]

    def test_every_example_loads(self) -> None:
        """With nothing but what it says."""
        self.assertEqual(len(self.examples()), 6)

    def test_names_go_where_the_table_says(self) -> None:
        """By the routes of the first example."""
        routes = ways(self.examples()[0].outbound[0].all_routes)
        table = rows(section(TEXT, "Server names"))[:10]
        self.assertEqual(len(table), 10)
        for asked, service in table:
            way = routes.find("" if asked == "(no name)" else asked)
            assert way is not None
            self.assertEqual(way.services, (service,), asked)

    def test_names_the_codes_that_lead_to_the_next_service(self) -> None:
        """Those of the service itself; the others are the ones that are retried."""
        text = section(TEXT, "Failover").partition("All of that")[0]
        named = set(re.findall(r"TM-[A-Z]\d{3}", text.replace("TM-L108 to TM-L111", "TM-L108 TM-L109 TM-L110 TM-L111")))
        following = {code.id for code in all_codes() if another_may_do(code)}
        self.assertLessEqual(named, following)
        unnamed = {code.id for code in all_codes() if another_may_do(code) and not code.retryable} - named
        self.assertEqual(unnamed, set())
