"""
Who is to go when its peer's certificate expires: the connections of listeners and services with ``on_expiry: close``.

Ring 3. One timer for all of them, and none while there are none: connections are kept by the second in which their
peer's certificate ends, of which there are few.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from tcpmesh.wall_clock import WallClock

if TYPE_CHECKING:
    from tcpmesh.net.plane import LiveConnection

__all__ = ["LOOK", "Expiries"]

LOOK = 5.0  # seconds between two looks: the wall clock, by which certificates end, may be stepped


class Expiries:
    """
    Looks every five seconds whose peer's certificate has ended.

    :param clock: the reactor's, for the timer.
    :param wall_clock: by which certificates end.
    """

    def __init__(self, clock: Any, wall_clock: WallClock) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._by_end: dict[float, dict[LiveConnection, None]] = {}
        self._ends: dict[LiveConnection, float] = {}
        self._call: Any = None
        #: Told at each look who has outlived its peer's certificate, again and again until they are gone.
        self.due: Callable[[Collection[LiveConnection]], None] = lambda connections: None

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, connection: LiveConnection, end: float) -> None:
        """Watch a connection; ``end`` is the last second of its peer's certificate. One that is watched moves there."""
        self.discard(connection)
        self._ends[connection] = end
        self._by_end.setdefault(end, {})[connection] = None
        if self._call is None:
            self._call = self._clock.callLater(LOOK, self._look)

    def discard(self, connection: LiveConnection) -> None:
        """Watch it no longer, if it was watched."""
        end = self._ends.pop(connection, None)
        if end is None:
            return
        connections = self._by_end[end]
        del connections[connection]
        if not connections:
            del self._by_end[end]
        if not self._ends and self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self._call = self._clock.callLater(LOOK, self._look)
        now = self._wall_clock()
        for end, connections in list(self._by_end.items()):
            if end < now:
                self.due(connections)
