"""A connection that one side breaks is broken for the other: never an orderly end, whatever was under way."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import RESET as RESET_CODE
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream
from tcpmesh.values import TCPAddress
from tests.integration.applications import (
    BROKEN,
    MIB,
    RESET,
    Outbox,
    Received,
    broken,
    receive,
    reset,
    until,
)
from tests.integration.endings import EndingTestCase
from tests.integration.flood import CHUNK, Flood, jammed
from tests.integration.mesh import PATIENCE, in_thread


def reset_after(size: int, connection: socket.socket) -> None:
    """Read so many bytes, then reset."""
    receive(connection, size)
    reset(connection)


class ResetTests(EndingTestCase):
    async def test_a_client_that_resets_in_mid_upload(self) -> None:
        """The server gets what came through, then a reset."""
        some, result = threading.Event(), Outbox[Received]()

        def serve(connection: socket.socket) -> None:
            receive(connection, 4 * MIB)
            some.set()
            result.put(receive(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))

        def crash() -> None:
            client = self.connect(port)
            while not some.is_set():
                client.sendall(CHUNK)
            reset(client)

        await in_thread(crash)
        self.assertEqual((await result.take()).ending, RESET)
        for proxy in (outer, inner):
            await self.assert_ends(proxy, RESET_CODE, "src")
            self.assertEqual(proxy.tap.close[0].errno, RESET)
            self.assertGreaterEqual(proxy.tap.close[0].bytes_sent, 4 * MIB)
            self.assertEqual(proxy.tap.close[0].bytes_recv, 0)

    async def test_a_server_that_resets_in_mid_download(self) -> None:
        """The client gets what came through, then a reset."""
        some = threading.Event()

        def serve(connection: socket.socket) -> None:
            while not some.is_set():
                connection.sendall(CHUNK)
            reset(connection)

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        self.assertEqual((await in_thread(receive, client, 4 * MIB)).length, 4 * MIB)
        some.set()
        self.assertEqual((await in_thread(receive, client)).ending, RESET)
        for proxy in (outer, inner):
            await self.assert_ends(proxy, RESET_CODE, "dst")
            self.assertEqual(proxy.tap.close[0].errno, RESET)
            self.assertGreaterEqual(proxy.tap.close[0].bytes_recv, 4 * MIB)

    async def test_a_server_that_resets_in_mid_upload(self) -> None:
        """The client's next writes fail."""
        outer, inner, port = self.start_two_hops(self.application(lambda c: reset_after(MIB, c)))
        flood = Flood()
        self.assertIn(await in_thread(flood, self.connect(port)), BROKEN)
        self.assertGreaterEqual(flood.sent, MIB)
        for proxy in (outer, inner):
            await self.assert_ends(proxy, RESET_CODE, "dst")

    async def test_a_client_that_resets_after_its_end(self) -> None:
        """It half-closed, waited and crashed: the server, which still thinks, learns of it without writing."""
        asked, fate = threading.Event(), Outbox[str]()

        def serve(connection: socket.socket) -> None:
            receive(connection)
            asked.set()
            fate.put(broken(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        await in_thread(asked.wait, PATIENCE)
        reset(client)
        self.assertEqual(await fate.take(), "EPIPE")
        await self.assert_ends(outer, RESET_CODE, "src")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_a_client_that_closes_without_reading_its_answer(self) -> None:
        """Plain TCP makes close() with unread data a reset: so it does through the mesh."""
        fate: Outbox[str] = Outbox()

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"greeting")
            fate.put(broken(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        await until(lambda: [c for c in outer.live if c.record.bytes_recv == 8], "the greeting is with the client")
        client.close()
        self.assertEqual(await fate.take(), RESET)
        await self.assert_ends(outer, RESET_CODE, "src")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_a_server_that_closes_without_reading_the_request(self) -> None:
        """The same the other way round."""
        go = threading.Event()

        def serve(connection: socket.socket) -> None:
            receive(connection, 1)
            go.wait(PATIENCE)  # more has arrived by then

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        client.sendall(b"x" * 1000)
        await until(lambda: [c for c in inner.live if c.record.bytes_sent == 1000], "the request is with the server")
        go.set()
        self.assertEqual(await in_thread(broken, client), RESET)
        await self.assert_ends(outer, RESET_CODE, "dst")
        await self.assert_ends(inner, RESET_CODE, "dst")


class SystemErrorTests(SynchronousTestCase):
    """What a transport makes of the kernel's answers."""

    def reset_by_the_peer(self) -> MeshStream:
        """A transport that does not know of it yet, on a reactor that does not run."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            accepted, address = listener.accept()
        self.clock = MemoryReactorClock()
        watch = ResetWatch(self.clock)
        self.addCleanup(watch.close)
        transport = MeshStream(accepted, Protocol(), TCPAddress(*address), watch, self.clock)
        self.addCleanup(transport.connectionLost, Failure(ConnectionDone()))
        transport.protocol.makeConnection(transport)
        reset(client)
        poll = select.poll()
        poll.register(accepted, 0)
        self.assertTrue(poll.poll(PATIENCE * 1000))
        return transport

    def test_an_error_that_a_write_met_is_no_orderly_end_to_the_read_behind_it(self) -> None:
        """The kernel tells of a reset once: read(2) after the write(2) that was told gives 0, as at FIN."""
        transport = self.reset_by_the_peer()
        transport.write(b"x")
        self.assertEqual(transport.errno_name, RESET)
        self.assertIs(transport.doRead(), CONNECTION_LOST)

    def test_the_error_of_the_first_write_is_kept(self) -> None:
        """The writes behind it, before the reactor's next turn, only meet EPIPE: what is recorded is why."""
        transport = self.reset_by_the_peer()
        transport.write(b"x")
        transport.write(b"y")
        self.clock.advance(0)
        self.assertEqual((transport.errno_name, bool(transport.connected)), (RESET, False))


class PausedResetTests(EndingTestCase):
    """The side that breaks is not being read from, because the other side does not take what it sends."""

    def sleeping(self) -> tuple[Callable[[socket.socket], None], threading.Event, Outbox[Received]]:
        """A server that reads nothing before it is woken; then it tells what it got."""
        wake, result = threading.Event(), Outbox[Received]()

        def serve(connection: socket.socket) -> None:
            if wake.wait(PATIENCE):
                result.put(receive(connection))

        return serve, wake, result

    async def test_the_flooding_client_resets_while_the_server_does_not_read(self) -> None:
        """Both proxies hear it and end before the server reads a byte; what the server gets then is not whole."""
        serve, wake, result = self.sleeping()
        outer, inner, port = self.start_two_hops(self.application(serve))
        client, flood = self.connect(port), Flood()
        sender = in_thread(flood, client)
        await jammed(outer, inner, "src")
        flood.stop()
        self.assertEqual(await sender, "")
        reset(client)
        await self.assert_ends(outer, RESET_CODE, "src")
        await self.assert_ends(inner, RESET_CODE, "src")
        await until(lambda: not outer.live and not inner.live, "both proxies have closed their sockets")
        wake.set()
        received = await result.take()
        self.assertEqual(received.ending, RESET)
        self.assertLess(received.length, flood.sent)

    async def test_the_flooding_server_resets_while_the_client_does_not_read(self) -> None:
        """The same towards the client."""
        flood, sent = Flood(), Outbox[str]()

        def serve(connection: socket.socket) -> None:
            sent.put(flood(connection))
            reset(connection)

        outer, inner, port = self.start_two_hops(self.application(serve))
        client = self.connect(port)
        await jammed(outer, inner, "dst")
        flood.stop()
        self.assertEqual(await sent.take(), "")
        await self.assert_ends(outer, RESET_CODE, "dst")
        await self.assert_ends(inner, RESET_CODE, "dst")
        await until(lambda: not outer.live and not inner.live, "both proxies have closed their sockets")
        received = await in_thread(receive, client)
        self.assertEqual(received.ending, RESET)
        self.assertLess(received.length, flood.sent)

    async def test_the_client_that_does_not_read_resets(self) -> None:
        """The flooding server's send fails."""
        flood, fate = Flood(), Outbox[str]()
        outer, inner, port = self.start_two_hops(self.application(lambda c: fate.put(flood(c))))
        client = self.connect(port)
        await jammed(outer, inner, "dst")
        reset(client)
        self.assertIn(await fate.take(), BROKEN)
        await self.assert_ends(outer, RESET_CODE, "src")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_the_server_that_does_not_read_resets(self) -> None:
        """The flooding client's send fails."""
        crash = threading.Event()

        def serve(connection: socket.socket) -> None:
            crash.wait(PATIENCE)
            reset(connection)

        outer, inner, port = self.start_two_hops(self.application(serve))
        sender = in_thread(Flood(), self.connect(port))
        await jammed(outer, inner, "src")
        crash.set()
        self.assertIn(await sender, BROKEN)
        await self.assert_ends(outer, RESET_CODE, "dst")
        await self.assert_ends(inner, RESET_CODE, "dst")
