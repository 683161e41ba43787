"""
The log lines about identities: how a source and a workload go from one state to another.

Ring 3. Says it once: what a source's own line says is not said again for each of its workloads.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from tcpmesh.codes import OWN_EXPIRED, OWN_REVOKED, SOURCE_STALE, Code
from tcpmesh.identity.certificates import moment, not_after, span
from tcpmesh.identity.life import MEANING, SourceLife, Transition
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import IdentityState, Svid

__all__ = ["tell_disputes", "tell_half_gone", "tell_source", "tell_workload"]

_log = Logger(namespace="tcpmesh.control")

_REFUSED = (IdentityState.EXPIRED, IdentityState.REVOKED)
_SOURCE_CODES = {IdentityState.STALE: SOURCE_STALE, IdentityState.REVOKED: OWN_REVOKED}
_WORKLOAD_CODES = {IdentityState.EXPIRED: OWN_EXPIRED, IdentityState.REVOKED: OWN_REVOKED}


def tell_source(name: str, transition: Transition | None) -> None:
    """A source is in another state, or in the same one for another reason; None: nothing new."""
    if transition is None:
        return
    level = _log.info if transition.after is IdentityState.READY else _log.warn
    moved = transition.after is not transition.before
    code, fields = _coded(_SOURCE_CODES.get(transition.after))
    level(
        code
        + "identity source {name!r}"
        + (": {before} -> {state} ({reason})" if moved else " is in state {state}: {reason}"),
        **fields,
        name=name,
        before=transition.before.name,
        state=transition.after.name,
        reason=transition.reason,
    )


def tell_workload(name: str, before: IdentityState, state: IdentityState, generation: int) -> None:
    """A workload's identity is in another state, from this generation of the mesh state on."""
    code, fields = _coded(_WORKLOAD_CODES.get(state))
    if state is IdentityState.EXPIRED:
        level = _log.error
    elif state is IdentityState.REVOKED:
        level = _log.warn
    else:
        level = _log.info if before in _REFUSED else _log.debug
    level(
        code + "workload {name!r}: {before} -> {state}, generation {generation}: {meaning}",
        **fields,
        name=name,
        before=before.name,
        state=state.name,
        generation=generation,
        meaning=MEANING[state],
    )


def tell_half_gone(source: SourceLife, name: str, svid: Svid, now: float, at: float) -> None:
    """A source has failed for as long as its workload's certificate still lasts."""
    end = not_after(svid.leaf)
    _log.error(
        "{code} identity source {source!r} has failed for {failing}, half of the time that was left: the certificate "
        "of workload {name!r} ends at {end}, in {left}: {reason}",
        code=SOURCE_STALE.id,
        source=source.name,
        failing=span(source.failing_for(at)),
        name=name,
        end=moment(end),
        left=span(end - now),
        reason=source.reason,
    )


def tell_disputes(before: Mapping[TrustDomain, str], after: Mapping[TrustDomain, str]) -> None:
    """Sources contradict each other about these trust domains; told when it is new or has changed."""
    for domain, dispute in after.items():
        if before.get(domain) != dispute:
            _log.warn("the bundle of {domain}: {dispute}", domain=str(domain), dispute=dispute)
    for domain in before.keys() - after.keys():
        _log.info("the bundle of {domain}: identity sources agree on it again", domain=str(domain))


def _coded(code: Code | None) -> tuple[str, dict[str, str]]:
    """The beginning of a format, and its field."""
    return ("{code} ", {"code": code.id}) if code is not None else ("", {})
