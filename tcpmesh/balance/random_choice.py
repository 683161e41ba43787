"""
The load balancer ``random``: by lot, weighted.

Ring 1. Nothing to keep, nothing that many proxies could do in step; with few connections the shares are uneven.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.balance.draws import Draws
from tcpmesh.balance.heedless import Heedless
from tcpmesh.balance.recent import Recent
from tcpmesh.interfaces import ILoadBalancer, ILoadBalancerFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.values import Endpoint

__all__ = ["RandomChoice", "RandomChoiceFactory"]


@implementer(ILoadBalancer)
class RandomChoice(Heedless):
    """
    Draws an endpoint for each attempt; a weight below 1 gets none.

    :param generator: the source of randomness, so that tests own it.
    """

    def __init__(self, generator: random.Random) -> None:
        self._random = generator
        self._draws = Recent(Draws)

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Draw one. (ILoadBalancer)"""
        draws = self._draws.of(endpoints)
        position = draws.draw(self._random, exclude)
        return None if position is None else draws.endpoints[position]


@implementer(ILoadBalancerFactory)
class RandomChoiceFactory:
    """Makes random balancers; each draws from ``generator``."""

    name = "random"
    description = "any endpoint by lot, by weight"
    settings = NoSettings

    def __init__(self, generator: random.Random | None = None) -> None:
        self._random = generator or random.Random()  # noqa: S311 - spreads load, guards nothing

    def create(self, settings: NoSettings, context: PluginContext) -> RandomChoice:
        """Make the balancer of one service."""
        return RandomChoice(self._random)
