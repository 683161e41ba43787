"""
Connecting to an address: one attempt, one outcome.

Ring 3. Addresses are literal (resolving names is discovery's work), so that a dial is a connect(2), the moment at which
the socket becomes writable, and a deadline.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IWriteDescriptor
from zope.interface import implementer

from tcpmesh.codes import (
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    OUT_OF_DESCRIPTORS,
    UNREACHABLE,
    Code,
)
from tcpmesh.errors import Refusal
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshStream
from tcpmesh.values import Address, UnixAddress

_CODES: dict[int, Code] = {
    errno.ECONNREFUSED: CONNECT_REFUSED,
    errno.ENOENT: CONNECT_REFUSED,  # a unix socket that is not there
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETUNREACH: UNREACHABLE,
    errno.ETIMEDOUT: CONNECT_TIMEOUT,
    errno.ECONNRESET: HANDSHAKE_TRUNCATED,  # accepted and reset before we came to see it
    errno.EMFILE: OUT_OF_DESCRIPTORS,
    errno.ENFILE: OUT_OF_DESCRIPTORS,
}
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@implementer(IWriteDescriptor)
class Dial:
    """
    One attempt to connect: ``protocol`` is connected, or ``on_failed`` is called with why, once, and never at once.

    :param on_failed: gets a Refusal with a code of the TM-U or TM-T family.
    :param timeout: seconds.
    """

    __slots__ = ("_address", "_deadline", "_on_failed", "_protocol", "_reactor", "_socket", "_watch")

    direct_dispatch = True  # see net/reactor.py

    def __init__(
        self,
        address: Address,
        protocol: Any,
        timeout: float,
        on_failed: Callable[[Refusal], None],
        watch: ResetWatch,
        reactor: Any,
    ) -> None:
        self._address = address
        self._protocol = protocol
        self._on_failed = on_failed
        self._watch = watch
        self._reactor = reactor
        self._socket: socket.socket | None = None
        try:
            problem = self._connect()
        except OSError as error:  # no descriptor is left
            problem = error.errno or errno.EINVAL
        if problem:
            self._deadline = reactor.callLater(0, self._fail, problem)
        else:
            self._deadline = reactor.callLater(timeout, self._fail, errno.ETIMEDOUT)
            reactor.addWriter(self)

    def _connect(self) -> int:
        address = self._address
        target: Any
        if isinstance(address, UnixAddress):
            family, target = socket.AF_UNIX, os.fsencode(address.path)
        elif ":" in address.host:
            # The scope of a link-local address is part of its text (RFC 4007 section 11).
            family = socket.AF_INET6
            try:
                target = socket.getaddrinfo(
                    address.host, address.port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
                )[0][4]
            except socket.gaierror:
                return errno.ENODEV  # the interface is gone; the resolver's numbers are not the system's
        else:
            family, target = socket.AF_INET, (address.host, address.port)
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        problem = self._socket.connect_ex(target)
        return 0 if problem == errno.EINPROGRESS else problem

    def cancel(self) -> None:
        """Stop, if the connection is not made yet; ``on_failed`` is not called."""
        if self._deadline.active():
            self._deadline.cancel()
            self._close()

    def _fail(self, problem: int) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        self._close()
        self._on_failed(explain_dial_failure(self._address, problem))

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            self._reactor.removeWriter(self)
            # The kernel may have connected it already, and giving up is not to look like an end.
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            sock.close()

    # --- what the reactor calls

    def fileno(self) -> int:
        """The socket's. (IFileDescriptor)"""
        return self._socket.fileno() if self._socket is not None else -1

    def logPrefix(self) -> str:
        """For the reactor's logging. (ILoggingContext)"""
        return f"dialling {self._address}"

    def doWrite(self) -> None:
        """The outcome is known. (IWriteDescriptor)"""
        sock = self._socket
        assert sock is not None
        problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not problem and _is_connected_to_itself(sock, self._address):
            problem = errno.ECONNREFUSED  # nobody listens there
        if problem:
            self._fail(problem)
            return
        self._reactor.removeWriter(self)
        self._deadline.cancel()
        self._socket = None
        self._protocol.makeConnection(MeshStream(sock, self._protocol, self._address, self._watch, self._reactor))

    def connectionLost(self, reason: Any) -> None:
        """The socket has an error, as some reactors tell it, or the reactor stops. (IFileDescriptor)"""
        sock = self._socket
        if sock is None:
            return
        problem = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not problem and _has_peer(sock):
            # A hang-up is told in the same way: who accepted has ended already, and what it said is there to be read.
            self.doWrite()
        else:
            self._fail(problem or errno.ECONNABORTED)


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_connected_to_itself(sock: socket.socket, address: Address) -> bool:
    """
    Tell whether the kernel gave our end the very port that we dial.

    It may, when that is one of its ephemeral ports and nobody listens there, and TCP then connects the socket to itself
    (simultaneous open, RFC 9293 section 3.5): what we send would come back as if the application had said it, and the
    application could not have its port for as long.
    """
    if isinstance(address, UnixAddress):
        return False
    own = sock.getsockname()
    try:
        return bool(own[1] == address.port and own == sock.getpeername())
    except OSError:  # reset by now: it had another end
        return False


def explain_dial_failure(address: Address, number: int) -> Refusal:
    """Turn a system error into a refusal with its code."""
    code = _CODES.get(number, CONNECT_FAILED)
    text = "it did not answer in time" if number == errno.ETIMEDOUT else os.strerror(number)
    return Refusal(code, f"connecting to {address}: {text}", errno.errorcode.get(number, str(number)))
