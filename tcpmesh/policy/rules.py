"""
The authorization policy ``rules``: who may use which inbound listener, and which workload which service.

Ring 1. The language is :mod:`tcpmesh.policy.language`, what becomes of it :mod:`tcpmesh.policy.ruling`, and the plugin
:mod:`tcpmesh.sources.rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from zope.interface import implementer

from tcpmesh.errors import Problem
from tcpmesh.limit_interfaces import ILimitingPolicy, Limit
from tcpmesh.policy.doubts import doubts
from tcpmesh.policy.entries import meant, selectors
from tcpmesh.policy.language import Policy
from tcpmesh.policy.nearest import near_rules
from tcpmesh.policy.ruling import Ruling
from tcpmesh.policy_interfaces import (
    IDoubtedPolicy,
    IExplainingPolicy,
    IOutboundPolicy,
    IUnauthenticatedPolicy,
    NearRule,
)
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tcpmesh.wall_clock import WallClock, wall_clock

__all__ = ["Rules"]

_DESCRIBED = 50  # policies; nobody reads thousands of lines at each start


@implementer(IOutboundPolicy, IUnauthenticatedPolicy, IDoubtedPolicy, IExplainingPolicy, ILimitingPolicy)
class Rules:
    """
    Decides by policies that do not change.

    :param ports: the inbound listeners with the ports of their targets, for warnings.
    """

    def __init__(
        self, policies: Sequence[Policy], now: WallClock = wall_clock, ports: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.policies = tuple(policies)
        self._ports = ports or {}
        self._now = now
        self._doubts: Sequence[Problem] | None = None
        self._ruling = Ruling(self.policies, now)
        self.decides_outbound = self._ruling.decides_outbound
        self.limits = self._ruling.limits

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Deny, allow, or abstain when no rule matches. (IAuthorizationPolicy)"""
        return self._ruling.decide(request)

    def limits_of(self, request: AuthorizationRequest) -> Sequence[Limit]:
        """The limits that hold for a connection. (ILimitingPolicy)"""
        return self._ruling.limits_of(request)

    def warnings(self) -> Sequence[Problem]:
        """Rules that can never decide. (IDoubtedPolicy)"""
        if self._doubts is None:
            self._doubts = doubts(self.policies, self._ports)
        return self._doubts

    def near_rules(self, request: AuthorizationRequest, effect: Effect) -> Iterator[NearRule]:
        """Every rule of that effect, and what of it does not fit. (IExplainingPolicy)"""
        return near_rules(self.policies, request, effect, self._now())

    def describe(self) -> Sequence[str]:
        """One line per policy, of the first ones when there are many. (IAuthorizationPolicy)"""
        lines = [_describe(policy) for policy in self.policies[:_DESCRIBED]]
        more = len(self.policies) - len(lines)
        return [*lines, f"and {more} more policies"] if more else lines


def _describe(policy: Policy) -> str:
    peers = [meant(entry, selector) for entry in policy.from_ for _, selector in selectors(entry)]
    shown = ", ".join(peers[:3]) + (f" and {len(peers) - 3} more" if len(peers) > 3 else "")
    limits = [name for name, value in (("when", policy.when), ("dry-run", policy.mode == "dry-run")) if value]
    limits += [str(policy.limit)] if policy.limit is not None else []
    return f"{policy.action} {policy.name}: {shown} to {_where(policy)}" + "".join(f" ({limit})" for limit in limits)


def _where(policy: Policy) -> str:
    if policy.to is None:
        return "every inbound listener"
    if policy.services:
        return f"{'service' if len(policy.services) == 1 else 'services'} {', '.join(policy.services)}"
    parts = [", ".join(policy.to.inbound) if policy.to.inbound else "every inbound listener"]
    for key in ("ports", "sni", "alpn"):
        values = getattr(policy.to, key)
        if values is not None:
            parts.append(f"{key} {', '.join(str(value) for value in values)}")
    return " with ".join(parts)
