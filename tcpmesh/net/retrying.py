"""
Whether a service's connection gets another attempt: its strategy, what time is left, and the budget, in this order.

Ring 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcpmesh.codes import ESTABLISH_TIMEOUT
from tcpmesh.errors import Refusal
from tcpmesh.net.arms_length import GuardedRetry
from tcpmesh.net.booking import ServiceCounts
from tcpmesh.retry.budget import RetryBudget
from tcpmesh.settings import ServiceSettings, Timeouts
from tcpmesh.values import AttemptFailure, RetryContext, format_duration

__all__ = ["Retries", "late"]


class Retries:
    """
    The retries of one service.

    :param counts: where they are counted.
    :ivar budget: what is left for all connections together.
    """

    __slots__ = ("_counts", "_strategy", "budget")

    def __init__(self, strategy: GuardedRetry, settings: ServiceSettings, counts: ServiceCounts) -> None:
        self._strategy = strategy
        self._counts = counts
        self.budget = RetryBudget(settings.retry_budget)

    def begin(self, context: RetryContext, now: float) -> Iterator[float]:
        """A connection begins: its waits, to be passed to :meth:`next_wait`."""
        self.budget.connection(now)
        return self._strategy.attempts(context)

    def next_wait(self, waits: Iterator[float], now: float, remaining: float) -> float | str:
        """
        How long to wait before the next attempt, or why there is none; empty text when the strategy wants none.

        :param remaining: seconds until the connection must be established.
        """
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


def late(refusal: Refusal, timeouts: Timeouts, attempts: int, failures: Sequence[AttemptFailure]) -> Refusal:
    """Say of a connection that was not established in time what the time went by with."""
    reason = f"not established within {format_duration(timeouts.establish)}, attempts: {attempts}"
    earlier = [failure for failure in failures if failure.code is not ESTABLISH_TIMEOUT]
    if earlier:
        reason += f", one failed with {earlier[-1].code} {earlier[-1].reason}"
    return Refusal(ESTABLISH_TIMEOUT, f"{reason}; lastly {refusal.reason}")
