"""The example of a policy in sixty lines, installed beside the product."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.environments import ROOT, Environment, run, source_copy

EXAMPLE = ROOT / "examples" / "team_hours"
REST = """
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {orders: {id: "spiffe://example.org/orders"}}
inbound: [{name: in, listen: "127.0.0.1:14143", target: "127.0.0.1:5000", workload: orders}]
"""


class TeamHoursExampleTests(SynchronousTestCase):
    def test_is_as_short_as_it_says(self) -> None:
        """Lines that are not empty."""
        lines = [line for line in (EXAMPLE / "team_hours" / "policy.py").read_text().splitlines() if line.strip()]
        self.assertLessEqual(len(lines), 60)

    def test_is_found_tested_and_configured_as_it_says(self) -> None:
        """Its own tests pass against the installed product, and its README's configuration is good."""
        environment = Environment(Path(self.mktemp()))
        environment.install(source_copy())
        environment.install(source_copy() / "examples" / "team_hours")
        listing = json.loads(environment.module("tcpmesh", "plugins", "--json"))
        (plugin,) = [plugin for plugin in listing["plugins"] if plugin["name"] == "team-hours"]
        self.assertEqual((plugin["kind"], plugin["distribution"]), ("authorization", "team-hours"))
        self.assertEqual((listing["failed"], plugin["problem"]), ([], ""))

        result = run(environment.python, "-m", "twisted.trial", "team_hours", directory=environment.work)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout, r"PASSED \(successes=\d{2,}\)")

        (example,) = re.findall(r"^```yaml\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
        mesh = environment.work / "mesh.yaml"
        mesh.write_text(REST + example)
        self.assertIn("OK ", environment.module("tcpmesh", "check", "mesh.yaml"))
        mesh.write_text(REST + example.replace("Europe/Berlin", "Europe/Nowhere"))
        wrong = run(environment.python, "-m", "tcpmesh", "check", "mesh.yaml", directory=environment.work)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("Europe/Nowhere", wrong.stderr)
