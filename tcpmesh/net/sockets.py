"""
Listening and dialling with the data path's own transports, and the socket options of a wire.

Ring 3. One :class:`Sockets` per process: it owns the reset watch that all its transports share.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure

from tcpmesh.codes import (
    CANNOT_LISTEN,
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    OUT_OF_DESCRIPTORS,
    UNREACHABLE,
    Code,
)
from tcpmesh.errors import Refusal, StartError
from tcpmesh.net.ports import MeshPort, MeshUNIXPort
from tcpmesh.net.reserve import Reserve
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.net.tcp import MeshConnector, MeshUNIXConnector
from tcpmesh.settings import Timeouts
from tcpmesh.values import Address, TCPAddress, UnixAddress

_BACKLOG = 4096  # the kernel caps it at net.core.somaxconn
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


class Dial(ClientFactory):
    """
    One attempt to connect: ``protocol`` is connected, or ``on_failed`` is called with why, once.

    :param on_failed: gets a Refusal with a code of the TM-U or TM-T family.
    """

    noisy = False

    def __init__(self, address: Address, protocol: Protocol, on_failed: Callable[[Refusal], None]) -> None:
        self.address = address
        self._protocol = protocol
        self._on_failed = on_failed
        self._connector: Any = None
        self._cancelled = False

    def startedConnecting(self, connector: Any) -> None:
        """(ClientFactory)."""
        self._connector = connector

    def buildProtocol(self, _addr: Any) -> Protocol:
        """(IProtocolFactory)."""
        return self._protocol

    def clientConnectionFailed(self, _connector: Any, reason: Failure) -> None:
        """(ClientFactory)."""
        if not self._cancelled:
            self._on_failed(explain_dial_failure(self.address, reason.value))

    def cancel(self) -> None:
        """Stop, if the connection is not made yet; ``on_failed`` is not called."""
        self._cancelled = True
        if self._connector is not None and self._connector.state == "connecting":
            self._connector.stopConnecting()


def explain_dial_failure(address: Address, problem: BaseException | None) -> Refusal:
    """Turn Twisted's exception into a refusal with its code."""
    if isinstance(problem, error.TimeoutError):
        return Refusal(CONNECT_TIMEOUT, f"{address} did not answer in time")
    number = getattr(problem, "osError", None)
    if number is None and isinstance(problem, OSError):
        number = problem.errno
    code = _CODES.get(number or 0, CONNECT_FAILED)
    text = os.strerror(number) if number else str(problem)
    return Refusal(code, f"connecting to {address}: {text}", errno.errorcode.get(number or 0, ""))


class Sockets:
    """Makes listening ports and connections on one reactor."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.watch = ResetWatch(reactor)
        self._reserve = Reserve()

    def listen(self, address: Address, factory: Factory) -> IListeningPort:
        """
        Listen; a unix socket is created 0600.

        :raises StartError: CANNOT_LISTEN naming the address and why.
        """
        port: Any
        if isinstance(address, UnixAddress):
            claim_unix_path(address)
            port = MeshUNIXPort(address.path, factory, _BACKLOG, 0o600, self._reactor)  # type: ignore[arg-type]
        else:
            port = MeshPort(address.port, factory, _BACKLOG, address.host, self._reactor)
        port.watch = self.watch
        port.reserve = self._reserve
        try:
            with only_for_the_owner():
                port.startListening()
        except (error.CannotListenError, OSError) as problem:
            cause = getattr(problem, "socketError", problem)
            raise StartError(CANNOT_LISTEN, f"cannot listen on {address}: {_strerror(cause)}") from problem
        return port  # type: ignore[no-any-return]

    def dial(self, address: Address, protocol: Protocol, timeout: float, on_failed: Callable[[Refusal], None]) -> Dial:
        """Connect ``protocol`` to ``address`` within ``timeout`` seconds."""
        dial = Dial(address, protocol, on_failed)
        connector: Any
        if isinstance(address, UnixAddress):
            connector = MeshUNIXConnector(address.path, dial, timeout, self._reactor, checkPID=False)
        else:
            connector = MeshConnector(address.host, address.port, dial, timeout, None, self._reactor)
        connector.watch = self.watch
        try:
            connector.connect()
        except OSError as problem:
            # For example an IPv6 scope that is gone. Told later, as every other failure is.
            self._reactor.callLater(0, dial.clientConnectionFailed, connector, Failure(problem))
        return dial

    def close(self) -> None:
        """Release what is shared; the ports and connections must be closed before."""
        self.watch.close()
        self._reserve.close()


def _strerror(problem: object) -> str:
    return getattr(problem, "strerror", None) or str(problem)


@contextmanager
def only_for_the_owner() -> Iterator[None]:
    """Let bind(2) make a unix socket 0600: it takes the mode from the umask, and is never wider, not for a moment."""
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)


def claim_unix_path(address: UnixAddress) -> None:
    """
    Remove the socket that a dead process left at the path; leave anything else alone.

    :raises StartError: CANNOT_LISTEN when a process answers there, or when the path is not a socket.
    """
    try:
        mode = os.stat(address.path).st_mode  # noqa: PTH116  the path is a socket's name, not a file of ours
    except FileNotFoundError:
        return
    except OSError as problem:
        raise StartError(CANNOT_LISTEN, f"cannot listen on {address}: {problem.strerror}") from problem
    if not stat.S_ISSOCK(mode):
        raise StartError(CANNOT_LISTEN, f"cannot listen on {address}: the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            os.unlink(address.path)  # noqa: PTH108
            return
        except OSError as problem:
            raise StartError(CANNOT_LISTEN, f"cannot listen on {address}: {problem.strerror}") from problem
    raise StartError(CANNOT_LISTEN, f"cannot listen on {address}: another process answers there")


def tune_plain(transport: Any) -> None:
    """Options of a connection to an application: small writes leave at once."""
    transport.setTcpNoDelay(True)


def tune_wire(transport: Any, timeouts: Timeouts) -> bool:
    """
    Set the options of a connection that crosses the network: small writes leave at once, a dead idle peer is noticed.

    Gives whether it is TCP, on which a peer can vanish at all.
    """
    transport.setTcpNoDelay(True)
    sock = transport.socket
    if sock.family == socket.AF_UNIX:
        return False
    idle = max(1, round(timeouts.keepalive))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // 3))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    # Not TCP_USER_TIMEOUT (RFC 5482): Linux also ends a connection whose live peer keeps its window closed for that
    # long, which here is nothing but backpressure. tcpmesh.net.liveness watches for peers that are really gone.
    return True


def peer_address(transport: Any) -> Address:
    """Who is at the other end; the far end of a unix connection has no name."""
    return _address(transport.getPeer())


def own_address(transport: Any) -> Address:
    """Our own end."""
    return _address(transport.getHost())


def _address(end: Any) -> Address:
    host = getattr(end, "host", None)
    return TCPAddress(host, end.port) if host is not None else UnixAddress(os.fsdecode(end.name or ""))
