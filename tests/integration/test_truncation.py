"""A TLS stream that ends without close_notify, is cut or is damaged is never taken for a complete one."""

from __future__ import annotations

import socket
from typing import Any, Literal

from tcpmesh.codes import (
    CLEAN,
    PEER_ALERT,
    TLS_BROKEN,
    TLS_FAILED,
    TRUNCATED,
    TRUNCATED_AS_EOF,
    Code,
)
from tcpmesh.codes import RESET as RESET_CODE
from tests.integration import foreign
from tests.integration.applications import (
    BROKEN,
    MIB,
    RESET,
    Outbox,
    Received,
    broken,
    is_prefix,
    push,
    receive,
    stream,
    whole,
)
from tests.integration.endings import EndingTestCase
from tests.integration.foreign import ForeignTestCase, ForeignTLS
from tests.integration.mesh import Proxy, in_thread
from tests.integration.wire import Wire

DATA = stream(8 * MIB)
TAKEN_FOR_END = "ended without close_notify, taken for an end as configured"
NO_CLOSE_NOTIFY = "the connection ended without a TLS close_notify"


def push_until_broken(connection: socket.socket) -> str:
    """All of it may fit into the buffers on the way: then the break comes later."""
    return push(connection, DATA) or broken(connection)


class ForeignPeerTests(ForeignTestCase, EndingTestCase):
    """Peers that are no tcpmesh."""

    async def test_a_client_with_close_notify_gets_its_answer(self) -> None:
        """Half-close works in TLS too: close_notify without FIN, then the answer, then ours."""
        inner = self.start_inbound(self.application(lambda c: push(c, b"got " + str(receive(c).length).encode())))

        def ask() -> Received:
            client = self.foreign_client(inner.port("orders-in"))
            client.handshake()
            client.sendall(DATA)
            client.close_notify()
            return receive(client)

        self.assertEqual(await in_thread(ask), whole(f"got {len(DATA)}".encode()))
        await self.assert_ends(inner, CLEAN, "src")
        self.assertEqual((inner.tap.close[0].bytes_sent, inner.tap.close[0].alpn), (len(DATA), ""))

    async def test_a_client_without_close_notify_is_a_broken_stream(self) -> None:
        """The target gets what came and then a reset; TM-D102."""
        at_target: Outbox[Received] = Outbox()
        inner = self.start_inbound(self.application(lambda c: at_target.put(receive(c))))
        self.assertEqual(await in_thread(self.truncate, inner), RESET)
        received = await at_target.take()
        self.assertEqual(received.ending, RESET)
        self.assertTrue(is_prefix(received, b"part of a st"), received)
        await self.assert_ends(inner, TRUNCATED, "src", NO_CLOSE_NOTIFY)

    async def test_a_client_without_close_notify_has_ended_where_that_is_configured(self) -> None:
        """``truncation: eof``: the target sees an end, and its answer still reaches the client; TM-D103."""
        at_target: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            at_target.put(receive(connection))
            connection.sendall(b"answer")

        inner = self.start_inbound(self.application(serve), more=", truncation: eof")
        self.assertEqual(await in_thread(self.truncate, inner), "answer")
        self.assertEqual(await at_target.take(), whole(b"part of a st"))
        await self.assert_ends(inner, TRUNCATED_AS_EOF, "src", TAKEN_FOR_END)

    def truncate(self, inner: Proxy) -> str:
        """Send a part, then FIN without close_notify; what is seen then."""
        client = self.foreign_client(inner.port("orders-in"))
        client.handshake()
        client.sendall(b"part of a st")
        client.fin()
        received = receive(client)
        return "answer" if received == whole(b"answer") else received.ending

    async def test_a_server_with_close_notify_ends_the_stream(self) -> None:
        """FIN behind it or not."""
        at_server: Outbox[Received] = Outbox()

        def serve(peer: ForeignTLS) -> None:
            peer.sendall(DATA)
            peer.close_notify()
            at_server.put(receive(peer))

        outer = self.start_outbound(self.foreign_server(serve))
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(receive, client), whole(DATA))
        client.sendall(b"thanks")
        client.close()
        self.assertEqual(await at_server.take(), whole(b"thanks"))
        await self.assert_ends(outer, CLEAN, "dst")
        self.assertEqual((outer.tap.close[0].bytes_recv, outer.tap.close[0].alpn), (len(DATA), ""))

    async def test_a_server_without_close_notify_is_a_broken_stream(self) -> None:
        """The application gets what came and then a reset; the server sees one, too."""
        at_server: Outbox[str] = Outbox()

        def serve(peer: ForeignTLS) -> None:
            peer.sendall(b"part of a st")
            peer.fin()
            at_server.put(broken(peer.socket))

        outer = self.start_outbound(self.foreign_server(serve))
        received = await in_thread(receive, self.connect(outer.port("to-orders")))
        self.assertEqual(received.ending, RESET)
        self.assertTrue(is_prefix(received, b"part of a st"), received)
        self.assertEqual(await at_server.take(), RESET)
        await self.assert_ends(outer, TRUNCATED, "dst", NO_CLOSE_NOTIFY)

    async def test_a_server_without_close_notify_has_ended_where_that_is_configured(self) -> None:
        """``truncation: eof``: the application sees an end and may go on sending."""
        at_server: Outbox[Received] = Outbox()

        def serve(peer: ForeignTLS) -> None:
            peer.sendall(DATA)
            peer.fin()
            at_server.put(receive(peer))

        outer = self.start_outbound(self.foreign_server(serve), service=", truncation: eof")
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(receive, client), whole(DATA))
        client.sendall(b"thanks")
        client.close()
        self.assertEqual(await at_server.take(), whole(b"thanks"))
        await self.assert_ends(outer, TRUNCATED_AS_EOF, "dst", TAKEN_FOR_END)

    async def test_a_server_that_is_cut_inside_a_record_has_not_ended_either(self) -> None:
        """The same towards the application of an outbound listener."""
        at_server: Outbox[str] = Outbox()

        def serve(peer: ForeignTLS) -> None:
            peer.sendall(b"part of a st")
            peer.tls.send(bytes(10000))
            peer.socket.sendall(peer.tls.bio_read(65536)[:5000])
            peer.fin()
            at_server.put(broken(peer.socket))

        outer = self.start_outbound(self.foreign_server(serve), service=", truncation: eof")
        received = await in_thread(receive, self.connect(outer.port("to-orders")))
        self.assertEqual(received.ending, RESET)
        self.assertTrue(is_prefix(received, b"part of a st"), received)
        self.assertEqual(await at_server.take(), RESET)
        await self.assert_ends(outer, TRUNCATED, "dst", NO_CLOSE_NOTIFY)

    async def test_only_the_listener_that_says_so_takes_truncation_for_an_end(self) -> None:
        """The service's own setting does not reach its other hop."""
        inner = self.start_inbound(self.application(receive))
        wire = Wire(self, inner.port("orders-in"), cut="fin", after=MIB)
        outer = self.start_outbound(wire.port, service=", truncation: eof")
        await in_thread(push, self.connect(outer.port("to-orders")), DATA)
        await self.assert_ends(inner, TRUNCATED, "src", NO_CLOSE_NOTIFY)

    async def test_an_end_inside_a_record_is_a_cut_whatever_is_configured(self) -> None:
        """``truncation: eof`` excuses a missing close_notify, not half a record."""
        at_target: Outbox[Received] = Outbox()
        inner = self.start_inbound(self.application(lambda c: at_target.put(receive(c))), more=", truncation: eof")

        def cut() -> str:
            client = self.foreign_client(inner.port("orders-in"))
            client.handshake()
            client.sendall(b"whole")
            client.tls.send(b"half of this")
            client.socket.sendall(client.tls.bio_read(65536)[:15])
            client.fin()
            return receive(client).ending

        self.assertEqual(await in_thread(cut), RESET)
        received = await at_target.take()
        self.assertEqual(received.ending, RESET)
        self.assertTrue(is_prefix(received, b"whole"), received)
        await self.assert_ends(inner, TRUNCATED, "src")

    async def test_a_bare_fin_is_seen_by_the_foreign_peers_of_these_tests(self) -> None:
        """Else no ``END`` above would mean that we sent close_notify."""

        def serve(peer: ForeignTLS) -> None:
            peer.fin()

        client = self.foreign_client(self.foreign_server(serve))
        await in_thread(client.handshake)
        self.assertEqual((await in_thread(receive, client)).ending, foreign.TRUNCATED)


class WireTests(EndingTestCase):
    """Something between the two proxies cuts or damages what passes."""

    async def cut_upload(self, cut: Literal["fin", "rst"], code: Code) -> None:
        at_server: Outbox[Received] = Outbox()
        outer, inner, client = self.over_wire(lambda c: at_server.put(receive(c)), cut=cut, after=MIB)
        self.assertIn(await in_thread(push_until_broken, client), BROKEN)
        received = await at_server.take()
        self.assertEqual(received.ending, RESET)
        self.assertTrue(0 < received.length <= MIB and is_prefix(received, DATA), received)
        await self.assert_ends(inner, code, "src")
        await self.assert_ends(outer, code, "dst")

    async def cut_download(self, cut: Literal["fin", "rst"], code: Code) -> None:
        at_server: Outbox[str] = Outbox()
        outer, inner, client = self.over_wire(lambda c: at_server.put(push_until_broken(c)), cut=cut, after=MIB)
        received = await in_thread(receive, client)
        self.assertEqual(received.ending, RESET)
        self.assertTrue(0 < received.length <= MIB and is_prefix(received, DATA), received)
        self.assertIn(await at_server.take(), BROKEN)
        await self.assert_ends(outer, code, "dst")
        await self.assert_ends(inner, code, "src")

    async def test_an_upload_cut_by_fin_is_truncated(self) -> None:
        """After 1 MB: the server must not take it for the end of the upload."""
        await self.cut_upload("fin", TRUNCATED)

    async def test_an_upload_cut_by_rst_is_reset(self) -> None:
        """After 1 MB."""
        await self.cut_upload("rst", RESET_CODE)

    async def test_a_download_cut_by_fin_is_truncated(self) -> None:
        """After 1 MB: the client must not take it for the end of the download."""
        await self.cut_download("fin", TRUNCATED)

    async def test_a_download_cut_by_rst_is_reset(self) -> None:
        """After 1 MB."""
        await self.cut_download("rst", RESET_CODE)

    async def test_a_bit_turned_in_an_upload_breaks_it(self) -> None:
        """TM-D106 where it is noticed; the server gets what was whole, then a reset."""
        at_server: Outbox[Received] = Outbox()
        outer, inner, client = self.over_wire(lambda c: at_server.put(receive(c)), flip=MIB)
        self.assertIn(await in_thread(push_until_broken, client), BROKEN)
        received = await at_server.take()
        self.assertEqual(received.ending, RESET)
        self.assertTrue(is_prefix(received, DATA) and received.length < MIB, received)
        await self.assert_ends(inner, TLS_BROKEN, "src")
        # The alert (bad_record_mac) races with the reset behind it.
        self.assertIn((await outer.closed()).code, (RESET_CODE, PEER_ALERT))
        self.assertEqual(outer.tap.close[0].closed_by, "dst")

    async def test_a_bit_turned_in_a_download_breaks_it(self) -> None:
        """TM-D106 where it is noticed; the client gets what was whole, then a reset."""
        at_server: Outbox[str] = Outbox()
        outer, inner, client = self.over_wire(
            lambda c: at_server.put(push_until_broken(c)), flip=MIB, flip_towards="client"
        )
        received = await in_thread(receive, client)
        self.assertEqual(received.ending, RESET)
        self.assertTrue(is_prefix(received, DATA) and received.length < MIB, received)
        self.assertIn(await at_server.take(), BROKEN)
        await self.assert_ends(outer, TLS_BROKEN, "dst")
        self.assertIn((await inner.closed()).code, (RESET_CODE, PEER_ALERT))
        self.assertEqual(inner.tap.close[0].closed_by, "src")

    async def test_a_bit_turned_in_the_handshake_refuses_the_connection(self) -> None:
        """In the ClientHello's random: the keys differ, and the target is never dialled."""
        dialled: list[socket.socket] = []
        outer, inner, client = self.over_wire(dialled.append, flip=20)
        self.assertEqual(await in_thread(broken, client), RESET)
        await self.assert_ends(outer, TLS_FAILED, "proxy")
        self.assertIn((await inner.closed()).code, (TLS_FAILED, PEER_ALERT))
        self.assertEqual((dialled, outer.tap.open, inner.tap.open), ([], [], []))

    def over_wire(self, serve: Any, **wire: Any) -> tuple[Proxy, Proxy, socket.socket]:
        """Two hops with a wire between them, and a client."""
        inner = self.start_inbound(self.application(serve))
        outer = self.start_outbound(Wire(self, inner.port("orders-in"), **wire).port)
        return outer, inner, self.connect(outer.port("to-orders"))
