"""
The load balancer ``least-connections``: whoever has the fewest for its weight.

Ring 1. Counted are the connections of this proxy, established ones and those under way; among equals lots are drawn by
weight. Where connections last, this evens out what other rules leave uneven; an endpoint that refuses at once has none,
and attracts all that is new: that is what ejection is for, or ``p2c-ewma``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.balance.loads import Load, Loads
from tcpmesh.balance.recent import Recent
from tcpmesh.interfaces import ILoadBalancer, ILoadBalancerFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.values import Address, AttemptFailure, Endpoint

__all__ = ["LeastConnections", "LeastConnectionsFactory"]

_TRIES = 8  # to draw one of the least loaded, before all are looked at


class _Standing:
    """Connections per weight of one tuple of endpoints; infinite for those that get none."""

    __slots__ = ("_uniform", "endpoints", "loads", "positions")

    def __init__(self, endpoints: Sequence[Endpoint], loads: Loads[Load]) -> None:
        self.endpoints = endpoints
        self.positions: dict[Address, int] = {}
        self.loads: list[float] = []
        for position, endpoint in enumerate(endpoints):
            load = math.inf
            # An address that comes twice is one place to connect to: the first counts.
            if endpoint.weight >= 1 and self.positions.setdefault(endpoint.address, position) == position:
                known = loads.find(endpoint.address)
                load = known.both / endpoint.weight if known is not None else 0.0
            self.loads.append(load)
        self._uniform = len({endpoint.weight for endpoint in endpoints}) == 1

    def note(self, address: Address, load: Load) -> None:
        """Its load is another now."""
        position = self.positions.get(address)
        if position is not None:
            self.loads[position] = load.both / self.endpoints[position].weight

    def least(self, exclude: frozenset[Endpoint], generator: random.Random) -> Endpoint | None:
        """The least loaded one; of several, one by lot."""
        loads = self.loads
        if exclude:
            loads = loads.copy()
            for endpoint in exclude:
                position = self.positions.get(endpoint.address)
                if position is not None and self.endpoints[position] == endpoint:
                    loads[position] = math.inf
        least = min(loads, default=math.inf)
        if least == math.inf:
            return None
        count = len(loads)
        if self._uniform:
            for _ in range(_TRIES):
                position = int(generator.random() * count)
                if loads[position] == least:
                    return self.endpoints[position]
        equals = [endpoint for endpoint, load in zip(self.endpoints, loads, strict=True) if load == least]
        if len(equals) == 1:
            return equals[0]
        return generator.choices(equals, [endpoint.weight for endpoint in equals])[0]


@implementer(ILoadBalancer)
class LeastConnections:
    """
    Picks the endpoint with the fewest connections for its weight; a weight below 1 gets none.

    :param generator: the source of randomness, so that tests own it.
    """

    def __init__(self, generator: random.Random) -> None:
        self._random = generator
        self._loads = Loads(Load)
        self._standings = Recent(self._stand)

    def _stand(self, endpoints: Sequence[Endpoint]) -> _Standing:
        self._loads.sweep(lambda: {address for standing in self._standings for address in standing.positions})
        return _Standing(endpoints, self._loads)

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Choose the least loaded one. (ILoadBalancer)"""
        return self._standings.of(endpoints).least(exclude, self._random)

    def opened(self, endpoint: Endpoint) -> None:
        """Count an attempt. (ILoadBalancer)"""
        load = self._loads.of(endpoint.address)
        load.opened()
        self._note(endpoint, load)

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Count the attempt as a connection. (ILoadBalancer)"""
        load = self._loads.of(endpoint.address)
        load.established()
        self._note(endpoint, load)

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Count the attempt no more. (ILoadBalancer)"""
        load = self._loads.find(endpoint.address)
        if load is not None:
            load.failed()
            self._note(endpoint, load)

    def closed(self, endpoint: Endpoint) -> None:
        """Count the connection no more. (ILoadBalancer)"""
        load = self._loads.find(endpoint.address)
        if load is not None:
            load.closed()
            self._note(endpoint, load)

    def _note(self, endpoint: Endpoint, load: Load) -> None:
        for standing in self._standings:
            standing.note(endpoint.address, load)


@implementer(ILoadBalancerFactory)
class LeastConnectionsFactory:
    """Makes balancers that count connections; each draws from ``generator``."""

    name = "least-connections"
    description = "the endpoint that has the fewest connections for its weight"
    settings = NoSettings

    def __init__(self, generator: random.Random | None = None) -> None:
        self._random = generator or random.Random()  # noqa: S311 - spreads load, guards nothing

    def create(self, settings: NoSettings, context: PluginContext) -> LeastConnections:
        """Make the balancer of one service."""
        return LeastConnections(self._random)
