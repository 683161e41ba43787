"""
What this proxy itself listens on: what collides, and what would come back to it.

Ring 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import attrs

from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Mark, Problem
from tcpmesh.port_ranges import ListenAddress, addresses_of
from tcpmesh.settings import AdminSettings, InboundSettings, OutboundSettings
from tcpmesh.values import Address, TCPAddress, UnixAddress

__all__ = ["Listener", "check_overlaps", "own_listeners"]


@attrs.frozen
class Listener:
    """Something of ours that listens, of a range one port of it; ``place`` is that of the address."""

    place: Place
    address: Address
    mark: Mark

    def accepts(self, target: Address) -> bool:
        """Whether a connection to the target certainly arrives here."""
        own = self.address
        if isinstance(own, UnixAddress) or isinstance(target, UnixAddress):
            return own == target
        if own.port != target.port:
            return False
        return own.host == target.host or (target.is_loopback and _covers(own, target))

    def __str__(self) -> str:
        return f"{self.place} ({self.address}, line {self.mark.line})"


def _covers(wildcard: TCPAddress, other: TCPAddress) -> bool:
    """Linux's [::] takes IPv4 too."""
    return wildcard.is_wildcard and (":" in wildcard.host or ":" not in other.host)


def own_listeners(read: SettingsReader) -> list[Listener]:
    """Every address that this proxy is to listen on, in the order of the file; of a range every port."""
    found: list[tuple[Place, ListenAddress | None]] = []
    found += [(place.key("listen"), outbound.listen) for place, outbound in read.of(OutboundSettings)]
    found += [(place.key("listen"), inbound.listen) for place, inbound in read.of(InboundSettings)]
    for place, admin in read.of(AdminSettings):
        found += [(place.key("listen"), admin.listen), (place.key("metrics"), admin.metrics)]
    ours = [
        Listener(place, address, read.marks[place.path])
        for place, listen in found
        if listen is not None
        for address in addresses_of(listen)
    ]
    return sorted(ours, key=lambda listener: (listener.mark.line, listener.mark.column))


def check_overlaps(listeners: list[Listener]) -> Iterator[Problem]:
    """
    Refuse two listeners on one address; port 0 asks the kernel for a free one and may repeat.

    Of two ranges the first address that both have is enough.
    """
    told: set[tuple[Place, Place]] = set()
    taken: dict[Address, Listener] = {}
    wildcards: dict[int, list[tuple[TCPAddress, Listener]]] = defaultdict(list)
    for listener in listeners:
        if isinstance(listener.address, TCPAddress) and listener.address.is_wildcard:
            wildcards[listener.address.port].append((listener.address, listener))
    for listener in listeners:
        address = listener.address
        if isinstance(address, TCPAddress) and address.port == 0:
            continue
        other = taken.setdefault(address, listener)
        if other is listener and isinstance(address, TCPAddress):
            covering = (
                own for wildcard, own in wildcards[address.port] if wildcard != address and _covers(wildcard, address)
            )
            other = next(covering, listener)
        if other is not listener and (listener.place, other.place) not in told:
            told.add((listener.place, other.place))
            yield Problem(f"{listener.place}: {address} is taken already by {other}", listener.mark)
