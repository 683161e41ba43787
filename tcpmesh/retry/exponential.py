"""
The retry strategy ``exponential``: waits that double, each shortened at random.

Ring 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import IRetryStrategy, IRetryStrategyFactory, PluginContext
from tcpmesh.retry.bounds import check_attempts, check_longest
from tcpmesh.values import Duration, RetryContext, format_duration

__all__ = ["Exponential", "ExponentialFactory", "ExponentialSettings"]


def _check_base(_instance: object, _attribute: object, value: float) -> None:
    if value <= 0:
        raise ValueError(f"a base of {format_duration(value)} never grows; it must be longer than nothing")


def _check_max(instance: ExponentialSettings, _attribute: object, value: float) -> None:
    if value < instance.base:
        raise ValueError(f"a max of {format_duration(value)} is shorter than base, {format_duration(instance.base)}")
    check_longest("max", value)


@attrs.frozen
class ExponentialSettings:
    """
    ``attempts`` includes the first. The n-th wait is random between 0 and ``base`` * 2**(n-1), at most ``max``.

    The whole interval ("full jitter") spreads clients that failed together best.
    """

    attempts: int = attrs.field(default=3, validator=check_attempts)
    base: Duration = attrs.field(default=Duration(0.05), validator=_check_base)
    max: Duration = attrs.field(default=Duration(1.0), validator=_check_max)


@implementer(IRetryStrategy)
class Exponential:
    """
    Retries with exponentially growing, fully jittered waits.

    :param generator: the source of randomness, so that tests own it.
    """

    def __init__(self, settings: ExponentialSettings, generator: random.Random) -> None:
        self._settings = settings
        self._random = generator

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """One wait less than there are attempts."""
        ceiling: float = self._settings.base
        for _ in range(self._settings.attempts - 1):
            yield self._random.uniform(0.0, min(ceiling, self._settings.max))
            ceiling = min(2 * ceiling, self._settings.max)


@implementer(IRetryStrategyFactory)
class ExponentialFactory:
    """Makes exponential strategies; each draws from ``generator``."""

    name = "exponential"
    description = "exponentially growing waits with full jitter"
    settings = ExponentialSettings

    def __init__(self, generator: random.Random | None = None) -> None:
        self._random = generator or random.Random()  # noqa: S311 - spreads load, guards nothing

    def create(self, settings: ExponentialSettings, context: PluginContext) -> Exponential:
        """Make the strategy of one service."""
        return Exponential(settings, self._random)
