"""
tcpmesh as it runs in the field: processes of ``tcpmesh run``, with files that ``tcpmesh ca issue`` wrote.

The proxies' configuration is written by the test, their records are read from the access log.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import json
import re
import shutil
import socket
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import RESET
from tests.integration.namespaces import Machine
from tests.integration.processes import PATIENCE, ROOT, TCPMESH, Running, free_port
from tests.integration.servers import run, temporary_directory

__all__ = ["TRUST_DOMAIN", "CommandLineAuthority", "FieldTestCase", "ProxyProcess", "authority", "stranger"]

TRUST_DOMAIN = "example.org"


class CommandLineAuthority:
    """An authority made with ``tcpmesh ca init``, and the certificates that were asked of it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tcpmesh-"))
        atexit.register(shutil.rmtree, self.directory)
        self._ca("init", "--trust-domain", TRUST_DOMAIN)
        self.bundle = self.directory / "state" / "bundle.pem"
        self._issued: dict[tuple[str, ...], Path] = {}

    def _ca(self, command: str, *arguments: str) -> None:
        run(
            *TCPMESH, "ca", command, "--state", self.directory / "state", *arguments,
            environment={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def issue(self, name: str, *dns: str) -> Path:
        """Give the directory with certificate.pem, key.pem and bundle.pem of a workload; made at the first time."""
        found = self._issued.get((name, *dns))
        if found is None:
            found = self._issued[name, *dns] = self.directory / f"{len(self._issued)}-{name}"
            names = [word for each in dns for word in ("--dns", each)]
            self._ca("issue", "--id", f"spiffe://{TRUST_DOMAIN}/{name}", *names, "--out", str(found))
        return found


@functools.cache
def authority() -> CommandLineAuthority:
    """The authority of all tests of this run: its keys are nobody's secret, and making one takes time."""
    return CommandLineAuthority()


@functools.cache
def stranger() -> CommandLineAuthority:
    """An authority that calls itself like the other and has another key."""
    return CommandLineAuthority()


class ProxyProcess:
    """
    A running ``tcpmesh run``.

    :param machine: where it runs, if not here; its metrics cannot be asked for then.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        directory: Path,
        name: str,
        configuration: str,
        trust_domain: str = TRUST_DOMAIN,
        machine: Machine | None = None,
    ) -> None:
        self._access = directory / f"{name}.access.log"
        self.metrics_port = free_port()
        self.admin = directory / f"{name}.sock"
        file = directory / f"{name}.yaml"
        file.write_text(
            f"version: 1\ntrust_domain: {trust_domain}\n"
            + textwrap.dedent(configuration)
            + f'admin: {{metrics: "127.0.0.1:{self.metrics_port}", listen: "unix:{self.admin}"}}\n'
            + f"log: {{format: json, access: {self._access}}}\n"
        )
        enter = machine.enter if machine is not None else ()
        self.running = Running(test, [*enter, *TCPMESH, "run", str(file)], directory=directory)
        self.running.wait_until(self._is_ready, f"{name} is not ready")

    def _is_ready(self) -> bool:
        """Ask at its socket, which every machine has: the file system is the same."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.admin))
            admin.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            return b" 200 " in admin.makefile("rb").readline()
        return False

    def records(self, event: str) -> list[dict[str, Any]]:
        """All records of one kind, ``open`` or ``close``, in the order in which they were written."""
        lines = self._access.read_text().split("\n")[:-1]
        return [record for record in map(json.loads, lines) if record["event"] == event]

    def closed(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until COUNT connections have ended and give all close records; there must be no more than that."""
        self.running.wait_until(lambda: len(self.records("close")) >= count, f"fewer than {count} close records")
        found = self.records("close")
        if len(found) != count:
            raise AssertionError(f"{len(found)} close records instead of {count}: {found}")
        return found

    def wait_for(self, event: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait for a record that fulfils the condition and give the first."""

        def matching() -> list[dict[str, Any]]:
            return [record for record in self.records(event) if condition(record)]

        self.running.wait_until(matching, f"no such {event} record")
        return matching()[0]

    def metric(self, series: str) -> float:
        """The value of one series, labels included, as /metrics writes it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        if found is None:
            raise AssertionError(f"no series {series} in\n{text}")
        return float(found[1])


class FieldTestCase(SynchronousTestCase):
    """Starts proxies as processes."""

    def setUp(self) -> None:
        self.directory = temporary_directory(self)

    def start_proxy(self, name: str, configuration: str, *, machine: Machine | None = None) -> ProxyProcess:
        """Write NAME.yaml and run it; version, trust domain, admin and log are added."""
        return ProxyProcess(self, self.directory, name, configuration, machine=machine)

    def identity(self, *workloads: str) -> str:
        """The ``identity`` part of a configuration: the issued files of these workloads."""
        lines = [
            "identity:",
            f"  sources: {{disk: {{plugin: files, bundles: {{{TRUST_DOMAIN}: {authority().bundle}}}}}}}",
            "  workloads:",
        ]
        for name in workloads:
            files = authority().issue(name)
            lines.append(
                f'    {name}: {{id: "spiffe://{TRUST_DOMAIN}/{name}", '
                f"certificate: {files / 'certificate.pem'}, key: {files / 'key.pem'}}}"
            )
        return "\n".join(lines) + "\n"

    def start_inbound(self, target: int, *, top: str = "") -> ProxyProcess:
        """Run the proxy beside the application at that port, for which ``web`` may come in; see ``inbound_port``."""
        self.inbound_port = free_port()
        return self.start_proxy(
            "inbound",
            self.identity("orders")
            + f'inbound: [{{name: orders-in, listen: "127.0.0.1:{self.inbound_port}", '
            + f'target: "127.0.0.1:{target}", workload: orders}}]\n'
            + "authorization: [{plugin: rules, policies: [{name: web-may, action: allow, "
            + f'from: [{{ids: ["spiffe://{TRUST_DOMAIN}/web"]}}]}}]}}]\n'
            + top,
        )

    def start_outbound(
        self, *, workload: str = "web", listen: str = "", top: str = "", service: str = ""
    ) -> ProxyProcess:
        """
        Run the proxy beside the client, by default on ``outbound_port``.

        :param service: further keys of the service, in YAML's flow form.
        """
        self.outbound_port = free_port()
        return self.start_proxy(
            f"outbound-{workload}",
            self.identity(workload)
            + f'services: {{orders: {{expect: ["spiffe://{TRUST_DOMAIN}/orders"], '
            + f'discovery: {{plugin: static, endpoints: ["127.0.0.1:{self.inbound_port}"]}}'
            + (f", {service}" if service else "")
            + "}}\n"
            + f'outbound: [{{name: to-orders, listen: "{listen or f"127.0.0.1:{self.outbound_port}"}", '
            + f"service: orders, workload: {workload}}}]\n"
            + top,
        )

    def assert_joined(self, outer: dict[str, Any], inner: dict[str, Any]) -> None:
        """Two records are of one connection, from an identified client to an identified server."""
        self.assertEqual(outer["conn"], inner["conn"])
        self.assertEqual(inner["src.identity"], f"spiffe://{TRUST_DOMAIN}/web")
        self.assertEqual(outer["dst.identity"], f"spiffe://{TRUST_DOMAIN}/orders")
        self.assertEqual((outer["bytes_recv"], outer["code"]), (inner["bytes_recv"], inner["code"]))
        if inner["code"] == RESET.id:  # the server may have gone before it was given the client's last words
            self.assertLessEqual(inner["bytes_sent"], outer["bytes_sent"])
        else:
            self.assertEqual(inner["bytes_sent"], outer["bytes_sent"])
