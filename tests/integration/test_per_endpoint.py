"""A listener with a port for each endpoint of its service."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tcpmesh.codes import CONNECT_REFUSED, LISTENER_CONNECTIONS, NO_ENDPOINT
from tcpmesh.errors import StartError
from tcpmesh.values import Endpoint, TCPAddress
from tests.integration.applications import RESET, broken, exchange, until, whole
from tests.integration.mesh import MeshTestCase, Proxy, in_thread, receive_all, unused_port
from tests.integration.processes import free_ports


def greeting(name: bytes) -> Callable[[socket.socket], None]:
    """An application that says who it is."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(name)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    return serve


class PerEndpointTests(MeshTestCase):
    """Three members of a service, each behind a proxy of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.inner = [self.start_inbound(self.application(greeting(name))) for name in (b"a", b"b", b"c")]
        self.endpoints = [Endpoint(TCPAddress("127.0.0.1", proxy.port("orders-in"))) for proxy in self.inner]
        self.ports = free_ports(3)
        self.listen = f"127.0.0.1:{self.ports[0]}-{self.ports[-1]}"

    def outer(self, more: str = "", service: str = "") -> Proxy:
        """The proxy with the range."""
        addresses = [str(endpoint.address) for endpoint in self.endpoints]
        return self.start_outbound(*addresses, listen=self.listen, more=f", per_endpoint: true{more}", service=service)

    def deliver(self, proxy: Proxy, *endpoints: Endpoint) -> None:
        """What discovery says from now on."""
        proxy.service.composition.state.swap(endpoints={"orders": endpoints})

    async def who(self, number: int) -> bytes:
        """Who answers on a port."""
        connection = self.connect(self.ports[number])
        connection.shutdown(socket.SHUT_WR)
        return await in_thread(receive_all, connection)

    async def assert_leads_nowhere(self, proxy: Proxy, number: int, reason: str) -> None:
        closed = len(proxy.tap.close)
        self.assertEqual(await in_thread(broken, self.connect(self.ports[number])), RESET)
        record = await proxy.closed(closed + 1)
        self.assertEqual((record.code, record.reason), (NO_ENDPOINT, reason))

    async def test_each_port_leads_to_its_endpoint(self) -> None:
        """Again and again, whatever a balancer would choose; the record names the port and the endpoint."""
        outer = self.outer()
        for _ in range(2):
            for number, name in enumerate((b"a", b"b", b"c")):
                self.assertEqual(await self.who(number), name)
        for number, record in enumerate(outer.tap.open):
            self.assertEqual(record.listener, "to-orders")
            self.assertEqual(record.local_addr, f"127.0.0.1:{self.ports[number % 3]}")
            self.assertEqual(record.dst_addr, str(self.endpoints[number % 3].address))

    async def test_no_port_shifts_when_an_endpoint_goes(self) -> None:
        """Its own leads nowhere, and says why; when it is back, it is where it was."""
        outer = self.outer()
        first, second, third = self.endpoints
        self.deliver(outer, third, second)
        self.assertEqual((await self.who(1), await self.who(2)), (b"b", b"c"))
        reason = f"service 'orders' has no endpoint 0: {first.address}, which had that number, is gone"
        await self.assert_leads_nowhere(outer, 0, reason)
        self.deliver(outer, third, first, second)
        self.assertEqual((await self.who(0), await self.who(1), await self.who(2)), (b"a", b"b", b"c"))

    async def test_another_endpoint_is_never_tried_instead(self) -> None:
        """Not by a retry either: somebody else's data would be taken for this one's."""
        outer = self.outer(service=", retry: {plugin: exponential, attempts: 3, base: 1ms, max: 1ms}")
        gone = Endpoint(TCPAddress("127.0.0.1", unused_port()))
        self.deliver(outer, self.endpoints[0], gone, self.endpoints[2])
        self.assertEqual(await in_thread(broken, self.connect(self.ports[1])), RESET)
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts, record.dst_addr), (CONNECT_REFUSED, 3, str(gone.address)))

    async def test_a_dead_endpoint_costs_the_others_nothing(self) -> None:
        """Its clients try it again and again: that opens no circuit, and an ejection keeps nobody from its own port."""
        outer = self.outer(
            service=", health: {circuit: {failures: 2, time: 1h, max_time: 1h}, ejection: {failures: 1, time: 5m}}"
        )
        gone = Endpoint(TCPAddress("127.0.0.1", unused_port()))
        self.deliver(outer, self.endpoints[0], gone, self.endpoints[2])
        for number in range(1, 5):
            self.assertEqual(await in_thread(broken, self.connect(self.ports[1])), RESET)
            self.assertIs((await outer.closed(number)).code, CONNECT_REFUSED)
        self.assertEqual((await self.who(0), await self.who(2)), (b"a", b"c"))
        self.deliver(outer, *self.endpoints)
        self.assertEqual(await self.who(1), b"b")

    async def test_one_limit_holds_for_all_ports(self) -> None:
        """It is the listener's."""
        outer = self.outer(more=", limits: {connections: 2}")
        held = [self.connect(self.ports[number]) for number in (0, 1)]
        await outer.opened(2)
        self.assertEqual(await in_thread(broken, self.connect(self.ports[2])), RESET)
        self.assertIs((await outer.closed()).code, LISTENER_CONNECTIONS)
        self.assertEqual(await in_thread(exchange, held[0], b""), whole(b"a"))
        await until(lambda: outer.tap.close[1:], "a place is free again")
        self.assertEqual(await self.who(2), b"c")

    async def test_is_bound_whole_or_not_at_all(self) -> None:
        """One taken port fails the start, which names it; the others are free again."""
        taken = socket.create_server(("127.0.0.1", self.ports[2]))
        self.addCleanup(taken.close)
        error = self.assertRaises(StartError, self.outer)
        self.assertIn(f"to-orders: cannot listen on 127.0.0.1:{self.ports[2]}", str(error))
        for port in self.ports[:2]:
            socket.create_server(("127.0.0.1", port)).close()

    async def test_is_shown_as_one_listener(self) -> None:
        """In the status, with its range."""
        outer = self.outer()
        reporting = outer.service._reporting
        assert reporting is not None
        [listener] = reporting.status()["listeners"]
        self.assertEqual((listener["name"], listener["address"]), ("to-orders", self.listen))
