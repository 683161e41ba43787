"""From accept to the first byte: who is dialled, who is not, and what everybody is told."""

from __future__ import annotations

import socket
import threading

from tcpmesh.codes import (
    CLEAN,
    CONNECT_REFUSED,
    NO_RULE_ALLOWS,
    TARGET_FAILED,
)
from tcpmesh.codes import RESET as RESET_CODE
from tests.integration.applications import (
    END,
    RESET,
    Outbox,
    Received,
    broken,
    exchange,
    receive,
    reset,
    until,
    whole,
)
from tests.integration.endings import EndingTestCase
from tests.integration.foreign import ForeignTestCase
from tests.integration.mesh import echo, in_thread, unused_port


class TargetTests(EndingTestCase):
    """The application behind the inbound proxy comes and goes."""

    async def test_a_target_that_is_down_refuses_and_once_it_is_up_serves(self) -> None:
        """The same code on both sides, through the preface; then, without any restart, an answer."""
        listener = socket.socket()  # bound, so that nobody else gets the port; not listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        outer, inner, entry = self.start_two_hops(port)
        received = await in_thread(exchange, self.connect(entry), b"hello")
        self.assertEqual(received, whole(b"")._replace(ending=RESET))
        await self.assert_ends(inner, TARGET_FAILED, "proxy")
        await self.assert_ends(outer, TARGET_FAILED, "proxy")
        why = f"the application is not reachable: TM-U101 connecting to 127.0.0.1:{port}: Connection refused"
        self.assertEqual(inner.tap.close[0].reason, why)
        self.assertEqual(outer.tap.close[0].reason, f"refused by the peer: {why}")
        self.assertEqual((inner.tap.open, outer.tap.open), ([], []))
        self.assertEqual((inner.tap.close[0].bytes_sent, outer.tap.close[0].bytes_sent), (0, 0))
        listener.listen()
        self.serve(listener, echo)
        self.assertEqual(await in_thread(exchange, self.connect(entry), b"hello"), whole(b"hello"))
        self.assertIs((await inner.closed(2)).code, CLEAN)
        self.assertIs((await outer.closed(2)).code, CLEAN)

    async def test_a_target_that_resets_as_soon_as_it_accepted(self) -> None:
        """The client sees a reset, never an orderly end, and the next one is served."""
        serve = [reset]
        outer, inner, port = self.start_two_hops(self.application(lambda c: serve[0](c)))
        for number in range(1, 11):
            self.assertEqual(await in_thread(broken, self.connect(port)), RESET)
            # Whether the reset comes before or after connect(2) has succeeded is up to the kernel.
            there, here = await inner.closed(number), await outer.closed(number)
            self.assertIn((there.code, there.closed_by), ((RESET_CODE, "dst"), (TARGET_FAILED, "proxy")))
            self.assertIs(here.code, there.code)
            self.assertEqual((here.attempts, here.closed_by), (1, there.closed_by))
        serve[0] = echo
        self.assertEqual(await in_thread(exchange, self.connect(port), b"hello"), whole(b"hello"))
        self.assertIs((await outer.closed(11)).code, CLEAN)

    async def test_a_target_that_ends_as_soon_as_it_accepted(self) -> None:
        """That is an answer of no bytes: an orderly end, since the target said so."""

        def serve(connection: socket.socket) -> None:
            connection.shutdown(socket.SHUT_WR)
            receive(connection)

        outer, inner, port = self.start_two_hops(self.application(serve))
        self.assertEqual(await in_thread(exchange, self.connect(port), b"hello"), whole(b""))
        for proxy in (outer, inner):
            self.assertIs((await proxy.closed()).code, CLEAN)
            self.assertEqual(proxy.tap.close[0].bytes_sent, 5)

    async def test_nothing_is_dialled_for_a_peer_that_only_connects(self) -> None:
        """Until a handshake is complete the target hears nothing."""
        dialled: list[socket.socket] = []
        inner = self.start_inbound(self.application(dialled.append))
        client = self.connect(inner.port("orders-in"))
        client.sendall(b"\x16\x03\x01")
        await until(lambda: inner.live and inner.live[0].src.any_byte, "the beginning of a record has come")
        self.assertEqual(dialled, [])
        client.close()
        await inner.closed()
        self.assertEqual((dialled, inner.tap.open), ([], []))


class DenialTests(ForeignTestCase, EndingTestCase):
    """A verified peer whom no policy allows."""

    def greeter(self) -> tuple[int, list[socket.socket]]:
        """A server that greets whoever connects, and who that was."""
        dialled: list[socket.socket] = []

        def serve(connection: socket.socket) -> None:
            dialled.append(connection)
            connection.sendall(b"220 secret.internal ready\r\n")
            receive(connection)

        return self.application(serve), dialled

    async def test_a_denied_client_gets_no_byte_of_the_greeting(self) -> None:
        """Not one, and the server is not even dialled; both logs say the code."""
        port, dialled = self.greeter()
        inner = self.start_inbound(port, allow=("web",))
        outer = self.start_outbound(inner.port("orders-in"), workload="intruder")
        received = await in_thread(receive, self.connect(outer.port("to-orders")))
        self.assertEqual((received.length, received.ending), (0, RESET))
        await self.assert_ends(inner, NO_RULE_ALLOWS, "proxy")
        await self.assert_ends(outer, NO_RULE_ALLOWS, "proxy")
        self.assertEqual((dialled, inner.tap.open, outer.tap.open), ([], [], []))
        self.assertEqual((inner.tap.close[0].decision, outer.tap.close[0].attempts), ("deny", 1))

    async def test_a_denied_foreign_client_gets_a_reset(self) -> None:
        """It negotiated no preface: nothing but a reset tells it, whatever it has sent already."""
        port, dialled = self.greeter()
        inner = self.start_inbound(port, allow=("web",))

        def intrude() -> Received:
            client = self.foreign_client(inner.port("orders-in"), "intruder")
            client.handshake()
            return receive(client)

        received = await in_thread(intrude)
        self.assertEqual((received.length, received.ending), (0, RESET))
        await self.assert_ends(inner, NO_RULE_ALLOWS, "proxy")
        self.assertEqual((dialled, inner.tap.open), ([], []))

    async def test_without_any_policy_nobody_is_allowed(self) -> None:
        """No ``authorization`` means deny."""
        port, dialled = self.greeter()
        inner = self.start_inbound(port, allow=())
        outer = self.start_outbound(inner.port("orders-in"))
        self.assertEqual((await in_thread(receive, self.connect(outer.port("to-orders")))).ending, RESET)
        await self.assert_ends(inner, NO_RULE_ALLOWS, "proxy")
        await self.assert_ends(outer, NO_RULE_ALLOWS, "proxy")
        self.assertEqual(dialled, [])


class RefusalTests(EndingTestCase):
    """What an application sees of a refusal: a reset, never a clean end."""

    async def test_a_dead_endpoint_resets_the_application(self) -> None:
        """Without retries: one attempt, its code, and nothing to be mistaken for an answer."""
        port = unused_port()
        outer = self.start_outbound(port)
        received = await in_thread(exchange, self.connect(outer.port("to-orders")), b"hello")
        self.assertEqual((received.length, received.ending), (0, RESET))
        reason = f"connecting to 127.0.0.1:{port}: Connection refused"
        await self.assert_ends(outer, CONNECT_REFUSED, "proxy", reason)
        record = outer.tap.close[0]
        self.assertEqual((record.attempts, record.bytes_sent, outer.tap.attempts), (1, 0, []))

    async def test_a_refusal_is_seen_by_who_waits_and_by_who_writes(self) -> None:
        """A client that has half-closed and waits, and one that never stops writing."""
        outer = self.start_outbound(unused_port())
        fates: Outbox[str] = Outbox()

        def wait(client: socket.socket) -> None:
            fates.put(exchange(client, b"").ending)

        def write(client: socket.socket) -> None:
            try:
                while True:
                    client.sendall(bytes(65536))
            except ConnectionError as problem:
                fates.put(type(problem).__name__)

        for act in (wait, write):
            client = self.connect(outer.port("to-orders"))
            threading.Thread(target=act, args=(client,), daemon=True).start()
        seen = {await fates.take(), await fates.take()}
        self.assertNotIn(END, seen)
        self.assertTrue(seen <= {RESET, "ConnectionResetError", "BrokenPipeError"}, seen)
        await outer.closed(2)
        self.assertEqual({record.code for record in outer.tap.close}, {CONNECT_REFUSED})
