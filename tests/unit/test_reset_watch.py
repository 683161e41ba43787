"""The watch over sockets that nobody reads from, on real sockets and without a reactor that runs."""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.reset_watch import ResetWatch

PATIENCE = 20  # seconds


class Paused:
    """A transport on one end of a connection; its owner may be one that raises."""

    def __init__(self, test: SynchronousTestCase, *, raises: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            self.socket, _ = listener.accept()
        test.addCleanup(self.peer.close)
        test.addCleanup(self.socket.close)
        self.fileno = self.socket.fileno
        self.heard = 0
        self.aborted = 0
        self._raises = raises

    def reset_heard(self) -> None:
        self.heard += 1
        if self._raises:
            raise ZeroDivisionError

    def abortConnection(self) -> None:
        self.aborted += 1

    def is_reset(self) -> None:
        """The peer resets; the kernel knows of it when this returns."""
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.close()
        self.wait_for(select.POLLERR)

    def wait_for(self, event: int) -> None:
        """Wait for what the kernel reports without being asked."""
        poll = select.poll()
        poll.register(self.socket, 0)
        events = dict(poll.poll(PATIENCE * 1000)).get(self.fileno(), 0)
        assert events & event, events


class ResetWatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.watch = ResetWatch(self.reactor)
        self.addCleanup(self.watch.close)

    def paused(self, *, raises: bool = False) -> Paused:
        """A transport that is watched."""
        transport = Paused(self, raises=raises)
        self.watch.add(transport)
        return transport

    def test_tells_who_was_reset_and_nobody_else(self) -> None:
        """Once, although the event stays."""
        one, other = self.paused(), self.paused()
        one.is_reset()
        self.watch.doRead()
        self.watch.doRead()
        self.assertEqual((one.heard, one.aborted, other.heard), (1, 0, 0))

    def test_one_owner_that_raises_does_not_end_the_watch(self) -> None:
        """Its own connection is aborted; the others, reset before or after, still hear; the failure is logged."""
        before, bad, behind, later = (self.paused(raises=number == 1) for number in range(4))
        for transport in (before, bad, behind):
            transport.is_reset()
        self.watch.doRead()
        self.assertEqual([type(failure.value) for failure in self.flushLoggedErrors()], [ZeroDivisionError])
        self.assertEqual([(each.heard, each.aborted) for each in (before, bad, behind)], [(1, 0), (1, 1), (1, 0)])
        later.is_reset()
        self.watch.doRead()
        self.assertEqual((later.heard, bad.heard, self.watch in self.reactor.getReaders()), (1, 1, True))

    def test_both_ends_of_the_stream_are_no_reset(self) -> None:
        """HUP without an error: the rest may still be read, and the event is not reported for ever."""
        transport = self.paused()
        transport.socket.shutdown(socket.SHUT_WR)
        transport.peer.close()
        transport.wait_for(select.POLLHUP)
        self.watch.doRead()
        self.assertEqual((transport.heard, transport.aborted), (0, 0))
        poll = select.poll()
        poll.register(self.watch.fileno(), select.POLLIN)
        self.assertEqual(poll.poll(0), [])

    def test_a_reset_behind_both_ends_is_heard(self) -> None:
        """Both sent FIN, but ours waits behind data that the peer does not read; then it resets."""
        transport = self.paused()
        transport.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                transport.socket.send(bytes(65536))
        transport.socket.shutdown(socket.SHUT_WR)
        transport.peer.shutdown(socket.SHUT_WR)
        transport.wait_for(select.POLLHUP)
        self.watch.doRead()
        self.assertEqual(transport.heard, 0)
        transport.is_reset()
        self.watch.doRead()
        self.watch.doRead()
        self.assertEqual(transport.heard, 1)

    def test_who_reads_again_is_not_watched(self) -> None:
        """Its own read finds the reset."""
        transport = self.paused()
        self.watch.discard(transport)
        transport.is_reset()
        self.watch.doRead()
        self.assertEqual(transport.heard, 0)
