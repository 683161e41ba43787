"""Limits, and peers that open connections without meaning it."""

from __future__ import annotations

import socket

from tcpmesh.codes import (
    CLEAN,
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECTION_LIMIT,
    HANDSHAKE_LIMIT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    LISTENER_CONNECTIONS,
    NO_BYTE,
    NO_IDENTITY,
    PLAINTEXT_PEER,
)
from tests.integration.applications import RESET, Received, broken, exchange, receive, reset, until, whole
from tests.integration.endings import ControlledTime, EndingTestCase
from tests.integration.foreign import ForeignTestCase
from tests.integration.mesh import Proxy, echo, in_thread, unused_port


def gate(proxy: Proxy) -> tuple[int, int]:
    """How many connections and handshakes are counted."""
    assert proxy.service.plane is not None
    return proxy.service.plane.gate.connections, proxy.service.plane.gate.handshakes


class ConnectionLimitTests(EndingTestCase):
    async def test_one_connection_too_many_for_outbound_is_reset(self) -> None:
        """TM-L101; the others live on, and a place that is given back can be taken."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"), top="limits: {connections: 2}")
        first, second = (self.connect(outer.port("to-orders")) for _ in range(2))
        await outer.opened(2)
        third = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(broken, third), RESET)
        await self.assert_ends(outer, CONNECTION_LIMIT, "proxy", "2 connections are open")
        self.assertEqual(outer.tap.close[0].src_addr, "{}:{}".format(*third.getsockname()))
        self.assertEqual(await in_thread(exchange, first, b"first"), whole(b"first"))
        await until(lambda: gate(outer) == (1, 0), "the place is given back")
        fourth = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(exchange, fourth, b"fourth"), whole(b"fourth"))
        self.assertEqual(await in_thread(exchange, second, b"second"), whole(b"second"))
        await outer.closed(4)
        self.assertEqual([record.code for record in outer.tap.close], [CONNECTION_LIMIT, CLEAN, CLEAN, CLEAN])
        await until(lambda: gate(outer) == (0, 0), "all places are given back")

    async def test_one_connection_too_many_for_inbound_is_reset(self) -> None:
        """The far proxy sees its handshake broken off, which it may retry elsewhere."""
        inner = self.start_inbound(self.application(echo), top="limits: {connections: 1}")
        outer = self.start_outbound(inner.port("orders-in"))
        first = self.connect(outer.port("to-orders"))
        await outer.opened()
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(inner, CONNECTION_LIMIT, "proxy", "1 connections are open")
        # The reset may be there before connect(2) has been seen to succeed.
        refused = await outer.closed()
        self.assertIn(refused.code, (HANDSHAKE_TRUNCATED, CONNECT_FAILED))
        self.assertTrue(refused.code is not None and refused.code.retryable)
        self.assertEqual(await in_thread(exchange, first, b"first"), whole(b"first"))
        await until(lambda: gate(inner) == (0, 0), "the place is given back")
        again = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(exchange, again, b"again"), whole(b"again"))


def counted(proxy: Proxy) -> dict[str, int]:
    """How many connections each listener with a limit counts."""
    limits = {name: port.factory.limit for name, port in proxy.service._ports}  # type: ignore[attr-defined]
    return {name: limit.connections for name, limit in limits.items() if limit is not None}


class ListenerLimitTests(ForeignTestCase, EndingTestCase):
    async def test_one_connection_too_many_for_an_outbound_listener_is_reset(self) -> None:
        """TM-L112; the limit of the proxy counts only what the listener took, and each end gives a place back."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"), more=", limits: {connections: 2}")
        first, second = (self.connect(outer.port("to-orders")) for _ in range(2))
        await outer.opened(2)
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(
            outer, LISTENER_CONNECTIONS, "proxy", "2 connections are open on this listener, which is its limit"
        )
        self.assertEqual((counted(outer), gate(outer)), ({"to-orders": 2}, (2, 0)))
        self.assertEqual(await in_thread(exchange, first, b"first"), whole(b"first"))
        reset(second)
        await outer.closed(3)
        self.assertEqual(counted(outer), {"to-orders": 0})
        again = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(exchange, again, b"again"), whole(b"again"))
        await outer.closed(4)
        self.assertEqual(counted(outer), {"to-orders": 0})

    async def test_what_comes_to_nothing_gives_its_place_back(self) -> None:
        """Refused before and after the dial, more often than there are places: none of it is counted for ever."""
        outer = self.start_outbound(unused_port(), more=", limits: {connections: 1}")
        for number in range(1, 4):
            self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
            self.assertIs((await outer.closed(number)).code, CONNECT_REFUSED)
            self.assertEqual(counted(outer), {"to-orders": 0})
        outer.service.composition.state.swap(svids={})
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        self.assertIs((await outer.closed(4)).code, NO_IDENTITY)
        self.assertEqual(counted(outer), {"to-orders": 0})

    async def test_one_connection_too_many_for_an_inbound_listener_is_reset(self) -> None:
        """Before a handshake; peers that fail theirs, and a proxy that cannot have one, leave the count as it was."""
        inner = self.start_inbound(self.application(echo), more=", limits: {connections: 1}")
        silent = self.connect(inner.port("orders-in"))
        await until(lambda: counted(inner) == {"orders-in": 1}, "the silent peer is counted")
        self.assertEqual(await in_thread(broken, self.connect(inner.port("orders-in"))), RESET)
        await self.assert_ends(
            inner, LISTENER_CONNECTIONS, "proxy", "1 connections are open on this listener, which is its limit"
        )
        silent.close()
        self.assertIs((await inner.closed(2)).code, NO_BYTE)
        plain = self.connect(inner.port("orders-in"))
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        self.assertIs((await inner.closed(3)).code, PLAINTEXT_PEER)
        self.assertEqual(counted(inner), {"orders-in": 0})
        state = inner.service.composition.state
        svids = state.current.svids
        state.swap(svids={})
        self.assertEqual(await in_thread(broken, self.connect(inner.port("orders-in"))), RESET)
        self.assertIs((await inner.closed(4)).code, NO_IDENTITY)
        self.assertEqual(counted(inner), {"orders-in": 0})
        state.swap(svids=svids)
        await in_thread(self.foreign_client(inner.port("orders-in")).handshake)
        await inner.opened()
        self.assertEqual(counted(inner), {"orders-in": 1})


class HandshakeLimitTests(ForeignTestCase, EndingTestCase):
    async def test_one_handshake_too_many_is_reset(self) -> None:
        """TM-L102; a silent peer's place is free again when it goes, and established ones hold none."""
        inner = self.start_inbound(self.application(echo), top="limits: {handshakes: 2}")
        established = self.foreign_client(inner.port("orders-in"))
        await in_thread(established.handshake)
        await inner.opened()
        first, _second = (self.connect(inner.port("orders-in")) for _ in range(2))
        await until(lambda: gate(inner) == (3, 2), "two handshakes are pending")
        third = self.connect(inner.port("orders-in"))
        self.assertEqual(await in_thread(broken, third), RESET)
        await self.assert_ends(inner, HANDSHAKE_LIMIT, "proxy", "2 handshakes are pending")
        first.close()
        await until(lambda: gate(inner) == (2, 1), "its place is given back")
        fourth = self.foreign_client(inner.port("orders-in"))
        await in_thread(fourth.handshake)
        await inner.opened(2)
        self.assertEqual(gate(inner), (3, 1))


class FloodTests(ForeignTestCase, EndingTestCase):
    """Handshakes that lead nowhere, held while real clients come."""

    async def test_real_clients_are_served_while_a_flood_is_held(self) -> None:
        """40 silent, 20 that talk nonsense, 10 that stop in mid-handshake: all gone after timeouts.handshake."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"))
        time = ControlledTime(inner)
        port = inner.port("orders-in")
        silent = [self.connect(port) for _ in range(40)]
        garbage = [self.connect(port) for _ in range(20)]
        trickle = [self.connect(port) for _ in range(10)]
        for number, client in enumerate(garbage):
            client.sendall((b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 50, b"SSH-2.0-x\r\n", b"\xff\xfe" * 700)[number % 4])
        for byte in b"\x16\x03\x01\x05\xb2\x01\x00\x05\xae\x03\x03":  # as a ClientHello begins
            for client in trickle:
                client.sendall(bytes((byte,)))
        await inner.closed(20)
        self.assertEqual({record.code for record in inner.tap.close}, {PLAINTEXT_PEER})
        await until(lambda: gate(inner) == (70, 50), "the flood is held")
        for number in range(10):
            client = self.connect(outer.port("to-orders"))
            self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"), number)
        self.assertEqual([record.code for record in outer.tap.close], [CLEAN] * len(outer.tap.close))
        await inner.closed(30)
        time.pass_by(9)
        self.assertEqual(len(inner.tap.close), 30)
        time.pass_by(1)
        await inner.closed(80)
        late = inner.tap.close[30:]
        self.assertEqual({(r.code, r.closed_by, r.reason) for r in late}, {self.timed_out("10")})
        self.assertEqual(len(late), 50)
        await until(lambda: gate(inner) == (0, 0) and not inner.live, "every socket is released")
        for client in (*silent, *trickle):
            self.assertEqual((await in_thread(receive, client)).ending, RESET)
        for client in garbage:
            self.assertEqual((await in_thread(receive, client)).ending, "end")

    @staticmethod
    def timed_out(seconds: str) -> tuple[object, str, str]:
        return HANDSHAKE_TIMEOUT, "proxy", f"no complete handshake within {seconds} s"

    async def test_the_configured_handshake_time_holds(self) -> None:
        """The listener's own, in real time."""
        inner = self.start_inbound(self.application(echo), more=", timeouts: {handshake: 100ms}")
        self.assertEqual(await in_thread(broken, self.connect(inner.port("orders-in"))), RESET)
        record = await inner.closed()
        self.assertEqual((record.code, record.closed_by, record.reason), self.timed_out("0.1"))

    async def test_a_handshake_in_single_bytes_is_a_handshake(self) -> None:
        """Slow is not wrong: the client is served, and its payload, too, comes byte by byte."""
        inner = self.start_inbound(self.application(echo))

        def talk() -> Received:
            client = self.foreign_client(inner.port("orders-in"))
            client.piece = 1
            client.handshake()
            client.sendall(b"hello")
            client.close_notify()
            return receive(client)

        self.assertEqual(await in_thread(talk), whole(b"hello"))
        await self.assert_ends(inner, CLEAN, "src")

    async def test_who_connects_and_goes_before_any_byte_is_no_failure(self) -> None:
        """TM-D105, with FIN or RST; after some bytes it is TM-I405."""
        inner = self.start_inbound(self.application(echo))
        for number, (sent, leave, code) in enumerate(
            (
                (b"", socket.socket.close, NO_BYTE),
                (b"", reset, NO_BYTE),
                (b"\x16\x03\x01", socket.socket.close, HANDSHAKE_TRUNCATED),
                (b"\x16\x03\x01", reset, HANDSHAKE_TRUNCATED),
            ),
            1,
        ):
            client = self.connect(inner.port("orders-in"))
            client.sendall(sent)
            await until(lambda sent=sent: inner.live and inner.live[0].src.any_byte == bool(sent), "it has come")  # type: ignore[misc]
            leave(client)
            self.assertIs((await inner.closed(number)).code, code)
            await until(lambda: gate(inner) == (0, 0) and not inner.live, "everything is released")
