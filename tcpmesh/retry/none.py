"""
The retry strategy ``none``.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from zope.interface import implementer

from tcpmesh.interfaces import IRetryStrategy, IRetryStrategyFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.values import RetryContext

__all__ = ["NoRetry", "NoRetryFactory"]


@implementer(IRetryStrategy)
class NoRetry:
    """One attempt per connection."""

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """Nothing."""
        return iter(())


@implementer(IRetryStrategyFactory)
class NoRetryFactory:
    """Makes the strategy that never retries."""

    name = "none"
    description = "one attempt, no retry"
    settings = NoSettings

    def create(self, settings: NoSettings, context: PluginContext) -> NoRetry:
        """Make the strategy of one service."""
        return NoRetry()
