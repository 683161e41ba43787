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
from tcpmesh.values import Duration, RetryContext, format_duration

__all__ = ["Exponential", "ExponentialFactory", "ExponentialSettings"]


@attrs.frozen
class ExponentialSettings:
    """
    ``attempts`` includes the first. The n-th wait is random between 0 and ``base`` * 2**(n-1), at most ``max``.

    The whole interval ("full jitter") spreads clients that failed together best.
    """

    attempts: int = 3
    base: Duration = Duration(0.05)
    max: Duration = Duration(1.0)


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
        """
        Make the strategy of one service.

        :raises ValueError: for less than one attempt, a base of zero, or a maximum below the base.
        """
        if settings.attempts < 1:
            raise ValueError(f"attempts is {settings.attempts}; it counts the first, so 1 is the least")
        if settings.base <= 0:
            raise ValueError(f"base is {format_duration(settings.base)}; it must be longer than nothing")
        if settings.max < settings.base:
            raise ValueError(
                f"max is {format_duration(settings.max)}, shorter than base, {format_duration(settings.base)}"
            )
        return Exponential(settings, self._random)
