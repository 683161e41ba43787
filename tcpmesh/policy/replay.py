"""
Connections of the past as requests of today: from records, whoever wrote them down.

Ring 1. A record does not hold everything that a policy may look at; what is missing is said, not guessed silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from tcpmesh.addresses import Address, TCPAddress, UnixAddress, parse_address, parse_dns_name, shown
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.moments import parse_moment
from tcpmesh.route_settings import InboundRoute
from tcpmesh.route_table import RouteTable, normal_server_name
from tcpmesh.settings import Settings
from tcpmesh.values import UNAUTHENTICATED, AuthorizationRequest, PeerIdentity

__all__ = ["NOWHERE", "Places", "parse_peer", "request_of"]

NOWHERE = UnixAddress("")  # a source that is not known: in no network
_DAY = 86400.0


@attrs.frozen(eq=False)
class Places:
    """What of a configuration says where a connection goes."""

    inbound: Mapping[str, RouteTable[InboundRoute]]  # by inbound listener
    services: Mapping[str, frozenset[str]]  # the SPIFFE IDs of the workloads that outbound listeners lead there

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """As a configuration has them."""
        return cls(
            {
                inbound.name: RouteTable((route.sni, route) for route in inbound.all_routes)
                for inbound in settings.inbound
            },
            {
                name: frozenset(
                    str(settings.identity.workloads[outbound.workload].id)
                    for outbound in settings.outbound
                    if name in outbound.services
                )
                for name in settings.services
            },
        )

    def route(self, listener: str, server_name: str) -> InboundRoute | None:
        """Where a connection to a listener goes that asks for a name; None if nowhere."""
        routes = self.inbound.get(listener)
        return routes.find(server_name) if routes is not None else None

    def port(self, listener: str, server_name: str) -> int:
        """The port of the application there; 0 for a unix socket, and if there is none."""
        route = self.route(listener, server_name)
        return route.target.port if route is not None and isinstance(route.target, TCPAddress) else 0


def parse_peer(text: str, not_before: float, not_after: float, serial: str = "") -> PeerIdentity:
    """
    Read a SPIFFE ID, or a DNS name as ``dns:NAME``, as a verified peer; or ``unauthenticated``.

    :raises ValueError: saying what is wrong.
    """
    if text == str(UNAUTHENTICATED):
        return UNAUTHENTICATED
    if text.startswith("dns:"):
        return PeerIdentity(None, serial, not_before, not_after, parse_dns_name(text[4:]).name)
    return PeerIdentity(SpiffeId.parse(text), serial, not_before, not_after)


def request_of(fields: Mapping[str, Any], places: Places, now: float) -> AuthorizationRequest:
    """
    Turn a record, a live connection or a remembered decision into what a policy was asked, or would be asked today.

    :param fields: by the names of records.
    :param now: what stands for certificate times that are not there, in seconds since the epoch.
    :raises ValueError: when it is no such thing, or about a peer without an identity.
    """
    direction, listener, service = (_text(fields, name) for name in ("direction", "listener", "dst.service"))
    if direction not in ("inbound", "outbound"):
        raise ValueError(f"direction is {shown(direction)}; expected inbound or outbound")
    passed_through = direction == "inbound" and fields.get("passthrough") is True
    identity = str(UNAUTHENTICATED) if passed_through else _text(fields, "src.identity")
    if not identity:
        raise ValueError("it has no src.identity: nobody was verified")
    outbound = direction == "outbound"
    if outbound and not service:
        raise ValueError("it has no dst.service, and is outbound")
    return AuthorizationRequest(
        peer=parse_peer(
            identity,
            _moment(fields, "src.not_before", now),
            _moment(fields, "src.not_after", now + _DAY),
            _text(fields, "src.serial"),
        ),
        source=_source(_text(fields, "src.addr")),
        inbound="" if outbound else listener,
        workload=_text(fields, "workload"),
        sni="" if outbound else normal_server_name(_text(fields, "sni")),
        alpn="" if outbound else _text(fields, "alpn"),
        port=0 if outbound else places.port(listener, _text(fields, "sni")),
        service=service if outbound else "",
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")  # noqa: TRY004  what is wrong is a file, not our own call
    return value


def _moment(fields: Mapping[str, Any], name: str, absent: float) -> float:
    text = _text(fields, name)
    return parse_moment(text) if text else absent


def _source(text: str) -> Address:
    if not text or text == str(NOWHERE):
        return NOWHERE
    return parse_address(text)
