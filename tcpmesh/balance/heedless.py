"""
The part of a load balancer that does not care how attempts end.

Ring 1.
"""

from __future__ import annotations

from tcpmesh.values import AttemptFailure, Endpoint

__all__ = ["Heedless"]


class Heedless:
    """Takes note of nothing."""

    def opened(self, endpoint: Endpoint) -> None:
        """Nothing to learn. (ILoadBalancer)"""

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Nothing to learn. (ILoadBalancer)"""

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Nothing to learn. (ILoadBalancer)"""

    def closed(self, endpoint: Endpoint) -> None:
        """Nothing to learn. (ILoadBalancer)"""
