"""
The one way from the control side to the data side: an immutable state, swapped whole.

Ring 0. Identity sources and discovery change it through :class:`tcpmesh.control.MeshControl`; the data path only
reads ``cell.current``. This is where the process can later be split into one control and several data processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from tcpmesh.identity.deny_list import NOBODY, DenyList
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.limit_interfaces import ILimitingPolicy
from tcpmesh.policy_interfaces import IOutboundPolicy, IUnauthenticatedPolicy
from tcpmesh.timeouts import DECISION_BUDGET
from tcpmesh.values import Effect, Endpoint, IdentityState, Svid, TrustBundle

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from tcpmesh.values import AuthorizationRequest, Decision


class Answers(Protocol):
    """What a policy has answered that does not answer at once: ``tcpmesh.policy.decision_cache``."""

    in_use: bool

    def find(self, request: AuthorizationRequest) -> Decision | Deferred[Decision] | None:
        """The answer, if it is known or will be."""
        ...

    def hold(self, request: AuthorizationRequest, answer: Deferred[Decision]) -> Deferred[Decision]:
        """Remember what will be answered."""
        ...

    def renewed(self) -> Answers:
        """One that knows nothing yet."""
        ...


def _decides_outbound(named: NamedPolicy) -> bool:
    return IOutboundPolicy.providedBy(named.policy) and bool(named.policy.decides_outbound)  # type: ignore[attr-defined]


def _knows_strangers(named: NamedPolicy) -> bool:
    return IUnauthenticatedPolicy.providedBy(named.policy)


def _limits(named: NamedPolicy) -> bool:
    return ILimitingPolicy.providedBy(named.policy) and bool(named.policy.limits)  # type: ignore[attr-defined]


def _limiting(state: MeshState) -> tuple[tuple[int, NamedPolicy], ...]:
    return tuple((position, named) for position, named in enumerate(state.policies) if named.limits)


@attrs.frozen
class NamedPolicy:
    """
    A policy and the name of the plugin that made it, for records and failures.

    :ivar outbound: whether it is asked about outbound connections.
    :ivar limits: whether it is asked for limits.
    :ivar knows_strangers: whether it may allow peers without an identity.
    """

    name: str
    policy: IAuthorizationPolicy
    answers: Answers | None = attrs.field(default=None, eq=False, repr=False)  # those that came later
    outbound: bool = attrs.field(init=False, default=attrs.Factory(_decides_outbound, takes_self=True))
    limits: bool = attrs.field(init=False, default=attrs.Factory(_limits, takes_self=True))
    knows_strangers: bool = attrs.field(init=False, default=attrs.Factory(_knows_strangers, takes_self=True))


@attrs.frozen
class PolicyDefaults:
    """What becomes of a connection that no policy allows or denies, by its direction."""

    inbound: Effect = Effect.DENY
    outbound: Effect = Effect.ALLOW


@attrs.frozen(eq=False)
class MeshState:
    """Everything that the data path needs from outside. ``generation`` grows with every change."""

    generation: int = 0
    svids: Mapping[str, Svid] = attrs.field(factory=dict)  # by workload name; absent: no identity
    identity_states: Mapping[str, IdentityState] = attrs.field(factory=dict)  # by workload name
    bundles: Mapping[TrustDomain, TrustBundle] = attrs.field(factory=dict)
    endpoints: Mapping[str, tuple[Endpoint, ...]] = attrs.field(factory=dict)  # by service; absent: nothing said yet
    no_endpoints: Mapping[str, str] = attrs.field(factory=dict)  # by service without any: why, if discovery says so
    discovery_failures: Mapping[str, str] = attrs.field(factory=dict)  # by service: why its discovery fails now
    policies: tuple[NamedPolicy, ...] = ()
    defaults: PolicyDefaults = PolicyDefaults()
    decision_budget: float = DECISION_BUDGET  # seconds that all policies together may take
    deny_list: DenyList = NOBODY
    denied_workloads: Mapping[str, str] = attrs.field(factory=dict)  # whose own certificate is on that list, and why
    #: The policies that limit connections, each with its position.
    limiting: tuple[tuple[int, NamedPolicy], ...] = attrs.field(
        init=False, default=attrs.Factory(_limiting, takes_self=True)
    )

    @property
    def decides_outbound(self) -> bool:
        """Whether outbound connections need a decision: nothing is asked while everything is allowed anyway."""
        return self.defaults.outbound is not Effect.ALLOW or any(named.outbound for named in self.policies)


class MeshStateCell:
    """Holds the current state; readers take ``current`` once per connection and keep what they took."""

    __slots__ = ("_observers", "current")

    def __init__(self, state: MeshState | None = None) -> None:
        self.current = state or MeshState()
        self._observers: list[Callable[[MeshState], None]] = []

    def observe(self, observer: Callable[[MeshState], None]) -> None:
        """Call ``observer`` after every swap."""
        self._observers.append(observer)

    def swap(self, **changes: Any) -> MeshState:
        """Replace the state by one with these changes and the next generation."""
        self.current = attrs.evolve(self.current, generation=self.current.generation + 1, **changes)
        for observer in self._observers:
            observer(self.current)
        return self.current
