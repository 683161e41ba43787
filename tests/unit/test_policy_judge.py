"""Live connections whose policies have changed, or whose answer has run out."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterable
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import INTERNAL, NO_IDENTITY, POLICY_CHANGED
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState, MeshStateCell, NamedPolicy
from tcpmesh.net.expiry import LOOK
from tcpmesh.net.plane import DataPlane, Gate, LiveConnection
from tcpmesh.net.policy_judge import ASKED_AT_ONCE, PACE, PATIENCE, PolicyJudge
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.policy.entries import selectors
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.policy.rules import Rules
from tcpmesh.policy_interfaces import IOutboundPolicy
from tcpmesh.settings import OnChange, Timeouts
from tcpmesh.testing import authorization_request
from tcpmesh.values import AuthorizationRequest, Decision, Duration, Effect
from tests.unit.policy_samples import read

ALLOW, DENY = Decision(Effect.ALLOW, "p", "r"), Decision(Effect.DENY, "shut", "policies[0].from[0].any", "nobody may")

_IDS = [f'"spiffe://example.test/{name}"' for name in "abcd"]


@implementer(IOutboundPolicy)
class Answering:
    """Gives one answer after the other, and the last one for ever."""

    decides_outbound = True

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[AuthorizationRequest] = []

    def decide(self, request: AuthorizationRequest) -> Any:
        self.asked.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def describe(self) -> Iterable[str]:
        return ()


class Connection:
    """As far as the judge knows one."""

    is_closed = False

    def __init__(self, plane: DataPlane, decided_by: object, on_change: OnChange = "close", service: str = "") -> None:
        self.plane = plane
        self.record = ConnectionRecord(plane.next_number(), "inbound", "in", "", 0.0, established=True)
        self.decided_by = decided_by
        self.on_change = on_change
        self.timeouts = Timeouts(shutdown=Duration(30.0))
        self.asked: AuthorizationRequest | None = authorization_request(service=service)
        self.withdrawn: Refusal | None = None

    def authorization_request(self) -> AuthorizationRequest:
        if self.asked is None:
            raise Refusal(NO_IDENTITY, "it is gone")
        return self.asked

    def stands(self, verdict: Verdict) -> None:
        if verdict.valid_for is not None:
            self.plane.verdicts.add(cast(LiveConnection, self), self.plane.wall_clock() + verdict.valid_for)

    def withdraw(self, refusal: Refusal) -> None:
        assert not self.is_closed
        self.withdrawn, self.is_closed = refusal, True


class JudgeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.now = Clock(), 1000.0
        self.cell = MeshStateCell(MeshState(generation=7))
        nothing: Any = None
        self.plane = DataPlane(
            clock=self.clock, wall_clock=lambda: self.now, sockets=nothing, state=self.cell, contexts=nothing,
            sink=nothing, gate=Gate(10**6, 10**6), liveness=nothing,
        )  # fmt: skip
        self.examined: list[Any] = []
        self.judge = PolicyJudge(self.plane, self.examined.extend)
        self.addCleanup(self.judge.stop)
        self.addCleanup(self.stop_looking)
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def stop_looking(self) -> None:
        for call in self.clock.getDelayedCalls():
            call.cancel()

    def change(self, *answers: Any) -> Answering:
        """From now on this is the policy."""
        policy = Answering(*answers)
        self.cell.swap(policies=(NamedPolicy("under-test", policy),))
        return policy

    def live(self, **more: Any) -> Connection:
        """A connection that the present policies allowed."""
        return Connection(self.plane, self.cell.current.policies, **more)

    def ask(self, connection: Connection) -> Refusal | None:
        return self.judge.judge(cast(LiveConnection, connection), self.cell.current)

    def test_ends_whom_the_new_policies_deny(self) -> None:
        """The reason names rule and place."""
        self.change(ALLOW)
        connection = self.live()
        self.change(DENY)
        refusal = self.ask(connection)
        assert refusal is not None
        self.assertIs(refusal.code, POLICY_CHANGED)
        self.assertEqual(refusal.reason, "no longer allowed: nobody may: policies[0].from[0].any")

    def test_ends_whom_nobody_allows_any_longer(self) -> None:
        """That the permission is gone is enough."""
        self.change(ALLOW)
        connection = self.live()
        self.change(Decision(Effect.ABSTAIN))
        refusal = self.ask(connection)
        assert refusal is not None
        self.assertIn("no longer allowed: no policy allows spiffe://example.test/web", refusal.reason)

    def test_asks_once_for_each_change(self) -> None:
        """Other reviews cost no decision; those not decided yet, and those without an identity, none either."""
        policy = self.change(ALLOW)
        connection, early, nobody = self.live(), Connection(self.plane, None), self.live()
        nobody.asked = None
        self.assertIsNone(self.ask(connection))
        self.assertEqual(policy.asked, [])
        policy = self.change(ALLOW)
        for one in (connection, early, nobody, connection):
            self.assertIsNone(self.ask(one))
        self.assertEqual(policy.asked, [connection.asked])

    def test_outbound_connections_too(self) -> None:
        """By the policies about them."""
        self.change(ALLOW)
        connection = self.live(service="db")
        self.change(DENY)
        self.assertIsNotNone(self.ask(connection))

    def test_a_policy_that_answers_later(self) -> None:
        """The connection goes on until then; a change in the meantime makes the answer nobody's."""
        self.change(ALLOW)
        connection, other = self.live(), self.live()
        first: Deferred[Decision] = Deferred()
        second: Deferred[Decision] = Deferred()
        self.change(first, second)
        self.assertIsNone(self.ask(connection))
        self.assertIsNone(self.ask(other))
        first.callback(DENY)
        refusal = self.ask(connection)
        assert refusal is not None
        self.assertIs(refusal.code, POLICY_CHANGED)
        self.change(ALLOW)
        self.assertIsNone(self.ask(other))
        second.callback(DENY)
        self.assertIsNone(self.ask(other))

    def test_answers_that_come_later_end_connections_in_turns_of_the_review(self) -> None:
        """One answer may be about thousands, and ending them all at once would hold up the data path."""
        self.change(ALLOW)
        answers: list[Deferred[Decision]] = [Deferred() for _ in range(3)]
        connections = [self.live() for _ in answers]
        self.change(*answers)
        for connection in connections:
            self.assertIsNone(self.ask(connection))
        for answer in answers:
            answer.callback(DENY)
        self.assertEqual([connection.withdrawn for connection in connections], [None] * 3)
        self.assertEqual(self.examined, connections)
        self.assertEqual([refusal.code for one in connections if (refusal := self.ask(one))], [POLICY_CHANGED] * 3)

    def test_asks_about_a_hundred_at_a_time(self) -> None:
        """Else they would wait for each other until their time is over, and be ended for that."""
        self.change(ALLOW)
        connections = [self.live() for _ in range(ASKED_AT_ONCE + 30)]
        answers = [Deferred[Decision]() for _ in connections]
        policy = self.change(*answers)
        for connection in connections:
            self.assertIsNone(self.ask(connection))
        self.assertEqual(len(policy.asked), ASKED_AT_ONCE)
        self.clock.advance(PACE)
        self.assertEqual(self.examined, [])
        for answer in answers[:20]:
            answer.callback(ALLOW)
        self.clock.advance(PACE)
        self.assertEqual(self.examined, connections[ASKED_AT_ONCE : ASKED_AT_ONCE + 20])
        for connection in connections[ASKED_AT_ONCE : ASKED_AT_ONCE + 20]:
            self.assertIsNone(self.ask(connection))
        for answer in answers[20 : ASKED_AT_ONCE + 20]:
            answer.callback(ALLOW)
        self.clock.advance(PACE)
        self.assertEqual(self.examined, connections[ASKED_AT_ONCE:])
        for connection in connections[ASKED_AT_ONCE + 20 :]:
            self.assertIsNone(self.ask(connection))
        self.assertEqual(len(policy.asked), len(connections))
        self.assertFalse(any(connection.is_closed for connection in connections))

    def test_an_answer_that_came_later_is_forgotten_when_policies_change_before_the_turn(self) -> None:
        """What counts is what the policies say at the turn."""
        self.change(ALLOW)
        connection, answer = self.live(), Deferred[Decision]()
        self.change(answer)
        self.assertIsNone(self.ask(connection))
        answer.callback(DENY)
        self.change(ALLOW)
        self.assertIsNone(self.ask(connection))

    def test_asking_that_fails_later_ends_the_connection(self) -> None:
        """It is not known to be allowed; the traceback is in the log."""

        class Broken(Connection):
            def stands(self, verdict: Verdict) -> None:
                raise ZeroDivisionError

        self.change(ALLOW)
        connection = Broken(self.plane, self.cell.current.policies)
        answer: Deferred[Decision] = Deferred()
        self.change(answer)
        self.assertIsNone(self.ask(connection))
        answer.callback(ALLOW)
        refusal = self.ask(connection)
        assert refusal is not None
        self.assertIs(refusal.code, INTERNAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_an_identity_that_comes_back_is_asked_about_at_the_next_look(self) -> None:
        """A change of policies while it was away is not missed."""
        self.change(ALLOW)
        connection = self.live()
        asked, connection.asked = connection.asked, None
        self.change(DENY)
        self.assertIsNone(self.ask(connection))
        connection.asked = asked
        self.now += 1
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [connection])
        self.assertIsNotNone(self.ask(connection))

    def test_a_policy_that_fails_ends_the_connection_when_it_is_not_back_in_time(self) -> None:
        """Half a minute at least, a minute at most; but at once one that is not established yet."""
        self.change(ALLOW)
        connections = [self.live() for _ in range(20)]
        early = self.live()
        early.record.established = False
        silent: Deferred[Decision] = Deferred()
        self.change(silent, "nonsense")
        for connection in (*connections, early):
            refusal = self.ask(connection)
            self.assertEqual(refusal is not None, connection is early)
        gone = []
        for _ in range(14):
            self.now += LOOK
            self.clock.advance(LOOK)
            for connection in connections:
                if not connection.is_closed:
                    self.assertIsNone(self.ask(connection))
            gone.append(sum(connection.is_closed for connection in connections))
        self.assertEqual((gone[4], gone[-1]), (0, 20))
        self.assertGreater(len(set(gone)), 2)
        reason = connections[0].withdrawn
        assert reason is not None
        self.assertIs(reason.code, POLICY_CHANGED)
        self.assertIn("did not answer within 200ms", reason.reason)

    def test_a_policy_that_is_back_in_time_has_the_word(self) -> None:
        """Whom it allows goes on, whom it denies is ended at once."""
        self.change(ALLOW)
        spared, denied = self.live(), self.live()
        self.change("nonsense", "nonsense", ALLOW, DENY)
        for connection in (spared, denied):
            self.assertIsNone(self.ask(connection))
        self.now += LOOK
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [spared, denied])
        self.assertIsNone(self.ask(spared))
        self.assertIsNotNone(self.ask(denied))
        denied.is_closed = True  # as the review does it
        self.clock.advance(2 * PATIENCE)
        self.assertFalse(spared.is_closed)

    def test_a_policy_that_fails_again_gives_no_more_time(self) -> None:
        """However often it is asked, and whatever changes in between, the time began with the first failure."""
        self.change(ALLOW)
        connection = self.live()
        for _ in range(20):
            self.change("nonsense")
            if not connection.is_closed:
                self.assertIsNone(self.ask(connection))
            self.clock.advance(3.0)
        self.assertTrue(connection.is_closed)

    def test_drain_ends_it_some_time_later(self) -> None:
        """Within timeouts.shutdown, unless it is allowed again before; not if it never was established."""
        self.change(ALLOW)
        connections = [self.live(on_change="drain") for _ in range(20)]
        spared, early = self.live(on_change="drain"), self.live(on_change="drain")
        early.record.established = False
        self.change(DENY)
        for connection in (*connections, spared):
            self.assertIsNone(self.ask(connection))
        self.assertIsNotNone(self.ask(early))
        self.change(ALLOW)
        self.assertIsNone(self.ask(spared))
        gone = []
        for _ in range(30):
            self.clock.advance(1.0)
            gone.append(sum(connection.is_closed for connection in connections))
        self.assertEqual(gone[-1], 20)
        self.assertGreater(len(set(gone)), 5)
        self.assertFalse(spared.is_closed)

    def test_who_drains_is_spared_when_a_policy_that_failed_allows_again(self) -> None:
        """It is asked at the next looks; a denial that holds for a time, when that is over."""
        self.change(ALLOW)
        failed, denied, for_good = (self.live(on_change="drain") for _ in range(3))
        for connection in (failed, denied, for_good):
            connection.timeouts = Timeouts(shutdown=Duration(1e6))
        self.change("nonsense", attrs.evolve(DENY, valid_for=60.0), DENY, ALLOW)
        for connection in (failed, denied, for_good):
            self.assertIsNone(self.ask(connection))
        self.now += 1
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [failed])
        self.now += 60
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [failed, denied])
        for connection in (failed, denied):
            self.assertIsNone(self.ask(connection))
        self.clock.advance(1e6)
        self.assertEqual([one.is_closed for one in (failed, denied, for_good)], [False, False, True])

    def test_further_changes_give_no_more_time_to_drain(self) -> None:
        """However often they come, it ends within the time that began with the first."""
        self.change(ALLOW)
        connections = [self.live(on_change="drain") for _ in range(20)]
        for _ in range(15):
            self.change(DENY)
            for connection in connections:
                if not connection.is_closed:
                    self.assertIsNone(self.ask(connection))
            self.clock.advance(2.0)
        self.assertEqual([connection.is_closed for connection in connections], [True] * 20)

    def test_log_lets_it_go_on(self) -> None:
        """One warning for each change, whoever many it is about."""
        self.change(ALLOW)
        connections = [self.live(on_change="log") for _ in range(3)]
        for _ in range(2):
            self.change(DENY)
            for connection in connections:
                self.assertIsNone(self.ask(connection))
        warned = [event for event in self.events if event["log_level"] is LogLevel.warn]
        self.assertEqual([event["code"] for event in warned], ["TM-P109", "TM-P109"])

    def test_an_answer_that_runs_out_is_asked_for_again(self) -> None:
        """At the next look after its end; as often as the answer is for a time only."""
        policy = self.change(ALLOW)
        connection = self.live()
        self.plane.verdicts.add(cast(LiveConnection, connection), self.now + 60)
        policy.answers = [attrs.evolve(ALLOW, valid_for=60.0), DENY]
        self.now += 59
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [])
        self.now += 2
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [connection])
        self.assertIsNone(self.ask(connection))
        self.clock.advance(LOOK)
        self.assertEqual(len(self.examined), 1)
        self.now += 61
        self.clock.advance(LOOK)
        self.assertEqual(self.examined, [connection, connection])
        self.assertIsNotNone(self.ask(connection))

    def test_a_thousand_changes_while_connections_come_and_go(self) -> None:
        """Nobody is decided by what neither the old nor the new policies say, and none of the old ones is kept."""
        chance = random.Random(1)
        live: list[Connection] = []
        old: list[weakref.ref[Rules]] = []
        for turn in range(1000):
            text = f"- {{name: turn-{turn}, action: allow, from: [{{ids: [{', '.join(chance.sample(_IDS, 2))}]}}]}}"
            rules = Rules(read(text))
            old.append(weakref.ref(rules))
            self.cell.swap(policies=(NamedPolicy("rules", rules),))
            allowed = {str(selector) for entry in rules.policies[0].from_ for _, selector in selectors(entry)}
            del rules
            for connection in live:
                assert connection.asked is not None
                refusal = self.ask(connection)
                self.assertEqual(refusal is None, str(connection.asked.peer) in allowed)
                connection.is_closed = refusal is not None
            live = [connection for connection in live if not connection.is_closed]
            request = authorization_request(chance.choice(_IDS).strip('"'))
            verdict = decide_by(self.cell.current, request, self.clock, Logger())
            assert isinstance(verdict, Verdict)
            self.assertEqual(verdict.allowed, str(request.peer) in allowed)
            if verdict.allowed:
                self.assertEqual(verdict.decision.policy, f"turn-{turn}")
                live.append(self.live())
                live[-1].asked = request
        del connection  # the last one that was cut; in a proxy nobody keeps those
        gc.collect()
        self.assertEqual([turn for turn, kept in enumerate(old) if kept() is not None], [999])
