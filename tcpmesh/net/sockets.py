"""
Listening and dialling with the data path's own transports, and the socket options of a wire.

Ring 3. One :class:`Sockets` per process: it owns the reset watch that all its transports share.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory

from tcpmesh.codes import CANNOT_LISTEN
from tcpmesh.errors import Refusal, StartError
from tcpmesh.net.dialling import Dial
from tcpmesh.net.ports import MeshPort, MeshUNIXPort
from tcpmesh.net.reserve import Reserve
from tcpmesh.net.reset_watch import ResetWatch
from tcpmesh.settings import Timeouts
from tcpmesh.values import Address, UnixAddress

_BACKLOG = 4096  # the kernel caps it at net.core.somaxconn


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

    def dial(self, address: Address, protocol: Any, timeout: float, on_failed: Callable[[Refusal], None]) -> Dial:
        """Connect ``protocol`` to ``address`` within ``timeout`` seconds."""
        return Dial(address, protocol, timeout, on_failed, self.watch, self._reactor)

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
    if not isinstance(transport.peer, UnixAddress):
        transport.setTcpNoDelay(True)


def tune_wire(transport: Any, timeouts: Timeouts) -> bool:
    """
    Set the options of a connection that crosses the network: small writes leave at once, a dead idle peer is noticed.

    Gives whether it is TCP, on which a peer can vanish at all.
    """
    if isinstance(transport.peer, UnixAddress):
        return False
    transport.setTcpNoDelay(True)
    sock = transport.socket
    idle = max(1, round(timeouts.keepalive))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // 3))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    # Not TCP_USER_TIMEOUT (RFC 5482): Linux also ends a connection whose live peer keeps its window closed for that
    # long, which here is nothing but backpressure. tcpmesh.net.liveness watches for peers that are really gone.
    return True
