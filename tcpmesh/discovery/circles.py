"""
Endpoints that are listeners of this very proxy: a connection to one would be sent out again, and again.

Ring 1. An inbound listener is a good endpoint: behind it is an application. An outbound one never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tcpmesh.values import Address, TCPAddress

__all__ = ["OwnListeners"]


class OwnListeners:
    """
    Knows where this proxy listens for what it sends out.

    :param listeners: the name and an address of each.
    :param is_local: whether a connection to this IP address stays on the machine.
    """

    def __init__(self, listeners: Iterable[tuple[str, Address]], is_local: Callable[[str], bool]) -> None:
        self._names: dict[Address, str] = {}
        self._wildcards: dict[int, tuple[str, TCPAddress]] = {}
        self._is_local = is_local
        for name, address in listeners:
            self._names.setdefault(address, name)
            if isinstance(address, TCPAddress) and address.is_wildcard and address.port:
                self._wildcards.setdefault(address.port, (name, address))

    def objection(self, address: Address) -> str:
        """Why the address is no endpoint; empty when it may be one."""
        name = self._names.get(address)
        if name is None and isinstance(address, TCPAddress) and address.port in self._wildcards:
            own, wildcard = self._wildcards[address.port]
            covered = ":" in wildcard.host or ":" not in address.host  # Linux's [::] takes IPv4 too
            name = own if covered and self._is_local(address.host) else None
        return f"{address} is this proxy's own outbound listener {name!r}: a circle" if name is not None else ""
