"""
The servers and applications of the simulated network, on real sockets and the test's own reactor.

What they do, and what they write down, is said in ``tests.simulated``; here is only what stands for a kernel there.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_STEP = 16384  # bytes


class Arrived:
    """What the other end has put on the wire, as far as it came."""

    def __init__(self) -> None:
        self.written = bytearray()


@implementer(IReadWriteDescriptor)
class LiveEnd:
    """
    Behaves as ``tests.simulated.kernel.SimulatedEnd`` does, on a real socket; whoever acts on it has a turn whenever
    something can be read or written.
    """

    def __init__(self, sock: socket.socket, reactor: Any) -> None:
        sock.setblocking(False)
        # Else a small write waits in the kernel, and a reset behind it destroys it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.incoming = bytearray()
        self.written = bytearray()
        self.peer = Arrived()
        self.client: object = None
        self.fin = False
        self.reset = False
        self.closed = False
        self._reactor = reactor
        self._act: Callable[[int], bool] = lambda _amount: False
        self._acting = False

    def start(self, act: Callable[[int], bool]) -> None:
        """Let ``act`` have its turns from now on."""
        self._act = act
        self._reactor.addReader(self)
        self._turn()

    def _turn(self) -> None:
        if not self._acting:
            self._acting = True
            while self._act(_STEP):
                pass
            self._acting = False

    # --- what acts on it calls these

    def send(self, data: bytes) -> int:
        """Write what the kernel takes."""
        if not data:
            return 0
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            self._reactor.addWriter(self)
            return 0
        except OSError:
            self.reset = True
            return 0
        self.written += data[:sent]
        return sent

    def shut_down(self) -> None:
        """Send FIN."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.reset = True

    def abort(self) -> None:
        """Close with a reset."""
        if not self.closed:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self.close()

    def close(self) -> None:
        """Close; the kernel resets, if anything was left unread."""
        if not self.closed:
            if self.incoming:  # which this kernel believes to have been read
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self.closed = True
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self.socket.close()

    # --- what the reactor calls

    def fileno(self) -> int:
        """(IFileDescriptor)."""
        return -1 if self.closed else self.socket.fileno()

    def logPrefix(self) -> str:
        """(ILoggingContext)."""
        return "live end"

    def doRead(self) -> None:
        """(IReadDescriptor)."""
        try:
            data = self.socket.recv(_STEP)
        except BlockingIOError:
            return
        except OSError:
            self._break()
            return
        if data:
            self.incoming += data
            self.peer.written += data
        else:
            self.fin = True
            self._reactor.removeReader(self)
        self._turn()

    def doWrite(self) -> None:
        """(IWriteDescriptor)."""
        self._reactor.removeWriter(self)
        self._turn()

    def _break(self) -> None:
        self.reset = True
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        self._turn()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor heard of an error before we read it, or it stops. (IFileDescriptor)"""
        if not self.closed:
            self._break()


@implementer(IReadWriteDescriptor)
class LiveListener:
    """Accepts connections on loopback and gives each of them to ``serve``, with the port that it came from."""

    def __init__(self, serve: Callable[[LiveEnd, int], None], reactor: Any) -> None:
        self._serve = serve
        self._reactor = reactor
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        reactor.addReader(self)

    def fileno(self) -> int:
        """(IFileDescriptor)."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """(ILoggingContext)."""
        return "live listener"

    def doRead(self) -> None:
        """(IReadDescriptor)."""
        try:
            accepted, address = self._socket.accept()
        except OSError:  # it was reset in the queue
            return
        self._serve(LiveEnd(accepted, self._reactor), address[1])

    def doWrite(self) -> None:
        """(IWriteDescriptor)."""

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops. (IFileDescriptor)"""
        self.close()

    def close(self) -> None:
        """Accept no more."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()
