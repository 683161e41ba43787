"""The load balancer ``acme-least-used``: the endpoint that has the fewest connections of this proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import ILoadBalancer, ILoadBalancerFactory, PluginContext
from tcpmesh.values import AttemptFailure, Endpoint


@attrs.frozen
class LeastUsedSettings:
    """No keys."""


@implementer(ILoadBalancer)
class LeastUsed:
    """Counts connections from their dialling to their end; of equals the first in the list."""

    def __init__(self) -> None:
        self._used: Counter[Endpoint] = Counter()

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Choose by connections per weight."""
        candidates = [each for each in endpoints if each not in exclude and each.weight > 0]
        return min(candidates, key=lambda each: self._used[each] / each.weight, default=None)

    def opened(self, endpoint: Endpoint) -> None:
        """One more."""
        self._used[endpoint] += 1

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Counted since it was opened."""

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """One less."""
        self._less(endpoint)

    def closed(self, endpoint: Endpoint) -> None:
        """One less."""
        self._less(endpoint)

    def _less(self, endpoint: Endpoint) -> None:
        self._used[endpoint] -= 1
        if self._used[endpoint] <= 0:
            del self._used[endpoint]  # so that endpoints which came and went leave nothing behind


@implementer(ILoadBalancerFactory)
class LeastUsedFactory:
    """Makes balancers that count connections."""

    name = "acme-least-used"
    description = "the endpoint with the fewest connections of this proxy"
    settings = LeastUsedSettings

    def create(self, settings: LeastUsedSettings, context: PluginContext) -> LeastUsed:
        """Make the balancer of one service."""
        return LeastUsed()
