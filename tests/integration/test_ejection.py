"""Endpoints that fail get no connections for a while, and a service that fails is spared: real listeners."""

from __future__ import annotations

from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from tcpmesh.codes import (
    ALL_UNAVAILABLE,
    CIRCUIT_OPEN,
    CLOSED_BEFORE_OK,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    ENDPOINT_EJECTED,
    HANDSHAKE_TRUNCATED,
    ID_DIFFERS,
    NO_IDENTITY,
    NO_RULE_ALLOWS,
    STOPPING,
    TARGET_FAILED,
    Code,
)
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.values import TCPAddress
from tests.integration.applications import deaf_port, push, receive
from tests.integration.mesh import Proxy, echo, in_thread, unused_port
from tests.integration.refusals import RefusalTestCase
from tests.unit.crafted import uri

ORDERS = "spiffe://mesh.test/orders"
RETRY = ", retry: {plugin: exponential, attempts: 3, base: 1ms, max: 1ms}, retry_budget: {minimum: 1000}"


def ejecting(more: str = "") -> str:
    """Health of a service that ejects after two failures."""
    return f", health: {{ejection: {{failures: 2, time: 1h, max_time: 1h{more}}}}}"


def briefly(more: str = "") -> str:
    """The same, for so short a time that it is over when the next connection comes."""
    return f", health: {{ejection: {{failures: 2, time: 100ms, max_time: 100ms{more}}}}}"


class EjectionTestCase(RefusalTestCase):
    """An outbound proxy with several endpoints."""

    def setUp(self) -> None:
        super().setUp()
        self.calls = 0

    def health(self, proxy: Proxy) -> ServiceHealth:
        return proxy.service.composition.health.services["orders"]

    def word(self, proxy: Proxy, port: int) -> str:
        assert proxy.service.plane is not None
        now = proxy.service.plane.clock.seconds()
        return self.health(proxy).state(TCPAddress("127.0.0.1", port), now).state

    async def call(self, proxy: Proxy, says: bytes = b"hello") -> ConnectionRecord:
        """One connection of an application that says something and hears five bytes; its record."""
        client = self.connect(proxy.port("to-orders"))
        if says:
            await in_thread(push, client, says)
        await in_thread(receive, client, 5)
        client.close()
        self.calls += 1
        return await proxy.closed(self.calls)

    async def failing(self, proxy: Proxy, code: Code, times: int = 1) -> None:
        for _ in range(times):
            record = await self.call(proxy)
            self.assertEqual((record.code, record.established), (code, False), record.reason)

    async def served(self, proxy: Proxy, times: int = 1) -> list[ConnectionRecord]:
        records = [await self.call(proxy) for _ in range(times)]
        self.assertEqual([record.established for record in records], [True] * times, records)
        return records


class EjectionTests(EjectionTestCase):
    """Passive ejection."""

    async def assert_ejected(self, bad: int, code: Code, *, service: str = "", top: str = "") -> None:
        """After two failures nobody is sent to the bad endpoint; until then everybody is served by the other one."""
        good = self.start_inbound(self.application(echo)).port("orders-in")
        outer = self.start_outbound(bad, good, service=ejecting() + RETRY + service, top=top)
        first = await self.served(outer, 4)
        self.assertEqual(sorted(record.attempts for record in first), [1, 1, 2, 2])
        self.assertEqual([attempt[1] for attempt in outer.tap.attempts], [code, code])
        self.assertEqual((self.word(outer, bad), self.word(outer, good)), ("ejected", "up"))
        self.assertEqual([record.attempts for record in await self.served(outer, 6)], [1] * 6)

    async def test_who_refuses_connections(self) -> None:
        """Nobody listens."""
        await self.assert_ejected(unused_port(), CONNECT_REFUSED)

    async def test_who_drops_every_syn(self) -> None:
        """A black hole costs two connections the timeout, and no more."""
        await self.assert_ejected(deaf_port(self), CONNECT_TIMEOUT, top="timeouts: {connect: 100ms}\n")

    async def test_who_is_somebody_else(self) -> None:
        """Another service answers at the address."""
        self.pki.issue("other")
        other = self.start(
            self.identity("other")
            + f'inbound: [{{name: other-in, listen: "127.0.0.1:0", target: "127.0.0.1:{self.target.port}", '
            + "workload: other}]\n"
        )
        await self.assert_ejected(other.port("other-in"), ID_DIFFERS)
        self.assertFalse(self.target.was_dialled)

    async def test_whose_application_is_gone(self) -> None:
        """The proxy there lives, and says so: TM-U106 is a fault."""
        inner = self.start_inbound(unused_port())
        await self.assert_ejected(inner.port("orders-in"), TARGET_FAILED)

    async def test_who_accepts_and_closes(self) -> None:
        """In the middle of the handshake."""
        await self.assert_ejected(self.application(lambda _connection: None), HANDSHAKE_TRUNCATED)

    async def test_a_foreign_server_that_closes_after_the_handshake(self) -> None:
        """A protocol in which the server speaks first: each connection was established, and none carried a byte."""
        bad, _ = self.strange_server(self.leaf(uri(ORDERS)), then=lambda peer: peer.socket.close())
        good = self.start_inbound(self.application(lambda connection: connection.sendall(b"hello"))).port("orders-in")
        outer = self.start_outbound(bad, good, service=ejecting() + RETRY)
        for _ in range(4):
            self.assertEqual((await self.call(outer, b"")).dst_addr, f"127.0.0.1:{good}")
        self.assertEqual([attempt[1] for attempt in outer.tap.attempts], [CLOSED_BEFORE_OK, CLOSED_BEFORE_OK])
        self.assertEqual(self.word(outer, bad), "ejected")

    async def test_the_only_endpoint_is_never_ejected(self) -> None:
        """Half of one is none."""
        outer = self.start_outbound(unused_port(), service=ejecting())
        await self.failing(outer, CONNECT_REFUSED, 5)
        self.assertFalse(self.health(outer).impaired)

    async def test_who_comes_back_is_tried_and_used_again(self) -> None:
        """A proxy that stops, and starts again at the same address."""
        port = unused_port()
        first = self.start_inbound(self.application(echo), listen=f"127.0.0.1:{port}")
        other = self.start_inbound(self.application(echo)).port("orders-in")
        outer = self.start_outbound(port, other, service=briefly() + RETRY)
        await self.served(outer, 2)
        await first.service.stopService()
        await self.served(outer, 4)
        self.assertNotEqual(self.word(outer, port), "up")
        self.start_inbound(self.application(echo), listen=f"127.0.0.1:{port}")
        while self.health(outer).impaired:
            self.assertLess(self.calls, 2000)
            await self.served(outer)
        targets = {record.dst_addr for record in await self.served(outer, 2)}
        self.assertEqual(targets, {f"127.0.0.1:{port}", f"127.0.0.1:{other}"})

    async def test_when_all_are_ejected_the_reason_is_told(self) -> None:
        """At once, with what happened at each."""
        one, two = unused_port(), unused_port()
        outer = self.start_outbound(one, two, service=ejecting(", max_share: 1"))
        await self.failing(outer, CONNECT_REFUSED, 4)
        record = await self.call(outer)
        self.assertEqual((record.code, record.attempts), (ALL_UNAVAILABLE, 0))
        self.assert_documented("outbound", "nothing", outbound=ALL_UNAVAILABLE, inbound="-")
        for port in (one, two):
            self.assertIn(f"127.0.0.1:{port} is ejected for another ", record.reason)
            self.assertIn(f"TM-U101 connecting to 127.0.0.1:{port}: Connection refused", record.reason)

    async def test_a_proxy_that_is_stopping_is_left_alone_at_once(self) -> None:
        """It was told to go elsewhere once, and needs not be told again."""
        leaving = self.start_inbound(self.application(echo))
        staying = self.start_inbound(self.application(echo))
        one, two = leaving.port("orders-in"), staying.port("orders-in")
        outer = self.start_outbound(one, two, service=ejecting() + RETRY)
        await self.served(outer, 2)
        assert leaving.service.plane is not None
        leaving.service.plane.stopping = True
        await self.served(outer, 4)
        self.assertEqual([attempt[1] for attempt in outer.tap.attempts], [STOPPING])
        self.assertEqual(self.word(outer, one), "ejected")

    async def test_a_peer_that_denies_is_not_ejected(self) -> None:
        """It works; it is this client that it does not want."""
        one, two = self.start_inbound(self.target.port, allow=()), self.start_inbound(self.target.port, allow=())
        outer = self.start_outbound(one.port("orders-in"), two.port("orders-in"), service=ejecting())
        await self.failing(outer, NO_RULE_ALLOWS, 8)
        self.assertFalse(self.health(outer).impaired)

    async def test_without_an_identity_of_our_own_nobody_is_ejected(self) -> None:
        """They were not even called."""
        one, two = self.start_inbound(self.target.port), self.start_inbound(self.target.port)
        outer = self.start_outbound(one.port("orders-in"), two.port("orders-in"), service=ejecting())
        outer.service.composition.state.swap(svids={})
        await self.failing(outer, NO_IDENTITY, 8)
        self.assertFalse(self.health(outer).impaired)

    async def test_every_change_is_a_line(self) -> None:
        """Who, why, for how long, and what to do next."""
        bad = unused_port()
        good = self.start_inbound(self.application(echo)).port("orders-in")
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        outer = self.start_outbound(bad, good, service=ejecting() + RETRY)
        await self.served(outer, 4)
        [event] = [event for event in events if event.get("log_namespace") == "tcpmesh.health"]
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual(
            event["line"],
            f"endpoint ejected: code=TM-U116 service=orders endpoint=127.0.0.1:{bad} for=1h "
            f'reason="failures in a row: 2, the last with TM-U101 connecting to 127.0.0.1:{bad}: Connection refused" '
            f'next="{ENDPOINT_EJECTED.next_step}"',
        )


class CircuitTests(EjectionTestCase):
    """The circuit of a service."""

    async def test_opens_and_closes(self) -> None:
        """Connections fail at once with what happened before; when the service is back, one of them finds out."""
        port = unused_port()
        circuit = ", health: {circuit: {failures: 3, time: 1s, max_time: 1s}}"
        outer = self.start_outbound(port, service=circuit)
        await self.failing(outer, CONNECT_REFUSED, 3)
        self.assertNotEqual(self.health(outer).circuit(0.0).state, "closed")
        while (record := await self.call(outer)).code is not CIRCUIT_OPEN:
            # A trial: the time was over already.
            self.assertEqual(record.code, CONNECT_REFUSED)
        self.assertEqual(record.attempts, 0)
        self.assert_documented("outbound", "nothing", outbound=CIRCUIT_OPEN, inbound="-")
        self.assertIn("connections in a row failed, lastly with TM-U101 connecting to", record.reason)
        self.start_inbound(self.application(echo), listen=f"127.0.0.1:{port}")
        while not (await self.call(outer)).established:
            self.assertLess(self.calls, 5000)
        self.assertFalse(self.health(outer).impaired)
        await self.served(outer, 3)
