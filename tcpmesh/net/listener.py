"""
A listening socket: takes connections while there is room, and hands them to inbound or outbound.

Ring 3. What cannot be served is accepted, reset and counted: left in the kernel's queue it would only time out.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.protocol import Factory
from twisted.logger import Logger

from tcpmesh.codes import CONNECTION_LIMIT, INTERNAL, OUT_OF_DESCRIPTORS, Code
from tcpmesh.errors import Refusal
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.observe.records import ConnectionRecord, Direction
from tcpmesh.values import Address

_log = Logger()


class Listener(Protocol):
    """Inbound or outbound."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""

    @property
    def plane(self) -> DataPlane:
        """What it shares with the others."""

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
        try:
            return self._listener.build()
        except Refusal as refusal:
            plane.gate.leave()
            self._refuse(refusal.code, refusal.reason, peer, own)
        except Exception:  # noqa: BLE001  one connection's failure is not the listener's
            plane.gate.leave()
            _log.failure("listener {name!r} failed to take a connection", name=self._listener.name)
            self._refuse(INTERNAL, "taking the connection failed", peer, own)
        return None

    def not_taken(self, peer: Address, own: Address) -> None:
        """What :meth:`take` gave could not be used: the connection was reset."""
        self._listener.plane.gate.leave()
        self._refuse(INTERNAL, "taking the connection failed", peer, own)

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
