"""
IDs below a mapping's prefix that the mapping gives to nobody: most likely a typing error.

Ring 1. A warning and no error: the mapping may be about to be changed, or somebody signs such IDs by hand.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.places import ROOT, Place
from tcpmesh.errors import Problem
from tcpmesh.identity.mapping import compile_mappings
from tcpmesh.identity.origin import origin_of
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.policy.language import RulesSettings
from tcpmesh.settings import Settings

__all__ = ["unmapped_ids"]


def unmapped_ids(settings: Settings) -> Iterator[Problem]:
    """One problem for each such ID that a service expects, a workload has or a policy names."""
    if not settings.identity.mapping:
        return
    mappings = compile_mappings(settings.identity.mapping)
    for place, identity in _named(settings):
        origin = origin_of(identity, mappings, settings.trust_domain)
        if origin is not None and origin.problem:
            text = f"{origin.mapping} gives no name the ID {identity} of {place}: {origin.problem}; is it misspelt?"
            yield Problem(text, origin.mapping.mark)


def _named(settings: Settings) -> Iterator[tuple[Place, SpiffeId]]:
    for name, service in settings.services.items():
        expect = ROOT.key("services").entry(name).key("expect")
        for index, expected in enumerate(service.expect):
            if isinstance(expected, SpiffeId):
                yield expect.item(index), expected
    for name, workload in settings.identity.workloads.items():
        yield ROOT.key("identity").key("workloads").entry(name).key("id"), workload.id
    for position, choice in enumerate(settings.authorization):
        if isinstance(choice.settings, RulesSettings):
            policies = ROOT.key("authorization").item(position).key("policies")
            for number, policy in enumerate(choice.settings.inline):
                for entry, principals in enumerate(policy.from_):
                    ids = policies.item(number).key("from").item(entry).key("ids")
                    for index, pattern in enumerate(principals.ids or ()):
                        if pattern.is_exact:
                            yield ids.item(index), SpiffeId.parse(str(pattern))
