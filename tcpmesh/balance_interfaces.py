"""
What a load balancer may be able to do beside choosing without a word about who connects.

Ring 0, public, stable like ``tcpmesh.interfaces``. A balancer declares what it provides; nothing here is asked of
others.
"""

from __future__ import annotations

from collections.abc import Sequence

from tcpmesh.interfaces import ILoadBalancer
from tcpmesh.values import Address, Endpoint

__all__ = ["IEstimatingBalancer", "ISourceBalancer"]


class ISourceBalancer(ILoadBalancer):
    """A balancer that looks at where a connection comes from: optional; asked in this way instead of by ``pick``."""

    def pick_for(endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint], source: Address) -> Endpoint | None:
        """
        Choose one of the endpoints that is not excluded, or None, as ``pick`` does.

        :param source: the application's address, as the record has it; without a path for one on a unix socket.
        """


class IEstimatingBalancer(ILoadBalancer):
    """A balancer that estimates how long endpoints take to accept: optional, asked by ``tcpmesh endpoints``."""

    def expected(endpoint: Endpoint) -> float | None:
        """
        How long an attempt at the endpoint is expected to take, in seconds; None when nothing is known of it.

        Changes nothing.
        """
