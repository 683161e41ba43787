"""The example of a discovery, a balancer and a retry strategy of a third party's, installed beside the product."""

from __future__ import annotations

import json
import re
import socket
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.environments import ROOT, Environment, run, source_copy
from tests.integration.processes import PATIENCE, Running, free_port, is_ready

README = (ROOT / "examples" / "registry_failover" / "README.md").read_text()
PLUGINS = {"discovery": "http-registry", "balance": "last-good", "retry": "by-code"}
REST = """
version: 1
trust_domain: example.org
identity:
  sources: {{local: {{plugin: embedded, state: state}}}}
  workloads: {{orders: {{id: "spiffe://example.org/orders"}}}}
outbound: [{{name: out, listen: "127.0.0.1:{outbound}", service: orders, workload: orders}}]
inbound: [{{name: in, listen: "127.0.0.1:{inbound}", target: "127.0.0.1:{target}", workload: orders}}]
authorization:
  - {{plugin: rules, policies: [{{name: all, action: allow, from: [{{ids: ["spiffe://example.org/orders"]}}]}}]}}
admin: {{metrics: "127.0.0.1:{metrics}"}}
"""
_PORTS = {"outbound": 15000, "inbound": 14143, "target": 5000, "metrics": 4191}


@cache
def environment(directory: str) -> Environment:
    """The product and the example, installed one after the other."""
    made = Environment(Path(directory))
    made.install(source_copy())
    made.install(source_copy() / "examples" / "registry_failover")
    return made


class RegistryExampleTests(SynchronousTestCase):
    _directory = ""

    def setUp(self) -> None:
        cls = type(self)
        cls._directory = cls._directory or str(Path(self.mktemp()).absolute())
        self.environment = environment(cls._directory)
        (self.example,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

    def test_is_found_tested_and_configured_as_it_says(self) -> None:
        """Its own tests pass against the installed product, and its README's configuration is good."""
        made = self.environment
        listing = json.loads(made.module("tcpmesh", "plugins", "--json"))
        theirs = {each["kind"]: each for each in listing["plugins"] if each["distribution"] == "registry-failover"}
        self.assertEqual({kind: each["name"] for kind, each in theirs.items()}, PLUGINS)
        self.assertEqual((listing["failed"], [each["problem"] for each in theirs.values()]), ([], [""] * 3))

        result = run(made.python, "-m", "twisted.trial", "registry_failover", directory=made.work)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout, r"PASSED \(successes=\d{2,}\)")

        mesh = made.work / "mesh.yaml"
        mesh.write_text(REST.format(**_PORTS) + self.example)
        self.assertIn("OK ", made.module("tcpmesh", "check", "mesh.yaml"))
        mesh.write_text(REST.format(**_PORTS) + self.example.replace("http://127.0.0.1", "http://192.0.2.1"))
        wrong = run(made.python, "-m", "tcpmesh", "check", "mesh.yaml", directory=made.work)
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("on another machine a registry needs https", wrong.stderr)

    def test_follows_a_registry(self) -> None:
        """The first instance is dead: the second is found, and stayed at; then the registry lists none."""
        ports = {name: free_port() for name in ("outbound", "inbound", "metrics")}
        registry = _Registry([free_port(), ports["inbound"]])
        self.addCleanup(registry.close)
        target = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(target.close)
        threading.Thread(target=_echo, args=(target,), daemon=True).start()
        work = self.environment.work
        text = REST.format(**ports, target=target.getsockname()[1])
        text += self.example.replace("127.0.0.1:8500", f"127.0.0.1:{registry.port}").replace("5s", "100ms")
        (work / "running.yaml").write_text(text)
        command = [self.environment.python, "-m", "tcpmesh", "run", "running.yaml"]
        proxy = Running(self, command, directory=work, environment={"PYTHONPATH": ""})
        proxy.wait_until(lambda: is_ready(ports["metrics"]), "the proxy is ready")

        for count in (1, 2):
            self.assertEqual(self.talk(ports["outbound"]), b"hello")
            proxy.wait_until(lambda count=count: len(self.records(proxy)) == count, "the record is written")
        self.assertEqual([record["attempts"] for record in self.records(proxy)], [2, 1])
        self.assertEqual({record["dst.addr"] for record in self.records(proxy)}, {f"127.0.0.1:{ports['inbound']}"})
        (failure,) = self.records(proxy)[0]["failures"]
        self.assertEqual(failure["code"], "TM-U101")
        registry.ports = []

        def is_refused() -> bool:
            self.talk(ports["outbound"])
            return self.records(proxy)[-1]["code"] == "TM-U103"

        proxy.wait_until(is_refused, "nobody is dialled any more")

    def talk(self, port: int) -> bytes:
        """What comes back; nothing, when the connection is reset."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                client.sendall(b"hello")
                return client.recv(100)
        except ConnectionError:  # a reset may even overtake the end of connect
            return b""

    def records(self, proxy: Running) -> list[dict[str, Any]]:
        """The close records of outbound connections."""
        lines = [json.loads(line) for line in proxy.out.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == "close" and line["direction"] == "outbound"]


class _Registry:
    """Answers as Consul does, with instances at these ports."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        registry = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/v1/health/service/orders-db?passing=true"
                node = {"Address": "127.0.0.1"}
                listed = [{"Node": node, "Service": {"Address": "", "Port": port}} for port in registry.ports]
                body = json.dumps(listed).encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Nobody wants to read it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            connection, _address = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(connection.recv(100))
