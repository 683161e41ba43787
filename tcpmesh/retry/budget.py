"""
The retry budget of a service: how many retries there may be, whatever its strategy would do for each connection.

Ring 1, pure: ``now`` is the reactor's clock in seconds. When a service fails, every connection wants its retries at the
same time; what is left of the service then gets a multiple of the load. A budget holds that multiple down.
"""

from __future__ import annotations

from tcpmesh.upstream_settings import RetryBudgetSettings
from tcpmesh.values import format_duration

__all__ = ["RetryBudget"]

_PARTS = 10  # of the window; what is older than nine to ten of them is forgotten


class RetryBudget:
    """
    Counts connections and retries of the last ``window``.

    In it there may be as many retries as ``share`` of the connections, and ``minimum`` in any case.
    """

    __slots__ = ("_connections", "_part", "_retries", "_settings", "_width")

    def __init__(self, settings: RetryBudgetSettings) -> None:
        self._settings = settings
        self._width = settings.window / _PARTS
        self._part = 0
        self._connections = [0] * _PARTS
        self._retries = [0] * _PARTS

    def connection(self, now: float) -> None:
        """A connection begins its first attempt."""
        part = int(now / self._width)
        if part != self._part:
            self._forget(part)
        self._connections[part % _PARTS] += 1

    def take(self, now: float) -> bool:
        """Say whether there may be one more retry, and count it if so."""
        part = int(now / self._width)
        if part != self._part:
            self._forget(part)
        if sum(self._retries) >= self._most:
            return False
        self._retries[part % _PARTS] += 1
        return True

    def spent(self, now: float) -> tuple[int, int]:
        """How many retries there were in the window, and how many there may be."""
        part = int(now / self._width)
        if part != self._part:
            self._forget(part)
        return sum(self._retries), self._most

    def explain(self, now: float) -> str:
        """Why there is no further retry, in words."""
        retries, most = self.spent(now)
        return (
            f"the service's retry budget is spent: {retries} of {most} retries within "
            f"{format_duration(self._settings.window)}, connections: {sum(self._connections)} (retry_budget)"
        )

    @property
    def _most(self) -> int:
        # 0.7 of ten connections are seven, whatever floating point makes of the product.
        return max(self._settings.minimum, int(self._settings.share * sum(self._connections) + 1e-9))

    def _forget(self, part: int) -> None:
        """Begin another part of the window: what was in its place is older than the window."""
        for stale in range(self._part + 1, min(part, self._part + _PARTS) + 1):
            self._connections[stale % _PARTS] = self._retries[stale % _PARTS] = 0
        self._part = part
