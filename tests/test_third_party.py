"""The example of a third party's plugins, installed beside the product."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tests.environments import Environment, run, source_copy

ACME = {
    "identity": "acme-command",
    "discovery": "acme-list",
    "authorization": "acme-office-hours",
    "retry": "acme-patient",
    "balance": "acme-least-used",
}
CONFIGURATION = """
version: 1
trust_domain: example.test
identity:
  sources:
    company: {{plugin: acme-command, command: [{python}, {script}]}}
  workloads:
    orders: {{id: "spiffe://example.test/orders"}}
services:
  orders:
    expect: ["spiffe://example.test/orders"]
    discovery: {{plugin: acme-list, path: endpoints.txt, interval: 1s}}
    balance: {{plugin: acme-least-used}}
    retry: {{plugin: acme-patient, wait: 100ms, total: 2s}}
outbound:
  - {{name: to-orders, listen: "127.0.0.1:15000", service: orders, workload: orders}}
inbound:
  - {{name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}}
authorization:
  - {{plugin: acme-office-hours, ids: ["spiffe://example.test/orders"], start: 0, end: 24}}
"""


@cache
def environment(directory: str) -> Environment:
    """The product and the example, installed one after the other."""
    made = Environment(Path(directory))
    made.install(source_copy())
    made.install(source_copy() / "examples" / "third_party_plugin")
    return made


class ThirdPartyTests(SynchronousTestCase):
    _directory = ""

    def setUp(self) -> None:
        cls = type(self)
        cls._directory = cls._directory or str(Path(self.mktemp()).absolute())
        self.environment = environment(cls._directory)

    def test_all_five_are_found_beside_the_built_in_ones(self) -> None:
        """The registry finds and verifies one of each kind, and names where they come from."""
        listing = json.loads(self.environment.module("tcpmesh", "plugins", "--json"))
        self.assertEqual(listing["failed"], [])
        theirs = {plugin["kind"]: plugin for plugin in listing["plugins"] if plugin["distribution"] == "acme-mesh"}
        self.assertEqual({kind: plugin["name"] for kind, plugin in theirs.items()}, ACME)
        self.assertEqual({plugin["version"] for plugin in theirs.values()}, {"1.0.0"})
        self.assertEqual([plugin["problem"] for plugin in listing["plugins"] if plugin["problem"]], [])
        self.assertIn("static", [plugin["name"] for plugin in listing["plugins"]])

    def test_its_own_tests_pass(self) -> None:
        """Its contracts and what its plugins are for, against the installed product."""
        result = run(self.environment.python, "-m", "twisted.trial", "acme_mesh", directory=self.environment.work)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("PASSED", result.stdout)
        self.assertNotIn("skips", result.stdout)

    def test_a_configuration_that_uses_all_five_is_good(self) -> None:
        """Their settings are read and checked like ours."""
        work = self.environment.work
        script = work / "issue.py"
        script.write_text("")
        (work / "mesh.yaml").write_text(CONFIGURATION.format(python=sys.executable, script=script))
        self.assertIn("OK", self.environment.module("tcpmesh", "check", "mesh.yaml"))

    def test_mistakes_in_their_settings_have_a_place(self) -> None:
        """What their settings classes refuse is shown with line and column."""
        work = self.environment.work
        text = CONFIGURATION.format(python=sys.executable, script="x").replace("end: 24", "end: 25")
        (work / "wrong.yaml").write_text(text.replace("interval: 1s", "intervall: 1s"))
        result = run(self.environment.python, "-m", "tcpmesh", "check", "wrong.yaml", directory=work)
        self.assertEqual(result.returncode, 1)
        self.assertIn("25 is not an hour from 0 to 24", result.stderr)
        self.assertIn("unknown key 'intervall'", result.stderr)
        self.assertIn("did you mean 'interval'?", result.stderr)


class CollisionTests(SynchronousTestCase):
    def test_two_distributions_with_one_name_are_both_refused(self) -> None:
        """A plugin that takes a built-in's name breaks no other, and is never picked by chance."""
        made = Environment(Path(self.mktemp()))
        made.install(source_copy())
        project = Path(self.mktemp()).absolute()
        plugins = project / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        (project / "pyproject.toml").write_text(
            dedent(
                """
                [build-system]
                requires = ["hatchling"]
                build-backend = "hatchling.build"
                [project]
                name = "impostor"
                version = "6.6"
                [tool.hatch.build.targets.wheel]
                packages = ["twisted"]
                """
            )
        )
        (plugins / "impostor_plugin.py").write_text(
            "from tcpmesh.descriptors import PluginDescriptor\n"
            "from tcpmesh.interfaces import RETRY\n"
            "impostor = PluginDescriptor(RETRY, 'none', 'x', 'tcpmesh.retry.none:NoRetryFactory')\n"
        )
        made.install(project)
        result: subprocess.CompletedProcess[str] = run(made.python, "-m", "tcpmesh", "plugins", directory=made.work)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("there are 2 retry plugins named 'none'", result.stdout)
        self.assertIn("impostor 6.6", result.stdout)
        self.assertIn("tcpmesh 0.1.0", result.stdout)
        self.assertEqual(
            run(made.python, "-m", "tcpmesh", "plugins", "test", "exponential", directory=made.work).returncode, 0
        )
