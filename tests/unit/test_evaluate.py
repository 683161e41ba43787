"""One verdict of many policies, failing closed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import DENIED_BY_RULE, NO_RULE_ALLOWS, POLICY_FAILED, POLICY_TIMED_OUT
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import MeshState, NamedPolicy
from tcpmesh.policy.evaluate import Verdict, decide, decide_by
from tcpmesh.testing import authorization_request
from tcpmesh.values import AuthorizationRequest, Decision, Effect

ALLOW = Decision(Effect.ALLOW, "p", "r", "because")
DENY = Decision(Effect.DENY, "q", "s", "because not")
ABSTAIN = Decision(Effect.ABSTAIN)


@implementer(IAuthorizationPolicy)
class Fixed:
    """Answers with what it was given, or with what the callable that it was given returns."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.requests: list[AuthorizationRequest] = []

    def decide(self, request: AuthorizationRequest) -> Any:
        self.requests.append(request)
        return self.answer() if callable(self.answer) else self.answer

    def describe(self) -> Sequence[str]:
        return ()


class Boom(Exception):
    """What a broken plugin raises."""


def boom() -> None:
    raise Boom("spiffe://example.test/web is \x1b[31mred")


class DecideTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        self.log = Logger(namespace="test", observer=self.events.append)
        self.request = authorization_request()

    def decide(self, *answers: Any) -> Verdict | Deferred[Verdict]:
        policies = [NamedPolicy(f"plugin{number}", Fixed(answer)) for number, answer in enumerate(answers)]
        return decide(policies, self.request, self.clock, self.log)

    def now(self, *answers: Any) -> Verdict:
        verdict = self.decide(*answers)
        assert isinstance(verdict, Verdict), f"{verdict} came as a Deferred"
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return verdict

    def later(self, *answers: Any) -> Deferred[Verdict]:
        verdict = self.decide(*answers)
        assert isinstance(verdict, Deferred), f"{verdict} came at once"
        return verdict

    def test_one_that_allows_is_enough(self) -> None:
        """Abstentions do not matter; the decision is the policy's own."""
        self.assertEqual(self.now(ABSTAIN, ALLOW, ABSTAIN), Verdict(True, ALLOW, None))

    def test_the_first_that_allows_is_named(self) -> None:
        """Of two that allow, the earlier is recorded."""
        self.assertEqual(self.now(ALLOW, Decision(Effect.ALLOW, "later")).decision.policy, "p")

    def test_any_denial_denies(self) -> None:
        """A denial wins before and after those that allow."""
        self.assertEqual(self.now(ALLOW, DENY), Verdict(False, DENY, DENIED_BY_RULE))
        self.assertEqual(self.now(DENY, ALLOW), Verdict(False, DENY, DENIED_BY_RULE))

    def test_after_a_denial_nobody_is_asked(self) -> None:
        """Later policies cannot change a denial, so they are not called."""
        second = Fixed(ALLOW)
        decide([NamedPolicy("a", Fixed(DENY)), NamedPolicy("b", second)], self.request, self.clock, self.log)
        self.assertEqual(second.requests, [])

    def test_nobody_allows(self) -> None:
        """Without policies, or with abstentions only, the reason names identity and listener."""
        for answers in ((), (ABSTAIN, ABSTAIN)):
            verdict = self.now(*answers)
            self.assertFalse(verdict.allowed)
            self.assertIs(verdict.code, NO_RULE_ALLOWS)
            self.assertEqual(
                verdict.decision.reason,
                "no policy allows spiffe://example.test/web at inbound listener 'orders-in'",
            )

    def test_an_exception_denies_and_is_logged_with_its_traceback(self) -> None:
        """The reason names plugin and type, never the exception's text, which a peer may have written."""
        verdict = self.now(ALLOW, boom)
        self.assertIs(verdict.code, POLICY_FAILED)
        self.assertEqual(verdict.decision.policy, "plugin1")
        self.assertEqual(verdict.decision.reason, "policy plugin 'plugin1' raised Boom; its traceback is in the log")
        [event] = self.events
        self.assertEqual((event["plugin"], event["log_level"]), ("plugin1", LogLevel.critical))
        self.assertIs(event["log_failure"].type, Boom)

    def test_nonsense_denies_and_is_logged(self) -> None:
        """None, a boolean, a string, an effect and a Decision without an effect are not answers."""
        for nonsense, word in (
            (None, "NoneType"),
            (True, "bool"),
            ("allow", "str"),
            (Effect.ALLOW, "Effect"),
            (Decision("allow"), "Decision"),  # type: ignore[arg-type]
        ):
            self.events.clear()
            verdict = self.now(ALLOW, nonsense)
            self.assertIs(verdict.code, POLICY_FAILED)
            reason = f"policy plugin 'plugin1' answered with {word}, not a Decision"
            self.assertEqual(verdict.decision.reason, reason)
            self.assertEqual([event["reason"] for event in self.events], [reason])

    def test_a_decision_with_nonsense_in_it_denies(self) -> None:
        """What stands for a duration that is never over, or for no time, text or note, allows nobody, early or late."""
        for name, value, said in (
            ("valid_for", math.nan, "a valid_for of float that is no number of seconds"),
            ("valid_for", 10**400, "a valid_for of int that is no number of seconds"),
            ("valid_for", "5", "a valid_for of str that is no number of seconds"),
            ("notes", None, "notes that are no tuple of PolicyNote"),
            ("notes", ("audit",), "notes that are no tuple of PolicyNote"),
            ("reason", 5, "a policy, rule or reason that is no text"),
            ("rule", None, "a policy, rule or reason that is no text"),
        ):
            answer = attrs.evolve(ALLOW, **{name: value})
            late: Deferred[Decision] = Deferred()
            waiting = self.decide(late, attrs.evolve(ALLOW, valid_for=3.0))
            assert isinstance(waiting, Deferred)
            late.callback(answer)
            for verdict in (self.now(answer), self.successResultOf(waiting)):
                self.assertEqual((verdict.allowed, verdict.code), (False, POLICY_FAILED), value)
                self.assertEqual(verdict.decision.reason, f"policy plugin 'plugin0' answered with {said}")

    def test_a_duration_below_zero_is_over_at_once(self) -> None:
        """As when a plugin subtracts two times; one without an end stands."""
        for seconds in (-1.0, 0, math.inf):
            verdict = self.now(attrs.evolve(ALLOW, valid_for=seconds))
            self.assertEqual((verdict.allowed, verdict.valid_for), (True, seconds))

    def test_fired_deferreds_are_answers_at_once(self) -> None:
        """What is there already needs neither a Deferred nor a timer."""
        self.assertTrue(self.now(succeed(ALLOW)).allowed)
        self.assertIs(self.now(succeed(DENY)).code, DENIED_BY_RULE)
        self.assertIs(self.now(succeed(None)).code, POLICY_FAILED)
        self.assertIs(self.now(fail(Boom())).code, POLICY_FAILED)

    def test_waits_for_an_answer(self) -> None:
        """A late answer counts like an early one, and leaves no timer behind."""
        for answer, allowed in ((ALLOW, True), (DENY, False), (ABSTAIN, False)):
            pending: Deferred[Decision] = Deferred()
            result = self.later(pending)
            self.assertNoResult(result)
            pending.callback(answer)
            self.assertIs(self.successResultOf(result).allowed, allowed)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waits_for_all_before_it_allows(self) -> None:
        """One that allows does not settle it while another may still deny; order decides who is named."""
        first: Deferred[Decision] = Deferred()
        second: Deferred[Decision] = Deferred()
        result = self.later(first, second, Decision(Effect.ALLOW, "third"))
        second.callback(Decision(Effect.ALLOW, "second"))
        self.assertNoResult(result)
        first.callback(ABSTAIN)
        self.assertEqual(self.successResultOf(result).decision.policy, "second")

    def test_a_late_denial_cancels_the_others(self) -> None:
        """After a denial nobody else's answer is needed."""
        cancelled: list[Deferred[Decision]] = []
        first: Deferred[Decision] = Deferred()
        second: Deferred[Decision] = Deferred(cancelled.append)
        result = self.later(first, second)
        first.callback(DENY)
        self.assertIs(self.successResultOf(result).code, DENIED_BY_RULE)
        self.assertEqual(cancelled, [second])
        self.assertEqual((self.events, self.clock.getDelayedCalls()), ([], []))

    def test_an_early_denial_cancels_those_asked_before(self) -> None:
        """A policy that denies at once settles it although an earlier one still thinks."""
        cancelled: list[Deferred[Decision]] = []
        self.assertIs(self.now(Deferred(cancelled.append), DENY).code, DENIED_BY_RULE)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.events, [])

    def test_a_late_failure_denies(self) -> None:
        """An errback means deny, with its traceback in the log."""
        pending: Deferred[Decision] = Deferred()
        result = self.later(ALLOW, pending)
        pending.errback(Boom())
        self.assertIs(self.successResultOf(result).code, POLICY_FAILED)
        self.assertIs(self.events[0]["log_failure"].type, Boom)

    def test_silence_denies_when_the_budget_is_spent(self) -> None:
        """Just before it nothing is decided; at it the slow plugin is named and cancelled."""
        cancelled: list[Deferred[Decision]] = []
        slow: Deferred[Decision] = Deferred(cancelled.append)
        result = self.later(ALLOW, slow)
        self.clock.advance(0.199)
        self.assertNoResult(result)
        self.clock.advance(0.001)
        verdict = self.successResultOf(result)
        self.assertIs(verdict.code, POLICY_TIMED_OUT)
        self.assertEqual(verdict.decision.reason, "policy plugin 'plugin1' did not answer within 200ms")
        self.assertEqual(cancelled, [slow])
        self.assertEqual([event["reason"] for event in self.events], [verdict.decision.reason])

    def test_the_budget_is_that_of_the_state(self) -> None:
        """As configured, for answers that come later and for those that block everything."""
        state = MeshState(policies=(NamedPolicy("slow", Fixed(Deferred())),), decision_budget=1.5)
        result = decide_by(state, self.request, self.clock, self.log)
        assert isinstance(result, Deferred)
        self.clock.advance(1.499)
        self.assertNoResult(result)
        self.clock.advance(0.001)
        self.assertEqual(
            self.successResultOf(result).decision.reason, "policy plugin 'slow' did not answer within 1.5s"
        )
        state = attrs.evolve(state, policies=(NamedPolicy("slow", Fixed(self.blocking(1, ALLOW))),))
        self.assertEqual(decide_by(state, self.request, self.clock, self.log), Verdict(True, ALLOW))

    def blocking(self, seconds: float, answer: Any) -> Callable[[], Any]:
        """An answer that comes at once, but for which everything stood still so long."""

        def decide() -> Any:
            self.clock.advance(seconds)
            return answer() if callable(answer) else answer

        return decide

    def test_who_blocks_longer_than_the_budget_denies(self) -> None:
        """Whether it then allows, abstains or gives a Deferred; the log and the reason name it."""
        for answer in (ALLOW, ABSTAIN, succeed(ALLOW), Deferred()):
            self.events.clear()
            verdict = self.now(ALLOW, self.blocking(0.201, answer), ALLOW)
            self.assertEqual((verdict.allowed, verdict.code), (False, POLICY_TIMED_OUT))
            reason = "policy plugin 'plugin1' blocked the proxy for longer than 200ms"
            self.assertEqual((verdict.decision.policy, verdict.decision.reason), ("plugin1", reason))
            self.assertEqual([event["reason"] for event in self.events], [reason])

    def test_who_blocks_and_denies_or_fails_has_denied(self) -> None:
        """Its own rule and reason say more than the time it took."""
        verdict = self.now(self.blocking(1, DENY))
        self.assertEqual(verdict, Verdict(False, DENY, DENIED_BY_RULE))
        self.assertIs(self.now(self.blocking(1, boom)).code, POLICY_FAILED)

    def test_blocking_within_the_budget_is_slow_and_no_more(self) -> None:
        """Each policy has the budget for itself."""
        half = [self.blocking(0.125, answer) for answer in (ABSTAIN, ALLOW, ABSTAIN)]
        self.assertEqual(self.now(*half), Verdict(True, ALLOW, None))
        self.assertEqual(self.events, [])

    def test_who_blocks_cancels_those_asked_before(self) -> None:
        """They are not needed for a denial."""
        cancelled: list[Deferred[Decision]] = []
        verdict = self.now(Deferred(cancelled.append), self.blocking(0.201, ALLOW))
        self.assertIs(verdict.code, POLICY_TIMED_OUT)
        self.assertEqual(len(cancelled), 1)

    def test_an_answer_after_the_budget_changes_nothing(self) -> None:
        """A canceller that answers 'allow' is too late."""
        result = self.later(Deferred(lambda slow: slow.callback(ALLOW)))
        self.clock.advance(0.2)
        self.assertIs(self.successResultOf(result).code, POLICY_TIMED_OUT)

    def test_a_canceller_that_fails_changes_nothing(self) -> None:
        """The verdict stands, the plugin's exception is logged, and the others are cancelled all the same."""
        cancelled: list[Deferred[Decision]] = []

        def bad(_: Deferred[Decision]) -> None:
            raise Boom

        result = self.later(Deferred(bad), Deferred(cancelled.append))
        self.clock.advance(0.2)
        self.assertIs(self.successResultOf(result).code, POLICY_TIMED_OUT)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual([event["log_failure"].type for event in self.events if "log_failure" in event], [Boom])

    def test_a_failure_in_reply_to_the_cancellation_is_logged(self) -> None:
        """A plugin that cleans up badly is told of in the log; the verdict stands."""
        result = self.later(Deferred(lambda slow: slow.errback(Boom())))
        self.clock.advance(0.2)
        self.assertIs(self.successResultOf(result).code, POLICY_TIMED_OUT)
        self.assertEqual([event["log_failure"].type for event in self.events if "log_failure" in event], [Boom])

    def test_the_caller_may_cancel(self) -> None:
        """When the connection ends first, policies are cancelled and the timer goes."""
        cancelled: list[Deferred[Decision]] = []
        result = self.later(Deferred(cancelled.append))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual((self.events, self.clock.getDelayedCalls()), ([], []))

    def test_what_a_plugin_leaves_out_is_filled_in(self) -> None:
        """A record always names a policy, and a denial always has a reason."""
        verdict = self.now(Decision(Effect.DENY))
        self.assertEqual(
            (verdict.decision.policy, verdict.decision.reason),
            ("plugin0", "policy plugin 'plugin0' denies spiffe://example.test/web"),
        )
        self.assertEqual(self.now(Decision(Effect.ALLOW)).decision, Decision(Effect.ALLOW, "plugin0"))

    def test_cancelling_within_decide_is_no_special_case(self) -> None:
        """A plugin whose CancelledError is its own doing denies like any failure."""
        cancelled: Deferred[Decision] = Deferred()
        cancelled.cancel()
        answer: Callable[[], Deferred[Decision]] = lambda: cancelled  # noqa: E731
        self.assertIs(self.now(answer).code, POLICY_FAILED)
