"""
Endpoints that the configuration lists, against what stands elsewhere in it.

Ring 1. Those that come later, from files, name servers and plugins, are held against the same by
``tcpmesh.endpoint_control``.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.listeners import Listener
from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.discovery.endpoint_list import ListedEndpoint, address_of
from tcpmesh.discovery.endpoint_rules import other_kind
from tcpmesh.discovery.static import StaticSettings
from tcpmesh.errors import Problem
from tcpmesh.settings import ServiceSettings

__all__ = ["check_endpoints"]


def check_endpoints(read: SettingsReader, listeners: list[Listener]) -> Iterator[Problem]:
    """
    Find endpoints whose connections would come back to be sent out again, and those whose identity is of another kind
    than the service's: ``trust`` and ``sni`` are said once for all endpoints of a service.
    """
    outbound = [listener for listener in listeners if listener.place.path.startswith("outbound")]
    for place, service in read.of(ServiceSettings):
        settings = service.discovery.settings
        if not isinstance(settings, StaticSettings):
            continue
        for index, entry in enumerate(settings.endpoints):
            at = place.key("discovery").key("endpoints").item(index)
            address = address_of(entry)
            own = next((listener for listener in outbound if listener.accepts(address)), None)
            if own is not None:
                yield _at(
                    read,
                    at,
                    f"{address} is this proxy's own listener {own}, so connections would run in a circle; write the "
                    "address of a server",
                )
            if isinstance(entry, ListedEndpoint) and entry.expect:
                complaint = other_kind(entry.expect, service.expect)
                if complaint:
                    yield _at(read, at.key("expect"), complaint)


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))
