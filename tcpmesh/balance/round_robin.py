"""
The load balancer ``round-robin``: smooth and weighted.

Ring 1. The rule is that of nginx's upstream round robin: in each turn every endpoint gains its weight, the richest
is chosen and pays the sum of all weights. With weights 5, 1, 1 that gives a a b a c a a, not a a a a a b c.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.interfaces import ILoadBalancer, ILoadBalancerFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.values import AttemptFailure, Endpoint

__all__ = ["RoundRobin", "RoundRobinFactory"]


@implementer(ILoadBalancer)
class RoundRobin:
    """Gives each endpoint its share, as evenly in time as whole connections allow; a weight below 1 gets none."""

    def __init__(self) -> None:
        self._credit: dict[Endpoint, int] = {}
        self._seen: Sequence[Endpoint] = ()

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Choose the one whose turn it is."""
        if endpoints is not self._seen:
            present = set(endpoints)
            self._credit = {endpoint: credit for endpoint, credit in self._credit.items() if endpoint in present}
            self._seen = endpoints
        credit = self._credit
        chosen: Endpoint | None = None
        total = 0
        for endpoint in endpoints:
            if endpoint.weight < 1 or endpoint in exclude:
                continue
            total += endpoint.weight
            credit[endpoint] = credit.get(endpoint, 0) + endpoint.weight
            if chosen is None or credit[endpoint] > credit[chosen]:
                chosen = endpoint
        if chosen is not None:
            credit[chosen] -= total
        return chosen

    def opened(self, endpoint: Endpoint) -> None:
        """Nothing to learn."""

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Nothing to learn."""

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Nothing to learn."""

    def closed(self, endpoint: Endpoint) -> None:
        """Nothing to learn."""


@implementer(ILoadBalancerFactory)
class RoundRobinFactory:
    """Makes round-robin balancers."""

    name = "round-robin"
    description = "one endpoint after the other, by weight"
    settings = NoSettings

    def create(self, settings: NoSettings, context: PluginContext) -> RoundRobin:
        """Make the balancer of one service."""
        return RoundRobin()
