"""
The transport of the data path: Twisted's own connected socket, with a few members overridden.

Ring 3. It stays ``ITCPTransport``, ``IPushProducer``, ``IConsumer`` and ``IHalfCloseableDescriptor`` and works on every
reactor. What differs: a write is tried at once and only the remainder is queued; a producer is paused as soon as
anything is queued; reads go into one large buffer that all connections share; a reset is heard while reading is
paused; and the system error that ended a connection is kept.

``dataReceived`` gets a memoryview of the shared buffer: it is valid until that call returns and not a moment longer.
"""

from __future__ import annotations

import os
import socket
from errno import EAGAIN, EINTR, ENOBUFS, errorcode
from typing import Any

from twisted.internet import abstract, error, main, tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.python.failure import Failure

from tcpmesh.dataplane.record_layer import READ_BYTES
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.values import Address, TCPAddress, UnixAddress

_BUFFER = bytearray(READ_BYTES)
_VIEW = memoryview(_BUFFER)
_AGAIN = (EAGAIN, EINTR, ENOBUFS)


class MeshStream(tcp.Connection):
    """
    A connected TCP or unix socket, accepted or dialled.

    It reads nothing before ``resumeProducing``, and hears nothing before that or ``pauseProducing``.

    :param peer: who is at the other end.
    """

    # Anything queued is too much queued: the producer pauses and the kernel's buffers are all there is.
    bufferSize = 0
    SEND_LIMIT = 1024 * 1024
    direct_dispatch = True  # see net/reactor.py
    _shouldShutdown = False  # noqa: N815  close(2) does the same, in one call less

    protocol: Any
    reactor: Any

    read_bytes = READ_BYTES  # at most, in one turn
    system_error: int = 0
    _paused = False
    _stopped = True  # the reactor does not tell us of data
    _eof = False  # recv gave nothing: the only proof of an orderly end
    _read_ended = False
    _refused = 0  # bytes that a write which met an error had to send
    _orderly = True

    def __init__(self, sock: socket.socket, protocol: Any, peer: Address, watch: ResetWatch, reactor: Any) -> None:
        super().__init__(sock, protocol, reactor)
        self.peer = peer
        self._watch = watch
        self.connected = 1

    @property
    def own(self) -> Address:
        """Our end."""
        return address_from_name(self.socket.getsockname())

    def getPeer(self) -> Any:
        """Who is at the other end. (ITransport)"""
        return _twisted_address(self.peer)

    def getHost(self) -> Any:
        """Our end. (ITransport)"""
        return _twisted_address(self.own)

    def logPrefix(self) -> str:
        """For the reactor's logging. (ILoggingContext)"""
        return f"{type(self.protocol).__name__},{self.peer}" if self.connected else "closed"

    @property
    def errno_name(self) -> str:
        """The system error that ended the connection, such as ``ECONNRESET``; empty for an orderly end."""
        return errorcode.get(self.system_error, str(self.system_error)) if self.system_error else ""

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen + self._refused

    # --- reading

    def doRead(self) -> Any:
        """Read once, at most ``read_bytes``: then it is the others' turn. (IReadDescriptor)"""
        if self._paused:
            self._stop_reading()
            return None
        try:
            count = self.socket.recv_into(_BUFFER, self.read_bytes)
        except OSError as problem:
            return self._system_error(problem)
        if not count:
            # The kernel reports an error once: when a write got it, the read that follows looks like an orderly end.
            self._eof = not self.system_error
            return main.CONNECTION_DONE if self._eof else main.CONNECTION_LOST
        self.protocol.dataReceived(_VIEW[:count])
        return None

    def pauseProducing(self) -> None:
        """
        Stop reading, but go on hearing resets. (IPushProducer)

        Most pauses are over before there is anything to read: the reactor is told when there is.
        """
        if self.connected:
            self._paused = True
            if self._stopped:
                self._watch.add(self)

    def _stop_reading(self) -> None:
        self._stopped = True
        self.stopReading()
        self._watch.add(self)

    def resumeProducing(self) -> None:
        """Read on, unless the peer has nothing more to say. (IPushProducer)"""
        # Reading a socket whose end was already read would report that end again and again.
        if self._read_ended or not self.connected or self.disconnecting:
            return
        self._paused = False
        if self._stopped:
            self._stopped = False
            self._watch.discard(self)
            self.startReading()

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer's FIN. (IHalfCloseableDescriptor)"""
        if not self._eof:
            # Twisted takes a hang-up without data for an orderly end. The event may be older than our wish to read:
            # it can be a reset, and there can be data. Reading tells.
            self.startReading()
            return
        self._read_ended = self._stopped = True
        if self.connected:
            self._watch.add(self)
        super().readConnectionLost(reason)

    # --- writing

    def write(self, data: bytes | memoryview) -> None:
        """Send at once what the kernel takes, queue a copy of the rest. (ITransport)"""
        if not self.connected or self._writeDisconnected:
            return
        if not self.dataBuffer and not self._tempDataLen:
            try:
                sent = self.socket.send(data)
            except OSError as problem:
                if self._system_error(problem) is not None:
                    self._refused += len(data)
                    # Reported from the reactor: a caller in the middle of its work must not find itself closed.
                    self.reactor.callLater(0, self._break)
                    return
                sent = 0
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        abstract.FileDescriptor.write(self, bytes(data))

    def writeSomeData(self, data: bytes) -> Any:
        """Send from the queue. (FileDescriptor)"""
        try:
            return self.socket.send(memoryview(data)[: self.SEND_LIMIT])
        except OSError as problem:
            return self._system_error(problem) or 0

    # --- the end

    def loseWriteConnection(self) -> None:
        """Send FIN after what is queued: at once, when nothing is. (IHalfCloseableDescriptor)"""
        if not self.connected or self._writeDisconnected:
            return
        if self.unsent:
            super().loseWriteConnection()
            return
        self._writeDisconnecting = self._writeDisconnected = True
        self._closeWriteConnection()

    def _system_error(self, problem: OSError) -> Exception | None:
        if problem.errno in _AGAIN:
            return None
        # The first one says why; what follows it is EPIPE.
        self.system_error = self.system_error or problem.errno or 0
        return main.CONNECTION_LOST

    def reset_heard(self) -> None:
        """The watch reports an error on the paused socket."""
        self._break()

    def give_up(self, errno: int) -> None:
        """End the connection as if the kernel had reported this error."""
        self.system_error = errno
        self._break()

    def _break(self) -> None:
        if self.connected:
            self.connectionLost(Failure(error.ConnectionLost()))

    def connectionLost(self, reason: Failure) -> None:
        """Release the socket and tell the protocol. (IFileDescriptor)"""
        if not hasattr(self, "socket"):
            return
        self._watch.discard(self)
        if not self.system_error and reason.check(error.ConnectionLost):
            # The reactor noticed it first; the kernel still knows why.
            self.system_error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._orderly = reason.check(error.ConnectionDone) is not None
        super().connectionLost(reason)

    def _closeSocket(self, orderly: bool) -> None:  # noqa: N802  Twisted's name
        # Whatever else ends a connection, an exception of ours above all, is not to look like an end to the peer.
        super()._closeSocket(orderly and self._orderly)


def address_from_name(name: Any) -> Address:
    """A socket's name as accept(2) and getsockname(2) give it."""
    if not isinstance(name, tuple):
        return UnixAddress(os.fsdecode(name))
    host, port = name[:2]
    if len(name) == 4 and name[3]:  # IPv6: the scope belongs to the host (RFC 4007 section 11)
        host = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    return TCPAddress(host, port)


def _twisted_address(address: Address) -> Any:
    if isinstance(address, UnixAddress):
        return UNIXAddress(os.fsencode(address.path))
    return (IPv6Address if ":" in address.host else IPv4Address)("TCP", address.host, address.port)
