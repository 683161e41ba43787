"""
The entries of ``from`` and ``except``, taken apart: what each is found by, and what else must fit.

Ring 1. An entry is found by the values of its leading key, the first that it gives of ``ids``, ``prefixes``,
``trust_domains``, ``dns`` and ``networks``; its other keys are asked then. So every rule has one place in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcpmesh.policy.identities import IdPattern
from tcpmesh.policy.language import Excluded, Policy, Principals
from tcpmesh.policy.networks import Networks, source_number
from tcpmesh.policy.tables import Bucket, Guard, Rule, Selector, Table, sought
from tcpmesh.values import AuthorizationRequest, Decision, Effect

__all__ = ["all_of", "entries_for", "guard_of", "leading_key", "means", "meant", "selectors"]

_KEYS = ("ids", "prefixes", "trust_domains", "dns", "networks")


def entries_for(policy: Policy, *, strangers: bool) -> Iterator[tuple[int, Principals]]:
    """The entries of a policy that can mean peers with an identity, or those without one, each with its position."""
    return ((place, entry) for place, entry in enumerate(policy.from_) if means(policy, entry, strangers=strangers))


def means(policy: Policy, entry: Principals, *, strangers: bool) -> bool:
    """
    Whether an entry can mean peers with an identity; or those without one.

    Permission for the latter is never given by the way: ``any: unauthenticated`` has to be said. Whatever restricts or
    notes, and names networks alone, is about all who come from there.
    """
    if not strangers:
        return entry.any != "unauthenticated"
    if entry.any is not None:
        return entry.any == "unauthenticated"
    asks_for_certificate = policy.when is not None and policy.when.certificate is not None
    return policy.action != "allow" and leading_key(entry) == "networks" and not asks_for_certificate


def meant(entry: Principals, selector: Selector) -> str:
    """For people: whom an entry means by one of its selectors."""
    if selector is None:
        return f"every {entry.any} peer"
    return f"unauthenticated peers from {selector}" if entry.any == "unauthenticated" else str(selector)


def leading_key(entry: Excluded) -> str:
    """The key that an entry is found by."""
    return next((key for key in _KEYS if getattr(entry, key) is not None), "any")


def selectors(entry: Excluded) -> Iterator[tuple[str, Selector]]:
    """What an entry is found by, each with its place in the entry, as ``ids[2]``."""
    key = leading_key(entry)
    if key == "any":
        yield key, None
        return
    patterns = entry.id_patterns()
    for index, selector in enumerate(patterns[key] if key in patterns else getattr(entry, key)):
        yield f"{key}[{index}]", selector


def guard_of(entry: Excluded) -> Guard | None:
    """What must fit beside that; None if nothing."""
    leading = leading_key(entry)
    guards: list[Guard] = [
        _of_ids(patterns) for key, patterns in entry.id_patterns().items() if patterns and key != leading
    ]
    if entry.networks is not None and leading != "networks":
        guards.append(_in_networks(Networks(entry.networks)))
    if isinstance(entry, Principals) and entry.except_ is not None:
        guards.append(_outside(entry.except_))
    return all_of(guards)


def all_of(guards: Sequence[Guard]) -> Guard | None:
    """One guard for several; None for none."""
    if len(guards) < 2:
        return guards[0] if guards else None
    kept = tuple(guards)
    return lambda request: all(guard(request) for guard in kept)


def _of_ids(patterns: Sequence[IdPattern]) -> Guard:
    def fits(request: AuthorizationRequest) -> bool:
        identity = request.peer.spiffe_id
        return identity is not None and any(pattern.matches(identity) for pattern in patterns)

    return fits


def _in_networks(networks: Networks) -> Guard:
    return lambda request: source_number(request.source) in networks


def _guard_of_exception(entry: Excluded) -> Guard | None:
    """An exception is found by whoever the entry means, and that may be peers without an identity."""
    own = guard_of(entry)
    if entry.any is None:
        return own
    return all_of([_is_authenticated, *([own] if own is not None else [])])


def _is_authenticated(request: AuthorizationRequest) -> bool:
    return request.peer.is_authenticated


_LEFT_OUT = Decision(Effect.ABSTAIN)


def _outside(entries: Sequence[Excluded]) -> Guard:
    table = Table(
        Rule(0, selector, _LEFT_OUT, guard)
        for entry in entries
        for guard in [_guard_of_exception(entry)]
        for _, selector in selectors(entry)
    )

    def fits(request: AuthorizationRequest) -> bool:
        found: list[Bucket] = []
        table.find(sought(request.peer, request.source), found)
        return not any(rule.guard is None or rule.guard(request) for bucket in found for rule in bucket)

    return fits
