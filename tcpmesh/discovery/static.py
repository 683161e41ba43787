"""
The discovery ``static``: the endpoints that the configuration lists.

Ring 1.
"""

from __future__ import annotations

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import IDiscoveryObserver, IServiceDiscovery, IServiceDiscoveryFactory, PluginContext
from tcpmesh.values import Address, Endpoint, TCPAddress

__all__ = ["StaticDiscovery", "StaticEndpoint", "StaticFactory", "StaticSettings"]


def _check_weight(_instance: object, _attribute: object, value: int) -> None:
    if value < 1:
        raise ValueError(f"a weight of {value} gets no connection; 1 is the least")


@attrs.frozen
class StaticEndpoint:
    """An endpoint that gets more, or less, than its equal share."""

    address: Address
    weight: int = attrs.field(default=1, validator=_check_weight)


def _check_endpoints(_instance: object, _attribute: object, value: list[Address | StaticEndpoint]) -> None:
    if not value:
        raise ValueError("the list is empty; name at least one address")
    seen: set[Address] = set()
    for entry in value:
        address = entry.address if isinstance(entry, StaticEndpoint) else entry
        if isinstance(address, TCPAddress) and address.port == 0:
            raise ValueError(f"{address} has port 0, which nobody can connect to")
        if address in seen:
            raise ValueError(f"{address} is listed twice; give it a weight instead")
        seen.add(address)


@attrs.frozen
class StaticSettings:
    """``endpoints``: each an address, or an address and its weight."""

    endpoints: list[Address | StaticEndpoint] = attrs.field(validator=_check_endpoints)


@implementer(IServiceDiscovery)
class StaticDiscovery:
    """Says once what the configuration says."""

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._endpoints = endpoints

    def start(self, observer: IDiscoveryObserver) -> None:
        """Deliver at once."""
        observer.endpoints_changed(self._endpoints)

    def stop(self) -> None:
        """Nothing to end."""


@implementer(IServiceDiscoveryFactory)
class StaticFactory:
    """Makes static discoveries."""

    name = "static"
    description = "the addresses that the configuration lists"
    settings = StaticSettings

    def create(self, settings: StaticSettings, context: PluginContext) -> StaticDiscovery:
        """Make the discovery of one service."""
        return StaticDiscovery(
            tuple(
                Endpoint(entry.address, entry.weight) if isinstance(entry, StaticEndpoint) else Endpoint(entry)
                for entry in settings.endpoints
            )
        )
