"""The retry strategy ``by-code``: what the failures were says whether another attempt is worth its while, and when."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import IRetryStrategy, IRetryStrategyFactory, PluginContext
from tcpmesh.values import AttemptFailure, Duration, RetryContext

# The families of docs/codes.md: what a code begins with says what kind of failure it was.
SILENT = "TM-T"  # a time ran out
FULL = "TM-L"  # somebody has no room


def _check_attempts(_instance: object, _attribute: object, value: int) -> None:
    if not 1 <= value <= 10:
        raise ValueError(f"{value} attempts are not between 1 and 10")


def _check_not_negative(_instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} is less than nothing")


@attrs.frozen
class ByCodeSettings:
    """
    ``attempts`` includes the first; ``silent`` is how many of them may run out of time before it gives up.

    ``wait`` is what it waits where somebody has no room, twice as long each time; all else is retried at once.
    """

    attempts: int = attrs.field(default=4, validator=_check_attempts)
    silent: int = attrs.field(default=1, validator=_check_not_negative)
    wait: Duration = attrs.field(default=Duration(0.05), validator=_check_not_negative)


@implementer(IRetryStrategy)
class ByCode:
    """Looks at the failures of its connection."""

    def __init__(self, settings: ByCodeSettings) -> None:
        self._settings = settings

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """
        One more while there is hope.

        tcpmesh has appended the newest failure before it asks, and asks only about failures that another endpoint may
        not have: what is retryable at all is not for a strategy to say.
        """
        for _ in range(self._settings.attempts - 1):
            if _count(context.failures, SILENT) > self._settings.silent:
                return
            full = _count(context.failures, FULL)
            newest_is_full = context.failures[-1].code.id.startswith(FULL)
            yield self._settings.wait * 2 ** (full - 1) if newest_is_full else 0.0


def _count(failures: list[AttemptFailure], family: str) -> int:
    return sum(failure.code.id.startswith(family) for failure in failures)


@implementer(IRetryStrategyFactory)
class ByCodeFactory:
    """Makes strategies that look at codes."""

    name = "by-code"
    description = "waits, or gives up, by what the failures were"
    settings = ByCodeSettings

    def create(self, settings: ByCodeSettings, context: PluginContext) -> ByCode:
        """Make the strategy of one service."""
        return ByCode(settings)
