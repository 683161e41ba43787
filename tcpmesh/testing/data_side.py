"""
Contracts of the plugins that run on the data side: authorization, retry and balance.

Public.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tcpmesh.balance_interfaces import ISourceBalancer
from tcpmesh.errors import Refusal
from tcpmesh.interfaces import (
    AUTHORIZATION,
    BALANCE,
    RETRY,
    IAuthorizationPolicy,
    ILoadBalancer,
    IPolicySource,
    IRetryStrategy,
    PluginKind,
)
from tcpmesh.limit_interfaces import ILimitingPolicy
from tcpmesh.peers import UNAUTHENTICATED
from tcpmesh.testing.contract import PluginContract
from tcpmesh.testing.making import attempt_failure, authorization_request, endpoint, peer_identity
from tcpmesh.testing.observers import FakePolicyObserver
from tcpmesh.timeouts import DECISION_BUDGET
from tcpmesh.values import AuthorizationRequest, Decision, Effect, RetryContext, TCPAddress, UnixAddress

__all__ = [
    "AuthorizationPolicyContract",
    "LoadBalancerContract",
    "PolicySourceContract",
    "RetryStrategyContract",
    "SourceBalancerContract",
]

_MANY = 1000


def _as_denial(failure: Failure) -> Decision:
    if not isinstance(failure.value, Refusal):
        failure.raiseException()
    return Decision(Effect.DENY, reason=failure.value.reason)


class AuthorizationPolicyContract(PluginContract):
    """
    The points of an authorization policy.

    Override ``allowed`` and ``denied`` with requests that the policy made of ``make_settings`` must allow and deny.
    """

    kind: ClassVar[PluginKind] = AUTHORIZATION

    def allowed(self) -> list[AuthorizationRequest]:
        """Override: requests that must be allowed."""
        return []

    def denied(self) -> list[AuthorizationRequest]:
        """Override: requests that must not be allowed."""
        return []

    def decision(self, request: AuthorizationRequest) -> Decision:
        """Start it if it has to be started, ask, and wait as long as the proxy would."""
        policy: Any = self.create()
        if IPolicySource.providedBy(policy):
            source, observer = policy, FakePolicyObserver()
            source.start(observer)
            self.addCleanup(source.stop)
            policy = observer.policies[-1] if observer.policies else source
        return self.answer(policy, request)

    def answer(self, policy: IAuthorizationPolicy, request: AuthorizationRequest) -> Decision:
        """Ask this one, and wait as long as the proxy would; a Refusal denies, as in the proxy."""
        try:
            answer = policy.decide(request)
            if isinstance(answer, Deferred):
                answer.addErrback(_as_denial)
                self.clock.advance(DECISION_BUDGET)
                answer = self.successResultOf(answer)
        except Refusal as refusal:
            answer = Decision(Effect.DENY, reason=refusal.reason)
        self.check_decision(answer)
        if ILimitingPolicy.providedBy(policy):
            self.check_limits(policy, request)
        return answer

    def check_limits(self, policy: Any, request: AuthorizationRequest) -> None:
        """What a policy that limits may name: limits that it has announced, told at once."""
        verifyObject(ILimitingPolicy, policy)
        for limit in policy.limits_of(request):
            self.check(limit in policy.limits, f"{limit} is not among its limits: {policy.limits}")

    def check_decision(self, decision: object) -> None:
        """What every answer must be."""
        assert isinstance(decision, Decision), f"{decision!r} is not a Decision"
        self.check(isinstance(decision.effect, Effect), f"{decision.effect!r} is not an Effect")
        for text in (decision.policy, decision.rule, decision.reason):
            self.check(isinstance(text, str), f"{text!r} is not text")
        if decision.valid_for is not None:
            self.check(decision.valid_for >= 0, f"valid_for is {decision.valid_for}, which is over already")

    def test_decides_about_a_peer_with_an_id(self) -> None:
        """A peer with a SPIFFE ID gets a Decision, in time."""
        self.check_decision(self.decision(authorization_request()))

    def test_decides_about_a_peer_without_an_id(self) -> None:
        """A peer that is known by a DNS name, or that nobody verified, gets a Decision, not an exception."""
        for peer in peer_identity(None, dns_name="db.example.test"), UNAUTHENTICATED:
            self.check_decision(self.decision(authorization_request(peer)))

    def test_decides_about_a_listener_it_never_heard_of(self) -> None:
        """A request for an unknown listener gets a Decision, not an exception."""
        self.check_decision(self.decision(authorization_request(inbound="somewhere-else")))

    def test_allows_what_it_must(self) -> None:
        """Every request of ``allowed`` is allowed, and the answer names policy or rule for the record."""
        if not self.allowed():
            raise SkipTest("allowed is not overridden")
        for request in self.allowed():
            decision = self.decision(request)
            self.check_decision(decision)
            self.check(decision.effect is Effect.ALLOW, f"{request} got {decision}")
            self.check(decision.policy or decision.rule, f"{decision} names neither policy nor rule")

    def test_does_not_allow_what_it_must_not(self) -> None:
        """No request of ``denied`` is allowed."""
        if not self.denied():
            raise SkipTest("denied is not overridden")
        for request in self.denied():
            decision = self.decision(request)
            self.check_decision(decision)
            self.check(decision.effect is not Effect.ALLOW, f"{request} got {decision}")

    def test_describes_itself_in_single_lines(self) -> None:
        """``describe`` gives lines of text for the start-up block."""
        policy: IAuthorizationPolicy = self.create()
        for line in policy.describe():
            self.assertEqual(line.splitlines(), [line])


class PolicySourceContract(AuthorizationPolicyContract):
    """The points of an authorization policy that is kept current while the proxy runs (IPolicySource)."""

    def test_provides_a_source(self) -> None:
        """It has the methods of both interfaces."""
        verifyObject(IPolicySource, self.create())

    def test_allows_nobody_until_it_is_started(self) -> None:
        """Before, it cannot know whom."""
        policy: Any = self.create()
        for request in [authorization_request(), *self.allowed()]:
            decision = self.answer(policy, request)
            self.check(decision.effect is not Effect.ALLOW, f"{request} got {decision}")

    def test_can_be_stopped_without_a_start(self) -> None:
        """`stop` is called also when the start failed, however early."""
        policy: Any = self.create()
        policy.stop()
        self.check(not self.clock.getDelayedCalls(), "stop scheduled something")

    def test_leaves_nothing_behind(self) -> None:
        """A proxy that stops right after its start leaves no timer."""
        policy: Any = self.create()
        policy.start(FakePolicyObserver())
        policy.stop()
        self.check(not self.clock.getDelayedCalls(), "something is still scheduled after stop")


class RetryStrategyContract(PluginContract):
    """The points of a retry strategy."""

    kind: ClassVar[PluginKind] = RETRY

    def waits(self, strategy: IRetryStrategy, limit: int = _MANY) -> list[float]:
        """Ask as the proxy does: one more failure before each question."""
        context = RetryContext("orders")
        waits: list[float] = []
        context.failures.append(attempt_failure(endpoint()))
        attempts: Iterator[float] = strategy.attempts(context)
        for wait in itertools.islice(attempts, limit):
            waits.append(wait)
            context.failures.append(attempt_failure(endpoint()))
            context.elapsed += wait
        return waits

    def test_waits_are_numbers_of_seconds(self) -> None:
        """Every wait is a finite number of seconds, not below zero."""
        for wait in self.waits(self.create()):
            number = isinstance(wait, (int, float)) and math.isfinite(wait)
            self.check(number and wait >= 0, f"{wait!r} is no wait")

    def test_ends(self) -> None:
        """A strategy gives up: no connection is attempted for ever."""
        self.check(len(self.waits(self.create())) < _MANY, f"after {_MANY} failures it still goes on")

    def test_connections_have_retries_of_their_own(self) -> None:
        """A connection that used up its retries leaves those of the next one alone."""
        strategy = self.create()
        self.assertEqual(len(self.waits(strategy)), len(self.waits(strategy)))


class LoadBalancerContract(PluginContract):
    """The points of a load balancer."""

    kind: ClassVar[PluginKind] = BALANCE

    endpoints = (endpoint(1), endpoint(2), endpoint(3))

    def test_picks_the_only_one(self) -> None:
        """With one endpoint there is no choice."""
        balancer: ILoadBalancer = self.create()
        self.assertEqual(balancer.pick((endpoint(1),), frozenset()), endpoint(1))

    def test_picks_what_there_is(self) -> None:
        """A pick is one of the endpoints that were offered."""
        balancer: ILoadBalancer = self.create()
        for _ in range(10):
            self.assertIn(balancer.pick(self.endpoints, frozenset()), self.endpoints)

    def test_does_not_pick_what_is_excluded(self) -> None:
        """An endpoint that failed for this connection is not picked for it again."""
        balancer: ILoadBalancer = self.create()
        for spared in self.endpoints:
            excluded = frozenset(self.endpoints) - {spared}
            picked = {balancer.pick(self.endpoints, excluded) for _ in self.endpoints}
            self.assertEqual(picked, {spared})

    def test_picks_none_when_all_are_excluded(self) -> None:
        """When every endpoint failed there is none to pick."""
        balancer: ILoadBalancer = self.create()
        self.assertIsNone(balancer.pick(self.endpoints, frozenset(self.endpoints)))

    def test_follows_a_change_of_endpoints(self) -> None:
        """After a change only the new endpoints are picked, and news of an old one does no harm."""
        balancer: ILoadBalancer = self.create()
        old = balancer.pick((endpoint(1),), frozenset())
        assert old is not None
        balancer.opened(old)
        balancer.established(old, 0.01)
        self.assertEqual(balancer.pick((endpoint(2),), frozenset()), endpoint(2))
        balancer.closed(old)
        self.assertEqual(balancer.pick((endpoint(2),), frozenset()), endpoint(2))

    def test_takes_note_of_a_whole_life(self) -> None:
        """Success and failure are reported without an exception, and picking goes on."""
        balancer: ILoadBalancer = self.create()
        for number in range(20):
            picked = balancer.pick(self.endpoints, frozenset())
            assert picked is not None
            balancer.opened(picked)
            if number % 3:
                balancer.established(picked, 0.002)
                balancer.closed(picked)
            else:
                balancer.failed(picked, attempt_failure(picked))
        self.assertIn(balancer.pick(self.endpoints, frozenset()), self.endpoints)

    def test_takes_note_of_news_in_any_order(self) -> None:
        """What cannot be, of an endpoint that it never heard of, raises nothing, and picking goes on."""
        balancer: ILoadBalancer = self.create()
        stranger = endpoint(9)
        for where in (stranger, *self.endpoints):
            balancer.closed(where)
            balancer.failed(where, attempt_failure(where))
            balancer.established(where, 0.001)
            balancer.closed(where)
            balancer.closed(where)
        self.assertIn(balancer.pick(self.endpoints, frozenset()), self.endpoints)


class SourceBalancerContract(LoadBalancerContract):
    """The points of a load balancer that looks at where connections come from (ISourceBalancer)."""

    sources = (TCPAddress("192.0.2.1", 40000), TCPAddress("2001:db8::1", 1), UnixAddress(""))

    def test_looks_at_sources(self) -> None:
        """It has the methods of both interfaces."""
        verifyObject(ISourceBalancer, self.create())

    def test_picks_for_every_source(self) -> None:
        """What was offered, and nothing that is excluded."""
        balancer: Any = self.create()
        for source in self.sources:
            self.assertIn(balancer.pick_for(self.endpoints, frozenset(), source), self.endpoints)
            for spared in self.endpoints:
                excluded = frozenset(self.endpoints) - {spared}
                self.assertEqual(balancer.pick_for(self.endpoints, excluded, source), spared)
            self.assertIsNone(balancer.pick_for(self.endpoints, frozenset(self.endpoints), source))
