"""
What a load balancer may be able to do beside choosing without a word about who connects.

Ring 0, public, stable like ``tcpmesh.interfaces``. A balancer declares what it provides; nothing here is asked of
others.
"""

from __future__ import annotations

from collections.abc import Sequence

from tcpmesh.interfaces import ILoadBalancer
from tcpmesh.values import Address, AttemptFailure, Endpoint

__all__ = ["IEstimatingBalancer", "ILossBalancer", "ISourceBalancer"]


class ISourceBalancer(ILoadBalancer):
    """A balancer that looks at where a connection comes from: optional; asked in this way instead of by ``pick``."""

    def pick_for(endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint], source: Address) -> Endpoint | None:
        """
        Choose one of the endpoints that is not excluded, or None, as ``pick`` does.

        :param source: the application's address, as the record has it; without a path for one on a unix socket.
        """


class ILossBalancer(ILoadBalancer):
    """A balancer that takes note of endpoints that accept a connection and break it before any payload: optional."""

    def lost(endpoint: Endpoint, failure: AttemptFailure) -> None:
        """
        A connection that was ``established`` broke before any payload byte had moved; ``closed`` follows.

        Of servers that send no preface, for which being established says little: the one behind them may be down.
        """


class IEstimatingBalancer(ILoadBalancer):
    """A balancer that estimates how long endpoints take to accept: optional, asked by ``tcpmesh endpoints``."""

    def expected(endpoint: Endpoint) -> float | None:
        """
        How long an attempt at the endpoint is expected to take, in seconds; None when nothing is known of it.

        Changes nothing.
        """
