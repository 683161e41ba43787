"""
What ``tcpmesh identity show`` asks a proxy: every workload's identity and every trust domain's bundle, as they stand.

Ring 4. Plain JSON values, public facts only: no key, nor what a URL's query holds, is ever among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography import x509

from tcpmesh.codes import OWN_DENIED
from tcpmesh.control import MeshControl
from tcpmesh.identity.certificates import (
    fingerprint,
    moment,
    name_text,
    not_after,
    not_before,
    serial_text,
    subject_key_identifier,
)
from tcpmesh.identity.endpoint_url import parse_endpoint_url
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.identity.life import MEANING, SourceLife
from tcpmesh.identity.pooled import counts
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.mesh_state import MeshState
from tcpmesh.settings import FederationSettings, Settings
from tcpmesh.values import IdentityState, TrustBundle, Workload

__all__ = ["identity_report"]


def identity_report(
    settings: Settings,
    state: MeshState,
    control: MeshControl,
    now: float,
    denied: Mapping[str, tuple[int, float]] = {},
) -> dict[str, Any]:
    """
    Describe everything that the control side holds.

    :param now: wall-clock seconds.
    :param denied: by workload whose own certificate is denied: since which generation, and since when by the control's
        clock.
    """
    entered = {**control.entered, **{name: denied.get(name, (None, None)) for name in state.denied_workloads}}
    return {
        "time": moment(now),
        "trust_domain": str(settings.trust_domain),
        "generation": state.generation,
        "workloads": [
            _workload(
                workload,
                source,
                settings,
                control,
                now,
                entered.get(workload.name, (None, None)),
                state.denied_workloads.get(workload.name, ""),
            )
            for source in control.sources
            for workload in source.workloads.values()
        ],
        "trust_domains": [
            _trust_domain(domain, settings, state.bundles.get(domain), control, now)
            for domain in _domains(settings, state, control)
        ],
    }


def _workload(
    workload: Workload,
    source: SourceLife,
    settings: Settings,
    control: MeshControl,
    now: float,
    entered: tuple[int | None, float | None],
    denied: str,
) -> dict[str, Any]:
    at, name = control.seconds(), workload.name
    svid, state = source.svid(workload), source.state_of(workload, now)
    generation, since = entered
    used_for = source.ages(at).get(name)
    return {
        "name": name,
        "id": str(workload.id),
        "source": source.name,
        "state": "denied" if denied else state.value,
        "state_s": _age(since, at),
        "state_generation": generation,
        "reason": f"{OWN_DENIED.id} {denied}" if denied else _reason(state, source),
        "failing_s": _age(source.failing_since, at),
        "certificate": None
        if svid is None
        else {**_certificate(svid.leaf), "in_use_s": None if used_for is None else round(used_for, 3)},
        "listeners": [
            *({"direction": "inbound", "name": one.name} for one in settings.inbound if name in one.workloads),
            *(
                {"direction": "outbound", "name": one.name, "service": one.destination}
                for one in settings.outbound
                if one.workload == name
            ),
        ],
    }


def _reason(state: IdentityState, source: SourceLife) -> str:
    if state is IdentityState.READY:
        return ""
    if state is source.state:
        return source.reason or MEANING[state]
    if state is IdentityState.REVOKED:
        return "its source delivers identities, and none with this ID"
    return MEANING[state]


def _certificate(leaf: x509.Certificate) -> dict[str, Any]:
    return {
        "serial": serial_text(leaf),
        "issuer": name_text(leaf.issuer),
        "not_before": moment(not_before(leaf)),
        "not_after": moment(not_after(leaf)),
        "sha256": fingerprint(leaf),
    }


def _domains(settings: Settings, state: MeshState, control: MeshControl) -> list[TrustDomain]:
    """The own one first, then all that anybody speaks of."""
    named = [
        settings.trust_domain,
        *settings.identity.bundles_from,
        *(held.trust_domain for held in control.federation.held),
        *state.bundles,
    ]
    for source in control.sources:
        named += source.snapshot.bundles if source.snapshot is not None else ()
    return list(dict.fromkeys(named))


def _trust_domain(
    domain: TrustDomain, settings: Settings, bundle: TrustBundle | None, control: MeshControl, now: float
) -> dict[str, Any]:
    held = next((each for each in control.federation.held if each.trust_domain == domain), None)
    if held is not None:
        origins = [_federated(held, settings.identity.federation, now)]
    else:
        origins = [
            _delivered(source, control.seconds())
            for source in control.sources
            if source.snapshot is not None and domain in source.snapshot.bundles
            if counts(source.name, domain, settings.identity.bundles_from)
        ]
    return {
        "trust_domain": str(domain),
        "own": domain == settings.trust_domain,
        "authorities": None
        if bundle is None
        else [
            {
                "subject": name_text(authority.subject),
                "key_id": subject_key_identifier(authority),
                "not_before": moment(not_before(authority)),
                "not_after": moment(not_after(authority)),
                "sha256": fingerprint(authority),
            }
            for authority in bundle.authorities
        ],
        "from": origins,
        "only": list(settings.identity.bundles_from.get(domain, ())),
        "dispute": control.disputes.get(domain, ""),
    }


def _federated(
    held: FederatedBundle, relations: Mapping[TrustDomain, FederationSettings], now: float
) -> dict[str, Any]:
    settings = relations[held.trust_domain]
    where = f"file {settings.bundle}" if settings.url is None else f"endpoint {parse_endpoint_url(settings.url)}"
    return {
        "origin": where,
        "age_s": _age(held.received, now),
        "sequence": held.sequence,
        "failing_s": _age(held.failing_since, now),
        "reason": held.failure,
    }


def _delivered(source: SourceLife, at: float) -> dict[str, Any]:
    return {
        "origin": f"identity source {source.name}",
        "age_s": _age(source.received, at),
        "sequence": None,
        "failing_s": _age(source.failing_since, at),
        "reason": "" if source.failing_since is None else source.reason,
    }


def _age(since: float | None, now: float) -> float | None:
    """Seconds; a clock that was set back makes nobody younger than nothing."""
    return None if since is None else max(0.0, round(now - since, 3))
