"""
What is known of the health of one endpoint, and what follows from it.

Ring 1, pure: ``now`` is the reactor's clock in seconds.
"""

from __future__ import annotations

import attrs

from tcpmesh.health.ejection import Ejection
from tcpmesh.health.rise_fall import RiseFall
from tcpmesh.health.slow_start import slow_share
from tcpmesh.health.states import CheckResult, EndpointState, EndpointWord, Trouble
from tcpmesh.upstream_settings import HealthSettings
from tcpmesh.values import Address, format_duration

__all__ = ["EndpointHealth"]


def _rise_fall(settings: HealthSettings) -> RiseFall:
    check = settings.check
    return RiseFall(check.rise, check.fall) if check is not None else RiseFall(1, 1)


@attrs.define(eq=False)
class EndpointHealth:
    """
    One endpoint.

    :ivar slow_since: since when it gets more and more; None when it gets its whole share, or nothing.
    """

    settings: HealthSettings
    ejection: Ejection = attrs.field(
        init=False, default=attrs.Factory(lambda self: Ejection(self.settings.ejection), takes_self=True)
    )
    checks: RiseFall = attrs.field(
        init=False, default=attrs.Factory(lambda self: _rise_fall(self.settings), takes_self=True)
    )
    slow_since: float | None = None
    trouble: Trouble | None = None
    check: CheckResult | None = None

    @property
    def is_limited(self) -> bool:
        """Whether it gets less than its share."""
        return not self.checks.up or self.ejection.until is not None or self.slow_since is not None

    def begin_slowly(self, now: float) -> None:
        """It is new, or was away: it gets more and more, if that is wanted."""
        wanted = self.settings.slow_start and self.checks.up and self.ejection.until is None
        self.slow_since = now if wanted else None

    def admits(self, now: float) -> bool:
        """Whether an attempt at it may begin."""
        return self.checks.up and self.ejection.admits(now)

    def share(self, now: float) -> float:
        """How much of its usual share it is to get, if it is admitted; the slow start is over once it gets all."""
        if self.slow_since is None:
            return 1.0
        share = slow_share(self.slow_since, self.settings.slow_start or 0.0, now)
        if share >= 1.0:
            self.slow_since = None
        return share

    def why(self, now: float) -> str:
        """Why it is not admitted; empty when it is."""
        if not self.checks.up:
            check = self.check.trouble if self.check is not None else None
            return f"down by its checks: {check}" if check is not None else "down by its checks"
        ejection = self.ejection
        if ejection.admits(now) or ejection.until is None:
            return ""
        if now < ejection.until:
            state = f"ejected for another {format_duration(round(ejection.until - now, 1))}"
        else:
            state = "on probation, and another connection is trying it"
        return f"{state}: {self.trouble}" if self.trouble is not None else state

    def state(self, address: Address, now: float) -> EndpointState:
        """For display."""
        word: EndpointWord = "up"
        until, share, ejection = None, 1.0, self.ejection
        if not self.checks.up:
            word, share = "down", 0.0
        elif ejection.until is not None and now < ejection.until:
            word, until, share = "ejected", ejection.until, 0.0
        elif ejection.until is not None:
            word = "probation"
        elif self.slow_since is not None:
            duration = self.settings.slow_start or 0.0
            share = slow_share(self.slow_since, duration, now)
            if share < 1.0:
                word, until = "slow-start", self.slow_since + duration
        return EndpointState(address, word, until, ejection.failures, ejection.total, share, self.trouble, self.check)
