"""
The listening sockets of the data path: Twisted's own, with their way of accepting replaced.

Ring 3. What cannot be served for want of descriptors is reset and recorded, and never spins.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from errno import EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, EPERM, EPROTO
from socket import NI_NUMERICHOST, NI_NUMERICSERV, SO_LINGER, SOL_SOCKET, getnameinfo
from typing import Any

from twisted.internet import tcp, unix
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.net.reserve import Reserve
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshServer, MeshUNIXServer
from tcpmesh.values import Address, TCPAddress, UnixAddress

_log = Logger()

_AGAIN = (EAGAIN, EINTR)
_EXHAUSTED = (EMFILE, ENFILE)
_GONE = (ECONNABORTED, EPROTO, EPERM)  # that connection is over; the next may be fine (accept(2))
ACCEPTS = 64  # connections a turn, so that a flood of new ones does not stop those that there are
REST = 1.0  # seconds


class MeshListeningPort:
    """
    Mixed into Twisted's listening ports: accepts a bounded number a turn, and resets what cannot be had.

    Out of descriptors, Twisted closes a connection in order: its application would take that for an answer.
    """

    # Provided by the Twisted class behind.
    socket: Any
    transport: type[Any]
    factory: Any
    sessionno: int
    connected: Any
    reactor: Any
    startReading: Callable[[], None]
    stopReading: Callable[[], None]

    watch: ResetWatch | None = None
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
        if isinstance(address, tuple) and len(address) == 4:  # IPv6: the scope belongs to the host (RFC 4007)
            host = getnameinfo(address, NI_NUMERICHOST | NI_NUMERICSERV)[0]
            address = (host, *address[1:])
        transport = None
        try:
            leg = self.factory.take(_address(address), _address(connection.getsockname()))
            if leg is None:
                _reset(connection)
                return
            number, self.sessionno = self.sessionno, self.sessionno + 1
            transport = self.transport(connection, leg, address, self, number, self.reactor)
            leg.makeConnection(transport)
        except Exception:  # noqa: BLE001  one connection's failure is not the port's, which the reactor would close
            _log.failure("a connection failed as it was made")
            if transport is not None:
                transport.connectionLost(Failure())
            else:
                _reset(connection)

    def _refuse_one(self) -> None:
        """Take one connection with the descriptor that is kept for this, and reset it."""
        with self.reserve.lent() as is_there:
            if is_there:
                # Another thread may have been quicker, or the client gone.
                with contextlib.suppress(OSError):
                    connection, address = self.socket.accept()
                    own = _address(connection.getsockname())
                    _reset(connection)
                    self._tell(_address(address), own)
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


def _address(name: Any) -> Address:
    """A socket's name as accept(2) and getsockname(2) give it."""
    return TCPAddress(*name[:2]) if isinstance(name, tuple) else UnixAddress(os.fsdecode(name))


def _reset(connection: Any) -> None:
    connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class MeshPort(MeshListeningPort, tcp.Port):
    """A listening TCP socket whose connections are :class:`MeshServer`."""

    transport = MeshServer


class MeshUNIXPort(MeshListeningPort, unix.Port):
    """A listening unix socket whose connections are :class:`MeshUNIXServer`."""

    transport = MeshUNIXServer

    def connectionLost(self, reason: Failure) -> None:
        """Remove the path and close. (IFileDescriptor)"""
        # Twisted's removes first and leaves it at that, with the socket open, when somebody else has removed the path.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._bindPath)  # noqa: PTH108  bytes
        tcp.Port.connectionLost(self, reason)
