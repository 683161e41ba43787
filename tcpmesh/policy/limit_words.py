"""
Limits of policies in words: what is let to whom, and who that is.

Ring 1.
"""

from __future__ import annotations

import ipaddress

import attrs

from tcpmesh.limit_interfaces import Limit
from tcpmesh.values import Address, TCPAddress

__all__ = ["Who", "lets", "new_ones", "subject", "terms"]


@attrs.frozen
class Who:
    """What tells connections apart."""

    identity: str
    source: Address
    listener: str


def lets(limit: Limit) -> str:
    """The policy, and to whom it lets something; what follows."""
    return f"policy {limit.policy!r} lets {'each ' + ' and '.join(limit.per) if limit.per else 'all together'} have"


def terms(limit: Limit) -> str:
    """Everything that a limit says, in short."""
    most = [f"{limit.connections} connections"] if limit.connections is not None else []
    most += [new_ones(limit)] if limit.rate is not None else []
    return f"at most {' and '.join(most)} for {'each ' + ' and '.join(limit.per) if limit.per else 'all together'}"


def subject(limit: Limit, who: Who, verb: str, together: str) -> str:
    """The beginning of a sentence about whoever is counted together."""
    parts = []
    for part in limit.per:
        if part == "identity":
            parts.append(who.identity)
        elif part == "listener":
            parts.append(f"listener {who.listener!r}")
        else:
            parts.append(_where(who.source, limit, whole=part == "source"))
    return f"{' with '.join(parts)} {verb}" if parts else together


def _where(source: Address, limit: Limit, *, whole: bool) -> str:
    if not isinstance(source, TCPAddress):
        return "the unix socket"
    address = ipaddress.ip_address(source.host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if whole:
        return str(address)
    bits = limit.ipv4_bits if address.version == 4 else limit.ipv6_bits
    return str(ipaddress.ip_network((address, bits), strict=False))


def new_ones(limit: Limit) -> str:
    """How many new connections a limit lets in a time."""
    assert limit.rate is not None
    for seconds, unit in ((1, "s"), (60, "m"), (3600, "h")):
        count = limit.rate * seconds
        if abs(count - round(count)) < 1e-6 and round(count):
            return f"{round(count)}/{unit} new ones (burst {limit.burst})"
    return f"{limit.rate:g}/s new ones (burst {limit.burst})"
