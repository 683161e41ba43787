"""
What a proxy would have to check its destinations with, read from a configuration and its files; nothing is started.

Ring 4. Only the source ``files`` can be looked into from outside: what the others would give to another process is not
what they give to the proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.composition import compose
from tcpmesh.config import load_with_marks
from tcpmesh.config.deny_list import read_deny_list
from tcpmesh.config.mentions import destinations
from tcpmesh.errors import ConfigurationError, Mark, Problem, StartError
from tcpmesh.identity.bundle_document import BundleError
from tcpmesh.identity.denial import own_denial
from tcpmesh.identity.deny_list import DenyList
from tcpmesh.identity.federated import FederatedBundle, merged_bundles
from tcpmesh.identity.life import SourceLife
from tcpmesh.identity.pooled import counts, pooled_bundles
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.mesh_state import MeshState
from tcpmesh.plugins import PluginRegistry
from tcpmesh.settings import PluginChoice, Settings
from tcpmesh.sources.bundle_file import BundleFile
from tcpmesh.sources.file_identities import FileSet, FilesWorkload
from tcpmesh.sources.files import FilesSettings
from tcpmesh.values import Endpoint, IdentitySnapshot, IdentityState, Svid, TrustBundle, Workload
from tcpmesh.wall_clock import wall_clock

__all__ = ["read_material"]


def read_material(config: Path) -> tuple[Knowledge, Mapping[str, Mark]]:
    """
    Read everything; with it, where in the file each key stands.

    :raises ConfigurationError: when the configuration cannot be used.
    """
    from twisted.internet import reactor  # noqa: TID251  # lent to plugins as their clock; never run

    plugins = PluginRegistry()
    settings, marks = load_with_marks(config.absolute(), plugins)
    composition = compose(settings, plugins, reactor, wall_clock)
    now = wall_clock()
    svids: dict[str, Svid] = {}
    defects: dict[str, StartError] = {}
    unread: dict[str, str] = {}
    delivered: list[SourceLife] = []
    elsewhere: dict[TrustDomain, str] = {}
    for source in composition.control.sources:
        choice = settings.identity.sources[source.name]
        listed: dict[TrustDomain, TrustBundle] = {}
        for name, workload in source.workloads.items():
            files = _files(choice, workload)
            if files is None:
                unread[name] = f"only the running proxy knows what its identity source {source.name!r} gives it"
                continue
            try:
                found = files.read(now)
            except StartError as error:
                defects[name] = error
            else:
                svids.update(found.svids)
                listed.update(found.bundles)
                for domain in found.bundles:
                    if not counts(source.name, domain, settings.identity.bundles_from):
                        elsewhere[domain] = f"the bundle of {domain} comes from another source: identity.bundles_from"
        delivered.append(SourceLife(name=source.name, workloads={}, snapshot=IdentitySnapshot((), listed)))
    found_bundles = pooled_bundles(delivered, settings.identity.bundles_from)
    # Where they contradict each other so that nothing is left, that is why; without a dispute an empty one revokes.
    none = {
        domain: why for domain, why in found_bundles.disputes.items() if not found_bundles.bundles[domain].authorities
    }
    elsewhere |= none
    pooled = {domain: bundle for domain, bundle in found_bundles.bundles.items() if domain not in none}
    held, lacking = _federated(settings, pooled.get(settings.trust_domain), now)
    bundles, refused = merged_bundles(pooled, held, settings.trust_domain)
    denied = _deny_list(settings)
    state = MeshState(
        generation=1,
        svids=svids,
        identity_states={
            name: IdentityState.READY if name in svids else IdentityState.INIT for name in settings.identity.workloads
        },
        bundles=bundles,
        deny_list=denied,
        denied_workloads={
            name: why for name, svid in svids.items() if (why := own_denial(denied, svid.id, svid.chain))
        },
        endpoints={
            destination.service: tuple(map(Endpoint, destination.addresses))
            for destination in destinations(settings, marks)
            if destination.addresses is not None
        },
    )
    lacking |= {domain: f"the bundle of {domain} {why}" for domain, why in refused.items()}
    only_there = {domain for domain, relation in settings.identity.federation.items() if relation.bundle is None}
    knowledge = Knowledge(
        settings,
        state,
        composition.contexts,
        composition.upstreams,
        wall_clock,
        defects=defects,
        unread=unread,
        bundle_defects={
            domain: why
            for domain, why in {**elsewhere, **lacking}.items()
            if domain not in only_there and (domain in lacking or domain not in pooled)
        },
        unread_bundles={domain: why for domain, why in lacking.items() if domain in only_there},
    )
    return knowledge, marks


def _files(choice: PluginChoice, workload: Workload) -> FileSet | None:
    """The workload's own files: what is wrong with another one's says nothing about it."""
    if not isinstance(choice.settings, FilesSettings) or not isinstance(workload.settings, FilesWorkload):
        return None
    bundles = {TrustDomain(name): path for name, path in choice.settings.bundles.items()}
    return FileSet(bundles, {workload.name: workload})


def _deny_list(settings: Settings) -> DenyList:
    """As the proxy would read it at its start, which a bad file prevents."""
    listed = settings.identity.deny_list
    if listed.file is None:
        return DenyList(listed.entries)
    try:
        data = listed.file.read_bytes()
    except OSError as error:
        raise ConfigurationError([Problem(f"{listed.file} cannot be read: {error.strerror}")]) from None
    return DenyList((*listed.entries, *read_deny_list(data, listed.file)))


def _federated(
    settings: Settings, own: TrustBundle | None, now: float
) -> tuple[list[FederatedBundle], dict[TrustDomain, str]]:
    held, lacking = [], {}
    for domain, relation in settings.identity.federation.items():
        entry = FederatedBundle(domain)
        held.append(entry)
        if relation.bundle is None:
            lacking[domain] = f"the bundle of {domain} comes from an endpoint, which only the running proxy asks"
            continue
        try:
            entry.accept(BundleFile(relation.bundle, domain).load(), own, now)
        except StartError as error:
            lacking[domain] = error.reason
        except BundleError as error:
            lacking[domain] = f"{relation.bundle} {error}"
    return held, lacking
