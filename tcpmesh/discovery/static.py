"""
The discovery ``static``: the endpoints that the configuration lists.

Ring 1.
"""

from __future__ import annotations

import attrs
from zope.interface import implementer

from tcpmesh.discovery.endpoint_list import ListedEndpoint, check_list, endpoints_of
from tcpmesh.interfaces import IDiscoveryObserver, IServiceDiscovery, IServiceDiscoveryFactory, PluginContext
from tcpmesh.values import Address, Endpoint

__all__ = ["StaticDiscovery", "StaticFactory", "StaticSettings"]


def _check_endpoints(_instance: object, _attribute: object, value: list[Address | ListedEndpoint]) -> None:
    if not value:
        raise ValueError("the list is empty; name at least one address")
    check_list(value)


@attrs.frozen
class StaticSettings:
    """``endpoints``: each an address, or an address and what else is to be known of it."""

    endpoints: list[Address | ListedEndpoint] = attrs.field(validator=_check_endpoints)


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
        return StaticDiscovery(endpoints_of(settings.endpoints))
