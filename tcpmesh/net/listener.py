"""
A listening socket: takes connections while there is room, and hands them to inbound or outbound.

Ring 3. What cannot be served is accepted, reset and counted: left in the kernel's queue it would only time out.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger

from tcpmesh.codes import INTERNAL, Code
from tcpmesh.errors import Refusal
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.sockets import own_address, peer_address
from tcpmesh.observe.records import ConnectionRecord, Direction

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
    """What a port asks for a protocol."""

    noisy = False

    def __init__(self, listener: Listener, direction: Direction) -> None:
        self._listener = listener
        self._direction = direction

    @property
    def name(self) -> str:
        """The listener's name in the configuration."""
        return str(self._listener.name)

    def buildProtocol(self, _addr: Any) -> Any:
        """A connection's first leg, or a protocol that resets it. (IProtocolFactory)"""
        plane = self._listener.plane
        code = plane.gate.enter()
        if code is not None:
            return self._refused(code, f"{plane.gate.max_connections} connections are open")
        try:
            return self._listener.build()
        except Refusal as refusal:
            plane.gate.leave()
            return self._refused(refusal.code, refusal.reason)
        except Exception:  # noqa: BLE001  one connection's failure is not the listener's
            plane.gate.leave()
            _log.failure("listener {name!r} failed to take a connection", name=self._listener.name)
            return self._refused(INTERNAL, "taking the connection failed")

    def _refused(self, code: Code, reason: str) -> IProtocol:
        plane = self._listener.plane
        record = ConnectionRecord(
            id=plane.next_number(),
            direction=self._direction,
            listener=self._listener.name,
            src_addr="",
            time=plane.wall_clock(),
            code=code,
            reason=reason,
            closed_by="proxy",
            duration_ms=0.0,
        )
        return _ResetAtOnce(plane, record)


class _ResetAtOnce(TwistedProtocol):
    """Resets the connection that it gets, and records it."""

    def __init__(self, plane: DataPlane, record: ConnectionRecord) -> None:
        self._plane = plane
        self._record = record

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._record.src_addr = str(peer_address(transport))
        self._record.local_addr = str(own_address(transport))
        transport.abortConnection()
        self._plane.sink.accepted(self._record)
        self._plane.sink.closed(self._record)
