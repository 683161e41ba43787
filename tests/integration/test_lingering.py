"""Our own close never destroys what the peer has not read yet, and never waits for the peer for long."""

from __future__ import annotations

import socket
import threading

from OpenSSL import SSL

from tcpmesh.codes import CLEAN, UNKNOWN_AUTHORITY
from tests.integration.applications import BROKEN, END, MIB, Outbox, Received, push, receive, stream, until, whole
from tests.integration.endings import ControlledTime, EndingTestCase
from tests.integration.foreign import ForeignTestCase, ForeignTLS, foreign_context
from tests.integration.mesh import Pki, in_thread

ANSWER = stream(6 * MIB)
JUNK = bytes(200_000)


class LingerTests(ForeignTestCase, EndingTestCase):
    def asked(self, port: int) -> ForeignTLS:
        """A client that has sent its request and its close_notify, but no FIN."""
        client = self.foreign_client(port)
        client.handshake()
        client.sendall(b"question")
        client.close_notify()
        return client

    async def test_a_client_that_goes_on_sending_after_the_end_still_gets_everything(self) -> None:
        """Bytes behind its close_notify mean nothing; left unread at our close they would make it a reset."""
        at_target: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            at_target.put(receive(connection))
            connection.sendall(ANSWER)

        inner = self.start_inbound(self.application(serve))
        ControlledTime(inner)

        def ask() -> tuple[Received, Received]:
            client = self.asked(inner.port("orders-in"))
            client.socket.sendall(JUNK)
            answer = receive(client)
            client.socket.sendall(JUNK)
            client.fin()
            return answer, receive(client.socket)

        answer, behind = await in_thread(ask)
        self.assertEqual(answer, whole(ANSWER))
        self.assertEqual(behind, whole(b""))
        self.assertEqual(await at_target.take(), whole(b"question"))
        await self.assert_ends(inner, CLEAN, "src")
        self.assertEqual((inner.tap.close[0].bytes_sent, inner.tap.close[0].bytes_recv), (8, len(ANSWER)))
        await until(lambda: not inner.live, "the client's FIN closes the socket, no time has passed")

    async def test_what_is_read_and_thrown_away_has_a_limit(self) -> None:
        """A client that never stops sending is cut off after 1 MiB, without any time passing."""
        inner = self.start_inbound(self.application(lambda c: receive(c).length))
        ControlledTime(inner)
        client = await in_thread(self.asked, inner.port("orders-in"))
        self.assertEqual(await in_thread(receive, client), whole(b""))
        self.assertIn(await in_thread(push, client.socket, bytes(64 * MIB)), BROKEN)
        await self.assert_ends(inner, CLEAN, "src")
        await until(lambda: not inner.live, "the socket is closed")

    async def test_a_silent_peer_keeps_its_socket_for_the_linger_time_only(self) -> None:
        """The record is written when all is delivered; the descriptor is released ``linger`` later."""
        inner = self.start_inbound(self.application(receive), more=", timeouts: {linger: 5s}")
        time = ControlledTime(inner)
        client = await in_thread(self.asked, inner.port("orders-in"))
        self.assertEqual(await in_thread(receive, client), whole(b""))
        self.assertEqual(await in_thread(receive, client.socket), whole(b""))
        await self.assert_ends(inner, CLEAN, "src")
        time.pass_by(4)
        self.assertEqual([connection.is_closed for connection in inner.live], [True])
        time.pass_by(1)
        await until(lambda: not inner.live, "the socket is released")
        assert inner.service.plane is not None
        self.assertEqual(inner.service.plane.gate.connections, 0)

    async def test_a_client_that_does_not_take_the_end_of_its_answer_does_not_live_for_ever(self) -> None:
        """Both have ended, but the answer is stuck: after half_close of silence it is reset, and not clean."""
        inner = self.start_inbound(self.application(lambda c: (receive(c), push(c, bytes(64 * MIB)))))
        time = ControlledTime(inner)
        await in_thread(self.asked, inner.port("orders-in"))
        await until(lambda: inner.live and inner.live[0].src.unsent, "the answer is stuck")
        stuck = inner.live[0].record.bytes_recv
        time.pass_by(80)
        record = await inner.closed()
        self.assertEqual((record.code.id if record.code else "", record.closed_by), ("TM-T105", "proxy"))
        self.assertLessEqual(record.bytes_recv, stuck)
        await until(lambda: not inner.live, "the socket is released")

    async def test_a_refused_client_that_talks_on_reads_the_alert(self) -> None:
        """In TLS 1.3 it may send at once; what it sends unread must not destroy the reason."""
        stranger = Pki(self.directory / "stranger")
        stranger.issue("web")
        dialled: list[socket.socket] = []
        inner = self.start_inbound(self.application(dialled.append))
        context = foreign_context(stranger, "web", trust=self.pki)

        def talk() -> str:
            client = ForeignTLS(self.connect(inner.port("orders-in")), context, server=False)
            client.handshake()
            sender = threading.Thread(target=push, args=(client.socket, JUNK))
            sender.start()
            try:
                return receive(client).ending
            except SSL.Error as alert:
                return str(alert)
            finally:
                sender.join()

        # Which alert is up to OpenSSL; that it is one, and not ECONNRESET, is up to us.
        self.assertIn("tlsv1 alert", await in_thread(talk))
        await self.assert_ends(inner, UNKNOWN_AUTHORITY, "proxy")
        self.assertEqual((dialled, inner.tap.open), ([], []))

    async def test_a_client_that_ends_its_side_of_the_wire_ends_the_linger(self) -> None:
        """Nothing waits for time when FIN has come: clean and released at once."""
        inner = self.start_inbound(self.application(receive))
        ControlledTime(inner)
        client = await in_thread(self.asked, inner.port("orders-in"))
        client.fin()
        self.assertEqual((await in_thread(receive, client)).ending, END)
        await self.assert_ends(inner, CLEAN, "src")
        await until(lambda: not inner.live, "the socket is released")
