"""
Where connections wait for a service: for its discovery to speak, or for room under its limits.

Ring 3. Each waits for a time of its own, then is refused with what it has waited for.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from tcpmesh.codes import CANCELLED, ESTABLISH_TIMEOUT, QUEUE_FULL, QUEUE_TIMEOUT, RESOLVE_TIMEOUT, STOPPING
from tcpmesh.errors import Refusal
from tcpmesh.net.booking import Booking
from tcpmesh.net.waiting import Lanes, Teller, Waiter
from tcpmesh.values import AttemptFailure, format_duration

if TYPE_CHECKING:
    from tcpmesh.net.pool import Pool

__all__ = ["WaitingRoom"]

# Who waits while endpoints are ejected: how often (seconds) to look whether one has come back, which nobody tells.
_LOOK = 0.1


class WaitingRoom:
    """
    Those who wait for one pool.

    :param length: how many may wait for room.
    """

    __slots__ = ("_lanes", "_length", "_look", "_pool", "_stopped", "_teller", "_unresolved")

    def __init__(self, pool: Pool, length: int) -> None:
        self._pool = pool
        self._length = length
        self._lanes = Lanes()
        self._unresolved: OrderedDict[Waiter, None] = OrderedDict()
        self._teller = Teller(pool.clock)
        self._look: Any = None
        self._stopped = False

    @property
    def queued(self) -> int:
        """How many wait for room."""
        return len(self._lanes)

    @property
    def unresolved(self) -> int:
        """How many wait for discovery."""
        return len(self._unresolved)

    # --- coming

    def await_discovery(self, waiter: Waiter) -> Waiter:
        """
        Let it wait until discovery says something.

        :raises Refusal: STOPPING.
        """
        self._refuse_if_stopped()
        self._arm(waiter, waiter.timeouts.resolve)
        self._unresolved[waiter] = None
        return waiter

    def queue(self, waiter: Waiter, short: Refusal) -> Waiter:
        """
        Let it wait for room.

        :param short: what there is no room under.
        :raises Refusal: that one when nobody may wait, QUEUE_FULL when too many do, STOPPING.
        """
        self._refuse_if_stopped()
        if not self._length:
            raise short
        if len(self._lanes) >= self._length:
            raise Refusal(QUEUE_FULL, f"{short.reason}; and {len(self._lanes)} wait already (queue.length)")
        waiter.short = short
        self._arm(waiter, waiter.timeouts.queue)
        self._lanes.join(waiter)
        self._pool.counts.queued += 1
        self._watch()
        return waiter

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise Refusal(STOPPING, "this proxy is stopping")

    # --- going

    def leave(self, waiter: Waiter) -> None:
        """It does not want anything any longer; a place that it was given goes to the next."""
        waiter.disarm()
        if self._lanes.leave(waiter) or self._unresolved.pop(waiter, waiter) is None:
            return
        booking = self._teller.forget(waiter)
        if booking is not None:
            booking.failed(AttemptFailure(CANCELLED, "the client went away", booking.endpoint, 0.0))

    def stop(self) -> None:
        """Whoever waits is better served elsewhere, and nobody waits from now on."""
        self._stopped = True
        for waiter in [*self._unresolved, *self._lanes.everybody()]:
            self._conclude(waiter, Refusal(STOPPING, "this proxy is stopping"))
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def serve(self) -> None:
        """Give away what room there is, first come first."""
        pool = self._pool
        while self._lanes and not (pool.is_full and pool.endpoints):
            for waiter in self._lanes.first():
                try:
                    outcome = pool.take(waiter.exclude, waiter.position, waiter.who)
                except Refusal as refusal:
                    self._conclude(waiter, refusal)
                    break
                if isinstance(outcome, Booking):
                    self._conclude(waiter, outcome)
                    break
                waiter.short = outcome
            else:
                break
        self._watch()

    def discovered(self) -> None:
        """Discovery has spoken: who waited for that may begin, waits for room, or hears why not."""
        for waiter in list(self._unresolved):
            waiter.disarm()
            del self._unresolved[waiter]
            try:
                outcome = self._pool.take(waiter.exclude, waiter.position, waiter.who)
                if isinstance(outcome, Booking):
                    self._teller.tell(waiter, outcome)
                else:
                    self.queue(waiter, outcome)
            except Refusal as refusal:
                self._teller.tell(waiter, refusal)

    def _conclude(self, waiter: Waiter, outcome: Booking | Refusal) -> None:
        waiter.disarm()
        if not self._lanes.leave(waiter):
            self._unresolved.pop(waiter, None)
        self._teller.tell(waiter, outcome)

    # --- time

    def _arm(self, waiter: Waiter, seconds: float) -> None:
        clock = self._pool.clock
        waiter.since = now = clock.seconds()
        waiter.deadline = clock.callLater(max(0.0, min(seconds, waiter.until - now)), self._expire, waiter)

    def _expire(self, waiter: Waiter) -> None:
        now = self._pool.clock.seconds()
        waited = format_duration(round(now - waiter.since, 3))
        if waiter.short is not None:
            code, reason = QUEUE_TIMEOUT, f"waited {waited} for room: {waiter.short.reason}"
        else:
            code = RESOLVE_TIMEOUT
            reason = f"the discovery of service {self._pool.name!r} has said nothing for {waited}"
            reason += self._pool.discovery_says()
        # To the millisecond: a timer may come a hair early.
        self._conclude(waiter, Refusal(ESTABLISH_TIMEOUT if now >= waiter.until - 0.001 else code, reason))

    def _watch(self) -> None:
        if self._lanes and self._look is None and self._pool.health.impaired and not self._stopped:
            self._look = self._pool.clock.callLater(_LOOK, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self.serve()
