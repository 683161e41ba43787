"""The load balancer ``last-good``: every connection to one endpoint, the one that accepted last."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import ILoadBalancer, ILoadBalancerFactory, PluginContext
from tcpmesh.values import AttemptFailure, Endpoint


@attrs.frozen
class LastGoodSettings:
    """No keys."""


@implementer(ILoadBalancer)
class LastGood:
    """
    Stays where it was good: for a cache that is warm, or a primary of which there is one.

    When it fails there, the next one in discovery's order is tried, and becomes the good one if it accepts.
    """

    def __init__(self) -> None:
        self._good: Endpoint | None = None

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Choose the last good one; else the next behind it that may be tried."""
        # What is not in the list any more counts for nothing; a new list begins at its first.
        start = endpoints.index(self._good) if self._good in endpoints else 0
        for endpoint in (*endpoints[start:], *endpoints[:start]):
            if endpoint not in exclude and endpoint.weight > 0:
                return endpoint
        return None

    def opened(self, endpoint: Endpoint) -> None:
        """Trying says nothing yet."""

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """It accepted: stay there."""
        self._good = endpoint

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Other connections learn from who accepts next; this one has it excluded."""

    def closed(self, endpoint: Endpoint) -> None:
        """Every connection ends one day."""


@implementer(ILoadBalancerFactory)
class LastGoodFactory:
    """Makes balancers that stay."""

    name = "last-good"
    description = "the endpoint that accepted last, until it fails"
    settings = LastGoodSettings

    def create(self, settings: LastGoodSettings, context: PluginContext) -> LastGood:
        """Make the balancer of one service."""
        return LastGood()
