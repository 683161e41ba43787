"""The transport's own half-close, on a real pair of sockets."""

from __future__ import annotations

import socket

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream
from tcpmesh.values import UnixAddress

SMALL = 4096


@implementer(IHalfCloseableProtocol)
class Telling:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def writeConnectionLost(self) -> None:
        self.told.append("fin sent")

    def readConnectionLost(self) -> None:
        self.told.append("fin received")

    def connectionLost(self, reason: Failure) -> None:
        self.told.append("lost")


class HalfCloseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        watch = ResetWatch(self.reactor)
        self.addCleanup(watch.close)
        self.reactor.removeReader(watch)
        ours, self.peer = socket.socketpair()
        self.addCleanup(self.peer.close)
        self.peer.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.protocol = Telling()
        self.stream = MeshStream(ours, self.protocol, UnixAddress(""), watch, self.reactor)
        self.addCleanup(self.stream.connectionLost, Failure(ConnectionDone()))

    def test_sends_it_at_once_when_nothing_is_queued(self) -> None:
        """No turn of the reactor lies between the last byte and the end."""
        self.stream.write(b"last")
        self.stream.loseWriteConnection()
        self.assertEqual((self.peer.recv(10), self.peer.recv(10)), (b"last", b""))
        self.assertEqual((self.protocol.told, self.reactor.getWriters()), (["fin sent"], []))

    def test_sends_it_behind_what_is_queued(self) -> None:
        """Everything arrives, then the end."""
        self.stream.write(bytes(64 * SMALL))
        self.stream.loseWriteConnection()
        self.assertEqual((self.protocol.told, self.reactor.getWriters()), ([], [self.stream]))
        received = 0
        while self.stream in self.reactor.getWriters():
            try:
                received += len(self.peer.recv(SMALL))
            except BlockingIOError:
                self.stream.doWrite()
        while data := self.peer.recv(SMALL):
            received += len(data)
        self.assertEqual((received, self.protocol.told), (64 * SMALL, ["fin sent"]))

    def test_a_second_one_changes_nothing(self) -> None:
        """Neither behind the first nor after the connection has gone."""
        self.stream.loseWriteConnection()
        self.stream.loseWriteConnection()
        self.assertEqual((self.protocol.told, self.reactor.getWriters()), (["fin sent"], []))
        self.stream.connectionLost(Failure(ConnectionDone()))
        self.stream.loseWriteConnection()
        self.assertEqual((self.protocol.told, self.reactor.getWriters()), (["fin sent", "lost"], []))
