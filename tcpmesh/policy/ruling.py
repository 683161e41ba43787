"""
Policies, compiled: which rule decides about a connection, and what the others note.

Ring 1. Of the rules that match, the first denial in the order of the files decides; without one, the first that allows.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tcpmesh.limit_interfaces import Limit
from tcpmesh.policy.entries import all_of, entries_for, guard_of, meant, selectors
from tcpmesh.policy.language import Policy, Principals, Targets
from tcpmesh.policy.tables import Bucket, Guard, Rule, Selector, Sought, Table, sought
from tcpmesh.policy.times import Schedule
from tcpmesh.values import AuthorizationRequest, Decision, Effect, PolicyNote
from tcpmesh.wall_clock import WallClock, wall_clock

__all__ = ["MAX_NOTES", "Ruling", "rule_place"]

MAX_NOTES = 8  # in one decision

_ABSTAIN = Decision(Effect.ABSTAIN)
_EVERYWHERE = ""  # no listener has this name
_NEVER = float("inf")

_Where = str | int  # a listener's name, or a port


class Ruling:
    """
    Decides by a list of policies.

    :param now: seconds since the epoch; asked only when a rule with ``when`` is met.
    """

    def __init__(self, policies: Sequence[Policy], now: WallClock = wall_clock) -> None:
        self._now = now
        self._limits = {policy.name: _limit(policy, n) for n, policy in enumerate(policies) if policy.limit is not None}
        schedules = [Schedule(policy.when) if policy.when is not None else None for policy in policies]
        inbound = [(number, policy) for number, policy in enumerate(policies) if not policy.services]
        outbound = [(number, policy) for number, policy in enumerate(policies) if policy.services]
        self._inbound = _Book(inbound, schedules)
        self._outbound = _Book(outbound, schedules)
        self._strangers = _Book(inbound, schedules, strangers=True)

    @property
    def decides_outbound(self) -> bool:
        """Whether any policy about services decides or notes, or limits at some times only."""
        book = self._outbound
        return bool(book.deciding or book.noting or book.timed)

    @property
    def limits(self) -> Sequence[Limit]:
        """Those of all policies."""
        return tuple(self._limits.values())

    def limits_of(self, request: AuthorizationRequest) -> Sequence[Limit]:
        """Those of the policies that match."""
        limiting = self._book(request).limiting
        found = self._found(limiting, request, sought(request.peer, request.source)) if limiting else ()
        return [self._limits[name] for name in self._matching(found, request)[0]] if found else ()

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Deny, allow, or abstain when no rule matches."""
        peer = sought(request.peer, request.source)
        book = self._book(request)
        chosen, change = self._first(self._found(book.deciding, request, peer), request)
        decision = _ABSTAIN if chosen is None else chosen.decision
        if book.noting:
            notes, soonest = self._notes(self._found(book.noting, request, peer), request)
            if notes:
                decision = attrs.evolve(decision, notes=notes)
            change = min(change, soonest)
        if book.timed:  # so that who lives is counted anew when a limit begins or ceases to hold
            change = min(change, self._matching(self._found(book.timed, request, peer), request)[1])
        if change != _NEVER:
            decision = attrs.evolve(decision, valid_for=max(0.0, change - self._now()))
        return decision

    def _book(self, request: AuthorizationRequest) -> _Book:
        if request.service:
            return self._outbound
        return self._inbound if request.peer.is_authenticated else self._strangers

    def _found(self, tables: Mapping[_Where, Table], request: AuthorizationRequest, peer: Sought) -> list[Bucket]:
        found: list[Bucket] = []
        if request.service:
            table = tables.get(request.service)
            if table is not None:
                table.find(peer, found)
            return found
        for where in (request.inbound, request.port, _EVERYWHERE):
            table = tables.get(where)
            if table is not None:
                table.find(peer, found)
        return found

    def _first(self, found: list[Bucket], request: AuthorizationRequest) -> tuple[Rule | None, float]:
        """The rule that decides, and the first moment at which another one may."""
        chosen, best, change = None, sys.maxsize, _NEVER
        for bucket in found:
            for rule in bucket:
                if rule.rank >= best:
                    break
                if rule.guard is not None and not rule.guard(request):
                    continue
                if rule.schedule is not None:
                    holds, until = rule.schedule.at(request.peer, self._now())
                    change = min(change, until)
                    if not holds:
                        continue
                chosen, best = rule, rule.rank
                break
        return chosen, change

    def _notes(self, found: list[Bucket], request: AuthorizationRequest) -> tuple[tuple[PolicyNote, ...], float]:
        matching, change = self._matching(found, request, MAX_NOTES)
        return tuple(rule.decision.notes[0] for rule in matching.values()), change

    def _matching(
        self, found: Sequence[Bucket], request: AuthorizationRequest, most: int = sys.maxsize
    ) -> tuple[dict[str, Rule], float]:
        """By policy: the first rule of it that matches; and the first moment at which others may."""
        matching: dict[str, Rule] = {}
        change = _NEVER
        for rule in sorted((rule for bucket in found for rule in bucket), key=lambda rule: rule.rank):
            policy = rule.decision.policy
            if policy in matching or (rule.guard is not None and not rule.guard(request)):
                continue
            if rule.schedule is not None:
                holds, until = rule.schedule.at(request.peer, self._now())
                change = min(change, until)
                if not holds:
                    continue
            matching[policy] = rule
            if len(matching) == most:
                break
        return matching, change


class _Book:
    """
    All rules about connections of one direction.

    :param policies: those about that direction, each with its number.
    :param strangers: the rules about peers without an identity, instead of those about all others. No rule is in both.
    """

    __slots__ = ("_schedules", "_strangers", "deciding", "limiting", "noting", "timed")

    def __init__(
        self,
        policies: Sequence[tuple[int, Policy]],
        schedules: Sequence[Schedule | None],
        *,
        strangers: bool = False,
    ) -> None:
        self._schedules = schedules
        self._strangers = strangers
        deciding = [entry for entry in policies if entry[1].decides]
        ranked = sorted(deciding, key=lambda entry: entry[1].action != "deny")
        limiting = [entry for entry in policies if entry[1].limit is not None]
        self.deciding = _tables(self._rules(ranked))
        self.noting = _tables(self._rules(entry for entry in policies if entry[1].notes), keep_all=True)
        self.limiting = _tables(self._rules(limiting), keep_all=True)
        self.timed = _tables(self._rules(entry for entry in limiting if entry[1].when is not None), keep_all=True)

    def _rules(self, policies: Iterable[tuple[int, Policy]]) -> Iterator[tuple[Sequence[_Where], Rule]]:
        """Every rule with where it holds, in the order of rank."""
        rank = 0
        for number, policy in policies:
            schedule = self._schedules[number]
            where = _where(policy.to)
            target = _guard_of_targets(policy.to)
            for position, entry in entries_for(policy, strangers=self._strangers):
                own = guard_of(entry)
                guard = all_of([one for one in (target, own) if one is not None])
                for place, selector in selectors(entry):
                    decision = _decision(policy, rule_place(policy, number, position, place), selector, entry)
                    yield where, Rule(rank, selector, decision, guard, schedule)
                    rank += 1


def rule_place(policy: Policy, number: int, position: int, place: str) -> str:
    """What records call a rule: its path, counted over all files, and the file and line of its entry."""
    mark = policy.from_[position].mark or policy.mark
    return f"policies[{number}].from[{position}].{place}" + (f" ({mark})" if mark else "")


def _limit(policy: Policy, number: int) -> Limit:
    written = policy.limit
    assert written is not None
    return Limit(
        policy=policy.name,
        rule=f"policies[{number}]" + (f" ({policy.mark})" if policy.mark else ""),
        connections=written.connections,
        rate=written.rate.per_second if written.rate is not None else None,
        burst=written.at_once,
        per=tuple(written.per or ()),
        ipv4_bits=written.ipv4_bits or 24,
        ipv6_bits=written.ipv6_bits or 64,
        enforced=policy.mode == "enforce",
    )


def _where(targets: Targets | None) -> Sequence[_Where]:
    """By which listeners, ports or services a policy is found; the other keys are asked as guards."""
    if targets is None:
        return (_EVERYWHERE,)
    return targets.services or targets.inbound or targets.ports or (_EVERYWHERE,)


def _guard_of_targets(targets: Targets | None) -> Guard | None:
    if targets is None:
        return None
    guards: list[Guard] = []
    if targets.ports is not None and targets.inbound is not None:
        ports = frozenset(targets.ports)
        guards.append(lambda request: request.port in ports)
    if targets.sni is not None:
        names = tuple(targets.sni)
        guards.append(lambda request: any(name.matches(request.sni) for name in names))
    if targets.alpn is not None:
        protocols = frozenset(targets.alpn)
        guards.append(lambda request: request.alpn in protocols)
    return all_of(guards)


def _decision(policy: Policy, place: str, selector: Selector, entry: Principals) -> Decision:
    if not policy.decides:
        return Decision(Effect.ABSTAIN, policy.name, place, notes=(PolicyNote(policy.name, place, policy.says),))
    effect = Effect(policy.action)
    verb = "allows" if effect is Effect.ALLOW else "denies"
    return Decision(effect, policy.name, place, f"policy {policy.name!r} {verb} {meant(entry, selector)}")


def _tables(rules: Iterable[tuple[Sequence[_Where], Rule]], *, keep_all: bool = False) -> Mapping[_Where, Table]:
    by_place: dict[_Where, list[Rule]] = defaultdict(list)
    for where, rule in rules:
        for place in where:
            by_place[place].append(rule)
    return {place: Table(found, keep_all=keep_all) for place, found in by_place.items()}
