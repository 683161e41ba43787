"""
What policies are asked about a connection, made of what its record and its legs know.

Ring 3.
"""

from __future__ import annotations

from tcpmesh.identity.certificates import not_after, not_before, serial_text
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.route_table import normal_server_name
from tcpmesh.values import Address, AuthorizationRequest, PeerIdentity, Svid, TCPAddress

__all__ = ["inbound_request", "outbound_request"]


def inbound_request(
    record: ConnectionRecord, peer: PeerIdentity, source: Address, target: Address
) -> AuthorizationRequest:
    """A verified peer asks for a listener."""
    return AuthorizationRequest(
        peer=peer,
        source=source,
        inbound=record.listener,
        workload=record.workload,
        sni=normal_server_name(record.sni),  # as routes compare it: else its spelling could evade a policy
        alpn=record.alpn,
        port=target.port if isinstance(target, TCPAddress) else 0,
    )


def outbound_request(record: ConnectionRecord, own: Svid, source: Address) -> AuthorizationRequest:
    """The own workload asks for a service, for a local program at this address."""
    leaf = own.leaf
    peer = PeerIdentity(own.id, serial_text(leaf), not_before(leaf), not_after(leaf))
    return AuthorizationRequest(peer, source, "", record.workload, service=record.dst_service)
