"""
What an endpoint may be, whoever says so: the configuration, a file, a name server or somebody's plugin.

Ring 1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from tcpmesh.addresses import DNSName, KeyPin, shown
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.values import Address, Endpoint, ExpectedIdentity, TCPAddress, UnixAddress

__all__ = [
    "MAX_ENDPOINTS",
    "MAX_EXPECTED",
    "MAX_METADATA",
    "MAX_NUMBER",
    "complaint",
    "expectation_complaint",
    "metadata_complaint",
    "number_complaint",
    "other_kind",
    "undialable",
    "zone_complaint",
]

MAX_ENDPOINTS = 10_000  # of one service
MAX_NUMBER = 65535  # weights and priorities: RFC 2782 has 16 bits for each
MAX_EXPECTED = 16  # identities of one endpoint
MAX_METADATA = 16  # pairs of one endpoint
_MAX_ZONE = 63
_KINDS = {SpiffeId: "SPIFFE IDs", DNSName: "dns: names", KeyPin: "spki: pins"}
_MAX_KEY, _MAX_VALUE = 63, 255  # characters


def complaint(endpoint: object) -> str:
    """Why this, which a plugin delivered, cannot be used as an endpoint; empty when it can. Never raises."""
    if not isinstance(endpoint, Endpoint):
        return f"it is no Endpoint but of type {shown(type(endpoint).__name__)}"
    try:
        hash(endpoint)
        return (
            undialable(endpoint.address)
            or number_complaint("weight", endpoint.weight)
            or number_complaint("priority", endpoint.priority)
            or zone_complaint(endpoint.zone)
            or expectation_complaint(endpoint.expect)
            or metadata_complaint(endpoint.metadata)
        )
    except Exception as error:  # noqa: BLE001  a field of another type than it says
        return f"its fields are not what they should be: {type(error).__name__}"


def undialable(address: Address) -> str:
    """Why nobody can connect to the address; empty when one can try."""
    if isinstance(address, UnixAddress):
        return ""
    if not isinstance(address, TCPAddress):
        return f"its address is no address but of type {shown(type(address).__name__)}"
    if not 1 <= address.port <= 65535:
        return f"{address} has port {address.port}, which nobody can connect to"
    try:
        host = ipaddress.ip_address(address.host)
    except ValueError:
        return f"{shown(address.host)} is not an IP address; the discovery plugin 'dns' resolves names"
    if host.is_unspecified or (host.version == 4 and int(host) >> 24 == 0):
        return f"{address} is an address to listen on, and none to connect to"
    if host.is_multicast:
        return f"{address} is a multicast address, and TCP has one receiver"
    if host.version == 4 and int(host) >> 28 == 0xF:  # 240.0.0.0/4, with the broadcast address
        return f"{address} is a reserved address, at which nobody answers"
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
        return f"{address} is an IPv4 address in IPv6 form; one address has one form here"
    return ""


def number_complaint(name: str, value: object) -> str:
    """Why this cannot be a weight or a priority; empty when it can."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER:
        return ""
    return f"a {name} is a whole number from 0 to {MAX_NUMBER}, not {shown(repr(value))}"


def zone_complaint(zone: str) -> str:
    """Why this cannot be the name of a zone; empty when it can, and for no name."""
    if not isinstance(zone, str) or len(zone) > _MAX_ZONE:
        return f"the name of a zone has at most {_MAX_ZONE} characters"
    if any(character.isspace() or not character.isprintable() for character in zone):
        return f"{shown(zone)} is not the name of a zone: it has a space or a character that is not printable"
    return ""


def expectation_complaint(expect: Sequence[ExpectedIdentity]) -> str:
    """Why these cannot be the identities that may answer; empty when they can, and for none."""
    if not isinstance(expect, tuple) or not all(isinstance(identity, ExpectedIdentity) for identity in expect):
        return "the identities that it expects are no tuple of identities"
    if len(expect) > MAX_EXPECTED:
        return f"{len(expect)} identities may answer; at most {MAX_EXPECTED} are read for one endpoint"
    if len({type(identity) for identity in expect}) > 1:
        return "SPIFFE IDs, dns: names and spki: pins are mixed; each kind is verified in another way"
    for identity in expect:
        if isinstance(identity, SpiffeId) and not identity.path:
            return f"{identity} names a whole trust domain, which no peer's certificate does"
    return ""


def other_kind(expect: Sequence[ExpectedIdentity], service: Sequence[ExpectedIdentity]) -> str:
    """
    Why an endpoint of a service that expects ``service`` cannot expect ``expect``; empty when it can.

    ``trust`` and ``sni`` are the service's, so that one kind of identity beside another would be verified in a way that
    nobody has chosen.
    """
    kinds = {type(identity) for identity in service}
    if not expect or not kinds or {type(identity) for identity in expect} <= kinds:
        return ""
    own = " and ".join(sorted(_KINDS[kind] for kind in kinds))
    return f"{expect[0]} is of another kind than the service's own, which are {own}; make it a service of its own"


def metadata_complaint(metadata: Iterable[tuple[str, str]]) -> str:
    """Why these pairs cannot be kept; empty when they can."""
    pairs = tuple(metadata)
    if len(pairs) > MAX_METADATA:
        return f"{len(pairs)} pairs of metadata; at most {MAX_METADATA} are kept of one endpoint"
    for key, value in pairs:
        if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY:
            return f"a key of metadata has 1 to {_MAX_KEY} characters, {shown(str(key))} has not"
        if not isinstance(value, str) or len(value) > _MAX_VALUE:
            return f"a value of metadata has at most {_MAX_VALUE} characters, that of {shown(key)} has not"
    if len({key for key, _ in pairs}) < len(pairs):
        return "a key of metadata is given twice"
    return ""
