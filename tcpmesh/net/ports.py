"""
The listening sockets of the data path: Twisted's own, with their way of accepting replaced.

Ring 3. What cannot be served for want of descriptors is reset and recorded, and never spins.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from errno import (
    EAGAIN,
    ECONNABORTED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EINTR,
    EMFILE,
    ENETDOWN,
    ENETUNREACH,
    ENFILE,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPERM,
    EPROTO,
)
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from twisted.internet import tcp, unix
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.net.reserve import Reserve
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream, address_from_name
from tcpmesh.values import Address, UnixAddress

_log = Logger()

_AGAIN = (EAGAIN, EINTR)
_EXHAUSTED = (EMFILE, ENFILE)
# That connection is over; the next may be fine (accept(2) names the network errors that a pending one can have).
_GONE = (ECONNABORTED, EPROTO, EPERM, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH)
ACCEPTS = 16  # connections a turn, so that a flood of new ones does not stop those that there are
REST = 1.0  # seconds


class MeshListeningPort:
    """
    Mixed into Twisted's listening ports: accepts a bounded number a turn, and resets what cannot be had.

    Out of descriptors, Twisted closes a connection in order: its application would take that for an answer.
    """

    direct_dispatch = True  # see net/reactor.py

    # Provided by the Twisted class behind.
    socket: Any
    factory: Any
    transport: type[Any] = MeshStream
    connected: Any
    reactor: Any
    startReading: Callable[[], None]
    stopReading: Callable[[], None]

    watch: ResetWatch
    reserve: Reserve

    def doRead(self) -> None:
        """Accept. (IReadDescriptor)"""
        for _turn in range(ACCEPTS):
            try:
                connection, address = self.socket.accept()
            except OSError as problem:
                if problem.errno in _EXHAUSTED:
                    self._refuse_one()
                elif problem.errno in _GONE:
                    continue
                elif problem.errno not in _AGAIN:
                    _log.failure("accepting a connection failed")
                    self._rest()
                return
            self._take(connection, address)

    def _take(self, connection: Any, address: Any) -> None:
        leg = transport = None
        peer: Address = UnixAddress("")
        own: Address = UnixAddress("")
        try:
            peer, own = address_from_name(address), address_from_name(connection.getsockname())
            leg = self.factory.take(peer, own)
            if leg is None:
                _reset(connection)
                return
            transport = self.transport(connection, leg, peer, self.watch, self.reactor)
            leg.makeConnection(transport)
        except Exception:  # noqa: BLE001  one connection's failure is not the port's, which the reactor would close
            _log.failure("a connection failed as it was made")
            if transport is not None:
                transport.connectionLost(Failure())
                return
            _reset(connection)
            if leg is not None:
                self.factory.not_taken(peer, own)

    def _refuse_one(self) -> None:
        """Take one connection with the descriptor that is kept for this, and reset it."""
        with self.reserve.lent() as is_there:
            if is_there:
                # Another thread may have been quicker, or the client gone.
                with contextlib.suppress(OSError):
                    connection, address = self.socket.accept()
                    own = address_from_name(connection.getsockname())
                    _reset(connection)
                    self._tell(address_from_name(address), own)
                    return
        self._rest()

    def _tell(self, peer: Address, own: Address) -> None:
        try:
            self.factory.out_of_descriptors(peer, own)
        except Exception:  # noqa: BLE001  as above
            _log.failure("telling of a connection without a descriptor failed")

    def _rest(self) -> None:
        """Accept nothing for a while: the event would come back at once, and for ever."""
        self.stopReading()
        self.reactor.callLater(REST, self._go_on)

    def _go_on(self) -> None:
        if self.connected:
            self.startReading()


def _reset(connection: Any) -> None:
    connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class MeshPort(MeshListeningPort, tcp.Port):
    """A listening TCP socket."""


class MeshUNIXPort(MeshListeningPort, unix.Port):
    """A listening unix socket."""

    def connectionLost(self, reason: Failure) -> None:
        """Remove the path and close. (IFileDescriptor)"""
        # Twisted's removes first and leaves it at that, with the socket open, when that fails.
        try:
            os.unlink(self._bindPath)  # noqa: PTH108  bytes
        except FileNotFoundError:
            pass
        except OSError as problem:
            _log.warn("cannot remove {path}: {problem}", path=os.fsdecode(self._bindPath), problem=problem.strerror)
        tcp.Port.connectionLost(self, reason)
