"""
Connections that wait for a service: in the order in which they came, and each told once what came of it.

Ring 3. Who waits for a certain endpoint stands in a lane of its own, so that a full endpoint does not hold up those who
take any; within a lane nobody overtakes. What came of it is told from the reactor's loop, a few in each turn.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from tcpmesh.errors import Refusal
from tcpmesh.net.booking import Booking
from tcpmesh.settings import Timeouts
from tcpmesh.values import Address, Endpoint

__all__ = ["Lanes", "Teller", "Waiter", "Waiting"]

_log = Logger()
_TOLD_IN_A_TURN = 16  # each of them begins an attempt, or ends a connection


class Waiting(Protocol):
    """A connection that may have to wait."""

    @property
    def source(self) -> Address:
        """Where it comes from, for balancers that choose by that."""

    def room_found(self, booking: Booking) -> None:
        """It may begin its attempt."""

    def room_refused(self, refusal: Refusal) -> None:
        """There was none, or no longer any endpoint."""


class Waiter:
    """
    One connection that waits, until it is told an outcome or leaves.

    :ivar position: of the one endpoint that it wants; None for any.
    :ivar exclude: the endpoints that have failed for it already.
    :ivar came: by the clock; ``since`` is when it began to wait for what it waits for now.
    :ivar until: when its time is over altogether.
    :ivar short: what there was no room under when it was looked at last; None while it waits for discovery.
    """

    __slots__ = (
        "came",
        "deadline",
        "exclude",
        "number",
        "outcome",
        "position",
        "short",
        "since",
        "timeouts",
        "until",
        "who",
    )

    def __init__(
        self,
        who: Waiting,
        exclude: frozenset[Endpoint],
        position: int | None,
        timeouts: Timeouts,
        until: float,
        came: float,
    ) -> None:
        self.who = who
        self.exclude = exclude
        self.position = position
        self.timeouts = timeouts
        self.until = until
        self.short: Refusal | None = None
        self.came = self.since = came
        self.number = 0
        self.deadline: Any = None
        self.outcome: Booking | Refusal | None = None

    def disarm(self) -> None:
        """It no longer waits: its time does not matter."""
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()
        self.deadline = None


class Lanes:
    """Who waits for room, first come first; a lane for each endpoint that somebody insists on, and one for the rest."""

    __slots__ = ("_count", "_lanes", "_numbers")

    def __init__(self) -> None:
        self._lanes: dict[int | None, OrderedDict[Waiter, None]] = {}
        self._numbers = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def join(self, waiter: Waiter) -> None:
        """Stand behind all others."""
        self._numbers += 1
        waiter.number = self._numbers
        self._lanes.setdefault(waiter.position, OrderedDict())[waiter] = None
        self._count += 1

    def leave(self, waiter: Waiter) -> bool:
        """Go, wherever one stands; says whether it stood there."""
        lane = self._lanes.get(waiter.position)
        if lane is None or waiter not in lane:
            return False
        del lane[waiter]
        self._count -= 1
        if not lane:
            del self._lanes[waiter.position]
        return True

    def first(self) -> list[Waiter]:
        """The first of each lane, in the order in which they came."""
        if len(self._lanes) == 1:
            [lane] = self._lanes.values()
            return [next(iter(lane))]
        return sorted((next(iter(lane)) for lane in self._lanes.values()), key=lambda waiter: waiter.number)

    def everybody(self) -> list[Waiter]:
        """All, in the order in which they came."""
        found = [waiter for lane in self._lanes.values() for waiter in lane]
        return sorted(found, key=lambda waiter: waiter.number)


class Teller:
    """Tells waiters their outcome, in order, not from within whatever made room and not all at once."""

    __slots__ = ("_call", "_clock", "_due")

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._due: deque[Waiter] = deque()
        self._call: Any = None

    def tell(self, waiter: Waiter, outcome: Booking | Refusal) -> None:
        """In one of the next turns."""
        waiter.outcome = outcome
        self._due.append(waiter)
        if self._call is None:
            self._call = self._clock.callLater(0, self._turn)

    def forget(self, waiter: Waiter) -> Booking | None:
        """It is not to be told any longer; gives back what nobody will use now."""
        outcome, waiter.outcome = waiter.outcome, None
        return outcome if isinstance(outcome, Booking) else None

    def _turn(self) -> None:
        self._call = None
        told = 0
        while self._due and told < _TOLD_IN_A_TURN:
            waiter = self._due.popleft()
            outcome, waiter.outcome = waiter.outcome, None
            if outcome is None:
                continue  # it has left
            told += 1
            tell: Callable[..., None] = (
                waiter.who.room_found if isinstance(outcome, Booking) else waiter.who.room_refused
            )
            try:
                tell(outcome)
            except Exception:  # noqa: BLE001  the others are to be told all the same
                _log.failure("telling a connection that there is room, or none, failed")
        if self._due and self._call is None:
            self._call = self._clock.callLater(0, self._turn)
