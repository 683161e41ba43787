"""
What another policy would change for connections that there were: whom it cuts off, whom it lets in.

Ring 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from tcpmesh.policy.explain import ALLOWED, UNKNOWN
from tcpmesh.policy.replay import NOWHERE, Places
from tcpmesh.values import AuthorizationRequest, TCPAddress

__all__ = ["MAX_KINDS", "Change", "Kind", "Kinds", "changes", "missing_place", "without_port"]

MAX_KINDS = 100_000  # kinds of connections that are told apart


@attrs.frozen
class Kind:
    """
    Connections that a policy cannot tell apart.

    :ivar moment: when they were, in seconds since the epoch, as far as it matters.
    """

    request: AuthorizationRequest
    moment: float


@attrs.define(eq=False)
class Kinds:
    """How many connections of each kind there were."""

    limit: int = MAX_KINDS
    counts: Counter[Kind] = attrs.field(factory=Counter)
    left_out: int = 0  # connections of kinds beyond the limit

    def add(self, kind: Kind) -> None:
        """Count one connection."""
        if kind not in self.counts and len(self.counts) >= self.limit:
            self.left_out += 1
        else:
            self.counts[kind] += 1


def without_port(request: AuthorizationRequest) -> AuthorizationRequest:
    """The same connection from any port: no policy is about the client's port."""
    source = request.source
    return attrs.evolve(request, source=TCPAddress(source.host, 0) if isinstance(source, TCPAddress) else NOWHERE)


def missing_place(request: AuthorizationRequest, places: Places) -> str:
    """What a configuration lacks for a connection to come about; empty if nothing."""
    if request.service:
        return "" if request.service in places.services else f"there is no service {request.service!r}"
    return "" if request.inbound in places.inbound else f"there is no inbound listener {request.inbound!r}"


@attrs.define(eq=False)
class Change:
    """What changes for one identity at one place, for one pair of reasons."""

    effect: Literal["cut off", "let in", "cannot tell"]
    identity: str
    where: str
    old: Mapping[str, Any]  # explanations
    new: Mapping[str, Any]
    example: Kind
    connections: int = 0
    sources: set[str] = attrs.field(factory=set)


def changes(kinds: Iterable[tuple[Kind, int, Mapping[str, Any], Mapping[str, Any]]]) -> list[Change]:
    """
    Group what changes by identity, place and reasons; those that cut off first, and those with most connections.

    :param kinds: each kind, how many connections it has, and the explanations by the old and by the new policy.
    """
    found: dict[tuple[str, ...], Change] = {}
    for kind, count, old, new in kinds:
        effect = _effect(old["decision"], new["decision"])
        if effect is None:
            continue
        request = kind.request
        where = f"service {request.service}" if request.service else f"inbound {request.inbound}"
        key = (effect, str(request.peer), where, *map(_reason, (old, new)))
        change = found.setdefault(key, Change(effect, str(request.peer), where, old, new, kind))
        change.connections += count
        if isinstance(request.source, TCPAddress):
            change.sources.add(request.source.host)
    order = {"cut off": 0, "cannot tell": 1, "let in": 2}
    return sorted(found.values(), key=lambda change: (order[change.effect], -change.connections))


def _effect(old: str, new: str) -> Literal["cut off", "let in", "cannot tell"] | None:
    if old == new:
        return None
    if UNKNOWN in (old, new):
        return "cannot tell"
    return "cut off" if old == ALLOWED else "let in"


def _reason(explanation: Mapping[str, Any]) -> str:
    return str(explanation.get("rule") or explanation.get("policy") or explanation.get("code") or "")
