"""
The retry strategy ``fixed``: so many attempts, with the same wait between any two.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import IRetryStrategy, IRetryStrategyFactory, PluginContext
from tcpmesh.retry.bounds import check_attempts, check_longest
from tcpmesh.values import Duration, RetryContext

__all__ = ["Fixed", "FixedFactory", "FixedSettings"]


def _check_wait(_instance: object, _attribute: object, value: float) -> None:
    check_longest("wait", value)


@attrs.frozen
class FixedSettings:
    """``attempts`` includes the first; ``wait`` is what lies between a failure and the next attempt."""

    attempts: int = attrs.field(default=3, validator=check_attempts)
    wait: Duration = attrs.field(default=Duration(0.1), validator=_check_wait)


@implementer(IRetryStrategy)
class Fixed:
    """
    Retries after the same wait each time.

    Clients that failed together come again together: ``exponential`` spreads them. This one is for where the time that
    passes must be known.
    """

    def __init__(self, settings: FixedSettings) -> None:
        self._settings = settings

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """One wait less than there are attempts."""
        return repeat(self._settings.wait, self._settings.attempts - 1)


@implementer(IRetryStrategyFactory)
class FixedFactory:
    """Makes fixed strategies."""

    name = "fixed"
    description = "the same wait between any two attempts"
    settings = FixedSettings

    def create(self, settings: FixedSettings, context: PluginContext) -> Fixed:
        """Make the strategy of one service."""
        return Fixed(settings)
