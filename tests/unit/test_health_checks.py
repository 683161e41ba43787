"""When endpoints are checked: at once, in their turn, so many at a time, and never after the stop."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.dataplane.preface import Preface
from tcpmesh.errors import Refusal
from tcpmesh.health.faults import ANSWERS
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.check_connections import Check, TCPCheck, _Answer
from tcpmesh.net.dialling import explain_dial_failure
from tcpmesh.net.health_checks import CheckedService, HealthChecks
from tcpmesh.net.plane import DataPlane, Gate
from tcpmesh.settings import Timeouts
from tcpmesh.testing import endpoint
from tcpmesh.upstream_settings import CheckSettings, HealthSettings
from tcpmesh.values import Duration, Endpoint

A, B, C = endpoint(1), endpoint(2), endpoint(3)


class FakeCheck(Check):
    """A check that ends when the test says so."""

    def __init__(self, number: int, at: Endpoint, when: float) -> None:
        self.number = number
        self.at = at
        self.when = when
        self.late = Refusal(codes.CONNECT_TIMEOUT, "no answer in time")
        self.outcome: Deferred[None] = Deferred(lambda _: None)
        self.aborted = False
        self.at_once: Refusal | None = None

    def run(self) -> Deferred[None]:
        if self.at_once is not None:
            self.outcome.errback(self.at_once)
        return self.outcome

    def abort(self) -> None:
        self.aborted = True


class Halves(random.Random):
    """A generator that gives what the test wants."""

    value = 0.5

    def random(self) -> float:
        return self.value


class HealthChecksTests(SynchronousTestCase):
    """A service whose checks are every 10 s, for 2 s each."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cell = MeshStateCell()
        self.chance = Halves()
        nothing: Any = None
        self.plane = DataPlane(
            clock=self.clock, wall_clock=lambda: 0.0, sockets=nothing, state=self.cell, contexts=TLSContexts(),
            sink=nothing, gate=Gate(10, 10), liveness=nothing, random=self.chance,
        )  # fmt: skip
        self.made: list[FakeCheck] = []
        self.fail_at_once: Refusal | None = None

    def make(
        self, *endpoints: Endpoint, at_once: int = 32, jitter: float = 0.0, others: tuple[Endpoint, ...] = ()
    ) -> ServiceHealth:
        check = CheckSettings("tcp", Duration(10.0), Duration(2.0), jitter, rise=1, fall=1)
        health = ServiceHealth("orders", HealthSettings(check=check))
        self.cell.observe(lambda state: health.retain(state.endpoints["orders"], self.clock.seconds()))
        self.cell.swap(endpoints={"orders": endpoints, "others": others})
        nothing: Any = None
        services = [
            CheckedService("orders", check, nothing, health, "web", Timeouts()),
            CheckedService(
                "others", check, nothing, ServiceHealth("others", HealthSettings(check=check)), "web", Timeouts()
            ),
        ]
        self.checks = HealthChecks(self.plane, services, at_once, self.one)
        self.addCleanup(self.checks.stop)
        self.checks.start()
        return health

    def serve(self, *endpoints: Endpoint) -> None:
        self.cell.swap(endpoints={**self.cell.current.endpoints, "orders": endpoints})

    def one(self, _plane: DataPlane, _of: CheckedService, at: Endpoint) -> Check:
        check = FakeCheck(len(self.made), at, self.clock.seconds())
        check.at_once = self.fail_at_once
        self.made.append(check)
        return check

    def when(self, at: Endpoint) -> list[float]:
        """When checks of an endpoint have begun."""
        return [check.when for check in self.made if check.at == at]

    def end(self, number: int, refusal: Refusal | None = None) -> None:
        check = self.made[number]
        if refusal is None:
            check.outcome.callback(None)
        else:
            check.outcome.errback(refusal)

    def test_the_first_check_is_at_once_and_then_in_intervals(self) -> None:
        """From the beginning of one to the beginning of the next."""
        self.make(A)
        self.assertEqual(self.when(A), [0.0])
        self.clock.advance(1.5)
        self.end(0)
        self.clock.advance(8.4)
        self.assertEqual(self.when(A), [0.0])
        self.clock.advance(0.1)
        self.assertEqual(self.when(A), [0.0, 10.0])

    def test_jitter_spreads_them_both_ways(self) -> None:
        """By up to the share."""
        for chance, next_one in ((0.0, 9.0), (0.5, 10.0), (1.0, 11.0)):
            self.chance.value = chance
            self.made.clear()
            self.make(A, jitter=0.1)
            begun = self.clock.seconds()
            self.end(0)
            self.clock.advance(next_one - 0.001)
            self.assertEqual(len(self.made), 1)
            self.clock.advance(0.002)
            self.assertEqual(len(self.made), 2)
            self.assertAlmostEqual(self.made[1].when - begun, next_one, places=2)
            self.checks.stop()

    def test_outcomes_are_for_the_health_to_judge(self) -> None:
        """Good, bad, and out of time as the check says it stands."""
        health = self.make(A, B)
        self.end(0)
        self.end(1, Refusal(codes.CONNECT_REFUSED, "refused"))
        self.assertEqual((health.admits(A, 0.0), health.admits(B, 0.0)), (True, False))
        self.clock.advance(10)
        self.clock.advance(2)
        state = health.state(A.address, self.clock.seconds())
        assert state.check is not None
        self.assertEqual((state.state, str(state.check.trouble)), ("down", "TM-T101 no answer in time"))
        self.assertEqual((state.check.at, state.check.duration), (12.0, 2.0))

    def test_a_peer_that_stops_is_down(self) -> None:
        """It says so itself."""
        health = self.make(A)
        self.end(0, Refusal(codes.STOPPING, "this proxy is stopping"))
        self.assertFalse(health.admits(A, 0.0))

    def test_who_is_verified_and_says_no_lives(self) -> None:
        """As the rule for connections has it, and the next check is in its turn."""
        health = self.make(A)
        for number, code in enumerate(ANSWERS):
            found = codes.by_id(code)
            assert found is not None
            self.end(number, Refusal(found, "no"))
            self.assertTrue(health.admits(A, 0.0))
            self.clock.advance(10)
        self.assertEqual(self.when(A), [10.0 * number for number in range(len(ANSWERS) + 1)])
        self.assertEqual(health.checks, {"good": len(ANSWERS), "failed": 0})

    def test_what_times_out_while_this_process_stands_still_says_nothing(self) -> None:
        """Suspended for a minute: the answers may be there, unread; all are asked again, so many at a time."""
        many = [endpoint(number) for number in range(1, 101)]
        health = self.make(*many, at_once=10)
        for number in range(100):
            self.end(number)
        self.clock.advance(10)
        self.clock.advance(60)
        self.assertTrue(all(health.admits(each, 0.0) for each in many))
        self.assertEqual(health.checks, {"good": 100, "failed": 0})
        self.assertEqual(len(self.made), 120)
        self.clock.advance(2)
        self.assertEqual(health.checks, {"good": 100, "failed": 10})

    def test_what_could_not_be_made_says_nothing_and_is_made_soon(self) -> None:
        """Without an identity, descriptors or room."""
        health = self.make(A)
        for number, code in enumerate((codes.NO_IDENTITY, codes.OUT_OF_DESCRIPTORS, codes.CONNECTION_LIMIT)):
            self.end(number, Refusal(code, "ours"))
            self.assertTrue(health.admits(A, 0.0))
            self.clock.advance(1)
        self.assertEqual(self.when(A), [0.0, 1.0, 2.0, 3.0])

    def test_a_mistake_of_ours_says_nothing_and_is_logged(self) -> None:
        """And the checks go on."""
        health = self.make(A)
        self.made[0].outcome.errback(ZeroDivisionError("ours"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(health.admits(A, 0.0))
        self.clock.advance(1)
        self.assertEqual(len(self.made), 2)

    def test_so_many_at_a_time(self) -> None:
        """The others wait in their order, and none is forgotten."""
        many = [endpoint(number) for number in range(1, 8)]
        self.make(*many, at_once=3)
        self.assertEqual([check.at for check in self.made], many[:3])
        self.end(1)
        self.assertEqual([check.at for check in self.made], many[:4])
        for number in (0, 2, 3, 4, 5, 6):
            self.end(number)
        self.assertEqual([check.at for check in self.made], many)

    def test_services_take_turns(self) -> None:
        """One of which hundreds do not answer holds up no other."""
        many = [endpoint(number) for number in range(1, 301)]
        other = endpoint(1000)
        self.make(*many, at_once=4, others=(other,))
        self.assertEqual([check.at for check in self.made], [many[0], other, many[1], many[2]])
        self.end(1)
        for _ in range(30):
            self.clock.advance(0.5)
        self.assertIn(10.0, [round(when) for when in self.when(other)])

    def test_thousands_that_are_over_at_once_need_no_stack(self) -> None:
        """As when there is no identity yet."""
        self.fail_at_once = Refusal(codes.NO_IDENTITY, "not yet")
        self.make(*(endpoint(number) for number in range(1, 3001)))
        self.assertEqual(len(self.made), 3000)
        self.assertEqual(len(self.clock.getDelayedCalls()), 3000)

    def test_who_comes_is_checked_at_once_and_who_goes_no_more(self) -> None:
        """Those that stay keep their turn; a check of who is gone is ended, and tells nothing."""
        self.make(A, B)
        self.end(0)
        self.clock.advance(1)
        self.serve(A, C)
        self.assertEqual([check.at for check in self.made], [A, B, C])
        self.assertEqual((self.made[1].aborted, self.made[1].outcome.called), (True, True))
        self.end(2)
        self.clock.advance(8.9)
        self.assertEqual(len(self.made), 3)
        self.clock.advance(0.1)
        self.assertEqual([check.at for check in self.made[3:]], [A])
        self.clock.advance(60)
        self.assertEqual(self.when(B), [0.0])

    def test_nobody_who_is_gone_is_checked_in_place_of_another(self) -> None:
        """Where all places are taken, the end of one check lets another begin: of those that are there."""
        many = [endpoint(number) for number in range(1, 101)]
        self.make(*many, at_once=3)
        self.serve(A, endpoint(200))
        self.assertEqual([check.at for check in self.made], [*many[:3], endpoint(200)])

    def test_a_change_of_one_service_costs_the_others_nothing(self) -> None:
        """Endpoints of which there may be thousands are looked at when they change."""

        class Looked(tuple[Endpoint, ...]):
            __slots__ = ()
            times: ClassVar[int] = 0

            def __iter__(self) -> Iterator[Endpoint]:
                Looked.times += 1
                return super().__iter__()

        self.make(A, others=Looked((B, C)))
        before = Looked.times
        self.assertGreater(before, 0)
        self.serve(A, endpoint(4))
        self.assertEqual([check.at for check in self.made[-1:]], [endpoint(4)])
        self.assertEqual(Looked.times, before)

    def test_another_change_of_the_state_checks_nobody(self) -> None:
        """Only the endpoints count."""
        self.make(A)
        self.end(0)
        self.cell.swap(svids={})
        self.serve(A)
        self.assertEqual(len(self.made), 1)

    def test_a_changed_endpoint_is_checked_as_it_is_now(self) -> None:
        """Whom to expect may be another; its turn is the same."""
        self.make(A)
        self.end(0)
        changed = endpoint(1, weight=7)
        self.serve(changed)
        self.clock.advance(10)
        self.assertEqual([check.at for check in self.made], [A, changed])

    def test_nothing_follows_the_stop(self) -> None:
        """Checks under way are ended, those that wait are forgotten, and nothing is left in the reactor."""
        health = self.make(A, B, C, at_once=2)
        self.end(0)
        self.checks.stop()
        self.assertTrue(all(check.outcome.called for check in self.made))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.serve(A, B)
        self.clock.advance(60)
        self.assertEqual(len(self.made), 3)
        self.assertTrue(all(health.admits(each, 0.0) for each in (A, B, C)))

    def test_a_check_that_could_not_be_made_is_a_debug_line(self) -> None:
        """It is nobody's alarm: what is missing has its own."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.make(A)
        self.end(0, Refusal(codes.NO_IDENTITY, "not yet"))
        [event] = [event for event in events if event.get("log_namespace") == "tcpmesh.health"]
        self.assertEqual((event["log_level"], event["reason"]), (LogLevel.debug, "TM-I101 not yet"))


class AnswerTests(SynchronousTestCase):
    """What a check makes of a listener's preface."""

    def said(self, code: str) -> str:
        refusal = _Answer().heard(Preface(ok=False, code=code, text="no\n").encode())
        assert refusal is not None
        return str(refusal)

    def test_believes_what_a_listener_can_know(self) -> None:
        """As attempts do: its policies, its application, its stop."""
        for code in ("TM-O102", "TM-U106", "TM-P102", "TM-I606"):
            self.assertTrue(self.said(code).startswith(f"{code} refused by the peer: "), code)

    def test_believes_nothing_about_ourselves(self) -> None:
        """A peer that claims that we have no identity or no room would be asked each second, and never be judged."""
        for code in ("TM-I101", "TM-L103", "TM-D104", "TM-X999"):
            self.assertEqual(self.said(code), f"TM-U111 the peer refused with '{code}': 'no\\n'")


class TCPCheckTests(SynchronousTestCase):
    """What a TCP check makes of how its dial failed."""

    def outcome(self, number: int) -> str:
        """Of a dial that fails with this error; empty when the check is good."""

        class Sockets:
            def dial(self, address: Any, _protocol: Any, _timeout: float, on_failed: Any) -> None:
                on_failed(explain_dial_failure(address, number))

        plane: Any = type("Plane", (), {"gate": Gate(10, 10), "sockets": Sockets()})
        failures: list[Any] = []
        TCPCheck(plane, A.address, 1.0).run().addErrback(failures.append)
        self.assertEqual(plane.gate.connections, 0)
        return str(failures[0].value.code) if failures else ""

    def test_who_accepts_and_resets_is_up_whoever_is_faster(self) -> None:
        """The reset may come before we look, or after: both are an accepted connection."""
        self.assertEqual(self.outcome(errno.ECONNRESET), "")

    def test_who_does_not_accept_is_down(self) -> None:
        """Nobody listens, nobody answers, or the queue of a unix socket is full."""
        self.assertEqual(self.outcome(errno.ECONNREFUSED), "TM-U101")
        self.assertEqual(self.outcome(errno.ETIMEDOUT), "TM-T101")
        self.assertEqual(self.outcome(errno.EAGAIN), "TM-U104")
