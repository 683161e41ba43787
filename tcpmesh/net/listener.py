"""
A listening socket: takes connections while there is room, and hands them to inbound or outbound.

Ring 3. What cannot be served is accepted, reset and counted: left in the kernel's queue it would only time out.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.protocol import Factory
from twisted.logger import Logger

from tcpmesh.codes import CONNECTION_LIMIT, INTERNAL, LISTENER_CONNECTIONS, OUT_OF_DESCRIPTORS, Code
from tcpmesh.errors import Refusal
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.observe.records import ConnectionRecord, Direction
from tcpmesh.values import Address

_log = Logger()


class ListenerLimit:
    """Counts the connections of one listener, on all of its ports, against its own limit."""

    __slots__ = ("connections", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.connections = 0

    def enter(self) -> bool:
        """Take a place; says whether there was one."""
        if self.connections >= self.most:
            return False
        self.connections += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self.connections -= 1


def listener_limit(most: int | None) -> ListenerLimit | None:
    """The counter of a listener that has a limit."""
    return None if most is None else ListenerLimit(most)


class Listener(Protocol):
    """Inbound or outbound."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def plane(self) -> DataPlane:
        """What it shares with the others."""

    @property
    def limit(self) -> ListenerLimit | None:
        """Its own limit of connections; who was built leaves it with its close record."""

    def build(self) -> Leg:
        """The protocol for one accepted connection."""


class ListenerFactory(Factory):
    """What a port of ours asks for the leg of each connection that it accepted."""

    noisy = False

    def __init__(self, listener: Listener, direction: Direction) -> None:
        self._listener = listener
        self._direction = direction

    @property
    def name(self) -> str:
        """The listener's name in the configuration."""
        return str(self._listener.name)

    @property
    def limit(self) -> ListenerLimit | None:
        """The listener's own limit."""
        return self._listener.limit

    def take(self, peer: Address, own: Address) -> Leg | None:
        """
        Give the accepted connection's first leg; None means that it is to be reset, and is recorded already.

        :param own: our end of it.
        """
        plane = self._listener.plane
        code = plane.gate.enter()
        if code is not None:
            what = "connections" if code is CONNECTION_LIMIT else "sockets"
            limit = plane.gate.max_connections if code is CONNECTION_LIMIT else plane.gate.max_sockets
            self._refuse(code, f"{limit} {what} are open", peer, own)
            return None
        own_limit = self._listener.limit
        if own_limit is not None and not own_limit.enter():
            plane.gate.leave()
            reason = f"{own_limit.most} connections are open on this listener, which is its limit"
            self._refuse(LISTENER_CONNECTIONS, reason, peer, own)
            return None
        try:
            return self._listener.build()
        except Refusal as refusal:
            self._leave()
            self._refuse(refusal.code, refusal.reason, peer, own)
        except Exception:  # noqa: BLE001  one connection's failure is not the listener's
            self._leave()
            _log.failure("listener {name!r} failed to take a connection", name=self._listener.name)
            self._refuse(INTERNAL, "taking the connection failed", peer, own)
        return None

    def not_taken(self, peer: Address, own: Address) -> None:
        """What :meth:`take` gave could not be used: the connection was reset."""
        self._leave()
        self._refuse(INTERNAL, "taking the connection failed", peer, own)

    def _leave(self) -> None:
        self._listener.plane.gate.leave()
        if self._listener.limit is not None:
            self._listener.limit.leave()

    def out_of_descriptors(self, peer: Address, own: Address) -> None:
        """A connection was reset because no descriptor was left for it."""
        self._refuse(OUT_OF_DESCRIPTORS, "no file descriptor is left to accept it", peer, own)

    def _refuse(self, code: Code, reason: str, peer: Address, own: Address) -> None:
        plane = self._listener.plane
        record = ConnectionRecord(
            id=plane.next_number(),
            direction=self._direction,
            listener=self._listener.name,
            src_addr=str(peer),
            local_addr=str(own),
            time=plane.wall_clock(),
            code=code,
            reason=reason,
            closed_by="proxy",
            duration_ms=0.0,
        )
        plane.sink.accepted(record)
        plane.sink.closed(record)
