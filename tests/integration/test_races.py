"""Two things at once: what was true when something began is not when it ends, or when its event is delivered."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import threading
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import CANCELLED, NO_BUNDLE
from tcpmesh.codes import RESET as RESET_CODE
from tcpmesh.dataplane.preface import ALPN, OK
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.values import TCPAddress, TrustBundle
from tests.integration.applications import BROKEN, RESET, Outbox, Received, broken, name_of, receive, reset, until
from tests.integration.endings import EndingTestCase
from tests.integration.flood import CHUNK
from tests.integration.foreign import ForeignTestCase, ForeignTLS, foreign_context
from tests.integration.mesh import PATIENCE, Proxy, in_thread, reactor
from tests.integration.strangers import Target
from tests.integration.unix import UnixTestCase

STILL = 20  # looks at which nothing has moved: the buffers are full


def unsent(connection: socket.socket) -> int:
    """Bytes that the kernel holds for the peer (tcp(7), unix(7): SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def wait_for(connection: socket.socket, event: int) -> None:
    """Block until the kernel has this to report of the socket."""
    poll = select.poll()
    poll.register(connection, event)
    events = dict(poll.poll(PATIENCE * 1000)).get(connection.fileno(), 0)
    assert events & event, events


class FloodingClient:
    """A TLS peer that sends as much as goes and reads nothing until it is told to; the test's thread does it all."""

    def __init__(self, peer: ForeignTLS) -> None:
        self._peer = peer
        self._socket = peer.socket
        self._socket.setblocking(False)
        self._waiting = b""
        self._raw: list[bytes] = []

    def send(self) -> int:
        """Send what goes; how many bytes that were."""
        sent = 0
        try:
            while True:
                if not self._waiting:
                    self._peer.tls.send(CHUNK[:16384])
                    self._waiting = self._peer.tls.bio_read(65536)
                step = self._socket.send(self._waiting)
                self._waiting, sent = self._waiting[step:], sent + step
        except BlockingIOError:
            return sent

    def take_everything(self, proxy_end: socket.socket) -> None:
        """Block until the kernel holds nothing for us any more."""
        for _look in range(PATIENCE * 100):
            if not unsent(proxy_end):
                break
            # Not until there is something: it may be here, and what the kernel waits for be its acknowledgement.
            select.select([self._socket], [], [], 0.01)
            self._take()
        else:
            raise AssertionError(f"the kernel still holds {unsent(proxy_end)} bytes")
        self._take()

    def _take(self) -> bool:
        """Read what is there; false at the end of the stream."""
        try:
            while data := self._socket.recv(1 << 20):
                self._raw.append(data)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def rest(self) -> tuple[int, bool]:
        """Read up to the end of the wire: how much payload came, and whether close_notify said that it was all."""
        await until(lambda: not self._take(), "the proxy ends or resets the wire")
        length, tls = 0, self._peer.tls
        for data in self._raw:
            tls.bio_write(data)
            try:
                while True:
                    length += len(tls.recv(65536))
            except SSL.WantReadError:
                continue
            except SSL.ZeroReturnError:
                return length, True
        return length, False


class FloodingServer:
    """The application, which sends as much as goes and reads nothing."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self.sent = 0

    def send(self) -> int:
        """Send what goes; how many bytes that were."""
        before = self.sent
        try:
            while True:
                self.sent += self.socket.send(CHUNK)
        except BlockingIOError:
            return self.sent - before

    def read_all(self) -> None:
        """Read what is there."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except BlockingIOError:
            return


class BatchTests(EndingTestCase, ForeignTestCase, UnixTestCase):
    """
    The target ends while the proxy does not read from it, in the turn in which the proxy begins to read again.

    What epoll reports of the target was collected before: a hang-up, and no word of data, since nobody wanted any.
    """

    def setUp(self) -> None:
        super().setUp()
        self.done = threading.Event()
        self.addCleanup(self.done.set)
        self.accepted: Outbox[socket.socket] = Outbox()

    def hold(self, connection: socket.socket) -> None:
        """Leave the connection to the test."""
        self.accepted.put(connection)
        self.done.wait(PATIENCE * 2)

    async def jammed(self, inner: Proxy) -> tuple[FloodingClient, FloodingServer, Any]:
        """A connection in which nothing moves in either direction, because neither side reads."""
        peer = self.foreign_client(inner.port("orders-in"))
        await in_thread(peer.handshake)
        server = FloodingServer(await self.accepted.take())
        await inner.opened()
        client, connection = FloodingClient(peer), inner.live[0]
        # First the target, which is then paused before there is anything to be written to it.
        await self.until_still(server.send, lambda: connection.src.unsent, connection.dst)
        await self.until_still(client.send, lambda: connection.dst.unsent, connection.src)
        return client, server, connection

    async def until_still(self, send: Callable[[], int], queued: Callable[[], int], paused: Any) -> None:
        """Send until the proxy has not read, and nothing was taken, for a number of looks."""
        looks = 0

        def is_still() -> bool:
            nonlocal looks
            moved = send() or not queued() or paused.transport in reactor.getReaders()
            looks = 0 if moved else looks + 1
            return looks >= STILL

        await until(is_still, "nothing moves any more")

    def in_one_turn(self, client: FloodingClient, connection: Any, end: Callable[[], None]) -> None:
        """While the reactor waits for us: the client takes everything, then the target ends."""
        src, dst = connection.src.transport.socket, connection.dst.transport.socket
        assert connection.src.unsent
        assert connection.dst.unsent
        client.take_everything(src)
        wait_for(src, select.POLLOUT)
        end()
        wait_for(dst, select.POLLHUP)

    async def test_a_reset_in_the_turn_in_which_reading_resumes_is_no_end(self) -> None:
        """The client gets no close_notify; the record says what it was."""
        inner = self.start_inbound(self.application(self.hold))
        client, server, connection = await self.jammed(inner)
        self.in_one_turn(client, connection, lambda: reset(server.socket))
        length, ended = await client.rest()
        await self.assert_ends(inner, RESET_CODE, "dst")
        self.assertFalse(ended, f"close_notify after {length} of {server.sent} bytes")
        self.assertLess(length, server.sent)

    async def test_unread_data_in_the_turn_in_which_reading_resumes_is_not_lost_behind_an_end(self) -> None:
        """A unix socket hangs up while its data waits: an end is only told behind the last byte."""
        path = self.unix_path("target")
        self.unix_application(path, self.hold)
        inner = self.start_inbound(f"unix:{path}")
        client, server, connection = await self.jammed(inner)

        def close() -> None:
            server.read_all()
            server.socket.close()

        self.in_one_turn(client, connection, close)
        length, ended = await client.rest()
        self.assertTrue(length == server.sent or not ended, f"close_notify after {length} of {server.sent} bytes")
        # What the client had sent has nowhere to go any more.
        await self.assert_ends(inner, RESET_CODE, "dst")


@implementer(IHalfCloseableProtocol)
class Listening(Protocol):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.data = b""
        self.ends = 0

    def dataReceived(self, data: bytes) -> None:
        self.data += bytes(data)

    def readConnectionLost(self) -> None:
        self.ends += 1

    def writeConnectionLost(self) -> None:
        """Never."""


class HangUpTests(SynchronousTestCase):
    """A transport that is told of a hang-up by its reactor, whichever that is, believes its own read only."""

    def setUp(self) -> None:
        self.protocol = Listening()
        self.clock = MemoryReactorClock()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            accepted, address = listener.accept()
        self.addCleanup(self.peer.close)
        watch = ResetWatch(self.clock)
        self.addCleanup(watch.close)
        self.clock.removeReader(watch)
        self.transport = MeshStream(accepted, self.protocol, TCPAddress(*address), watch, self.clock)
        self.addCleanup(self.transport.connectionLost, Failure(ConnectionDone()))
        self.protocol.makeConnection(self.transport)
        self.transport.resumeProducing()

    def hang_up(self) -> None:
        """As Twisted does when epoll has HUP to report and nobody asked for data."""
        self.clock.removeReader(self.transport)
        self.transport.readConnectionLost(Failure(ConnectionDone()))

    def assert_read_on(self) -> None:
        """The protocol has not heard of an end, and the transport wants to read."""
        self.assertEqual((self.protocol.ends, self.clock.getReaders()), (0, [self.transport]))

    def test_a_reset_is_found_by_reading(self) -> None:
        """It ends the connection with the error that it is."""
        reset(self.peer)
        wait_for(self.transport.socket, select.POLLERR)
        self.hang_up()
        self.assert_read_on()
        self.assertIs(self.transport.doRead(), CONNECTION_LOST)
        self.assertEqual((self.transport.errno_name, self.protocol.ends), (RESET, 0))

    def test_unread_data_comes_before_the_end(self) -> None:
        """All of it, then the end, once."""
        self.peer.sendall(b"last words")
        self.peer.close()
        wait_for(self.transport.socket, select.POLLIN)
        self.hang_up()
        self.assert_read_on()
        self.assertIsNone(self.transport.doRead())
        self.assertEqual((self.protocol.data, self.protocol.ends), (b"last words", 0))
        self.assertIs(self.transport.doRead(), CONNECTION_DONE)
        self.hang_up()
        self.assertEqual((self.protocol.ends, self.clock.getReaders()), (1, []))


class WatchTests(EndingTestCase):
    async def test_one_connection_that_fails_at_its_reset_does_not_deafen_the_others(self) -> None:
        """Two clients are dialled for, which nobody reads from; both reset, and the first one's owner raises."""
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        outer = self.start_outbound(silent.getsockname()[1])
        first, second = (self.connect(outer.port("to-orders")) for _ in range(2))
        await until(lambda: len(outer.live) == 2, "both are dialled for")
        bad = min(outer.live, key=lambda connection: connection.record.id)
        bad.src.owner = None
        reset(first)
        await until(lambda: self.flushLoggedErrors(AttributeError), "the failure is logged")
        reset(second)
        await self.assert_ends(outer, CANCELLED, "src")
        self.assertNotEqual(outer.tap.close[0].id, bad.record.id)


class LastWordsTests(ForeignTestCase, EndingTestCase, UnixTestCase):
    """The target is gone when the client's last words come, and their end with them, in one read."""

    async def test_what_the_target_did_not_take_is_not_recorded_as_delivered(self) -> None:
        """A unix socket says at once that nobody is there: that is no clean end, and no byte was sent."""
        path = self.unix_path("target")
        self.unix_application(path, lambda _connection: None)
        inner = self.start_inbound(f"unix:{path}")
        client = self.foreign_client(inner.port("orders-in"))

        def greet() -> bytes:
            client.handshake()
            return client.recv(1)

        self.assertEqual(await in_thread(greet), b"")  # the target has ended
        client.tls.send(b"last words")
        client.tls.shutdown()
        client.socket.sendall(client.tls.bio_read(65536))
        await self.assert_ends(inner, RESET_CODE, "dst")
        record = inner.tap.close[0]
        self.assertEqual((record.errno, record.bytes_sent), ("EPIPE", 0))
        await until(lambda: not inner.live, "all sockets are closed")


class WithdrawnBundleTests(ForeignTestCase, EndingTestCase):
    """The peer's authority is withdrawn while the handshake with it is under way."""

    @staticmethod
    def withdraw(proxy: Proxy) -> None:
        """Nobody's certificate is good any more."""
        cell = proxy.service.composition.state
        cell.swap(bundles={domain: TrustBundle(domain, ()) for domain in cell.current.bundles})

    def withdraws_at_accept(self, target: Target) -> Proxy:
        """An inbound proxy whose bundles are gone as soon as a peer is connected."""
        inner = self.start_inbound(target.port)
        inner.tap.accepted = lambda _record: self.withdraw(inner)  # type: ignore[method-assign]
        return inner

    async def test_inbound_does_not_let_the_peer_in(self) -> None:
        """The target is not dialled, the peer sees a reset."""
        target = Target(self)
        inner = self.withdraws_at_accept(target)
        client = self.foreign_client(inner.port("orders-in"))

        def greet() -> Received:
            client.handshake()  # in TLS 1.3 a client is connected before it was judged
            return receive(client)

        received = await in_thread(greet)
        self.assertEqual((received.length, received.ending), (0, RESET))
        await self.assert_ends(inner, NO_BUNDLE, "proxy")
        record = inner.tap.close[0]
        self.assertEqual((record.src_identity, record.decision, inner.tap.open), ("", "", []))
        self.assertFalse(target.was_dialled)

    async def test_inbound_tells_a_tcpmesh_why(self) -> None:
        """The same code on both sides."""
        target = Target(self)
        inner = self.withdraws_at_accept(target)
        outer = self.start_outbound(inner.port("orders-in"))
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(inner, NO_BUNDLE, "proxy")
        await self.assert_ends(outer, NO_BUNDLE, "proxy", f"refused by the peer: {inner.tap.close[0].reason}")
        self.assertFalse(target.was_dialled)

    async def refused_by_outbound(self, expect: str, alpn: bytes) -> ConnectionRecord:
        """The server's handshake begins when the bundle is gone; give the record, once both sides saw a reset."""
        go, at_server = threading.Event(), Outbox[Received]()
        self.addCleanup(go.set)
        context = foreign_context(self.pki, "orders")
        context.set_alpn_select_callback(lambda _connection, _offered: alpn or SSL.NO_OVERLAPPING_PROTOCOLS)

        def serve(connection: socket.socket) -> None:
            peer = ForeignTLS(connection, context, server=True)
            go.wait(PATIENCE)
            try:
                peer.handshake()
                peer.sendall(OK if alpn else b"greeting")
            except OSError as problem:
                at_server.put(Received(0, "", name_of(problem)))
            else:
                at_server.put(receive(peer))

        outer = self.start_outbound(self.application(serve), expect=expect)
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"secret")
        await until(lambda: [c for c in outer.live if c.record.connect_ms is not None], "the server is connected")
        self.withdraw(outer)
        go.set()
        received = await in_thread(receive, client)
        self.assertEqual((received.length, received.ending), (0, RESET))
        received = await at_server.take()
        self.assertEqual(received.length, 0)
        self.assertIn(received.ending, BROKEN)
        record = await outer.closed()
        self.assertEqual((record.closed_by, record.dst_identity, outer.tap.open), ("proxy", "", []))
        return record

    async def test_outbound_sends_nothing_to_the_peer(self) -> None:
        """Neither to a foreign one nor to a tcpmesh that has already said ok."""
        for alpn in (b"", ALPN):
            record = await self.refused_by_outbound("", alpn)
            self.assertIs(record.code, NO_BUNDLE)

    async def test_outbound_sends_nothing_to_a_server_with_a_dns_name_either(self) -> None:
        """It was to be vouched for by the same authorities."""
        self.pki.issue("orders", dns=("db.mesh.test",))
        record = await self.refused_by_outbound("dns:db.mesh.test", b"")
        self.assertIs(record.code, NO_BUNDLE)
