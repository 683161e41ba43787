"""
The load balancer ``round-robin``: smooth and weighted.

Ring 1. The rule is that of nginx's upstream round robin: in each turn every endpoint gains its weight, the richest
is chosen and pays the sum of all weights. With weights 5, 1, 1 that gives a a b a c a a, not a a a a a b c. Where all
weights are equal that is one after the other, which needs no sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.balance.heedless import Heedless
from tcpmesh.balance.recent import Recent
from tcpmesh.interfaces import ILoadBalancer, ILoadBalancerFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.values import Address, Endpoint

__all__ = ["RoundRobin", "RoundRobinFactory"]


class _Turns:
    """Whose turn it is, of one tuple of endpoints."""

    __slots__ = ("_credit", "_is_uniform", "_next", "endpoints", "weights")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoint for endpoint in endpoints if endpoint.weight >= 1)
        self.weights = [endpoint.weight for endpoint in self.endpoints]
        self._is_uniform = len(set(self.weights)) == 1
        self._credit = [0] * len(self.endpoints)
        self._next = 0

    def follow(self, before: _Turns, last: Address | None) -> None:
        """Take over from those that were asked before: what endpoints are owed there, and who was last."""
        if not self._is_uniform:
            owed = {endpoint.address: credit for endpoint, credit in zip(before.endpoints, before._credit, strict=True)}
            self._credit = [
                owed.get(endpoint.address, credit)
                for endpoint, credit in zip(self.endpoints, self._credit, strict=True)
            ]
            return
        for position, endpoint in enumerate(self.endpoints):
            if endpoint.address == last:
                self._next = position + 1
                return

    def take(self, exclude: frozenset[Endpoint]) -> Endpoint | None:
        """The one whose turn it is."""
        return self._following(exclude) if self._is_uniform else self._richest(exclude)

    def _following(self, exclude: frozenset[Endpoint]) -> Endpoint | None:
        count = len(self.endpoints)
        for position in range(self._next, self._next + count):
            endpoint = self.endpoints[position % count]
            if not exclude or endpoint not in exclude:
                self._next = (position + 1) % count
                return endpoint
        return None

    def _richest(self, exclude: frozenset[Endpoint]) -> Endpoint | None:
        credit = self._credit
        chosen, most, total = -1, 0, 0
        for position, weight in enumerate(self.weights):
            if exclude and self.endpoints[position] in exclude:
                continue
            total += weight
            has = credit[position] = credit[position] + weight
            if chosen < 0 or has > most:
                chosen, most = position, has
        if chosen < 0:
            return None
        credit[chosen] -= total
        return self.endpoints[chosen]


@implementer(ILoadBalancer)
class RoundRobin(Heedless):
    """Gives each endpoint its share, as evenly in time as whole connections allow; a weight below 1 gets none."""

    def __init__(self) -> None:
        self._turns = Recent(_Turns)
        self._before: _Turns | None = None
        self._last: Address | None = None

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Choose the one whose turn it is. (ILoadBalancer)"""
        turns = self._turns.of(endpoints)
        if turns is not self._before:
            if self._before is not None:
                turns.follow(self._before, self._last)
            self._before = turns
        chosen = turns.take(exclude)
        if chosen is not None:
            self._last = chosen.address
        return chosen


@implementer(ILoadBalancerFactory)
class RoundRobinFactory:
    """Makes round-robin balancers."""

    name = "round-robin"
    description = "one endpoint after the other, by weight"
    settings = NoSettings

    def create(self, settings: NoSettings, context: PluginContext) -> RoundRobin:
        """Make the balancer of one service."""
        return RoundRobin()
