"""
Who speaks of a SPIFFE ID in a configuration, and where: services that expect it, workloads, policies; and the other way
round, whom each service expects at which address.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tcpmesh.config.places import ROOT, Place
from tcpmesh.discovery.endpoint_list import address_of
from tcpmesh.discovery.static import StaticSettings
from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.policy.identities import IdPattern
from tcpmesh.policy.language import Policy, RulesSettings
from tcpmesh.settings import ServiceSettings, Settings
from tcpmesh.values import Address, ExpectedIdentity

__all__ = ["Destination", "Mention", "Mentions", "destinations", "mentions"]

Marks = Mapping[str, Mark]


@attrs.frozen
class Mention:
    """One place that speaks of an ID; ``what`` is the name of the service, workload or policy there."""

    what: str
    mark: Mark | None
    action: str = ""  # of a policy; "would-allow" or "would-deny" of one that is only tried
    inbound: tuple[str, ...] = ()  # listeners that a policy is about; none: every one
    services: tuple[str, ...] = ()  # that it is about instead


@attrs.frozen
class Mentions:
    """Every place that speaks of one ID; ``opaque`` are policy plugins that nobody but they can look into."""

    services: tuple[Mention, ...]
    workloads: tuple[Mention, ...]
    policies: tuple[Mention, ...]
    opaque: tuple[Mention, ...]


def mentions(identity: SpiffeId, settings: Settings, marks: Marks) -> Mentions:
    """Look an ID up in a configuration; ``marks`` as the loader gives them."""
    return Mentions(
        tuple(
            Mention(destination.service, destination.mark)
            for destination in destinations(settings, marks)
            if destination.expected == identity
        ),
        tuple(
            Mention(name, marks.get(ROOT.key("identity").key("workloads").entry(name).key("id").path))
            for name, workload in settings.identity.workloads.items()
            if workload.id == identity
        ),
        tuple(
            Mention(
                policy.name,
                marks.get(place.path),
                policy.action if policy.decides else policy.says,
                _listeners(policy),
                tuple(policy.services),
            )
            for policy, pattern, place in _rules(settings)
            if pattern.matches(identity)
        ),
        tuple(
            Mention(choice.plugin, choice.mark)
            for choice in settings.authorization
            if not isinstance(choice.settings, RulesSettings) or list(choice.settings.paths())
        ),
    )


def _listeners(policy: Policy) -> tuple[str, ...]:
    return tuple(policy.to.inbound or ()) if policy.to else ()


def _rules(settings: Settings) -> Iterator[tuple[Policy, IdPattern, Place]]:
    """The IDs that the policies of the configuration itself name by themselves or by a pattern."""
    for position, choice in enumerate(settings.authorization):
        if not isinstance(choice.settings, RulesSettings):
            continue
        policies = ROOT.key("authorization").item(position).key("policies")
        for number, policy in enumerate(choice.settings.inline):
            for entry, principals in enumerate(policy.from_):
                at = policies.item(number).key("from").item(entry)
                for key, patterns in principals.id_patterns().items():
                    for index, pattern in enumerate(patterns):
                        yield policy, pattern, at.key(key).item(index)


@attrs.frozen
class Destination:
    """
    Whom a service expects, and where it says so.

    ``addresses`` is None when the discovery plugin finds them while the proxy runs; it may then also say, for single
    endpoints, whom to expect instead.
    """

    service: str
    expected: ExpectedIdentity
    mark: Mark | None
    discovery: str
    addresses: tuple[Address, ...] | None


def destinations(settings: Settings, marks: Marks, names: Sequence[str] | None = None) -> Iterator[Destination]:
    """Every expectation of every service, or of the ``names`` among them, in the order of the file."""
    for name, service in settings.services.items():
        if names is not None and name not in names:
            continue
        expect = ROOT.key("services").entry(name).key("expect")
        for index, expected in enumerate(service.expect):
            mark = marks.get(expect.item(index).path)
            yield Destination(name, expected, mark, service.discovery.plugin, _addresses(service))


def _addresses(service: ServiceSettings) -> tuple[Address, ...] | None:
    found = service.discovery.settings
    if not isinstance(found, StaticSettings):
        return None
    return tuple(address_of(entry) for entry in found.endpoints)
