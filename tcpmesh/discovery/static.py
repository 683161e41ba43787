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


@attrs.frozen
class StaticEndpoint:
    """An endpoint that gets more, or less, than its equal share."""

    address: Address
    weight: int = 1


@attrs.frozen
class StaticSettings:
    """``endpoints``: each an address, or an address and its weight."""

    endpoints: list[Address | StaticEndpoint]


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
        """
        Make the discovery of one service.

        :raises ValueError: for no endpoint, one that is listed twice, port 0 or a weight below 1.
        """
        if not settings.endpoints:
            raise ValueError("endpoints is empty; list at least one address")
        endpoints: dict[Address, Endpoint] = {}
        for entry in settings.endpoints:
            endpoint = Endpoint(entry.address, entry.weight) if isinstance(entry, StaticEndpoint) else Endpoint(entry)
            address = endpoint.address
            if isinstance(address, TCPAddress) and address.port == 0:
                raise ValueError(f"endpoint {address} has port 0, which nobody can connect to")
            if endpoint.weight < 1:
                raise ValueError(f"endpoint {address} has weight {endpoint.weight}; 1 is the least")
            if address in endpoints:
                raise ValueError(f"endpoint {address} is listed twice; give it a weight instead")
            endpoints[address] = endpoint
        return StaticDiscovery(tuple(endpoints.values()))
