"""
The TLS side of a connection to an endpoint, the same for payload and for checks: our identity, who may answer, ALPN.

Ring 3.
"""

from __future__ import annotations

from typing import Protocol

from tcpmesh.dataplane.contexts import own_svid, trust_for
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.plane import DataPlane
from tcpmesh.settings import ServiceSettings
from tcpmesh.values import Endpoint, ExpectedIdentity

__all__ = ["SecuredService", "upstream_core"]


class SecuredService(Protocol):
    """The part of a service that says how its endpoints are secured."""

    @property
    def settings(self) -> ServiceSettings:
        """As configured."""
        ...

    def expected(self, endpoint: Endpoint) -> tuple[ExpectedIdentity, ...]:
        """Who must answer at the endpoint."""
        ...

    def sni(self, endpoint: Endpoint) -> str:
        """The server name to ask for."""
        ...


def upstream_core(
    service: SecuredService, endpoint: Endpoint, workload: str, plane: DataPlane, state: MeshState, alpn: bytes
) -> TLSCore:
    """
    Make a connection that has not begun.

    :param alpn: what to offer, unless the service's ``preface`` is never.
    :raises Refusal: when this proxy has no identity to show.
    """
    settings = service.settings
    expected = service.expected(endpoint)
    own = own_svid(state, workload)
    trust = trust_for(settings, expected, own.id.trust_domain)
    context = plane.contexts.client(state, workload, settings.tls, trust)
    voucher = trust if isinstance(trust, TrustDomain) else None
    return TLSCore(
        context,
        PeerVerification(state.bundles, expected, plane.wall_clock, voucher, plane.known_chains, state.deny_list),
        server=False,
        sni=service.sni(endpoint),
        alpn=(alpn,) if settings.preface == "auto" else (),
    )
