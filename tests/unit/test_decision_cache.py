"""Answers that come later: remembered, asked for once, bounded, and never given to somebody else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import POLICY_FAILED, POLICY_TIMED_OUT
from tcpmesh.errors import Refusal
from tcpmesh.interfaces import IAuthorizationPolicy, IPolicyObserver, IPolicySource
from tcpmesh.mesh_state import MeshState, MeshStateCell, NamedPolicy
from tcpmesh.policy.decision_cache import LaterAnswers
from tcpmesh.policy.evaluate import Verdict, decide
from tcpmesh.policy_control import PolicyControl
from tcpmesh.testing import authorization_request, peer_identity
from tcpmesh.timeouts import DECISION_BUDGET
from tcpmesh.values import AuthorizationRequest, Decision, Effect, TCPAddress, UnixAddress

ALLOW = Decision(Effect.ALLOW, "p", "r", "because")
DENY = Decision(Effect.DENY, "p", "r", "because")
LIMIT = 100


@implementer(IAuthorizationPolicy, IPolicySource)
class Later:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[AuthorizationRequest, Deferred[Decision]]] = []
        self.cancelled = 0

    def decide(self, request: AuthorizationRequest) -> Deferred[Decision]:
        answer: Deferred[Decision] = Deferred(self.note_cancel)
        self.asked.append((request, answer))
        return answer

    def note_cancel(self, answer: Deferred[Decision]) -> None:
        self.cancelled += 1

    def describe(self) -> Sequence[str]:
        return []

    def start(self, observer: IPolicyObserver) -> None:
        self.observer = observer

    def stop(self) -> None:
        """Nothing runs."""


@implementer(IAuthorizationPolicy)
class _Answers:
    """Answers with what it was given."""

    def __init__(self, answer: Deferred[Decision]) -> None:
        self.answer = answer

    def decide(self, request: AuthorizationRequest) -> Deferred[Decision]:
        return self.answer

    def describe(self) -> Sequence[str]:
        return []


class LaterCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.policy = Later()
        self.answers = LaterAnswers(self.clock, LIMIT)
        self.named = NamedPolicy("later", self.policy, self.answers)
        self.request = authorization_request()

    def ask(self, request: AuthorizationRequest | None = None) -> Verdict | Deferred[Verdict]:
        return decide([self.named], request or self.request, self.clock, Logger())

    def waiting(self, request: AuthorizationRequest | None = None) -> Deferred[Verdict]:
        verdict = self.ask(request)
        assert isinstance(verdict, Deferred)
        return verdict

    def known(self, request: AuthorizationRequest | None = None) -> Verdict:
        verdict = self.ask(request)
        assert isinstance(verdict, Verdict)
        return verdict

    def answer(self, decision: Decision = ALLOW, number: int = -1) -> None:
        self.policy.asked[number][1].callback(decision)


class MemoryTests(LaterCase):
    """What is asked again and what is not."""

    def test_an_answer_is_remembered_as_long_as_it_says(self) -> None:
        """Then the policy is asked again."""
        first = self.waiting()
        self.answer(attrs.evolve(ALLOW, valid_for=5.0))
        self.assertTrue(self.successResultOf(first).allowed)
        self.clock.advance(4.5)
        verdict = self.known()
        self.assertEqual((verdict.allowed, verdict.decision.valid_for), (True, 0.5))  # what is left of it
        self.assertEqual(len(self.policy.asked), 1)
        self.clock.advance(0.5)
        self.waiting()
        self.assertEqual(len(self.policy.asked), 2)

    def test_denials_are_remembered_too(self) -> None:
        """With their reason."""
        self.waiting()
        self.answer(DENY)
        verdict = self.known()
        self.assertEqual((verdict.allowed, verdict.decision.reason), (False, "because"))

    def test_zero_is_not_remembered(self) -> None:
        """Nor is less, nor what is no number."""
        for valid_for in (0.0, -1.0, float("nan")):
            self.waiting()
            self.answer(attrs.evolve(ALLOW, valid_for=valid_for))
        self.assertEqual((len(self.policy.asked), len(self.answers)), (3, 0))

    def test_nobody_gets_an_answer_about_somebody_else(self) -> None:
        """Whatever a request says makes another question, but for the port of the peer."""
        self.waiting()
        self.answer()
        others = [
            authorization_request("spiffe://example.test/other"),
            authorization_request(attrs.evolve(peer_identity(), serial="02")),
            authorization_request(attrs.evolve(peer_identity(), not_after=1.0)),
            authorization_request(inbound="admin-in"),
            authorization_request(workload="other"),
            authorization_request(source=TCPAddress("192.0.2.2", 40000)),
            authorization_request(source=UnixAddress("/run/a")),
            attrs.evolve(self.request, sni="other"),
            attrs.evolve(self.request, alpn="other"),
        ]
        for request in others:
            self.waiting(request)
        self.assertEqual([asked for asked, _ in self.policy.asked], [self.request, *others])
        self.assertTrue(self.known(authorization_request(source=TCPAddress("192.0.2.1", 50000))).allowed)

    def test_memory_is_bounded(self) -> None:
        """The least recently used answer goes first."""
        for number in range(LIMIT):
            self.waiting(authorization_request(f"spiffe://example.test/{number}"))
            self.answer()
        self.known(authorization_request("spiffe://example.test/0"))
        for number in range(LIMIT, LIMIT + 10):
            self.waiting(authorization_request(f"spiffe://example.test/{number}"))
            self.answer()
        self.assertEqual((len(self.answers), self.answers.asking), (LIMIT, 0))
        self.known(authorization_request("spiffe://example.test/0"))
        self.waiting(authorization_request("spiffe://example.test/1"))

    def test_another_policy_begins_without_memory(self) -> None:
        """A change of the policy is a new generation; what the old one still answers is lost on the new one."""
        cell = MeshStateCell(MeshState(policies=(self.named,)))
        control = PolicyControl(cell, (self.named,))
        control.start()
        self.waiting()
        self.answer()
        old = self.waiting(authorization_request("spiffe://example.test/slow"))
        new = Later()
        self.policy.observer.policy_changed(new)
        (self.named,) = cell.current.policies
        self.waiting()
        self.assertEqual(len(new.asked), 1)
        self.answer()
        self.assertTrue(self.successResultOf(old).allowed)
        self.waiting(authorization_request("spiffe://example.test/slow"))
        self.assertEqual(len(new.asked), 2)

    def test_a_policy_that_answers_at_once_is_not_remembered(self) -> None:
        """It costs nothing and may look at the time."""

        @implementer(IAuthorizationPolicy)
        class Now(Later):
            def decide(self, request: AuthorizationRequest) -> Decision:  # type: ignore[override]
                return ALLOW

        self.named = NamedPolicy("now", Now(), self.answers)
        self.known()
        self.assertEqual((len(self.answers), self.answers.in_use), (0, False))

    def test_failures_and_nonsense_are_not_remembered(self) -> None:
        """They deny, and the next connection asks again."""
        first = self.waiting()
        self.policy.asked[-1][1].errback(ValueError("broken"))
        self.assertEqual(self.successResultOf(first).code, POLICY_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        second = self.waiting()
        self.answer(None)  # type: ignore[arg-type]
        self.assertEqual(self.successResultOf(second).code, POLICY_FAILED)
        self.waiting()
        self.assertEqual((len(self.policy.asked), len(self.answers)), (3, 0))

    def test_an_answer_that_stands_for_no_time_denies_at_once(self) -> None:
        """Nobody waits for the budget's end because of it, and nothing of it is remembered."""
        for nonsense in ("5", [], math.nan, 10**400):
            waiting = self.waiting()
            self.answer(attrs.evolve(ALLOW, valid_for=nonsense))  # type: ignore[arg-type]
            self.assertEqual(self.successResultOf(waiting).code, POLICY_FAILED)
            self.assertEqual((len(self.answers), self.answers.asking), (0, 0))

    def test_a_refusal_is_a_failure_that_explains_itself(self) -> None:
        """Its code and reason are the verdict's, and no traceback is logged."""
        verdict = self.waiting()
        self.policy.asked[-1][1].errback(Refusal(POLICY_FAILED, "it answered with 500"))
        denied = self.successResultOf(verdict)
        self.assertEqual((denied.allowed, denied.code), (False, POLICY_FAILED))
        self.assertEqual(denied.decision.reason, "policy plugin 'later': it answered with 500")


class ManyTests(LaterCase):
    """A thousand connections at once, and a policy that hangs, fails or is slow."""

    def test_equal_questions_are_asked_once(self) -> None:
        """A thousand connections of one peer wait for one answer."""
        verdicts = [self.waiting() for _ in range(1000)]
        self.assertEqual((len(self.policy.asked), self.answers.asking), (1, 1))
        self.answer()
        self.assertEqual({self.successResultOf(verdict).allowed for verdict in verdicts}, {True})
        self.assertEqual(self.answers.asking, 0)

    def test_a_policy_that_hangs_denies_everybody_and_keeps_nothing(self) -> None:
        """After the budget each of a thousand questions is cancelled, and no timer is left."""
        verdicts = [self.waiting(authorization_request(f"spiffe://example.test/{n}")) for n in range(1000)]
        self.clock.advance(DECISION_BUDGET)
        self.assertEqual({self.successResultOf(verdict).code for verdict in verdicts}, {POLICY_TIMED_OUT})
        self.assertEqual((self.policy.cancelled, self.answers.asking, len(self.answers)), (1000, 0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_comes_later_has_a_budget_of_his_own(self) -> None:
        """The question goes on while anybody waits, and its answer serves who still does."""
        early = self.waiting()
        self.clock.advance(DECISION_BUDGET / 2)
        late = self.waiting()
        self.clock.advance(DECISION_BUDGET / 2)
        self.assertEqual(self.successResultOf(early).code, POLICY_TIMED_OUT)
        self.assertEqual(self.policy.cancelled, 0)
        self.answer()
        self.assertTrue(self.successResultOf(late).allowed)

    def test_a_question_ends_with_the_last_who_waits(self) -> None:
        """Connections that end take theirs along."""
        verdicts = [self.waiting() for _ in range(10)]
        for verdict in verdicts[:-1]:
            verdict.cancel()
            self.failureResultOf(verdict, CancelledError)
        self.assertEqual(self.policy.cancelled, 0)
        verdicts[-1].cancel()
        self.failureResultOf(verdicts[-1], CancelledError)
        self.assertEqual((self.policy.cancelled, self.answers.asking), (1, 0))

    def test_a_question_that_cannot_be_cancelled_is_given_up(self) -> None:
        """Nothing is kept of it, who comes next asks anew, and what it answers after that counts for nobody."""

        class Stubborn(Deferred[Decision]):
            def cancel(self) -> None:
                raise RuntimeError("not now")

        stubborn = Stubborn()
        denied = decide(
            [NamedPolicy("later", _Answers(stubborn), self.answers)],
            self.request,
            self.clock,
            Logger(observer=lambda event: None),
        )
        assert isinstance(denied, Deferred)
        self.clock.advance(DECISION_BUDGET)
        self.assertEqual(self.successResultOf(denied).code, POLICY_TIMED_OUT)
        self.assertEqual(self.answers.asking, 0)
        second = self.waiting()
        self.assertEqual(len(self.policy.asked), 1)
        self.answer(DENY)
        stubborn.callback(ALLOW)
        self.assertFalse(self.successResultOf(second).allowed)
        self.assertFalse(self.known().allowed)

    def test_a_failure_is_everybody_s(self) -> None:
        """All who waited are denied."""
        verdicts = [self.waiting() for _ in range(5)]
        self.policy.asked[0][1].errback(Refusal(POLICY_FAILED, "no"))
        self.assertEqual({self.successResultOf(verdict).code for verdict in verdicts}, {POLICY_FAILED})
