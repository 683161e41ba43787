"""
A verdict explained: what was decided and by which rule, which other rule came nearest, and what the silent ones say.

Ring 1. Explanations are plain JSON values, so that a running proxy can send them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
from twisted.logger import Logger

from tcpmesh.addresses import shown
from tcpmesh.codes import INTERNAL, OWN_DENIED, PEER_DENIED, POLICY_FAILED, POLICY_TIMED_OUT
from tcpmesh.mesh_state import MeshState, NamedPolicy
from tcpmesh.policy.evaluate import Verdict
from tcpmesh.policy.limit_words import terms
from tcpmesh.policy_interfaces import IExplainingPolicy, NearRule
from tcpmesh.values import AuthorizationRequest, Effect

__all__ = [
    "ALLOWED",
    "DENIED",
    "UNKNOWN",
    "Nearest",
    "changed",
    "explained",
    "limits_of",
    "near_rules_of",
    "on_deny_list",
    "outcome",
]

MAX_RULES = 1_000_000  # of one policy that are looked at to explain one decision
ALLOWED, DENIED, UNKNOWN = "allow", "deny", "unknown"
_log = Logger(namespace="tcpmesh")
_CANNOT_TELL = frozenset({POLICY_FAILED, POLICY_TIMED_OUT, INTERNAL})


def outcome(verdict: Verdict) -> str:
    """Allowed, denied, or not to be told: a plugin that fails denies, but that is no policy's doing."""
    if verdict.allowed:
        return ALLOWED
    return UNKNOWN if verdict.code in _CANNOT_TELL else DENIED


@attrs.define(eq=False)
class Nearest:
    """The nearest of rules that are shown to it one by one; of equals the first."""

    found: NearRule | None = None

    def offer(self, rule: NearRule) -> None:
        """Look at one."""
        if self.found is None or _order(rule) < _order(self.found):
            self.found = rule


def _order(rule: NearRule) -> tuple[int, float]:
    return len(rule.misses), rule.distance


def on_deny_list(state: MeshState, request: AuthorizationRequest) -> dict[str, Any]:
    """
    The explanation for whom the deny-list keeps out, so that no policy is asked; empty for others.

    By ID and serial number: the keys of a certificate that is not there are not known.
    """
    entry = state.deny_list.find(request.peer, tuple, str) if state.deny_list else None
    if entry is None:
        return {}
    reason = f"{request.peer} is on the deny-list" + (f", because: {shown(entry.reason)}" if entry.reason else "")
    place = f" ({entry.mark})" if entry.mark is not None else ""
    code = OWN_DENIED if request.service else PEER_DENIED
    return {"decision": DENIED, "code": code.id, "rule": f"deny-list: {entry}{place}", "reason": reason}


def near_rules_of(state: MeshState, request: AuthorizationRequest, verdict: Verdict) -> Iterator[NearRule]:
    """
    Every rule of a mesh state that would have decided otherwise, from the policies that can tell.

    A plugin that fails at it, or does not come to an end, has no more to say; what was decided is known all the same.
    """
    wanted = Effect.DENY if verdict.allowed else Effect.ALLOW
    for named in _asked(state.policies, request):
        if IExplainingPolicy.providedBy(named.policy):
            try:
                for rule in islice(named.policy.near_rules(request, wanted), MAX_RULES):  # type: ignore[attr-defined]
                    if not isinstance(rule, NearRule):
                        raise TypeError(f"expected rules as NearRule, got {type(rule).__name__}")
                    yield rule
            except Exception:  # noqa: BLE001  a plugin's failure; logged with its traceback
                _log.failure("policy plugin {plugin} failed to say which rule came nearest", plugin=named.name)


def _asked(policies: Iterable[NamedPolicy], request: AuthorizationRequest) -> Sequence[NamedPolicy]:
    return [named for named in policies if named.outbound or not request.service]


def limits_of(state: MeshState, request: AuthorizationRequest) -> list[dict[str, Any]]:
    """The limits that hold for a connection if it is allowed, as JSON values; whether they have room is not asked."""
    found: list[dict[str, Any]] = []
    for _, named in state.limiting:
        try:
            limits = named.policy.limits_of(request)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
            found.append({"policy": named.name, "says": f"its plugin failed: {type(error).__name__}", "enforced": True})
            continue
        found += [
            {"policy": limit.policy, "rule": limit.rule, "says": terms(limit), "enforced": limit.enforced}
            for limit in limits
        ]
    return found


def explained(verdict: Verdict, nearest: NearRule | None, limits: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """
    The explanation as JSON values, with the names of records; empty ones are left out.

    :param limits: as :func:`limits_of` gives them; they say something about whoever is allowed only.
    """
    decision = verdict.decision
    fields: dict[str, Any] = {
        "decision": outcome(verdict),
        "code": verdict.code.id if verdict.code is not None else "",
        "policy": decision.policy,
        "rule": decision.rule,
        "reason": decision.reason,
        "notes": [attrs.asdict(note) for note in verdict.notes],
        "nearest": _near(nearest, verdict) if nearest is not None else {},
        "limits": list(limits) if verdict.allowed else [],
    }
    return {name: value for name, value in fields.items() if value not in ("", [], {})}


def _near(rule: NearRule, verdict: Verdict) -> dict[str, Any]:
    misses = list(rule.misses)
    if not misses and not verdict.allowed and verdict.decision.policy:
        # All of it fits: only a denial stands before it.
        misses.append(f"comes behind the denial of {verdict.decision.policy}: any denial wins")
    return {
        "policy": rule.policy,
        "rule": rule.rule,
        "place": rule.place,
        "would": rule.effect.value,
        "misses": misses,
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two explanations, or a record and an explanation, differ in what is decided or by which rule."""
    return any(before.get(name, "") != after.get(name, "") for name in ("decision", "policy", "rule"))
