"""One side has ended, the other has not; and what happens when time runs out."""

from __future__ import annotations

import socket
import threading

from tcpmesh.codes import CLEAN, HALF_CLOSE_TIMEOUT, IDLE_TIMEOUT, LIFETIME
from tcpmesh.codes import RESET as RESET_CODE
from tests.integration.applications import MIB, RESET, Outbox, Received, broken, receive, stream, until, whole
from tests.integration.endings import ControlledTime, EndingTestCase
from tests.integration.mesh import PATIENCE, echo, in_thread


class HalfCloseTests(EndingTestCase):
    async def test_waits_for_a_reply_that_comes_long_after_the_request_ended(self) -> None:
        """half_close is 60 s of silence, not of time: three minutes of thinking aloud end well."""
        request: Outbox[Received] = Outbox()
        speak = threading.Semaphore(0)

        def serve(connection: socket.socket) -> None:
            request.put(receive(connection))
            for word in (b"one ", b"two ", b"three ", b"four"):
                speak.acquire(timeout=PATIENCE)
                connection.sendall(word)

        outer, inner, port = self.start_two_hops(self.application(serve))
        time = ControlledTime(outer, inner)
        client = self.connect(port)
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(await request.take(), whole(b"question"))
        for word in (b"one ", b"two ", b"three ", b"four"):
            time.pass_by(50)
            speak.release()
            self.assertEqual(await in_thread(receive, client, len(word)), whole(word))
        self.assertEqual(await in_thread(receive, client), whole(b""))
        await self.assert_ends(outer, CLEAN, "src")
        await self.assert_ends(inner, CLEAN, "src")

    async def test_half_closed_and_silent_for_too_long_is_reset(self) -> None:
        """50 s of silence are borne, 75 are not: who waits sees a reset, and so does who has not answered."""
        request: Outbox[Received] = Outbox()
        fate: Outbox[str] = Outbox()

        def serve(connection: socket.socket) -> None:
            request.put(receive(connection))
            fate.put(broken(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        time = ControlledTime(outer)
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(await request.take(), whole(b"question"))
        time.pass_by(50)
        self.assertEqual((outer.tap.close, inner.tap.close), ([], []))
        time.pass_by(25)
        self.assertEqual((await in_thread(receive, client)).ending, RESET)
        # An error after FIN is EPIPE to the socket that got both (tcp_reset in Linux' tcp_input.c).
        self.assertEqual(await fate.take(), "EPIPE")
        await self.assert_ends(outer, HALF_CLOSE_TIMEOUT, "proxy", "half closed and silent for 1m")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_lets_the_client_go_on_after_the_server_ended(self) -> None:
        """The server sends everything and ends; the client, having seen that, sends 4 MiB more."""
        data = stream(4 * MIB)
        at_server: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"that is all")
            connection.shutdown(socket.SHUT_WR)
            at_server.put(receive(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        self.assertEqual(await in_thread(receive, client), whole(b"that is all"))
        await in_thread(client.sendall, data)
        self.assertEqual((outer.tap.close, inner.tap.close), ([], []))
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(await at_server.take(), whole(data))
        for proxy in (outer, inner):
            await self.assert_ends(proxy, CLEAN, "dst")
            self.assertEqual((proxy.tap.close[0].bytes_sent, proxy.tap.close[0].bytes_recv), (len(data), 11))

    async def test_half_close_of_either_side_expires_as_configured(self) -> None:
        """The listener's own half_close holds, also when it is the server that has ended."""
        fate: Outbox[str] = Outbox()

        def serve(connection: socket.socket) -> None:
            connection.shutdown(socket.SHUT_WR)
            fate.put(broken(connection))

        inner = self.start_inbound(self.application(serve), more=", timeouts: {half_close: 200ms}")
        outer = self.start_outbound(inner.port("orders-in"))
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(receive, client), whole(b""))
        self.assertEqual(await fate.take(), RESET)
        self.assertEqual(await in_thread(broken, client), "EPIPE")
        await self.assert_ends(inner, HALF_CLOSE_TIMEOUT, "proxy", "half closed and silent for 200ms")
        await self.assert_ends(outer, RESET_CODE, "dst")


class IdleTests(EndingTestCase):
    async def test_idle_on_either_hop_resets_both_applications(self) -> None:
        """idle is off unless configured, on the one hop or on the other; the other hop sees a reset."""
        idle = ", timeouts: {idle: 200ms}"
        for outer_more, inner_more, outer_end, inner_end in (
            (idle, "", (IDLE_TIMEOUT, "proxy"), (RESET_CODE, "src")),
            ("", idle, (RESET_CODE, "dst"), (IDLE_TIMEOUT, "proxy")),
        ):
            fate: Outbox[str] = Outbox()
            inner = self.start_inbound(self.application(lambda c, fate=fate: fate.put(broken(c))), more=inner_more)  # type: ignore[misc]
            outer = self.start_outbound(inner.port("orders-in"), more=outer_more)
            client = self.connect(outer.port("to-orders"))
            self.assertEqual(await in_thread(broken, client), RESET)
            self.assertEqual(await fate.take(), RESET)
            await self.assert_ends(outer, *outer_end)
            await self.assert_ends(inner, *inner_end)
            expired = outer if outer_more else inner
            self.assertEqual(expired.tap.close[0].reason, "no byte for 200ms")

    async def test_a_byte_now_and_then_is_not_idle(self) -> None:
        """With idle of 60 s, a byte every 50 s in either direction keeps the connection; 75 s of silence end it."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"), more=", timeouts: {idle: 60s}")
        time = ControlledTime(outer)
        client = self.connect(outer.port("to-orders"))
        await outer.opened()
        time.pass_by(50)
        client.sendall(b"x")
        self.assertEqual(await in_thread(receive, client, 1), whole(b"x"))
        time.pass_by(50)
        self.assertEqual(outer.tap.close, [])
        time.pass_by(25)
        self.assertEqual(await in_thread(broken, client), RESET)
        await self.assert_ends(outer, IDLE_TIMEOUT, "proxy", "no byte for 1m")
        await self.assert_ends(inner, RESET_CODE, "src")


class LifetimeTests(EndingTestCase):
    async def test_a_busy_connection_ends_with_its_lifetime(self) -> None:
        """Bytes flow all the time; what comes back up to the reset is what was sent."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"), more=", timeouts: {lifetime: 300ms}")
        client = self.connect(outer.port("to-orders"))
        rounds, ending = await in_thread(self.play, client)
        self.assertGreater(rounds, 0)
        self.assertEqual(ending, RESET)
        await self.assert_ends(outer, LIFETIME, "proxy", "the maximum lifetime was reached")
        await self.assert_ends(inner, RESET_CODE, "src")
        await until(lambda: not outer.live and not inner.live, "everything is closed")

    @staticmethod
    def play(client: socket.socket) -> tuple[int, str]:
        """One byte there and back until it breaks: how often, and how."""
        rounds = 0
        while True:
            try:
                client.sendall(b"x")
                if not client.recv(1):
                    return rounds, "end"
            except ConnectionResetError:
                return rounds, RESET
            rounds += 1
