"""
The routes of listeners: one way for each server name, and an identity wherever one is shown or expected.

Ring 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tcpmesh.config.places import ROOT, Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.route_settings import InboundRoute, OutboundRoute
from tcpmesh.settings import InboundSettings, OutboundSettings, ServiceSettings

__all__ = ["check_routes", "expectation_missing", "passed_through_only"]

_LARGEST_WEIGHT = 1_000_000
_LONGEST_FAILOVER = 16  # services: one connection may try all of them, in one turn of the reactor


def check_routes(read: SettingsReader) -> Iterator[Problem]:
    """What is wrong with the routes of every listener."""
    for place, outbound in read.of(OutboundSettings):
        yield from _one_of(read, place, "service", outbound.service is not None, outbound.routes)
        if outbound.routes and outbound.per_endpoint:
            yield _at(read, place.key("routes"), "per_endpoint gives the endpoints of one service; name it in service")
        yield from _patterns(read, place, outbound.routes or ())
        for index, route in enumerate(outbound.routes or ()):
            yield from _services(read, place.key("routes").item(index), route)
    for place, inbound in read.of(InboundSettings):
        yield from _one_of(read, place, "target", inbound.target is not None, inbound.routes)
        yield from _patterns(read, place, inbound.routes or ())
        yield from _workloads(read, place, inbound)


def _one_of(
    read: SettingsReader, place: Place, key: str, is_given: bool, routes: Sequence[object] | None
) -> Iterator[Problem]:
    at = place.key("routes")
    if is_given and routes is not None:
        yield _at(read, at, f"{key} and routes both say where connections go; remove one of the two")
    elif routes is not None and not routes:
        yield _at(read, at, f"the list is empty, so that no connection goes anywhere; name a route, or use {key}")
    elif not is_given and routes is None and key not in read.meant.get(place.path, ()):
        yield Problem(f"key {key!r} is missing{place.inside}, or routes to several", read.marks.get(place.path))


def _patterns(read: SettingsReader, place: Place, routes: Sequence[OutboundRoute | InboundRoute]) -> Iterator[Problem]:
    """Two routes for the same names: the later one could never be taken."""
    taken: dict[str, tuple[Place, OutboundRoute | InboundRoute]] = {}
    for index, route in enumerate(routes):
        at = place.key("routes").item(index)
        first, other = taken.setdefault(route.name, (at, route))
        if other is route:
            continue
        line = f" (line {other.mark.line})" if other.mark is not None else ""
        if route.sni is None:
            yield _at(read, at, f"{first}{line} has no sni either; only one route can be for all other names")
        else:
            yield _at(read, at.key("sni"), f"{route.sni} has a route already, {first}{line}")


def _services(read: SettingsReader, place: Place, route: OutboundRoute) -> Iterator[Problem]:
    given = [key for key in ("service", "split", "failover") if getattr(route, key) is not None]
    if not given and not read.meant.get(place.path):
        yield _at(read, place, "it leads nowhere; give service, split or failover")
    if len(given) > 1:
        yield _at(read, place.key(given[1]), f"{given[0]} says already where connections go; remove one of the two")
    if route.split is not None:
        at = place.key("split")
        if not route.split:
            yield _at(read, at, "it is empty; give each service its weight")
        elif not any(route.split.values()):
            yield _at(read, at, "every weight is 0, so that no service gets a connection")
        for service, weight in route.split.items():
            if not 0 <= weight <= _LARGEST_WEIGHT:
                yield _at(read, at.entry(service), f"a weight is 0 to {_LARGEST_WEIGHT}, not {weight}")
    if route.failover is not None:
        at = place.key("failover")
        if not route.failover:
            yield _at(read, at, "the list is empty; name the services in the order in which they are tried")
        if len(route.failover) > _LONGEST_FAILOVER:
            yield _at(read, at, f"{len(route.failover)} services are too many to try; {_LONGEST_FAILOVER} are the most")
        for index, service in enumerate(route.failover):
            if service in route.failover[:index]:
                yield _at(read, at.item(index), f"{service!r} was tried already when its turn comes; name it once")


def _workloads(read: SettingsReader, place: Place, inbound: InboundSettings) -> Iterator[Problem]:
    routes = inbound.routes or ()
    if inbound.passthrough and inbound.routes is not None:
        yield _at(read, place.key("passthrough"), "with routes, each says by itself whether TLS is passed through")
    for index, route in enumerate(routes):
        at = place.key("routes").item(index)
        if route.passthrough and route.workload is not None:
            yield _at(
                read,
                at.key("workload"),
                "TLS that is passed through is answered by the application, and no identity is shown; remove the key",
            )
        if not route.passthrough and route.workload is None and inbound.workload is None:
            yield Problem(f"key 'workload' is missing{at.inside}, or{place.inside}", read.marks.get(at.path))
    terminates = not all(route.passthrough for route in routes) if routes else not inbound.passthrough
    meant = read.meant.get(place.path, ())
    if not routes and terminates and inbound.workload is None and "workload" not in meant:
        yield Problem(f"key 'workload' is missing{place.inside}", read.marks.get(place.path))
    if not terminates and inbound.probe is not None:
        yield _at(read, place.key("probe"), "where all TLS is passed through there is nobody to answer; remove the key")


def expectation_missing(read: SettingsReader) -> Iterator[Problem]:
    """Services for which nobody is expected, although TLS of our own goes there."""
    passed = passed_through_only(read)
    for place, service in read.of(ServiceSettings):
        if place.key("expect").path in read.marks or "expect" in read.meant.get(place.path, ()):
            continue
        if place.path not in passed:
            yield Problem(f"key 'expect' is missing{place.inside}", read.marks.get(place.path))
        elif service.health.check is not None and service.health.check.type == "tls":
            yield Problem(
                f"key 'expect' is missing{place.inside}: its health.check looks at who answers",
                read.marks.get(place.path),
            )


def passed_through_only(read: SettingsReader) -> frozenset[str]:
    """The paths of services to which applications bring their own TLS, and no listener brings the mesh's."""
    uses: Mapping[str, set[bool]] = defaultdict(set)
    for _, outbound in read.of(OutboundSettings):
        for route in outbound.all_routes:
            for service in route.services:
                uses[ROOT.key("services").entry(service).path].add(route.passthrough)
    return frozenset(path for path, passthrough in uses.items() if passthrough == {True})


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))
