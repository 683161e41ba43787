"""
Two protocols that talk to each other without a reactor.

Public. Every byte is delivered before the call that wrote it returns to the test, in order, so nothing waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["MemoryTransport", "connect_in_memory"]


class _Steps:
    """Runs what is to happen one after the other, also what is added meanwhile."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def add(self, step: Callable[[], None]) -> None:
        self._waiting.append(step)
        if self._running:
            return
        self._running = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._running = False


@implementer(ITransport)
class MemoryTransport:
    """
    One end.

    :param chunk: bytes that the other end gets at most at a time; 0 for as many as were written.
    """

    def __init__(self, protocol: Any, steps: Any, chunk: int) -> None:
        self.protocol = protocol
        self.connected = True
        self._steps = steps
        self._chunk = chunk
        self._other: MemoryTransport | None = None

    def write(self, data: bytes) -> None:
        """(ITransport)."""
        if not self.connected:
            return
        size = self._chunk or max(1, len(data))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self._steps.add(lambda piece=piece: self._arrive(piece))

    def _arrive(self, data: bytes) -> None:
        if self._other is not None and self._other.connected:
            self._other.protocol.dataReceived(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """(ITransport)."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Both ends learn that it is over, after what was written before. (ITransport)"""
        self._steps.add(lambda: self._over(ConnectionDone(), ConnectionDone()))

    def abortConnection(self) -> None:
        """This end gets nothing more, from now on. (IAbortableTransport of Twisted)"""
        if self.connected:
            self.connected = False
            self._steps.add(lambda: self._lost(ConnectionAborted()))

    def _over(self, here: Exception, there: Exception) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(here))
            if self._other is not None and self._other.connected:
                self._other._over(there, here)

    def _lost(self, reason: Exception) -> None:
        self.protocol.connectionLost(Failure(reason))
        if self._other is not None and self._other.connected:
            self._other._over(ConnectionDone(), reason)

    def getPeer(self) -> IAddress:
        """(ITransport)."""
        return UNIXAddress(b"memory")

    def getHost(self) -> IAddress:
        """(ITransport)."""
        return UNIXAddress(b"memory")


def connect_in_memory(client: IProtocol, server: IProtocol, chunk: int = 0) -> None:
    """Connect the two; ``connectionMade`` of both has been called when this returns."""
    steps = _Steps()
    one, other = MemoryTransport(client, steps, chunk), MemoryTransport(server, steps, chunk)
    one._other, other._other = other, one

    def make() -> None:  # one step: what they write at once comes after both are made
        server.makeConnection(other)
        client.makeConnection(one)

    steps.add(make)
