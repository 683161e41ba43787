"""
The transports of the data path: Twisted's own, with a few members overridden.

Ring 3. They stay ``ITCPTransport``, ``IPushProducer``, ``IConsumer`` and ``IHalfCloseableDescriptor`` and work on every
reactor. What differs: a write is tried at once and only the remainder is queued; a producer is paused as soon as
anything is queued; reads go into one large buffer that all connections share; a reset is heard while reading is
paused; and the system error that ended a connection is kept.

``dataReceived`` gets a memoryview of the shared buffer: it is valid until that call returns and not a moment longer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EAGAIN, EINTR, ENOBUFS, errorcode
from typing import Any

from twisted.internet import abstract, error, main, tcp, unix
from twisted.python.failure import Failure

from tcpmesh.net.reset_watch import ResetWatch

# Reading 64 KiB at a time halves bulk throughput; more than 256 KiB gains nothing.
READ_BYTES = 256 * 1024
_BUFFER = bytearray(READ_BYTES)
_VIEW = memoryview(_BUFFER)
_AGAIN = (EAGAIN, EINTR, ENOBUFS)


class MeshTransport:
    """Mixed into Twisted's socket transports, in front of them."""

    # Anything queued is too much queued: the producer pauses and the kernel's buffers are all there is.
    bufferSize = 0
    SEND_LIMIT = 1024 * 1024
    direct_dispatch = True  # see net/reactor.py

    # Provided by the Twisted class behind.
    socket: socket.socket
    fileno: Callable[[], int]
    protocol: Any
    connected: int
    disconnecting: int
    reactor: Any
    dataBuffer: bytes
    offset: int
    _tempDataBuffer: list[bytes]
    _tempDataLen: int
    _writeDisconnected: bool

    startReading: Callable[[], None]
    abortConnection: Callable[[], None]

    watch: ResetWatch | None = None
    system_error: int = 0
    _paused = False
    _eof = False  # recv gave nothing: the only proof of an orderly end
    _read_ended = False
    _orderly = True

    @property
    def errno_name(self) -> str:
        """The system error that ended the connection, such as ``ECONNRESET``; empty for an orderly end."""
        return errorcode.get(self.system_error, str(self.system_error)) if self.system_error else ""

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def doRead(self) -> Any:
        """Read once, as much as the shared buffer holds. (IReadDescriptor)"""
        if self._paused:
            # The event was already reported when something earlier in the same turn paused us.
            return None
        try:
            count = self.socket.recv_into(_BUFFER)
        except OSError as problem:
            return self._system_error(problem)
        if not count:
            # The kernel reports an error once: when a write got it, the read that follows looks like an orderly end.
            self._eof = not self.system_error
            return main.CONNECTION_DONE if self._eof else main.CONNECTION_LOST
        self.protocol.dataReceived(_VIEW[:count])
        return None

    def write(self, data: bytes | memoryview) -> None:
        """Send at once what the kernel takes, queue a copy of the rest. (ITransport)"""
        if not self.connected or self._writeDisconnected:
            return
        if not self.dataBuffer and not self._tempDataLen:
            try:
                sent = self.socket.send(data)
            except OSError as problem:
                if self._system_error(problem) is not None:
                    # Reported from the reactor: a caller in the middle of its work must not find itself closed.
                    self.reactor.callLater(0, self._break)
                    return
                sent = 0
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        abstract.FileDescriptor.write(self, bytes(data))  # type: ignore[arg-type]

    def writeSomeData(self, data: bytes) -> Any:
        """Send from the queue. (FileDescriptor)"""
        try:
            return self.socket.send(memoryview(data)[: self.SEND_LIMIT])
        except OSError as problem:
            return self._system_error(problem) or 0

    def _system_error(self, problem: OSError) -> Exception | None:
        if problem.errno in _AGAIN:
            return None
        self.system_error = problem.errno or 0
        return main.CONNECTION_LOST

    def pauseProducing(self) -> None:
        """Stop reading, but go on hearing resets. (IPushProducer)"""
        if not self.connected:
            return
        self._paused = True
        super().pauseProducing()  # type: ignore[misc]
        if self.watch is not None:
            self.watch.add(self)

    def resumeProducing(self) -> None:
        """Read on, unless the peer has nothing more to say. (IPushProducer)"""
        # Reading a socket whose end was already read would report that end again and again.
        if self._read_ended or not self.connected:
            return
        self._paused = False
        if self.watch is not None:
            self.watch.discard(self)
        super().resumeProducing()  # type: ignore[misc]

    def readConnectionLost(self, reason: Failure) -> None:
        """The peer's FIN. (IHalfCloseableDescriptor)"""
        if not self._eof:
            # Twisted takes a hang-up without data for an orderly end. The event may be older than our wish to read:
            # it can be a reset, and there can be data. Reading tells.
            self.startReading()
            return
        self._read_ended = True
        if self.watch is not None and self.connected:
            self.watch.add(self)
        super().readConnectionLost(reason)  # type: ignore[misc]

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
        if self.watch is not None:
            self.watch.discard(self)
        if not self.system_error and reason.check(error.ConnectionLost):
            # The reactor noticed it first; the kernel still knows why.
            self.system_error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._orderly = reason.check(error.ConnectionDone) is not None
        super().connectionLost(reason)  # type: ignore[misc]

    def _closeSocket(self, orderly: bool) -> None:  # noqa: N802  Twisted's name
        # Whatever else ends a connection, an exception of ours above all, is not to look like an end to the peer.
        super()._closeSocket(orderly and self._orderly)  # type: ignore[misc]


class MeshServer(MeshTransport, tcp.Server):
    """An accepted TCP connection."""

    def __init__(self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any) -> None:
        super().__init__(sock, protocol, client, server, sessionno, reactor)
        self.watch = server.watch


class MeshClient(MeshTransport, tcp.Client):
    """A TCP connection that we dialled."""

    def _closeSocket(self, orderly: bool) -> None:  # noqa: N802  Twisted's name
        # An attempt that is given up: the kernel may have connected it already, and that is not to look like an end.
        super()._closeSocket(orderly and bool(self.disconnected))


class MeshUNIXServer(MeshTransport, unix.Server):
    """An accepted unix connection."""

    def __init__(self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any) -> None:
        super().__init__(sock, protocol, client, server, sessionno, reactor)
        self.watch = server.watch


class MeshUNIXClient(MeshTransport, unix.Client):
    """A unix connection that we dialled."""


class MeshConnector(tcp.Connector):
    """Dials TCP with :class:`MeshClient`."""

    watch: ResetWatch | None = None

    def _makeTransport(self) -> Any:
        client = MeshClient(self.host, self.port, self.bindAddress, self, self.reactor)
        client.watch = self.watch
        return client


class MeshUNIXConnector(unix.Connector):
    """Dials unix sockets with :class:`MeshUNIXClient`."""

    watch: ResetWatch | None = None

    def _makeTransport(self) -> Any:
        client = MeshUNIXClient(self.address, self, self.reactor, self.checkPID)
        client.watch = self.watch
        return client
