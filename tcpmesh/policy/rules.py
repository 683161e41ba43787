"""
The authorization policy ``rules``: who may use which inbound listener, by exact SPIFFE ID.

Ring 1. Rules are compiled when the policy is made: a decision is one or two dictionary look-ups, however many rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

import attrs
from zope.interface import implementer

from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.interfaces import IAuthorizationPolicy, IAuthorizationPolicyFactory, PluginContext
from tcpmesh.values import AuthorizationRequest, Decision, Effect, InboundName

__all__ = ["Policy", "Principals", "Rules", "RulesFactory", "RulesSettings", "Targets"]


def _check_name(_instance: object, _attribute: object, value: str) -> None:
    if not value:
        raise ValueError("the name is empty; records name the policy")


def _not_empty(_instance: object, _attribute: object, value: Sequence[object]) -> None:
    # A deny rule about nobody, or about no listener, would silently protect nothing.
    if not value:
        raise ValueError("nothing is named here, so that the policy would mean nobody")


def _check_inbound(_instance: object, _attribute: object, value: Sequence[object]) -> None:
    if not value:
        raise ValueError("the list is empty; name a listener, or leave out 'to' for every inbound listener")


@attrs.frozen
class Targets:
    """What a policy is about: these inbound listeners."""

    inbound: list[InboundName] = attrs.field(validator=_check_inbound)


@attrs.frozen
class Principals:
    """Whom a policy is about: holders of one of these SPIFFE IDs."""

    ids: list[SpiffeId] = attrs.field(validator=_not_empty)
    mark: Mark | None = attrs.field(default=None, eq=False)  # not a key


@attrs.frozen
class Policy:
    """One entry of ``policies``: allow or deny these peers at these listeners, at all of them without ``to``."""

    name: str = attrs.field(validator=_check_name)
    action: Literal["allow", "deny"]
    from_: list[Principals] = attrs.field(validator=_not_empty)  # the key "from", a Python keyword
    to: Targets | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)  # not a key


def _check_names(_instance: object, _attribute: object, value: Sequence[Policy]) -> None:
    for name, count in Counter(policy.name for policy in value).items():
        if count > 1:
            marks = ", ".join(str(policy.mark) for policy in value if policy.name == name and policy.mark)
            where = f" ({marks})" if marks else ""
            raise ValueError(
                f"{count} policies are named {name!r}{where}; records name the policy, so each needs its own"
            )


@attrs.frozen
class RulesSettings:
    """``policies``: any that denies wins over all that allow; whom none names is denied."""

    policies: list[Policy] = attrs.field(validator=_check_names)


_Key = tuple[str, SpiffeId]  # listener and peer

_EVERY = ""  # stands for every listener; none can have that name

_ABSTAIN = Decision(Effect.ABSTAIN)


@implementer(IAuthorizationPolicy)
class Rules:
    """Answers from a table that holds, for every listener and ID that a rule names, the rule that decides."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._lines = tuple(_describe(policy) for policy in policies)
        self._decisions = _compile(policies)

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Deny, allow, or abstain when no rule names the peer; a peer without a SPIFFE ID is named by none."""
        peer = request.peer.spiffe_id
        if peer is None:
            return _ABSTAIN
        found = self._decisions.get((request.inbound, peer)) or self._decisions.get((_EVERY, peer))
        return found or _ABSTAIN

    def describe(self) -> Sequence[str]:
        """One line per policy."""
        return self._lines


@implementer(IAuthorizationPolicyFactory)
class RulesFactory:
    """Makes policies from rules in the configuration."""

    name = "rules"
    description = "allow and deny rules in the configuration, by exact SPIFFE ID"
    settings = RulesSettings

    def create(self, settings: RulesSettings, context: PluginContext) -> Rules:
        """Compile the rules."""
        return Rules(settings.policies)


def _compile(policies: Sequence[Policy]) -> dict[_Key, Decision]:
    rules: dict[_Key, list[tuple[int, Decision]]] = defaultdict(list)
    for order, (policy, peer, decision) in enumerate(_rules(policies)):
        for listener in policy.to.inbound if policy.to else [_EVERY]:
            rules[listener, peer].append((order, decision))
    for (listener, peer), own in rules.items():
        if listener != _EVERY:
            own += rules.get((_EVERY, peer), [])  # so that the entry of a listener needs no second look-up
    return {key: _first(entries) for key, entries in rules.items()}


def _rules(policies: Sequence[Policy]) -> list[tuple[Policy, SpiffeId, Decision]]:
    found = []
    for number, policy in enumerate(policies):
        effect = Effect(policy.action)
        for position, principals in enumerate(policy.from_):
            for place, peer in enumerate(principals.ids):
                rule = f"policies[{number}].from[{position}].ids[{place}]"
                if mark := principals.mark or policy.mark:
                    rule += f" ({mark})"
                reason = f"policy {policy.name!r} {'allows' if effect is Effect.ALLOW else 'denies'} {peer}"
                found.append((policy, peer, Decision(effect, policy.name, rule, reason)))
    return found


def _first(entries: list[tuple[int, Decision]]) -> Decision:
    """The first rule that denies, else the first that allows, in the order of the file."""
    return min(entries, key=lambda entry: (entry[1].effect is not Effect.DENY, entry[0]))[1]


def _describe(policy: Policy) -> str:
    peers = [str(peer) for principals in policy.from_ for peer in principals.ids]
    shown = ", ".join(peers[:3]) + (f" and {len(peers) - 3} more" if len(peers) > 3 else "")
    where = ", ".join(policy.to.inbound) if policy.to else "every inbound listener"
    return f"{policy.action} {policy.name}: {shown} to {where}"
