"""A service whose endpoints are in a file, and what connections see of each thing that can happen to it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import ENDPOINT_REMOVED, ID_DIFFERS, NO_ENDPOINT, RESOLVE_TIMEOUT
from tests.integration.applications import says
from tests.integration.mesh import PATIENCE, MeshTestCase, Proxy, in_thread, reactor
from tests.integration.processes import TCPMESH
from tests.integration.servers import run, temporary_directory

CONFIGURATION = """\
version: 1
trust_domain: example.org
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {web: {id: "spiffe://example.org/web"}}
services:
  orders:
    expect: ["spiffe://example.org/orders"]
    discovery: {plugin: file, path: endpoints.yaml}
outbound:
  - {name: out, listen: "127.0.0.1:15000", service: orders, workload: web}
"""


class CheckTests(SynchronousTestCase):
    """tcpmesh check."""

    def test_reads_the_file_too(self) -> None:
        """Each problem at its place, and a status of 1; a file that is not there is one."""
        directory = temporary_directory(self)
        Path(directory, "tcpmesh.yaml").write_text(CONFIGURATION)
        endpoints = Path(directory, "endpoints.yaml")

        def check(status: int) -> str:
            ended: subprocess.CompletedProcess[bytes] = run(
                *TCPMESH, "check", Path(directory, "tcpmesh.yaml"), status=status, directory=directory
            )
            return ended.stderr.decode()

        self.assertEqual(
            check(1), f"tcpmesh: discovery of service 'orders': {endpoints}: there is no such file or directory\n"
        )
        endpoints.write_text("- 127.0.0.1:4143\n- {address: '127.0.0.2:4143', wieght: 2}\n- db.example.org:4143\n")
        self.assertEqual(
            check(1),
            f"{endpoints}:2:31: unknown key 'wieght' in endpoints[1]; did you mean 'weight'?\n"
            f"{endpoints}:3:3: endpoints[2]: 'db.example.org' in 'db.example.org:4143' is not an IP address: names "
            "are resolved by the discovery plugin dns; write an IP address\n",
        )
        endpoints.write_text("[]")
        self.assertEqual(check(0), "")


class FileTests(MeshTestCase):
    """Two inbound proxies; behind one is "a", behind the other "b"."""

    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory.absolute() / "endpoints.json"
        self.ports = [self.start_inbound(self.application(says(word))).port("orders-in") for word in (b"a", b"b")]
        self.stamp = 1_000_000_000

    def write(self, *endpoints: Any, text: str | None = None) -> None:
        """Replace the file, as whoever writes one should."""
        other = self.file.with_suffix(".new")
        other.write_text(json.dumps(endpoints) if text is None else text)
        os.replace(other, self.file)

    def start_service(self, more: str = "", resolve: str = "5s", shutdown: str = "1s") -> Proxy:
        return self.start(
            self.identity("web")
            + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], '
            + f"discovery: {{plugin: file, path: {self.file}, interval: 100ms}}{more}}}}}\n"
            + 'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n'
            + f"timeouts: {{shutdown: {shutdown}, resolve: {resolve}}}\n"
        )

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        for _ in range(int(PATIENCE / 0.02)):
            if condition():
                return
            await deferLater(reactor, 0.02)
        raise AssertionError(what)

    def known(self, proxy: Proxy) -> list[int]:
        found = proxy.service.composition.state.current.endpoints.get("orders", ())
        return [endpoint.address.port for endpoint in found]  # type: ignore[union-attr]

    async def ask(self, proxy: Proxy) -> bytes:
        """What the application says to a new connection; nothing when that was reset."""

        def exchange() -> bytes:
            with contextlib.suppress(ConnectionResetError), self.connect(proxy.port("to-orders")) as connection:
                connection.sendall(b"?")
                return connection.recv(10)
            return b""

        return await in_thread(exchange)

    async def test_connections_follow_the_file(self) -> None:
        """And a connection to an endpoint that left ends with TM-U114."""
        first, second = (f"127.0.0.1:{port}" for port in self.ports)
        self.write(first)
        proxy = self.start_service()
        old = await in_thread(self.connect, proxy.port("to-orders"))
        await proxy.opened()
        self.write({"address": second, "weight": 3, "zone": "eu-1a", "metadata": {"rack": "7"}})
        await self.until(lambda: self.known(proxy) == self.ports[1:], "the change was not seen")
        self.assertEqual(await self.ask(proxy), b"b")
        await proxy.tap.when(lambda: any(record.code is ENDPOINT_REMOVED for record in proxy.tap.close))
        self.assertRaises(ConnectionResetError, old.recv, 1)

    async def test_a_weight_of_zero_empties_an_endpoint(self) -> None:
        """Its connections go on, new ones go elsewhere; with a weight it is back, and with none left nothing is."""
        first, second = (f"127.0.0.1:{port}" for port in self.ports)
        self.write(first)
        proxy = self.start_service()
        old = await in_thread(self.connect, proxy.port("to-orders"))
        await proxy.opened()
        self.write({"address": first, "weight": 0}, second)
        await self.until(lambda: self.known(proxy) == self.ports, "the change was not seen")
        self.assertEqual([await self.ask(proxy) for _ in range(4)], [b"b"] * 4)
        self.assertEqual(await in_thread(lambda: (old.sendall(b"?"), old.recv(10))[1]), b"a")
        self.write({"address": first, "weight": 1})
        await self.until(lambda: self.known(proxy) == self.ports[:1], "the change was not seen")
        self.assertEqual(await self.ask(proxy), b"a")
        self.write({"address": first, "weight": 0})
        await self.until(lambda: self.weights(proxy) == [0], "the change was not seen")
        self.assertEqual(await self.ask(proxy), b"")
        await proxy.tap.when(lambda: any(record.code is NO_ENDPOINT for record in proxy.tap.close))
        [refused] = [record.reason for record in proxy.tap.close if record.code is NO_ENDPOINT]
        self.assertEqual(refused, "all endpoints of service 'orders' have weight 0 (1)")

    def weights(self, proxy: Proxy) -> list[int]:
        return [endpoint.weight for endpoint in proxy.service.composition.state.current.endpoints["orders"]]  # type: ignore[union-attr]

    async def test_a_bad_file_leaves_the_last_good_endpoints(self) -> None:
        """Spoilt, empty, gone; the word that there are none is another thing, and so is the reason then."""
        self.write(f"127.0.0.1:{self.ports[0]}")
        proxy = self.start_service()
        for text, why in (("[", "a value is missing at the end"), ("", "lists no endpoints and does not say")):
            self.write(text=text)
            await self.until(lambda why=why: why in self.reason(proxy), f"not told: {why}")  # type: ignore[misc]
            self.assertEqual(await self.ask(proxy), b"a")
        self.file.unlink()
        await self.until(lambda: "there is no such file" in self.reason(proxy), "not told that it is gone")
        self.assertEqual(await self.ask(proxy), b"a")
        self.write()
        proxy.service.reload_identities()
        await self.until(lambda: self.reason(proxy) == "", "not read")
        self.assertEqual(await self.ask(proxy), b"")
        self.assertEqual(proxy.tap.close[-1].code, NO_ENDPOINT)

    def reason(self, proxy: Proxy) -> str:
        return proxy.service.composition.state.current.discovery_failures.get("orders", "")

    async def test_connections_wait_for_a_file_that_comes_late(self) -> None:
        """For timeouts.resolve; then they are refused, with what is wrong."""
        proxy = self.start_service(resolve="200ms")
        self.assertEqual(await self.ask(proxy), b"")
        record = await proxy.closed()
        self.assertEqual(record.code, RESOLVE_TIMEOUT)
        self.assertIn("there is no such file or directory", record.reason)
        await self._stop(proxy.service)
        proxy = self.start_service()
        waiting = in_thread(self.connect, proxy.port("to-orders"))
        connection = await waiting
        self.write(f"127.0.0.1:{self.ports[1]}")
        self.assertEqual(await in_thread(lambda: (connection.sendall(b"?"), connection.recv(10))[1]), b"b")

    async def test_an_endpoint_may_have_an_identity_of_its_own(self) -> None:
        """Instead of the service's: another peer there is refused."""
        self.write({"address": f"127.0.0.1:{self.ports[0]}", "expect": [str(self.pki.id("intruder"))]})
        proxy = self.start_service()
        self.assertEqual(await self.ask(proxy), b"")
        self.assertEqual((await proxy.closed()).code, ID_DIFFERS)
