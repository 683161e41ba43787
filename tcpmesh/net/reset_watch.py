"""
Hears a reset on a socket that nobody reads from.

Ring 3. A paused (or half-closed) socket is in no reactor's read set, so its peer's reset would stay unheard until data
is wanted again: a client that is gone would keep its server's connection, and a dial that nobody waits for would go
on. The kernel reports errors on an epoll descriptor without any event being asked for, and an epoll descriptor is
itself readable when it has something to report, so that one more reader in any reactor hears for all paused sockets.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable

_log = Logger()


class Watchable(Protocol):
    """A transport that can be watched."""

    fileno: Callable[[], int]

    def reset_heard(self) -> None:
        """The peer reset the connection, or the kernel gave it up."""

    def abortConnection(self) -> None:
        """Drop the connection. (ITCPTransport)"""


@implementer(IReadDescriptor)
class ResetWatch:
    """
    Watches paused sockets for errors; one per reactor.

    Where there is no epoll (anything but Linux) nothing is watched and a reset is heard when reading resumes.
    """

    direct_dispatch = True  # see net/reactor.py

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._watched: dict[int, Watchable] = {}
        self._reactor = reactor
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            reactor.addReader(self)

    def add(self, transport: Watchable) -> None:
        """Start watching; a transport that is watched already stays so."""
        descriptor = transport.fileno()
        if self._epoll is None or descriptor < 0 or descriptor in self._watched:
            return
        # Edge-triggered: HUP (both directions have ended in order) stays, and would come back for ever. It is no reset,
        # but one may follow as long as our FIN waits behind data that the peer does not read.
        self._epoll.register(descriptor, select.EPOLLET)
        self._watched[descriptor] = transport

    def discard(self, transport: Watchable) -> None:
        """Stop watching; must be called before the socket is closed, whose number may then mean another."""
        descriptor = transport.fileno()
        if self._watched.get(descriptor) is transport:
            self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        assert self._epoll is not None
        del self._watched[descriptor]
        self._epoll.unregister(descriptor)

    def doRead(self) -> None:
        """Tell every transport whose socket has an error. (IReadDescriptor)"""
        assert self._epoll is not None
        for descriptor, event in self._epoll.poll(0):
            transport = self._watched.get(descriptor)
            if transport is not None and event & select.EPOLLERR:
                self._forget(descriptor)
                self._tell(transport)

    def _tell(self, transport: Watchable) -> None:
        # An exception that reached the reactor would end this reader, and with it the watch over all the others.
        try:
            transport.reset_heard()
        except Exception:  # noqa: BLE001
            _log.failure("reporting a reset failed; the connection is aborted")
            transport.abortConnection()

    def fileno(self) -> int:
        """The epoll descriptor. (IFileDescriptor)"""
        return self._epoll.fileno() if self._epoll is not None else -1

    def logPrefix(self) -> str:
        """For the reactor's logging. (ILoggingContext)"""
        return "reset-watch"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops. (IFileDescriptor)"""
        self.close()

    def close(self) -> None:
        """Release the descriptor."""
        if self._epoll is not None:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None
        self._watched.clear()
