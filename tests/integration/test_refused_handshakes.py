"""Handshakes that never were: plaintext, cut short, too slow, too many; in both directions over a real wire."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from tcpmesh import codes
from tcpmesh.codes import Code
from tests.integration.applications import END, RESET, Outbox, Received, receive, reset
from tests.integration.endings import ControlledTime
from tests.integration.mesh import in_thread
from tests.integration.refusals import ORDERS, RefusalTestCase
from tests.unit.tls_pairs import client_hello

GREETING = b'220 mail.example.org "ESMTP"\x1b[2J\r\n'


class InboundTests(RefusalTestCase):
    """What comes to an inbound listener and is no handshake."""

    async def send(self, *pieces: bytes, then: Callable[[socket.socket], Any] | None = None) -> Received:
        """Connect, send, end the stream (or whatever ``then`` does), and read to the end."""
        self.inner = self.start_inbound(self.target.port)
        client = self.connect(self.inner.port("orders-in"))
        for piece in pieces:
            client.sendall(piece)
        (then or (lambda each: each.shutdown(socket.SHUT_WR)))(client)
        return await in_thread(receive, client) if client.fileno() >= 0 else Received(0, "", "")

    async def assert_refused(self, code: Code, closed_by: str, *words: str, wire: str = "", **values: Any) -> None:
        """Record and line, and where ``wire`` is given the row of the documentation."""
        here = await self.inner.closed()
        self.assert_record(here, code, closed_by, *words, src_identity="", presented="", decision="", **values)
        self.assert_line("orders-in", here)
        self.assertFalse(self.target.was_dialled)
        if wire:
            self.assert_documented("inbound", wire, application="-", inbound=code)

    async def test_plaintext(self) -> None:
        """An HTTP client gets FIN and not a byte; the reason shows how it began."""
        received = await self.send(b"G\x1b[2J / HTTP/1.1\r\n\r\n", then=lambda _client: None)
        self.assertEqual((received.length, received.ending), (0, END))
        await self.assert_refused(codes.PLAINTEXT_PEER, "proxy", r"got 'G\x1b[2J'", wire="FIN")

    async def test_garbage(self) -> None:
        """What only looks like TLS gets an alert, then FIN."""
        received = await self.send(b"\x16\x03\x01\x00\x05hello", then=lambda _client: None)
        self.assertEqual((received.length, received.ending), (7, END))
        await self.assert_refused(codes.TLS_FAILED, "proxy", "OpenSSL says: ")

    async def test_a_handshake_that_ends(self) -> None:
        """FIN in the middle of a ClientHello, and after it: the peer's doing."""
        hello = client_hello()
        for sent in (hello[:1], hello[: len(hello) // 2], hello):
            received = await self.send(sent)
            self.assertEqual(received.ending, END)
            await self.assert_refused(
                codes.HANDSHAKE_TRUNCATED, "src", "during the TLS handshake", wire="FIN", errno=""
            )

    async def test_a_handshake_that_is_reset(self) -> None:
        """The same by RST; the record has the system's word for it."""
        await self.send(client_hello()[:100], then=reset)
        await self.assert_refused(codes.HANDSHAKE_TRUNCATED, "src", "reset by the peer", errno="ECONNRESET")

    async def test_a_connection_without_a_byte(self) -> None:
        """A health check, whether it ends or resets: a record, no warning."""
        for then in (None, reset):
            await self.send(then=then)
            here = await self.inner.closed()
            self.assert_record(here, codes.NO_BYTE, "src")
            self.assert_documented("inbound", "FIN", application="-", outbound="-", inbound="TM-D105 DEBUG")
            self.assertEqual(self.lines.take("orders-in"), [])
        self.assertFalse(self.target.was_dialled)

    async def test_a_handshake_that_takes_too_long(self) -> None:
        """Silence, and half a ClientHello: reset after timeouts.handshake, not a moment before."""
        for sent in (b"", client_hello()[:50]):
            inner = self.inner = self.start_inbound(self.target.port)
            time = ControlledTime(inner)
            client = self.connect(inner.port("orders-in"))
            client.sendall(sent)
            fate = in_thread(receive, client)
            await self.accepted(inner)
            time.pass_by(9)
            self.assertEqual(inner.tap.close, [])
            time.pass_by(1)
            received = await fate
            self.assertEqual((received.length, received.ending), (0, RESET))
            await self.assert_refused(codes.HANDSHAKE_TIMEOUT, "proxy", "no complete handshake within 10 s", wire="RST")

    async def test_too_many_handshakes(self) -> None:
        """The one beyond the limit is reset at once; those before it are not disturbed."""
        inner = self.inner = self.start_inbound(self.target.port, top="limits: {handshakes: 1}\n")
        first = self.connect(inner.port("orders-in"))
        await self.accepted(inner)
        outer = self.start_outbound(inner.port("orders-in"))
        await self.assert_reset(outer)
        await self.assert_refused(codes.HANDSHAKE_LIMIT, "proxy", "1 handshakes are pending")
        there = await outer.closed()
        self.assert_record(there, codes.HANDSHAKE_TRUNCATED, "proxy", errno="ECONNRESET")
        self.assert_line("to-orders", there)
        self.assert_documented("inbound", "RST", outbound=codes.HANDSHAKE_TRUNCATED, inbound=codes.HANDSHAKE_LIMIT)
        first.sendall(b"\x16\x03\x01\x00\x05hello")
        self.assertEqual((await in_thread(receive, first)).ending, END)
        self.assertEqual((await inner.closed(2)).code, codes.TLS_FAILED)


class OutboundTests(RefusalTestCase):
    """What an outbound listener may find at an endpoint instead of TLS."""

    async def refused(self, serve: Callable[[socket.socket], Any], code: Code, *words: str, **values: Any) -> None:
        """The application is reset, and record and line say why."""
        outer = self.start_outbound(self.application(serve))
        await self.assert_reset(outer)
        there = await outer.closed()
        self.assert_record(there, code, "proxy", *words, presented="", dst_identity="", **values)
        self.assert_line("to-orders", there)

    async def test_plaintext(self) -> None:
        """A server that greets: shown escaped, answered with FIN, and it gets nothing but our ClientHello."""
        heard: Outbox[Received] = Outbox()

        def greet(connection: socket.socket) -> None:
            connection.sendall(GREETING)
            heard.put(receive(connection))

        await self.refused(greet, codes.PLAINTEXT_PEER, r"got '220 mail.example'", expected=ORDERS)
        self.assert_documented("outbound", "FIN", outbound=codes.PLAINTEXT_PEER)
        hello = await heard.take()
        self.assertEqual(hello.ending, END)
        self.assertTrue(500 < hello.length < 3000, hello.length)

    async def test_a_server_that_ends(self) -> None:
        """FIN instead of a ServerHello."""

        def end(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.shutdown(socket.SHUT_WR)
            receive(connection)

        await self.refused(end, codes.HANDSHAKE_TRUNCATED, "during the TLS handshake", expected=ORDERS)
        self.assert_documented("outbound", "FIN", outbound=codes.HANDSHAKE_TRUNCATED)

    async def test_a_server_that_resets(self) -> None:
        """RST instead of a ServerHello."""

        def break_off(connection: socket.socket) -> None:
            connection.recv(65536)
            reset(connection)

        await self.refused(break_off, codes.HANDSHAKE_TRUNCATED, "reset by the peer", errno="ECONNRESET")

    async def test_an_alert(self) -> None:
        """A server that refuses by an alert and says nothing else."""

        def refuse(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            receive(connection)

        await self.refused(refuse, codes.PEER_ALERT, "the peer sent the TLS alert 'handshake failure'", expected=ORDERS)

    async def test_a_server_that_takes_too_long(self) -> None:
        """Reset on both sides after timeouts.handshake."""
        heard: Outbox[Received] = Outbox()
        outer = self.start_outbound(self.application(lambda connection: heard.put(receive(connection))))
        time = ControlledTime(outer)
        application = in_thread(receive, self.connect(outer.port("to-orders")))
        await self.accepted(outer)
        await self.until_connected(outer)
        time.pass_by(9)
        self.assertEqual(outer.tap.close, [])
        time.pass_by(1)
        self.assertEqual((await application).ending, RESET)
        self.assertEqual((await heard.take()).ending, RESET)
        there = await outer.closed()
        self.assert_record(there, codes.HANDSHAKE_TIMEOUT, "proxy", "no complete handshake within 10 s")
        self.assert_line("to-orders", there)
        self.assert_documented("outbound", "RST", outbound=codes.HANDSHAKE_TIMEOUT)
