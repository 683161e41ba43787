"""A service whose endpoints a real name server tells: dnsmasq, with answers that change and a TTL of a second."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.task import deferLater

from tcpmesh.codes import ENDPOINT_REMOVED, NO_ENDPOINT
from tcpmesh.endpoint_control import DiscoveryStatus
from tests.integration.applications import says
from tests.integration.dnsmasq import Dnsmasq
from tests.integration.mesh import PATIENCE, MeshTestCase, Proxy, in_thread, reactor
from tests.integration.processes import free_port

FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class DnsmasqTestCase(MeshTestCase):
    """Two inbound proxies on one port of two addresses; behind one is "a", behind the other "b"."""

    def setUp(self) -> None:
        super().setUp()
        self.dnsmasq = Dnsmasq(self)
        self.port = free_port()
        for host, word in ((FIRST, b"a"), (SECOND, b"b")):
            self.start_inbound(self.application(says(word)), listen=f"{host}:{self.port}")

    def start_service(self, keys: str, more: str = "", top: str = "timeouts: {shutdown: 1s}\n") -> Proxy:
        return self.start(
            self.identity("web")
            + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], discovery: {{plugin: dns, '
            + f'resolvers: ["127.0.0.1:{self.dnsmasq.port}"], {keys}}}{more}}}}}\n'
            + 'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n'
            + top
        )

    def status(self, proxy: Proxy) -> DiscoveryStatus:
        [status] = proxy.service.composition.control.endpoints.statuses()
        return status

    def endpoints(self, proxy: Proxy) -> list[str]:
        found = proxy.service.composition.state.current.endpoints.get("orders", ())
        return [f"{one.address} {one.priority} {one.weight}" for one in found]

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Let the reactor run until the condition holds."""
        for _ in range(int(PATIENCE / 0.02)):
            if condition():
                return
            await deferLater(reactor, 0.02)
        raise AssertionError(what)

    async def until_endpoints(self, proxy: Proxy, *wanted: str) -> None:
        await self.until(lambda: self.endpoints(proxy) == list(wanted), f"not {wanted}: {self.endpoints(proxy)}")

    async def ask(self, connection: socket.socket) -> bytes:
        """What the application at the other end says; nothing when the connection was reset."""

        def exchange() -> bytes:
            try:
                connection.sendall(b"?")
                return connection.recv(10)
            except ConnectionResetError:
                return b""

        return await in_thread(exchange)


class ChangingAnswersTests(DnsmasqTestCase):
    """A records."""

    async def test_connections_follow_the_name(self) -> None:
        """New ones at once, old ones within timeouts.shutdown of the end of their endpoint's grace: TM-U114."""
        self.dnsmasq.set_hosts(db=FIRST)
        self.dnsmasq.start()
        proxy = self.start_service(f"name: db.mesh.test, type: a, port: {self.port}")
        old = await in_thread(self.connect, proxy.port("to-orders"))
        self.assertEqual(await self.ask(old), b"a")
        self.dnsmasq.set_hosts(db=SECOND)
        await self.until_endpoints(proxy, f"{SECOND}:{self.port} 0 1")
        new = await in_thread(self.connect, proxy.port("to-orders"))
        self.assertEqual(await self.ask(new), b"b")
        record = await proxy.closed()
        self.assertEqual((record.code, record.dst_addr), (ENDPOINT_REMOVED, f"{FIRST}:{self.port}"))
        self.assertEqual(await self.ask(old), b"")
        self.assertEqual(await self.ask(new), b"b")

    async def test_what_was_known_is_used_while_no_server_answers(self) -> None:
        """The failure is known and told; when the server is back its answer counts."""
        self.dnsmasq.set_hosts(db=FIRST)
        self.dnsmasq.start()
        proxy = self.start_service(f"name: db.mesh.test, type: a, port: {self.port}")
        await self.until_endpoints(proxy, f"{FIRST}:{self.port} 0 1")
        self.dnsmasq.kill()
        await self.until(lambda: self.status(proxy).failing is not None, "nobody noticed that the server is gone")
        self.assertIn("refuses datagrams: nobody listens there", self.status(proxy).reason)
        connection = await in_thread(self.connect, proxy.port("to-orders"))
        self.assertEqual(await self.ask(connection), b"a")
        self.dnsmasq.set_hosts(db=(FIRST, SECOND))
        self.dnsmasq.start()
        await self.until_endpoints(proxy, f"{FIRST}:{self.port} 0 1", f"{SECOND}:{self.port} 0 1")
        self.assertIsNone(self.status(proxy).failing)
        self.assertEqual(await self.ask(connection), b"a")

    async def test_a_name_that_does_not_exist_any_longer(self) -> None:
        """New connections are refused; those that live, live: they could not connect again."""
        self.dnsmasq.set_hosts(db=FIRST)
        self.dnsmasq.start()
        proxy = self.start_service(f"name: db.mesh.test, port: {self.port}")
        old = await in_thread(self.connect, proxy.port("to-orders"))
        self.assertEqual(await self.ask(old), b"a")
        self.dnsmasq.set_hosts(other=FIRST)
        await self.until(lambda: self.status(proxy).endpoints == 0, "the name still has addresses")
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(await self.ask(await in_thread(self.connect, proxy.port("to-orders"))), b"")
        record = await proxy.closed()
        self.assertEqual(record.code, NO_ENDPOINT)
        said = f"db.mesh.test does not exist (NXDOMAIN), says 127.0.0.1:{self.dnsmasq.port}"
        self.assertRegex(record.reason, rf"has had no endpoints for .*; its discovery says: {re.escape(said)}$")
        self.assertEqual(await self.ask(old), b"a")

    async def test_hundreds_of_addresses_come_over_tcp(self) -> None:
        """They do not fit into a datagram."""
        hosts = tuple(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(600))
        self.dnsmasq.set_hosts(db=hosts)
        self.dnsmasq.start()
        proxy = self.start_service(f"name: db.mesh.test, type: a, port: {self.port}")
        await self.until(lambda: self.status(proxy).endpoints == 600, "not all addresses came")


class ServiceRecordTests(DnsmasqTestCase):
    """SRV records."""

    async def test_priorities_weights_and_ports(self) -> None:
        """Of targets whose addresses come with the answer; the least priority is used."""
        self.dnsmasq.set_hosts(one=FIRST, two=SECOND)
        self.dnsmasq.start(
            f"--srv-host=_orders._tcp.mesh.test,two.mesh.test,{self.port},1,7",
            f"--srv-host=_orders._tcp.mesh.test,one.mesh.test,{self.port},2,3",
        )
        proxy = self.start_service("name: _orders._tcp.mesh.test, type: srv")
        await self.until_endpoints(proxy, f"{SECOND}:{self.port} 1 7", f"{FIRST}:{self.port} 2 3")
        connection = await in_thread(self.connect, proxy.port("to-orders"))
        self.assertEqual(await self.ask(connection), b"b")
        self.dnsmasq.set_hosts(one=FIRST)
        await self.until_endpoints(proxy, f"{FIRST}:{self.port} 2 3")

    async def test_an_alias_is_followed(self) -> None:
        """To its target's addresses."""
        self.dnsmasq.set_hosts(one=FIRST)
        self.dnsmasq.start("--cname=db.mesh.test,one.mesh.test")
        proxy = self.start_service(f"name: db.mesh.test, type: a, port: {self.port}")
        await self.until_endpoints(proxy, f"{FIRST}:{self.port} 0 1")
