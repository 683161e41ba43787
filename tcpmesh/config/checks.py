"""
What one key cannot say alone: contradictions, circles, plaintext that would leave the machine.

Ring 1. Works on whatever could be built, so that these problems show beside all others.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.bounds import check_bounds
from tcpmesh.config.deny_list import check_deny_list
from tcpmesh.config.endpoints import check_endpoints
from tcpmesh.config.federation import check_bundles_from, check_federation
from tcpmesh.config.health import check_health
from tcpmesh.config.listeners import check_overlaps, own_listeners
from tcpmesh.config.mapping import check_mapping
from tcpmesh.config.per_endpoint import check_per_endpoint
from tcpmesh.config.places import Place
from tcpmesh.config.proxy_protocol import check_proxy_protocol
from tcpmesh.config.routes import check_routes, expectation_missing
from tcpmesh.config.structure import SettingsReader
from tcpmesh.config.targets import check_targets, target_warnings
from tcpmesh.config.tls import check_tls
from tcpmesh.config.unmapped import unmapped_ids
from tcpmesh.config.upstream_limits import check_upstream_limits, hasty_listeners
from tcpmesh.discovery.endpoint_rules import zone_complaint
from tcpmesh.errors import Problem
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.probe_settings import ProbeSettings
from tcpmesh.settings import (
    AdminSettings,
    IdentitySettings,
    OutboundSettings,
    ServiceSettings,
    Settings,
    WorkloadSettings,
)
from tcpmesh.values import DNSName, KeyPin, TCPAddress, parse_dns_name

__all__ = ["check", "warnings"]


def check(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with how the keys fit together."""
    listeners = own_listeners(read)
    yield from check_bounds(read)
    yield from check_tls(read)
    yield from _check_identity(read)
    yield from check_bundles_from(read)
    yield from check_federation(read)
    yield from check_mapping(read)
    yield from check_deny_list(read)
    yield from _check_services(read)
    yield from expectation_missing(read)
    yield from check_health(read)
    yield from check_upstream_limits(read)
    yield from check_endpoints(read, listeners)
    yield from _check_outbound(read)
    yield from check_per_endpoint(read)
    yield from check_routes(read)
    yield from check_targets(read, listeners)
    yield from _check_probes(read)
    yield from check_proxy_protocol(read)
    yield from _check_admin(read)
    yield from check_overlaps(listeners)
    for place, settings in read.of(Settings):
        if settings.zone is not None and (complaint := zone_complaint(settings.zone) or _empty(settings.zone)):
            yield _at(read, place.key("zone"), complaint)
        if not settings.inbound and not settings.outbound:
            yield Problem(
                "there is neither an inbound nor an outbound listener, so there is nothing to do", read.marks[""]
            )


def warnings(settings: Settings) -> list[Problem]:
    """
    What an operator allowed in writing and should be told at every start all the same.

    :return: one problem for each, none of which keeps the proxy from starting.
    """
    found = []
    for index, outbound in enumerate(settings.outbound):
        if not outbound.listen.is_loopback:
            found.append(
                Problem(
                    f"outbound[{index}] ({outbound.name}) accepts plaintext from the network on {outbound.listen}, and "
                    f"whoever reaches it acts as {outbound.workload} (plaintext_network: allow)",
                    outbound.mark,
                )
            )
    found += target_warnings(settings)
    if settings.inbound and settings.defaults.inbound == "allow":
        found.append(
            Problem(
                "every authenticated peer may use every inbound listener unless a policy denies it (defaults.inbound: "
                "allow)",
                settings.defaults.mark,
            )
        )
    elif settings.inbound and not settings.authorization:
        found.append(
            Problem(
                "there is no authorization policy, so every inbound connection will be refused",
                settings.inbound[0].mark,
            )
        )
    return [*found, *hasty_listeners(settings), *unmapped_ids(settings)]


def _empty(zone: str) -> str:
    return "" if zone else "the name of the zone is empty; name it as the endpoints do, or leave the key out"


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))


def _check_identity(read: SettingsReader) -> Iterator[Problem]:
    for place, identity in read.of(IdentitySettings):
        if not identity.sources:
            yield _at(read, place.key("sources"), "there is no identity source; every listener needs an identity")
    seen: dict[tuple[object, SpiffeId], Place] = {}
    for place, workload in read.of(WorkloadSettings):
        if not workload.id.path:
            yield _at(
                read, place.key("id"), f"{workload.id} names a whole trust domain; a workload's ID has a path after it"
            )
        first = seen.setdefault((workload.source, workload.id), place)
        if first is not place:
            yield _at(
                read,
                place.key("id"),
                f"{first} has this ID too, and a source gives one identity for it: use that workload for both",
            )


def _check_services(read: SettingsReader) -> Iterator[Problem]:
    for place, service in read.of(ServiceSettings):
        expect = place.key("expect")
        kinds = {type(identity) for identity in service.expect}
        if not kinds and expect.path in read.marks:
            yield _at(read, expect, "the list is empty; name at least one identity that may answer")
        if len(kinds) > 1:
            yield _at(
                read,
                expect,
                "SPIFFE IDs, dns: names and spki: pins are mixed; each kind is verified in another way, so make it "
                "services of one kind each",
            )
        for index, identity in enumerate(service.expect):
            if isinstance(identity, SpiffeId) and not identity.path:
                yield _at(
                    read, expect.item(index), f"{identity} names a whole trust domain, which no peer's certificate does"
                )
        if service.trust != "mesh" and DNSName not in kinds and kinds:
            yield _at(
                read,
                place.key("trust"),
                "a pinned key needs no authority; trust is for dns: names"
                if KeyPin in kinds
                else "SPIFFE IDs are always verified against the mesh's own bundle; trust is for dns: names",
            )
        if service.sni is not None:
            try:
                parse_dns_name(service.sni)
            except ValueError as error:
                yield _at(read, place.key("sni"), str(error))


def _check_outbound(read: SettingsReader) -> Iterator[Problem]:
    for place, outbound in read.of(OutboundSettings):
        clients = place.key("clients")
        if not outbound.listen.is_loopback:
            if outbound.plaintext_network == "refuse":
                yield _at(
                    read,
                    place.key("listen"),
                    f"{outbound.listen} accepts plaintext from the network; listen on loopback or a unix socket, or, "
                    "if everybody there may act as this workload, add plaintext_network: allow",
                )
            if outbound.clients.uids or outbound.clients.gids:
                yield _at(
                    read, clients, f"clients are users of this machine, but {outbound.listen} accepts the network"
                )
        if clients.path in read.marks and not (outbound.clients.uids or outbound.clients.gids):
            yield _at(
                read, clients, "nobody is listed; name a uid or gid, or leave the key out to admit all local users"
            )


def _check_probes(read: SettingsReader) -> Iterator[Problem]:
    for place, probe in read.of(ProbeSettings):
        allow = place.key("allow")
        if not probe.allow:
            yield _at(read, allow, "the list is empty; name who may ask, or leave probe out so that nobody may")
        for index, identity in enumerate(probe.allow):
            if not identity.path:
                yield _at(
                    read, allow.item(index), f"{identity} names a whole trust domain, which no peer's certificate does"
                )


def _check_admin(read: SettingsReader) -> Iterator[Problem]:
    for place, admin in read.of(AdminSettings):
        if isinstance(admin.listen, TCPAddress):
            yield _at(
                read,
                place.key("listen"),
                f"{admin.listen} is a TCP address; TCP serves only /live /ready /metrics: use admin.metrics. Commands "
                "need a unix socket, such as unix:/run/tcpmesh/admin.sock",
            )
