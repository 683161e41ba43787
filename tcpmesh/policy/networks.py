"""
Where a peer comes from: networks, and which of many an address is in.

Ring 0. An IPv4 address in IPv6 form (``::ffff:192.0.2.1``, RFC 4291 section 2.5.5.2) is the IPv4 address: a socket that
listens on both families reports IPv4 peers so. Unix sockets are in no network.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

import attrs

from tcpmesh.addresses import shown
from tcpmesh.values import Address, TCPAddress

__all__ = ["Network", "Networks", "network_start", "parse_network", "source_number"]

# One line of numbers for both families: IPv4 addresses first, since small numbers are fast, and IPv6 ones behind them.
_IPV6 = 1 << 32


@attrs.frozen
class Network:
    """A range of addresses, as :func:`source_number` numbers them; both ends belong to it."""

    first: int
    last: int
    text: str = attrs.field(default="", eq=False)

    def contains(self, number: int | None) -> bool:
        """Whether an address is in it; None, which is no address, is not."""
        return number is not None and self.first <= number <= self.last

    def __str__(self) -> str:
        return self.text


class Networks:
    """Some networks; one search says whether an address is in any of them."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, networks: Iterable[Network]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for network in sorted(networks, key=lambda one: one.first):
            if self._lasts and network.first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], network.last)
            else:
                self._firsts.append(network.first)
                self._lasts.append(network.last)

    def __contains__(self, number: int | None) -> bool:
        if number is None:
            return False
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._lasts[place]

    def cover(self, network: Network) -> bool:
        """Whether all of a network is in them, in one or in several together."""
        place = bisect_right(self._firsts, network.first) - 1
        return place >= 0 and network.last <= self._lasts[place]


def parse_network(text: str) -> Network:
    """
    Read ``10.0.0.0/8``, ``fd00::/8``, or one address as ``192.0.2.1``.

    :raises ValueError: saying what is wrong; bits behind the prefix and IPv4 in IPv6 form among it.
    """
    if "%" in text:
        raise ValueError(f"{shown(text)} names an interface; a network is the same on all of them")
    address, slash, length = text.partition("/")
    if slash and not (length.isascii() and length.isdigit() and str(int(length)) == length):
        raise ValueError(
            f"{shown(text)} is not a network: behind the '/' stands how many bits are fixed, as 10.0.0.0/8"
        )
    try:
        found = ipaddress.ip_network(text, strict=False)
        written = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a network; write 10.0.0.0/8, fd00::/8 or one IP address") from None
    if isinstance(written, ipaddress.IPv6Address) and written.ipv4_mapped is not None:
        raise ValueError(
            f"{shown(text)} is IPv4 in IPv6 form; write {_as_ipv4(written.ipv4_mapped, found.prefixlen)}, which holds "
            "for both"
        )
    if written != found.network_address:
        raise ValueError(f"{shown(text)} has bits behind its first {found.prefixlen}; write {found}, or {written}")
    base = 0 if found.version == 4 else _IPV6
    return Network(base + int(found.network_address), base + int(found.broadcast_address), text)


def _as_ipv4(address: ipaddress.IPv4Address, length: int) -> str:
    if length < 96:
        return f"the IPv4 network around {address}"
    return str(ipaddress.ip_network((address, length - 96), strict=False))


def source_number(address: Address) -> int | None:
    """Where an address stands on the line of all addresses; None for a unix socket."""
    return _number(address.host) if isinstance(address, TCPAddress) else None


def network_start(address: Address, ipv4_bits: int, ipv6_bits: int) -> int | None:
    """Where the network that an address is in begins on that line; None for a unix socket."""
    number = source_number(address)
    if number is None:
        return None
    base, bits = (0, 32 - ipv4_bits) if number < _IPV6 else (_IPV6, 128 - ipv6_bits)
    return base + (number - base >> bits << bits)


@lru_cache(maxsize=4096)
def _number(host: str) -> int:
    """
    Number an IP address.

    :raises ValueError: for what is none; the kernel gives no such thing, and a decision that fails denies.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return int(address)
    mapped = address.ipv4_mapped
    return _IPV6 + int(address) if mapped is None else int(mapped)
