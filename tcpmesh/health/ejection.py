"""
Passive ejection of one endpoint: counting failures, the time away, the trial that ends it.

Ring 1, pure. Whether there is room for one more ejection among the service's endpoints is for who has them all.
"""

from __future__ import annotations

import math

import attrs

from tcpmesh.upstream_settings import EjectionSettings

__all__ = ["Ejection"]


@attrs.define(eq=False)
class Ejection:
    """
    One endpoint: in use, ejected until ``until``, or from then on upon probation until one connection has succeeded.

    :ivar failures: attempts in a row that failed.
    :ivar until: when probation begins; None while it is in use.
    :ivar trial: whose connection is the one that it is tried with.
    :ivar in_row: how long the next ejection will take, in multiples of ``time``; it falls by one for each ``time`` that
        the endpoint was in use.
    """

    settings: EjectionSettings
    failures: int = 0
    until: float | None = None
    trial: object | None = None
    in_row: int = 0
    total: int = 0
    _spared: int = 0  # failures that the last success has wiped out
    _returned: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether enough failures came in a row."""
        return 0 < self.settings.failures <= self.failures

    def is_unwanted(self, now: float) -> bool:
        """Whether its probation has lasted for another ``time`` and nobody is trying it."""
        return self.until is not None and self.trial is None and now >= self.until + self.settings.time

    def admits(self, now: float) -> bool:
        """Whether a connection may begin: in use, or on probation and not being tried."""
        return self.until is None or (now >= self.until and self.trial is None)

    def failed(self) -> None:
        """An attempt failed by the endpoint's fault."""
        self.failures += 1

    def succeeded(self) -> None:
        """A connection was established, or refused by a peer that works."""
        self._spared, self.failures = self.failures, 0

    def lost(self) -> None:
        """The last success was none: the connection broke before a payload byte had moved."""
        self.failures, self._spared = max(self.failures, self._spared) + 1, 0

    def eject(self, now: float) -> float:
        """Leave it alone, longer each time; gives for how many seconds."""
        settings = self.settings
        self._forgive(now)
        # No further than it has an effect, so that what is remembered of a long outage is bounded, too.
        self.in_row = min(self.in_row + 1, math.ceil(settings.max_time / settings.time))
        return self._away(now, min(settings.max_time, settings.time * self.in_row))

    def eject_briefly(self, now: float) -> float:
        """Leave it alone for the shortest time: it said that it is going away, and has not failed."""
        self._forgive(now)
        return self._away(now, self.settings.time)

    def _forgive(self, now: float) -> None:
        if self._returned is not None:
            self.in_row = max(0, self.in_row - int((now - self._returned) / self.settings.time))

    def _away(self, now: float, seconds: float) -> float:
        self.until = now + seconds
        self.trial = self._returned = None
        self.total += 1
        return seconds

    def take_back(self, now: float) -> None:
        """Use it again. Losing the connection that brought it back counts as if the trial had failed."""
        self.until = self.trial = None
        self._returned = now
        self.failures = 0
        self._spared = max(0, self.settings.failures - 1)
