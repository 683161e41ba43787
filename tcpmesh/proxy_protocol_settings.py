"""
The configuration's mapping ``proxy_protocol`` of an inbound listener.

Ring 0, as ``tcpmesh.settings``, of which it is a part.
"""

from __future__ import annotations

from typing import Literal

import attrs

from tcpmesh.policy.networks import Network, Networks, parse_network, source_number
from tcpmesh.values import Address, Duration, UnixAddress

__all__ = ["ProxyProtocolSettings", "ProxyProtocolVersion", "ProxySource", "ProxySources", "parse_proxy_source"]

ProxyProtocolVersion = Literal["none", "v1", "v2"]


@attrs.frozen
class ProxySource:
    """Who must begin with a header: a network, or (None) whoever comes over a unix socket."""

    network: Network | None

    def __str__(self) -> str:
        return "unix" if self.network is None else str(self.network)


def parse_proxy_source(text: str) -> ProxySource:
    """
    Read a network, as ``10.0.0.0/8``, ``fd00::/8`` or ``192.0.2.1``, or the word ``unix``.

    :raises ValueError: saying what is wrong.
    """
    return ProxySource(None if text == "unix" else parse_network(text))


class ProxySources:
    """Whoever must begin with a header, for one search per connection."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, sources: list[ProxySource]) -> None:
        self._networks = Networks(source.network for source in sources if source.network is not None)
        self._unix = any(source.network is None for source in sources)

    def __contains__(self, peer: Address) -> bool:
        return self._unix if isinstance(peer, UnixAddress) else source_number(peer) in self._networks


@attrs.frozen
class ProxyProtocolSettings:
    """
    ``accept_from``: connections from there begin with a header, and all others do not; ``timeout`` is how long it may
    take. ``send``: what the application is sent before the first byte of payload.
    """

    accept_from: list[ProxySource] = attrs.field(factory=list)
    timeout: Duration = Duration(3.0)
    send: ProxyProtocolVersion = "none"
