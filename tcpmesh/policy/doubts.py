"""
Policies that can be used and cannot have been meant so: rules that will never decide.

Ring 1. They are warnings and no errors: a denial that covers somebody's permission may be the very thing that is needed
now, and must not keep a proxy from starting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import attrs

from tcpmesh.dns_patterns import DnsPattern
from tcpmesh.errors import Problem
from tcpmesh.policy.entries import entries_for, guard_of, selectors
from tcpmesh.policy.identities import IdPattern
from tcpmesh.policy.language import Excluded, Policy
from tcpmesh.policy.networks import Network
from tcpmesh.policy.tables import Selector

__all__ = ["MAX_DOUBTS", "doubts"]

MAX_DOUBTS = 20
_MAX_COMPARED = 50_000  # pairs of patterns, some 50 ms; with more of them, some are not compared
_EVERYWHERE = ""


def doubts(policies: Sequence[Policy], targets: Mapping[str, Sequence[int]]) -> list[Problem]:
    """
    Look for what can never decide.

    :param targets: the inbound listeners with the ports of their targets; without any, ports are not looked at.
    """
    found: list[Problem] = []
    for doubt in (
        *_ports(policies, targets),
        *_dns(policies),
        *_shadowed(policies, strangers=False),
        *_shadowed(policies, strangers=True),
    ):
        if len(found) == MAX_DOUBTS:
            found.append(Problem(f"there are more rules that can never decide; these are the first {MAX_DOUBTS}"))
            break
        found.append(doubt)
    return found


def _ports(policies: Sequence[Policy], targets: Mapping[str, Sequence[int]]) -> Iterator[Problem]:
    for policy in policies if targets else ():
        ports = (policy.to and policy.to.ports) or ()
        listeners: Sequence[str] = (policy.to and policy.to.inbound) or list(targets)
        there = {port for name in listeners for port in targets.get(name, ())}
        for port in ports:
            if port not in there:
                whose = f"listener {listeners[0]!r}" if len(listeners) == 1 else "any inbound listener that it names"
                yield Problem(f"policy {policy.name!r}: the target of {whose} has no port {port}", policy.mark)


def _dns(policies: Sequence[Policy]) -> Iterator[Problem]:
    for policy in policies:
        for entry in policy.from_:
            if entry.dns is not None:
                yield Problem(
                    f"policy {policy.name!r} means nobody by dns: in this version every peer has a SPIFFE ID, and a "
                    "name that its certificate holds beside that is not looked at",
                    entry.mark or policy.mark,
                )


@attrs.define(eq=False)
class _Denied:
    """What is denied at one place whatever else holds, with the policy that does."""

    exact: dict[IdPattern, Policy] = attrs.field(factory=dict)
    patterns: list[tuple[IdPattern | DnsPattern | Network, Policy]] = attrs.field(factory=list)
    every: Policy | None = None

    def add(self, selector: Selector, policy: Policy) -> None:
        if selector is None:
            self.every = self.every or policy
        elif isinstance(selector, IdPattern) and selector.is_exact:
            self.exact.setdefault(selector, policy)
        else:
            self.patterns.append((selector, policy))

    def covers(self, selector: Selector) -> Policy | None:
        """The policy that denies all of it."""
        if self.every is not None or selector is None:
            return self.every
        if isinstance(selector, IdPattern) and selector in self.exact:
            return self.exact[selector]
        return next((policy for denied, policy in self.patterns if _covers(denied, selector)), None)


def _covers(denied: Selector, selector: Selector) -> bool:
    if isinstance(denied, IdPattern) and isinstance(selector, IdPattern):
        return denied.covers(selector.segments, selector.deep)
    if isinstance(denied, Network) and isinstance(selector, Network):
        return denied.first <= selector.first and selector.last <= denied.last
    return denied == selector


def _shadowed(policies: Sequence[Policy], *, strangers: bool) -> Iterator[Problem]:
    denied: dict[str | int, _Denied] = defaultdict(_Denied)
    for policy in policies:
        if not (policy.decides and policy.action == "deny" and policy.when is None and _is_plain(policy)):
            continue
        for _, entry in entries_for(policy, strangers=strangers):
            if guard_of(entry) is None:
                for _, selector in selectors(entry):
                    for place in _places(policy):
                        denied[place].add(selector, policy)
    if not denied:
        return
    left = _MAX_COMPARED
    everywhere = _Denied()
    for policy in policies:
        if not (policy.decides and policy.action == "allow"):
            continue
        wide = everywhere if policy.services else denied.get(_EVERYWHERE, everywhere)
        places = [denied.get(place, everywhere) for place in _places(policy)]
        for _, entry in entries_for(policy, strangers=strangers):
            for where, selector in selectors(entry):
                left -= sum(len(place.patterns) for place in (wide, *places))
                if left < 0:
                    return
                by = wide.covers(selector) or _by_all(places, selector)
                if by is not None:
                    yield _shadow(policy, entry, where, selector, by)


def _by_all(places: Sequence[_Denied], selector: Selector) -> Policy | None:
    deniers = [place.covers(selector) for place in places]
    return deniers[0] if None not in deniers else None


def _is_plain(policy: Policy) -> bool:
    """Whether nothing but a listener, a port or a service is asked of a connection."""
    to = policy.to
    return to is None or (to.sni is None and to.alpn is None and (to.inbound is None or to.ports is None))


def _places(policy: Policy) -> Sequence[str | int]:
    if policy.to is None:
        return (_EVERYWHERE,)
    return policy.to.services or policy.to.inbound or policy.to.ports or (_EVERYWHERE,)


def _shadow(policy: Policy, entry: Excluded, where: str, selector: Selector, by: Policy) -> Problem:
    whom = "anybody" if selector is None else str(selector)
    mark = f" ({by.mark})" if by.mark else ""
    return Problem(
        f"policy {policy.name!r} can never allow {whom} ({where}): policy {by.name!r}{mark} denies it, and any denial "
        "wins",
        entry.mark or policy.mark,
    )
