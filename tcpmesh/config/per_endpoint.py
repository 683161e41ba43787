"""
Outbound listeners with a port for each endpoint: whether ports and endpoints fit together.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.places import ROOT, Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.discovery.endpoint_list import endpoints_of
from tcpmesh.discovery.positions import INDEX, Positions
from tcpmesh.discovery.static import StaticSettings
from tcpmesh.errors import Problem
from tcpmesh.port_ranges import MAX_PORTS, PortRange
from tcpmesh.settings import OutboundSettings, ServiceSettings

__all__ = ["check_per_endpoint"]

_MAX_PORT = 65535
_SHOWN = 3  # of what is wrong with the endpoints of one listener


def check_per_endpoint(read: SettingsReader) -> Iterator[Problem]:
    """What is wrong with ranges of ports, and with the key that gives them their meaning."""
    services = {place.path: service for place, service in read.of(ServiceSettings)}
    for place, outbound in read.of(OutboundSettings):
        listen, name = outbound.listen, outbound.service
        at = place.key("listen")
        if not outbound.per_endpoint:
            if isinstance(listen, PortRange):
                yield _at(
                    read,
                    at,
                    f"{listen} is a range of ports; for a port for each endpoint add per_endpoint: true, else write "
                    "one port",
                )
            continue
        if not isinstance(listen, PortRange):
            yield _at(
                read,
                at,
                f"per_endpoint needs a port for each endpoint, and {listen} is one address; write a range such as "
                '"127.0.0.1:19092-19094"',
            )
            continue
        service = services.get(ROOT.key("services").entry(name).path) if name is not None else None
        if name is not None and service is not None and isinstance(service.discovery.settings, StaticSettings):
            for complaint in _static(listen, name, service.discovery.settings):
                yield _at(read, at, complaint)


def _static(listen: PortRange, service: str, discovery: StaticSettings) -> Iterator[str]:
    """Static discovery has said all of its endpoints already."""
    endpoints = endpoints_of(discovery.endpoints)
    ports, count = len(listen), len(endpoints)
    if ports != count:
        are = "is 1 port" if ports == 1 else f"are {ports} ports"
        first = min(listen.first, _MAX_PORT + 1 - count)
        wanted = PortRange(listen.host, first, first + count - 1)
        advice = f"write {wanted}" if count <= MAX_PORTS else f"a range has at most {MAX_PORTS} ports"
        yield f"{listen} {are}, but service {service!r} has {count} endpoint{'s' * (count > 1)}; {advice}"
        return
    positions = Positions(ports)
    positions.update(endpoints)
    for complaint in positions.complaints[:_SHOWN]:
        yield f"service {service!r}: {complaint}; metadata: {{{INDEX}: …}} gives each endpoint one of 0 to {ports - 1}"


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))
