"""The example of a third party's plugins, installed beside the product."""

from __future__ import annotations

import datetime
import json
import socket
import socketserver
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.testing import TestAuthority
from tests.environments import Environment, run, source_copy
from tests.integration.processes import PATIENCE, Running, free_port, is_ready

ACME = {
    "identity": "acme-command",
    "discovery": "acme-list",
    "authorization": "acme-office-hours",
    "retry": "acme-patient",
    "balance": "acme-least-used",
}
# Stands for a company's own tool; its files were issued by the test.
ISSUE = """
import pathlib, sys
here = pathlib.Path(__file__).parent
if sys.argv[1] == "bundle":
    print((here / "bundle.pem").read_text())
else:
    name = sys.argv[2].rpartition("/")[2]
    print((here / f"{name}.key").read_text() + (here / f"{name}.pem").read_text())
"""
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
  - {{name: to-orders, listen: "127.0.0.1:{outbound}", service: orders, workload: orders}}
inbound:
  - {{name: orders-in, listen: "127.0.0.1:{inbound}", target: "127.0.0.1:{target}", workload: orders}}
authorization:
  - {{plugin: acme-office-hours, ids: ["spiffe://example.test/orders"], days: [{days}], start: {start}, end: {end}}}
admin: {{metrics: "127.0.0.1:{metrics}"}}
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

    def configure(self, name: str, **changes: object) -> str:
        """Write a configuration that uses all five, and give its name."""
        words = {"python": sys.executable, "script": self.environment.work / "issue.py"}
        hours = {"days": "mon, tue, wed, thu, fri, sat, sun", "start": 0, "end": 24}
        ports = {"outbound": 15000, "inbound": 4143, "target": 5000, "metrics": 4191}
        (self.environment.work / name).write_text(CONFIGURATION.format(**{**words, **hours, **ports, **changes}))
        return name

    def test_a_configuration_that_uses_all_five_is_good(self) -> None:
        """Their settings are read and checked like ours."""
        self.assertIn("OK", self.environment.module("tcpmesh", "check", self.configure("mesh.yaml")))

    def test_mistakes_in_their_settings_have_a_place(self) -> None:
        """What their settings classes refuse is shown with line and column."""
        work = self.environment.work
        file = work / self.configure("wrong.yaml", end=25)
        file.write_text(file.read_text().replace("interval: 1s", "intervall: 1s"))
        result = run(self.environment.python, "-m", "tcpmesh", "check", "wrong.yaml", directory=work)
        self.assertEqual(result.returncode, 1)
        self.assertIn("25 is not an hour from 0 to 24", result.stderr)
        self.assertIn("unknown key 'intervall'", result.stderr)
        self.assertIn("did you mean 'interval'?", result.stderr)


class MeshTests(SynchronousTestCase):
    """A mesh in which everything that can be a plugin is a third party's."""

    def setUp(self) -> None:
        self.tests = ThirdPartyTests("configure")
        self.tests.setUp()
        self.work = self.tests.environment.work
        authority = TestAuthority("example.test")
        authority.write_bundle(self.work / "bundle.pem")
        authority.write_svid(authority.svid("/orders"), self.work, "orders")
        (self.work / "issue.py").write_text(ISSUE)
        self.ports = {name: free_port() for name in ("outbound", "inbound", "metrics", "nobody")}
        (self.work / "endpoints.txt").write_text(
            f"127.0.0.1:{self.ports['nobody']}\n127.0.0.1:{self.ports['inbound']}\n"
        )
        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.ports["target"] = server.server_address[1]

    def start(self, **changes: object) -> Running:
        ports = {name: port for name, port in self.ports.items() if name != "nobody"}
        file = self.tests.configure("running.yaml", **{**ports, **changes})
        command = [self.tests.environment.python, "-m", "tcpmesh", "run", file]
        proxy = Running(self, command, directory=self.work, environment={"PYTHONPATH": ""})
        proxy.wait_until(lambda: is_ready(self.ports["metrics"]), "the proxy is ready")
        return proxy

    def records(self, proxy: Running, direction: str) -> list[dict[str, object]]:
        """The close records of one direction; whoever waits for them is told by their number."""
        lines = [json.loads(line) for line in proxy.out.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == "close" and line["direction"] == direction]

    def finished(self, proxy: Running) -> tuple[dict[str, object], dict[str, object]]:
        """The first outbound and the first inbound record, when both are written."""
        proxy.wait_until(
            lambda: self.records(proxy, "outbound") and self.records(proxy, "inbound"), "both records are written"
        )
        return self.records(proxy, "outbound")[0], self.records(proxy, "inbound")[0]

    def test_carries_bytes(self) -> None:
        """The first endpoint is dead, so that balancer and retry have something to do; the policy is named."""
        proxy = self.start()
        with socket.create_connection(("127.0.0.1", self.ports["outbound"]), timeout=PATIENCE) as client:
            client.sendall(b"hello\n")
            self.assertEqual(client.recv(100), b"hello\n")
        there, here = self.finished(proxy)
        self.assertEqual((there["attempts"], there["code"]), (2, "TM-D100"))
        self.assertEqual((here["policy"], here["decision"]), ("office-hours", "allow"))
        self.assertEqual(here["src.identity"], "spiffe://example.test/orders")

    def test_denies_outside_of_office_hours(self) -> None:
        """On the other side of the clock the application sees a reset, and both records the policy's reason."""
        hour = datetime.datetime.now(datetime.UTC).hour
        start = 0 if hour >= 12 else 22
        proxy = self.start(start=start, end=start + 2)
        with socket.create_connection(("127.0.0.1", self.ports["outbound"]), timeout=PATIENCE) as client:
            self.assertRaises(ConnectionResetError, client.recv, 1)
        there, here = self.finished(proxy)
        self.assertEqual((there["code"], here["code"]), ("TM-P101", "TM-P101"))
        self.assertIn("the office is closed", str(here["reason"]))


class _Echo(socketserver.StreamRequestHandler):
    """Gives each line back."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


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
