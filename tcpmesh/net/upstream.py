"""
A service as the data path sees it: its settings, the pool of its endpoints, its retries, and who must answer.

Ring 3.
"""

from __future__ import annotations

from typing import Any

import attrs

from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.interfaces import ILoadBalancer, IRetryStrategy
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.arms_length import GuardedBalancer, GuardedRetry
from tcpmesh.net.pool import Pool
from tcpmesh.net.retrying import Retries
from tcpmesh.net.service_positions import ServicePositions
from tcpmesh.settings import ServiceSettings
from tcpmesh.values import DNSName, Endpoint, ExpectedIdentity

__all__ = ["Upstream", "make_upstream"]


@attrs.frozen(eq=False)
class Upstream:
    """One service; ``positions`` where a listener of it has a port for each endpoint."""

    name: str
    settings: ServiceSettings
    pool: Pool
    retries: Retries
    positions: ServicePositions | None = None

    def expected(self, endpoint: Endpoint) -> tuple[ExpectedIdentity, ...]:
        """Who must answer at the endpoint."""
        return endpoint.expect or tuple(self.settings.expect)

    def drains(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint keeps its connections and gets no new ones: weight 0, and no port leads to it alone."""
        return endpoint.weight < 1 and self.positions is None

    def sni(self, endpoint: Endpoint) -> str:
        """The server name to ask for: as configured, else the DNS name that is expected; none for SPIFFE peers."""
        if self.settings.sni is not None:
            return self.settings.sni
        first = next(iter(self.expected(endpoint)), None)
        return first.name if isinstance(first, DNSName) else ""

    def stop(self) -> None:
        """Nobody waits for this service from now on: neither for room, nor for another attempt."""
        self.pool.stop()
        self.retries.stop()


def make_upstream(
    name: str,
    settings: ServiceSettings,
    balancer: ILoadBalancer,
    retry: IRetryStrategy,
    cell: MeshStateCell,
    clock: Any,
    *,
    health: ServiceHealth,
    positions: ServicePositions | None = None,
    zone: str | None = None,
) -> Upstream:
    """
    Put one service together.

    :param cell: whose endpoints are used.
    :param zone: where this proxy is.
    """
    guarded = GuardedBalancer(name, settings.balance.plugin, balancer)
    pool = Pool(name, settings, guarded, health, cell, clock, zone, positions)
    retries = Retries(GuardedRetry(name, settings.retry.plugin, retry), settings, pool.counts)
    return Upstream(name, settings, pool, retries, positions)
