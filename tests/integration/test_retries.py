"""The first endpoint fails in one of many ways and the second one serves: attempts, reasons, and one receiver only."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.preface import ALPN, OK, Preface
from tests.integration.applications import (
    RESET,
    Outbox,
    Received,
    broken,
    exchange,
    receive,
    reset,
    stream,
    until,
    whole,
)
from tests.integration.endings import EndingTestCase
from tests.integration.foreign import ForeignTestCase, ForeignTLS
from tests.integration.mesh import Pki, Proxy, in_thread, unused_port

RETRY = ", retry: {plugin: exponential, attempts: 3, base: 1ms, max: 2ms}"


class RetryTestCase(ForeignTestCase, EndingTestCase):
    def good(self) -> int:
        """An inbound proxy whose application greets and then echoes."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"ready")
            while data := connection.recv(65536):
                connection.sendall(data)

        return self.start_inbound(self.application(serve)).port("orders-in")

    def outbound(self, *ports: int, retry: str = RETRY, timeouts: str = "") -> Proxy:
        return self.start_outbound(*ports, service=retry, more=f", timeouts: {{{timeouts}}}" if timeouts else "")

    def talk(self, outer: Proxy) -> Received:
        """Wait for the greeting, then send and end: everything that comes back."""
        client = self.connect(outer.port("to-orders"))
        greeting = receive(client, 5)
        return exchange(client, b"hello") if greeting == whole(b"ready") else greeting

    async def assert_fails_over(self, bad: int, code: Code, reason: str, timeouts: str = "") -> None:
        """The client is served by the second endpoint; the first one's failure is on record."""
        good = self.good()
        outer = self.outbound(bad, good, timeouts=timeouts)
        self.assertEqual(await in_thread(self.talk, outer), whole(b"hello"))
        await self.assert_ends(outer, codes.CLEAN, "src")
        record = outer.tap.close[0]
        self.assertEqual([(attempt[0], attempt[1]) for attempt in outer.tap.attempts], [(record, code)])
        self.assertIn(reason, outer.tap.attempts[0][2])
        self.assertEqual((record.attempts, record.dst_addr), (2, f"127.0.0.1:{good}"))
        self.assertEqual((record.dst_identity, len(outer.tap.open)), ("spiffe://mesh.test/orders", 1))
        await until(lambda: not outer.live, "the failed attempt's socket is closed, too")


class HandshakeFailureTests(RetryTestCase):
    """Whatever goes wrong before the handshake is complete."""

    async def test_nobody_listens(self) -> None:
        """TM-U101."""
        await self.assert_fails_over(unused_port(), codes.CONNECT_REFUSED, "Connection refused")

    async def test_it_is_silent(self) -> None:
        """TM-T102."""
        port = self.application(receive)
        await self.assert_fails_over(port, codes.HANDSHAKE_TIMEOUT, "no complete handshake within 1", "handshake: 1s")

    async def test_it_ends_at_once(self) -> None:
        """TM-I405."""

        def serve(connection: socket.socket) -> None:
            connection.shutdown(socket.SHUT_WR)
            receive(connection)

        await self.assert_fails_over(self.application(serve), codes.HANDSHAKE_TRUNCATED, "during the TLS handshake")

    async def test_it_resets_at_once(self) -> None:
        """As a proxy over its limit of connections does: another one may have room. TM-I405."""

        def serve(connection: socket.socket) -> None:
            connection.recv(1)
            reset(connection)

        await self.assert_fails_over(self.application(serve), codes.HANDSHAKE_TRUNCATED, "reset by the peer")

    async def test_it_speaks_plaintext(self) -> None:
        """TM-I402."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"220 ready\r\n")
            receive(connection)

        await self.assert_fails_over(self.application(serve), codes.PLAINTEXT_PEER, "220 ready")

    async def test_it_speaks_nonsense(self) -> None:
        """A record that is no ServerHello: TM-I404."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"\x16\x03\x03\x00\x04\xff\x00\x00\x00")
            receive(connection)

        await self.assert_fails_over(self.application(serve), codes.TLS_FAILED, "OpenSSL says")

    async def test_it_is_somebody_else(self) -> None:
        """TM-I701."""
        await self.assert_fails_over(self.foreign_server(receive, "intruder"), codes.ID_DIFFERS, "intruder")

    async def test_nobody_knows_its_authority(self) -> None:
        """TM-I604."""
        stranger = Pki(self.directory / "stranger")
        certificate, key = stranger.issue("orders")
        certificate.rename(self.pki.directory / "fake.pem")
        key.rename(self.pki.directory / "fake.key")
        await self.assert_fails_over(self.foreign_server(receive, "fake"), codes.UNKNOWN_AUTHORITY, "")

    async def test_it_does_not_know_our_authority(self) -> None:
        """In TLS 1.3 its alert comes when we are connected already: TM-I403."""
        port = self.foreign_server(receive, trust=Pki(self.directory / "stranger"))
        await self.assert_fails_over(port, codes.PEER_ALERT, "the peer sent the TLS alert")


class PrefaceFailureTests(RetryTestCase):
    """The peer is who it should be, speaks ``tcpmesh/1``, and does not accept."""

    def refusing(self, answer: Callable[[ForeignTLS], Any]) -> int:
        """A peer with ALPN that does this after the handshake."""
        return self.foreign_server(answer, alpn=ALPN)

    async def test_its_target_is_down(self) -> None:
        """A tcpmesh says so: TM-U106."""
        port = self.start_inbound(unused_port()).port("orders-in")
        await self.assert_fails_over(port, codes.TARGET_FAILED, "refused by the peer: the application is not reachable")

    async def test_it_refuses_with_a_code_from_the_future(self) -> None:
        """TM-U111, with its text escaped."""
        preface = Preface(ok=False, code="TM-X999", text="no\nroom").encode()

        def answer(peer: ForeignTLS) -> None:
            peer.sendall(preface)
            peer.close_notify()
            receive(peer)

        await self.assert_fails_over(
            self.refusing(answer), codes.REFUSED_BY_PEER, "the peer refused with 'TM-X999': 'no\\nroom'"
        )

    async def test_it_says_that_all_is_well(self) -> None:
        """TM-D100 is no refusal, and forbids no other attempt as it would if it were ours: TM-U111."""
        preface = Preface(ok=False, code=codes.CLEAN.id, text="done").encode()

        def answer(peer: ForeignTLS) -> None:
            peer.sendall(preface)
            peer.close_notify()
            receive(peer)

        self.assertFalse(codes.CLEAN.retryable)
        await self.assert_fails_over(
            self.refusing(answer), codes.REFUSED_BY_PEER, "the peer refused with 'TM-D100': 'done'"
        )

    async def test_its_preface_is_nonsense(self) -> None:
        """TM-U109."""

        def answer(peer: ForeignTLS) -> None:
            peer.sendall(b"HTTP/1.1 200 OK\r\n")
            receive(peer)

        await self.assert_fails_over(self.refusing(answer), codes.PREFACE_MALFORMED, "claims 18516 bytes")

    async def test_it_says_nothing(self) -> None:
        """TM-T103."""
        await self.assert_fails_over(
            self.refusing(receive), codes.PREFACE_TIMEOUT, "the peer did not say whether it accepts", "preface: 1s"
        )

    async def test_it_ends_without_a_word(self) -> None:
        """With close_notify, with a bare FIN, with a reset: TM-U110."""

        def bare_fin(peer: ForeignTLS) -> None:
            peer.fin()
            receive(peer.socket)

        def ended(peer: ForeignTLS) -> None:
            peer.close_notify()
            receive(peer)

        for answer in (ended, bare_fin, lambda peer: reset(peer.socket)):
            await self.assert_fails_over(self.refusing(answer), codes.CLOSED_BEFORE_OK, "")

    async def test_a_refusal_that_another_endpoint_would_repeat_is_final(self) -> None:
        """Denied by policy: the second endpoint is not even dialled."""
        inner = self.start_inbound(unused_port(), allow=("intruder",))
        second: list[socket.socket] = []
        outer = self.outbound(inner.port("orders-in"), self.application(second.append))
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, codes.NO_RULE_ALLOWS, "proxy")
        self.assertEqual((outer.tap.close[0].attempts, outer.tap.attempts, second), (1, [], []))

    async def test_who_said_ok_and_broke_is_not_replaced(self) -> None:
        """Its application may have acted on the connection: no second one is dialled."""

        def answer(peer: ForeignTLS) -> None:
            peer.sendall(OK)
            reset(peer.socket)

        second: list[socket.socket] = []
        outer = self.outbound(self.refusing(answer), self.application(second.append))
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, codes.RESET, "dst")
        self.assertEqual((outer.tap.close[0].attempts, outer.tap.attempts, second), (1, [], []))


class LimitTests(RetryTestCase):
    async def test_all_attempts_are_counted_and_the_last_failure_is_the_connection_s(self) -> None:
        """Three attempts at two dead endpoints: two on record as attempts, the third as the end."""
        outer = self.outbound(unused_port(), unused_port())
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, codes.CONNECT_REFUSED, "proxy")
        self.assertEqual([code for _record, code, _reason in outer.tap.attempts], [codes.CONNECT_REFUSED] * 2)
        self.assertEqual(outer.tap.close[0].attempts, 3)

    async def test_without_retries_the_first_failure_is_final(self) -> None:
        """``retry: none`` is the default."""
        outer = self.outbound(unused_port(), self.good(), retry="")
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, codes.CONNECT_REFUSED, "proxy")
        self.assertEqual((outer.tap.close[0].attempts, outer.tap.attempts), (1, []))

    async def test_a_client_that_resets_between_attempts_is_not_dialled_for_again(self) -> None:
        """The wait is cancelled with it."""
        retry = ", retry: {plugin: exponential, attempts: 2, base: 1h, max: 1h}"
        outer = self.outbound(unused_port(), retry=retry, timeouts="establish: 1h")
        client = self.connect(outer.port("to-orders"))
        await until(lambda: outer.tap.attempts, "the first attempt has failed")
        reset(client)
        await self.assert_ends(outer, codes.CANCELLED, "src")
        self.assertEqual(outer.tap.close[0].attempts, 1)
        await until(lambda: not outer.live, "the socket is closed")


class OneReceiverTests(RetryTestCase):
    """However an endpoint fails: never do two of them get payload, and one gets only what was sent, from the start."""

    DATA = stream(300_000)

    async def test_payload_goes_to_one_endpoint_at_most(self) -> None:
        """The client sends at once; the first endpoint fails at every possible point."""
        ways: dict[str, tuple[int, Callable[[ForeignTLS], None]]] = {
            "end": (0, ForeignTLS.close_notify),
            "bare end": (0, ForeignTLS.fin),
            "reset": (0, lambda peer: reset(peer.socket)),
            "alert": (0, lambda peer: peer.socket.sendall(b"\x15\x03\x03\x00\x02\x02\x28")),
            "nonsense": (0, lambda peer: peer.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))),
            "reset after a byte": (1, lambda peer: reset(peer.socket)),
            "end after a byte": (1, ForeignTLS.close_notify),
            "bare end after a byte": (1, ForeignTLS.fin),
            "reset after much": (100_000, lambda peer: reset(peer.socket)),
        }
        for name, (size, fail) in ways.items():
            received: list[bytearray] = []
            done: Outbox[None] = Outbox()
            bad = self.recording(received, done, size, fail)
            good = self.recording(received, done, len(self.DATA) + 1, self.confirm)
            outer = self.outbound(bad, good)
            # Sent without waiting for anything.
            answer = await in_thread(exchange, self.connect(outer.port("to-orders")), self.DATA)
            record = await outer.closed()
            for _ in range(record.attempts):
                await done.take()
            self.assertIn(record.attempts, (1, 2), name)
            got = [bytes(each) for each in received if each]
            self.assertLessEqual(len(got), 1, name)
            self.assertTrue(all(self.DATA.startswith(each) for each in got), name)
            if answer == whole(b"confirmed"):
                self.assertEqual(got, [self.DATA], name)
            else:
                self.assertNotEqual(got, [self.DATA], name)

    def recording(
        self, received: list[bytearray], done: Outbox[None], size: int, then: Callable[[ForeignTLS], None]
    ) -> int:
        """A foreign server that writes down what it gets, up to a size or the end, and then does something."""

        def run(peer: ForeignTLS) -> None:
            got = bytearray()
            received.append(got)
            with contextlib.suppress(OSError, SSL.Error):
                while len(got) < size and (data := peer.recv(65536)):
                    got.extend(data)
                then(peer)
            done.put(None)

        return self.foreign_server(run)

    @staticmethod
    def confirm(peer: ForeignTLS) -> None:
        peer.sendall(b"confirmed")
        peer.close_notify()
