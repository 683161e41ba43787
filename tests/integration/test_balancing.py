"""Real proxies choose among real endpoints: balancers, sources, priorities and zones."""

from __future__ import annotations

import socket
from collections import Counter

from tcpmesh import codes
from tests.integration.applications import END, exchange, receive, whole
from tests.integration.mesh import PATIENCE, MeshTestCase, Proxy, echo, in_thread, unused_port

HELLO = b"hello"


class BalancingTestCase(MeshTestCase):
    def endpoints(self, count: int) -> list[int]:
        """So many inbound proxies in front of one application that echoes."""
        target = self.application(echo)
        return [self.start_inbound(target).port("orders-in") for _ in range(count)]

    def outbound(self, listed: str, service: str = "", top: str = "") -> Proxy:
        """An outbound proxy for a service with these endpoints, in YAML's flow form."""
        return self.start(
            self.identity("web")
            + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], '
            + f"discovery: {{plugin: static, endpoints: [{listed}]}}{service}}}}}\n"
            + 'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n'
            + top
        )

    def say_hello(self, outer: Proxy, source: str = "127.0.0.1") -> bool:
        """One connection from its begin to its end: whether it was served."""
        try:
            client = socket.create_connection(
                ("127.0.0.1", outer.port("to-orders")), timeout=PATIENCE, source_address=(source, 0)
            )
        except ConnectionResetError:  # refused before connect has returned
            return False
        with client:
            return exchange(client, HELLO) == whole(HELLO)

    async def served(self, outer: Proxy, count: int) -> list[bool]:
        """One connection after the other, each once the one before is on record."""
        already = len(outer.tap.close)
        found = []
        for number in range(1, count + 1):
            found.append(await in_thread(self.say_hello, outer))
            await outer.closed(already + number)
        return found


def address(port: int) -> str:
    return f"127.0.0.1:{port}"


def plain(*ports: int) -> str:
    return ", ".join(f'"{address(port)}"' for port in ports)


class BalancerTests(BalancingTestCase):
    async def test_each_balancer_serves(self) -> None:
        """By its name in the configuration, and by endpoints of the service only."""
        ports = self.endpoints(2)
        for name in ("round-robin", "random", "least-connections", "source-hash", "p2c-ewma"):
            outer = self.outbound(plain(*ports), f", balance: {{plugin: {name}}}")
            self.assertEqual(await self.served(outer, 4), [True] * 4, name)
            self.assertLessEqual({record.dst_addr for record in outer.tap.close}, set(map(address, ports)), name)

    async def test_least_connections_evens_out_what_lasts(self) -> None:
        """Eight connections that stay open are four at each endpoint, and one that ends makes room for the next."""
        ports = self.endpoints(2)
        outer = self.outbound(plain(*ports), ", balance: {plugin: least-connections}")
        clients = []
        for number in range(1, 9):
            clients.append(await in_thread(self.connect, outer.port("to-orders")))
            await outer.opened(number)
        counted = Counter(record.dst_addr for record in outer.tap.open)
        self.assertEqual(counted, Counter({address(port): 4 for port in ports}))
        gone = outer.tap.open[0].dst_addr
        clients[0].close()
        await outer.closed(1)
        await in_thread(self.connect, outer.port("to-orders"))
        self.assertEqual((await outer.opened(9)).dst_addr, gone)

    async def test_p2c_ewma_is_repelled_by_an_endpoint_that_refuses(self) -> None:
        """Of forty connections to two endpoints, one of which refuses at once, not half fail, but one or two."""
        [good] = self.endpoints(1)
        # Ejection is off, and nothing is retried: this is the balancer's work alone.
        service = ", balance: {plugin: p2c-ewma}, health: {ejection: {failures: 0}}"
        outer = self.outbound(plain(good, unused_port()), service)
        served = await self.served(outer, 40)
        self.assertLessEqual(served.count(False), 4)
        refused = [record.code for record in outer.tap.close if record.code is not codes.CLEAN]
        self.assertEqual(set(refused) - {codes.CONNECT_REFUSED}, set())
        self.assertEqual(len(refused), served.count(False))

    async def test_source_hash_goes_by_the_host_of_the_application(self) -> None:
        """Each of two dozen addresses finds its endpoint again, from another port; they do not all have the same."""
        ports = self.endpoints(2)
        outer = self.outbound(plain(*ports), ", balance: {plugin: source-hash}")
        found: dict[str, set[str]] = {}
        for number in range(48):
            source = f"127.0.1.{number % 24 + 1}"
            self.assertTrue(await in_thread(self.say_hello, outer, source))
            record = await outer.closed(number + 1)
            found.setdefault(source, set()).add(record.dst_addr)
        self.assertEqual({len(endpoints) for endpoints in found.values()}, {1})
        self.assertEqual(set().union(*found.values()), set(map(address, ports)))


class TierTests(BalancingTestCase):
    async def test_the_second_priority_stands_by(self) -> None:
        """It is used by the retry of a connection, then at once while the first is ejected, and not before."""
        first, second = self.endpoints(2)
        dead = unused_port()
        listed = f'"{address(first)}", {{address: "{address(second)}", priority: 1}}'
        outer = self.outbound(listed)
        self.assertEqual(await self.served(outer, 4), [True] * 4)
        self.assertEqual({record.dst_addr for record in outer.tap.close}, {address(first)})
        outer = self.outbound(
            f'"{address(dead)}", {{address: "{address(second)}", priority: 1}}',
            ", retry: {plugin: exponential, attempts: 2, base: 1ms}"
            ", health: {ejection: {failures: 1, time: 1h, max_time: 1h}}",
        )
        self.assertEqual(await self.served(outer, 3), [True] * 3)
        self.assertEqual({record.dst_addr for record in outer.tap.close}, {address(second)})
        self.assertEqual([record.attempts for record in outer.tap.close], [2, 1, 1])

    async def test_the_own_zone_is_preferred(self) -> None:
        """Until it fails for a connection; without the preference, or without a zone, all get their share."""
        near, far = self.endpoints(2)
        listed = f'{{address: "{address(near)}", zone: here}}, {{address: "{address(far)}", zone: there}}'
        both = {address(near), address(far)}
        for service, top, expected in (
            ("", "zone: here\n", {address(near)}),
            ("", "zone: there\n", {address(far)}),
            ("", "zone: elsewhere\n", both),
            ("", "", both),
            (", same_zone: ignore", "zone: here\n", both),
        ):
            outer = self.outbound(listed, service, top)
            self.assertEqual(await self.served(outer, 4), [True] * 4)
            self.assertEqual({record.dst_addr for record in outer.tap.close}, expected, (service, top))
        listed = f'{{address: "{address(unused_port())}", zone: here}}, {{address: "{address(far)}", zone: there}}'
        outer = self.outbound(listed, ", retry: {plugin: exponential, attempts: 2, base: 1ms}", "zone: here\n")
        client = await in_thread(self.connect, outer.port("to-orders"))
        await outer.opened(1)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual((await in_thread(receive, client)).ending, END)
        record = await outer.closed(1)
        self.assertEqual((record.dst_addr, record.attempts), (address(far), 2))
