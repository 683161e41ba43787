"""
Ranges of ports: how they are written, which is where an outbound listener has one port for each endpoint.

Ring 0. Imports only addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import attrs

from tcpmesh.addresses import Address, TCPAddress, UnixAddress, parse_address, shown

__all__ = ["MAX_PORTS", "ListenAddress", "PortRange", "addresses_of", "parse_listen_address", "ports_of_ranges"]

MAX_PORTS = 1000  # each is a socket that listens
_RANGE = re.compile(r"(.*:)([0-9]{1,5})-([0-9]{1,5})", re.DOTALL)


@attrs.frozen
class PortRange:
    """The ports from ``first`` to ``last``, both included, of a literal IP address."""

    host: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    @property
    def addresses(self) -> tuple[TCPAddress, ...]:
        """Each port's address, in order: what stands at a position is the port of the endpoint at that position."""
        return tuple(TCPAddress(self.host, port) for port in range(self.first, self.last + 1))

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        return TCPAddress(self.host, self.first).is_loopback

    def __str__(self) -> str:
        return f"{TCPAddress(self.host, self.first)}-{self.last}"


ListenAddress = TCPAddress | UnixAddress | PortRange


def parse_listen_address(text: str) -> ListenAddress:
    """
    Read what :func:`~tcpmesh.addresses.parse_address` reads, or ``127.0.0.1:19092-19094`` and ``[::1]:19092-19094``.

    :raises ValueError: saying what is wrong; for a range that is empty, begins at port 0 or has more than
        ``MAX_PORTS`` ports among it.
    """
    match = None if text.startswith("unix:") else _RANGE.fullmatch(text)
    if match is None:
        return parse_address(text)
    before, first, last = match.groups()
    begin, end = _port(before, first, text), _port(before, last, text)
    if begin.port == 0:
        raise ValueError(f"{shown(text)} begins at port 0, which asks for any port; a range names its ports")
    if end.port < begin.port:
        raise ValueError(f"{shown(text)} ends before it begins; write {PortRange(begin.host, end.port, begin.port)}")
    found = PortRange(begin.host, begin.port, end.port)
    if len(found) > MAX_PORTS:
        raise ValueError(f"{shown(text)} has {len(found)} ports; a range has at most {MAX_PORTS}")
    return found


def addresses_of(listen: ListenAddress) -> tuple[Address, ...]:
    """Every single address of it."""
    return listen.addresses if isinstance(listen, PortRange) else (listen,)


def ports_of_ranges(listens: Iterable[ListenAddress]) -> int:
    """How many ports there are in all ranges."""
    return sum(len(listen) for listen in listens if isinstance(listen, PortRange))


def _port(before: str, port: str, text: str) -> TCPAddress:
    try:
        address: Address = parse_address(before + port)
    except ValueError as error:
        raise ValueError(f"in {shown(text)}: {error}") from None
    assert isinstance(address, TCPAddress), "a unix address begins with its own word"
    return address
