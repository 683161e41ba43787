"""
Small values with sensible contents, for tests that care about one field of them.

Public. Every function takes keywords for what the test does care about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.logger import Logger

from tcpmesh.codes import CONNECT_REFUSED, Code
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import PluginContext
from tcpmesh.values import (
    Address,
    AttemptFailure,
    AuthorizationRequest,
    Endpoint,
    PeerIdentity,
    TCPAddress,
    Workload,
)
from tcpmesh.wall_clock import WallClock

__all__ = ["attempt_failure", "authorization_request", "endpoint", "peer_identity", "plugin_context"]

TRUST_DOMAIN = TrustDomain("example.test")


def plugin_context(
    name: str = "under-test",
    *,
    clock: IReactorTime | None = None,
    trust_domain: TrustDomain = TRUST_DOMAIN,
    directory: Path | None = None,
    workloads: Mapping[str, Workload] | None = None,
    inbound: Mapping[str, Address] | None = None,
    services: Sequence[str] = (),
    wall_clock: WallClock = lambda: 0.0,
) -> PluginContext:
    """What the proxy lends to a plugin; its clock stands still unless the test passes one and advances it."""
    return PluginContext(
        name=name,
        trust_domain=trust_domain,
        clock=Clock() if clock is None else clock,
        log=Logger(namespace=f"tcpmesh.testing.{name}"),
        directory=Path.cwd() if directory is None else directory,
        workloads={} if workloads is None else workloads,
        inbound={} if inbound is None else inbound,
        inbound_ports={n: (a.port,) for n, a in (inbound or {}).items() if isinstance(a, TCPAddress)},
        services=services,
        wall_clock=wall_clock,
    )


def endpoint(port: int = 4143, *, host: str = "127.0.0.1", weight: int = 1) -> Endpoint:
    """An endpoint; different ports are different endpoints."""
    return Endpoint(TCPAddress(host, port), weight)


def attempt_failure(
    where: Endpoint | None = None, *, code: Code = CONNECT_REFUSED, reason: str = "refused", duration: float = 0.001
) -> AttemptFailure:
    """A failed attempt."""
    return AttemptFailure(code, reason, where, duration)


def peer_identity(spiffe_id: str | None = "spiffe://example.test/web", *, dns_name: str = "") -> PeerIdentity:
    """A verified peer whose certificate is valid from 1970 for a hundred years."""
    parsed = None if spiffe_id is None else SpiffeId.parse(spiffe_id)
    return PeerIdentity(parsed, serial="01", not_before=0.0, not_after=3.2e9, dns_name=dns_name)


def authorization_request(
    peer: PeerIdentity | str = "spiffe://example.test/web",
    *,
    inbound: str = "orders-in",
    workload: str = "orders",
    source: Address | None = None,
    port: int = 5000,
    service: str = "",
) -> AuthorizationRequest:
    """A peer, or the holder of a SPIFFE ID, that asks for an inbound listener; or a workload, for a service."""
    identity = peer_identity(peer) if isinstance(peer, str) else peer
    came_from = source or TCPAddress("192.0.2.1", 40000)
    if service:
        return AuthorizationRequest(identity, came_from, "", workload, service=service)
    return AuthorizationRequest(identity, came_from, inbound, workload, port=port)
