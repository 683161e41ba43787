"""
The relay: two legs, each the producer for the other's transport, and the closing table between them.

Ring 3. Payload passes through without being looked at, copied or queued: what arrives on one leg is sent on the other
in the same call, and what the kernel does not take stays with that leg's transport and pauses this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tcpmesh.codes import CLEAN, HALF_CLOSE_TIMEOUT, IDLE_TIMEOUT, LIFETIME, RESET, TRUNCATED_AS_EOF, Code
from tcpmesh.dataplane.closing import TABLE, Action, Event, State
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import Timeouts
from tcpmesh.values import format_duration

# Silence is looked for this often within the time it may last, so a time-out comes at most a quarter late.
_LOOKS = 4


class Relay:
    """
    Carries one established connection to its end.

    :param on_closed: called once, when both legs have delivered what they could; the record then says how it ended.
    :param on_early_loss: asked when ``dst`` broke before any payload moved; true means that it is taken care of (the
        relay has let go of both legs).
    """

    __slots__ = (
        "_clock",
        "_gone",
        "_lifetime",
        "_looks",
        "_on_closed",
        "_on_early_loss",
        "_progress",
        "_quiet",
        "_timeouts",
        "_watch_for",
        "dst",
        "record",
        "src",
        "state",
    )

    def __init__(
        self,
        record: ConnectionRecord,
        src: Leg,
        dst: Leg,
        timeouts: Timeouts,
        clock: Any,
        on_closed: Callable[[], None],
        on_early_loss: Callable[[Loss], bool] | None = None,
    ) -> None:
        self.record = record
        self.src = src
        self.dst = dst
        self.state = State.OPEN
        self._timeouts = timeouts
        self._clock = clock
        self._on_closed = on_closed
        self._on_early_loss = on_early_loss
        self._gone: set[Leg] = set()
        self._lifetime: Any = None
        self._looks: Any = None
        self._watch_for = 0.0
        self._quiet = 0
        self._progress: tuple[int, ...] = ()

    def start(self, lifetime: float | None) -> None:
        """Let payload flow; ``lifetime`` is how many seconds the connection may live, None for ever."""
        self.src.owner = self.dst.owner = self
        self.src.transport.registerProducer(self.dst, True)
        self.dst.transport.registerProducer(self.src, True)
        if lifetime is not None:
            self._lifetime = self._clock.callLater(lifetime, self.expire, LIFETIME, "the maximum lifetime was reached")
        self._watch(self._timeouts.idle)
        self.dst.start_relaying()
        if self.state is not State.CLOSED and self.src.owner is self:
            self.src.start_relaying()

    # --- LegOwner

    def leg_data(self, leg: Leg, data: bytes | memoryview) -> None:
        """Carry payload across."""
        if leg is self.src:
            self.record.bytes_sent += len(data)
            self.dst.send(data)
        else:
            self.record.bytes_recv += len(data)
            self.src.send(data)

    def leg_ended(self, leg: Leg) -> None:
        """One side has sent everything."""
        self._apply(Event.SRC_ENDED if leg is self.src else Event.DST_ENDED)

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """One side broke."""
        record = self.record
        untouched = not record.bytes_sent and not record.bytes_recv and self.state is State.OPEN
        if leg is self.dst and untouched and self._on_early_loss is not None:
            self._let_go()
            if self._on_early_loss(loss):
                return
        if not record.errno:
            record.errno = loss.errno
        if self.state is State.FINISHING and leg.unsent:
            # Both had ended, but this side went away before it took what was still queued for it.
            record.code, record.reason = RESET, loss.reason
            record.closed_by = "src" if leg is self.src else "dst"
        self._gone.add(leg)
        self._apply(Event.SRC_LOST if leg is self.src else Event.DST_LOST, loss.code, loss.reason)
        self._close_if_gone()

    def leg_gone(self, leg: Leg) -> None:
        """Everything for this side is delivered, or dropped by our own reset."""
        self._gone.add(leg)
        self._close_if_gone()

    # --- time

    def expire(self, code: Code, reason: str) -> None:
        """End the connection from outside: a time ran out, the proxy stops, a permission was withdrawn."""
        if self.state is State.FINISHING and self.record.code is CLEAN:
            # Both sides had ended, but what was queued did not get through: that is no clean end.
            self.record.code = None
        self._apply(Event.EXPIRED, code, reason)
        self._close_if_gone()

    def _watch(self, period: float | None) -> None:
        """Look for silence of ``period`` seconds from now on; None looks no more."""
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None
        if period is not None:
            self._watch_for = period
            self._quiet = 0
            self._progress = self._measure()
            self._looks = self._clock.callLater(period / _LOOKS, self._look)

    def _measure(self) -> tuple[int, ...]:
        # What is queued counts too: a slow reader that still takes what we hold is not silent.
        return (self.record.bytes_sent, self.record.bytes_recv, self.src.unsent, self.dst.unsent)

    def _look(self) -> None:
        self._looks = None
        progress = self._measure()
        self._quiet = 0 if progress != self._progress else self._quiet + 1
        self._progress = progress
        if self._quiet < _LOOKS:
            self._looks = self._clock.callLater(self._watch_for / _LOOKS, self._look)
        elif self.state is State.OPEN:
            self.expire(IDLE_TIMEOUT, f"no byte for {format_duration(self._watch_for)}")
        else:
            self.expire(HALF_CLOSE_TIMEOUT, f"half closed and silent for {format_duration(self._watch_for)}")

    # --- the table

    def _apply(self, event: Event, code: Code | None = None, reason: str = "") -> None:
        transition = TABLE[self.state, event]
        if transition.state is self.state:
            return
        self.state = transition.state
        record = self.record
        if transition.closed_by is not None and record.code is None:
            record.closed_by = transition.closed_by
            record.code = transition.code or code
            record.reason = reason
        if self.state in (State.SRC_ENDED, State.DST_ENDED):
            self._watch(self._timeouts.half_close)
        for action in transition.actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Action.END_SRC:
                self.src.end()
            case Action.END_DST:
                self.dst.end()
            case Action.FINISH:
                self.src.finish()
                self.dst.finish()
            case Action.RESET_SRC:
                self.src.reset()
            case Action.RESET_DST:
                self.dst.reset()

    def _close_if_gone(self) -> None:
        if len(self._gone) < 2 or self.state is State.OPEN:
            return
        self._gone.clear()
        self.state = State.CLOSED
        self._watch(None)
        self._cancel_lifetime()
        record = self.record
        # What a reset dropped was never handed to the kernel.
        record.bytes_sent = max(0, record.bytes_sent - self.dst.unsent_payload)
        record.bytes_recv = max(0, record.bytes_recv - self.src.unsent_payload)
        if record.code is CLEAN and (self.src.truncated or self.dst.truncated):
            record.code, record.reason = TRUNCATED_AS_EOF, "ended without close_notify, taken for an end as configured"
        self._on_closed()

    def _let_go(self) -> None:
        """Give the legs back to whoever decides what happens next."""
        self._watch(None)
        self._cancel_lifetime()
        self.src.transport.unregisterProducer()
        self.src.pauseProducing()

    def _cancel_lifetime(self) -> None:
        if self._lifetime is not None and self._lifetime.active():
            self._lifetime.cancel()
        self._lifetime = None
