"""
Whether a service's connection gets another attempt: its strategy, what time is left, and the budget, in this order.

Ring 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from twisted.logger import Logger

from tcpmesh.codes import ESTABLISH_TIMEOUT
from tcpmesh.errors import Refusal
from tcpmesh.net.arms_length import GuardedRetry
from tcpmesh.net.booking import ServiceCounts
from tcpmesh.retry.budget import RetryBudget
from tcpmesh.settings import ServiceSettings, Timeouts
from tcpmesh.values import AttemptFailure, RetryContext, format_duration

__all__ = ["Pausing", "Retries", "late"]

_log = Logger()


class Pausing(Protocol):
    """A connection between two attempts."""

    def stop(self) -> None:
        """Wait no longer."""


class Retries:
    """
    The retries of one service.

    :param counts: where they are counted.
    :ivar budget: what is left for all connections together.
    :ivar pausing: who waits for its next attempt.
    """

    __slots__ = ("_counts", "_stopped", "_strategy", "budget", "pausing")

    def __init__(self, strategy: GuardedRetry, settings: ServiceSettings, counts: ServiceCounts) -> None:
        self._strategy = strategy
        self._counts = counts
        self._stopped = False
        self.budget = RetryBudget(settings.retry_budget)
        self.pausing: dict[Pausing, None] = {}  # in the order in which they came

    def begin(self, context: RetryContext) -> Iterator[float]:
        """A connection begins: its waits, to be passed to :meth:`next_wait`. Its first attempt counts in the budget."""
        return self._strategy.attempts(context)

    def next_wait(self, waits: Iterator[float], now: float, remaining: float) -> float | str:
        """
        How long to wait before the next attempt, or why there is none; empty text when the strategy wants none.

        :param remaining: seconds until the connection must be established.
        """
        if self._stopped:
            return "this proxy is stopping"
        wait = self._strategy.next_wait(waits)
        if wait is None:
            return ""
        if wait >= remaining:
            return f"after a wait of {format_duration(round(wait, 3))} the time would be over (timeouts.establish)"
        if not self.budget.take(now):
            self._counts.unbudgeted += 1
            return self.budget.explain(now)
        self._counts.retries += 1
        return wait

    def stop(self) -> None:
        """Whoever waits for its next attempt is better served elsewhere, and nobody gets one from now on."""
        self._stopped = True
        pausing, self.pausing = self.pausing, {}
        for who in pausing:
            try:
                who.stop()
            except Exception:  # noqa: BLE001  the others are to be told all the same
                _log.failure("telling a connection that this proxy stops failed")


def late(refusal: Refusal, timeouts: Timeouts, attempts: int, earlier: AttemptFailure | None) -> Refusal:
    """
    Say of a connection that was not established in time what the time went by with.

    :param earlier: the last failure of another kind.
    """
    reason = f"not established within {format_duration(timeouts.establish)}, attempts: {attempts}"
    if earlier is not None:
        reason += f", one failed with {earlier.code} {earlier.reason}"
    return Refusal(ESTABLISH_TIMEOUT, f"{reason}; lastly {refusal.reason}")
