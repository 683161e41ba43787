"""The health of a service: faults, ejection, probation, checks, slow start and circuit, by a clock of the test's."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import Refusal
from tcpmesh.health.faults import ANSWERS, FAULTS, is_answer, is_fault
from tcpmesh.health.rise_fall import RiseFall
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.health.slow_start import FIRST_SHARE, slow_share
from tcpmesh.health.states import MAX_REASON, CircuitState, HealthChange, Trouble
from tcpmesh.testing import endpoint
from tcpmesh.upstream_settings import CheckSettings, CircuitSettings, EjectionSettings, HealthSettings
from tcpmesh.values import Duration, Endpoint

A, B, C, D = (endpoint(number) for number in range(1, 5))
REASON = "connecting: Connection refused"
BAD = Refusal(codes.CONNECT_REFUSED, REASON)


class HealthCase(SynchronousTestCase):
    """One service, and what it told."""

    def setUp(self) -> None:
        self.told: list[HealthChange] = []
        self.now = 100.0

    def make(self, *endpoints: Endpoint, ejection: EjectionSettings | None = None, **more: Any) -> ServiceHealth:
        health = ServiceHealth(
            "orders", HealthSettings(ejection=ejection or EjectionSettings(), **more), self.told.append
        )
        health.retain(endpoints, self.now)
        return health

    def breaks(
        self, health: ServiceHealth, at: Endpoint, times: int = 1, code: codes.Code = codes.CONNECT_REFUSED
    ) -> None:
        """Attempts of as many connections."""
        for _ in range(times):
            who = object()
            health.opened(at, self.now, who)
            health.failed(at, code, REASON, self.now, who)

    def succeed(self, health: ServiceHealth, at: Endpoint) -> None:
        who = object()
        health.opened(at, self.now, who)
        health.established(at, self.now, who)

    def admitted(self, health: ServiceHealth, *endpoints: Endpoint) -> list[Endpoint]:
        return [each for each in endpoints if health.admits(each, self.now)]

    def changes(self) -> list[tuple[Any, ...]]:
        """What was told since the last time: address, change, seconds."""
        told, self.told[:] = [(each.address, each.change, each.seconds) for each in self.told], []
        return told


class FaultTests(SynchronousTestCase):
    """Which codes count."""

    def test_faults_are_these_and_no_others(self) -> None:
        """The whole table: a new code has to find its place."""
        self.assertEqual(
            [code.id for code in codes.all_codes() if is_fault(code)],
            [
                *("TM-I402", "TM-I403", "TM-I404", "TM-I405"),
                *("TM-I501", "TM-I502", "TM-I503", "TM-I504", "TM-I505"),
                *("TM-I506", "TM-I507", "TM-I508", "TM-I509", "TM-I510"),
                *("TM-I601", "TM-I602", "TM-I603", "TM-I604", "TM-I605", "TM-I606", "TM-I607"),
                *("TM-I701", "TM-I702", "TM-I703", "TM-I704"),
                *("TM-T101", "TM-T102", "TM-T103", "TM-T110"),
                *("TM-U101", "TM-U102", "TM-U104", "TM-U106", "TM-U109", "TM-U110"),
            ],
        )

    def test_answers_are_these_and_no_others(self) -> None:
        """A peer that refuses a client by its policies works."""
        self.assertEqual(sorted(ANSWERS), [code.id for code in codes.all_codes() if is_answer(code)])

    def test_nothing_is_both(self) -> None:
        """And each beginning of a fault is that of some code."""
        self.assertFalse([code.id for code in codes.all_codes() if is_fault(code) and is_answer(code)])
        for beginning in FAULTS:
            self.assertTrue([code.id for code in codes.all_codes() if code.id.startswith(beginning)], beginning)


class EjectionTests(HealthCase):
    """Passive ejection."""

    def test_a_healthy_service_is_not_impaired(self) -> None:
        """Nothing has to be asked, and everything would be answered well."""
        health = self.make(A, B)
        self.succeed(health, A)
        self.assertFalse(health.impaired)
        self.assertEqual((health.admits(A, 1.0), health.share(A, 1.0), health.why(A, 1.0)), (True, 1.0, ""))
        self.assertIsNone(health.refuses(1.0, self))

    def test_failures_in_a_row_eject(self) -> None:
        """The fifth does, and no other endpoint is concerned."""
        health = self.make(A, B)
        self.breaks(health, A, 4)
        self.assertEqual((health.impaired, self.changes()), (False, []))
        self.breaks(health, A)
        self.assertEqual(self.changes(), [(A.address, "ejected", 10.0)])
        self.assertTrue(health.impaired)
        self.assertEqual(self.admitted(health, A, B), [B])
        self.assertEqual(health.why(A, self.now + 3), f"ejected for another 7s: TM-U101 {REASON}")

    def test_a_success_between_them_begins_anew(self) -> None:
        """They have to be in a row."""
        health = self.make(A, B)
        self.breaks(health, A, 4)
        self.succeed(health, A)
        self.breaks(health, A, 4)
        self.assertFalse(health.impaired)

    def test_an_answer_is_a_success(self) -> None:
        """A peer whose policies refuse a client has taken, verified and answered it."""
        for code in ANSWERS:
            health = self.make(A, B)
            self.breaks(health, A, 4)
            found = codes.by_id(code)
            assert found is not None
            self.breaks(health, A, 1, found)
            self.breaks(health, A, 4)
            self.assertFalse(health.impaired, code)

    def test_what_is_our_own_doing_says_nothing(self) -> None:
        """Neither does it count, nor does it wipe out what counted."""
        for code in (codes.CANCELLED, codes.NO_IDENTITY, codes.OUT_OF_DESCRIPTORS, codes.INTERNAL):
            health = self.make(A, B)
            self.breaks(health, A, 100, code)
            self.assertEqual(health.state(A.address, self.now).failures, 0)
            self.breaks(health, A, 4)
            self.breaks(health, A, 1, code)
            self.breaks(health, A, 1)
            self.assertTrue(health.impaired, code)

    def test_ejects_no_more_than_the_share(self) -> None:
        """Rounded down: none of one, one of three, two of four."""
        for endpoints, most in (((A,), 0), ((A, B, C), 1), ((A, B, C, D), 2)):
            health = self.make(*endpoints)
            for each in endpoints:
                self.breaks(health, each, 10)
            self.assertEqual(len(self.admitted(health, *endpoints)), len(endpoints) - most)

    def test_a_share_is_no_victim_of_floating_point(self) -> None:
        """0.7 of ten are seven, 0.29 of a hundred twenty-nine."""
        for count, share, most in ((10, 0.7, 7), (100, 0.29, 29), (3, 1.0, 3), (10, 0.1, 1)):
            many = [endpoint(number) for number in range(1, count + 1)]
            health = self.make(*many, ejection=EjectionSettings(max_share=share))
            for each in many:
                self.breaks(health, each, 5)
            self.assertEqual(len(self.admitted(health, *many)), count - most)

    def test_who_could_not_be_ejected_is_when_there_is_room(self) -> None:
        """With the next failure."""
        health = self.make(A, B, C)
        self.breaks(health, A, 5)
        self.breaks(health, B, 7)
        self.assertEqual(self.admitted(health, A, B, C), [B, C])
        self.now += 10
        self.succeed(health, A)
        self.breaks(health, B)
        self.assertEqual(self.admitted(health, A, B, C), [A, C])

    def test_a_standby_that_nobody_tries_takes_nobody_s_place(self) -> None:
        """The former primary, upon probation for ever, gives way when the present one fails; no other way round."""
        health = self.make(A, B)
        self.breaks(health, A, 5)
        self.changes()
        self.now += 19.9
        self.breaks(health, B, 5)
        self.assertEqual(self.changes(), [])
        self.now += 0.1
        trial = object()
        health.opened(A, self.now, trial)
        self.breaks(health, B)
        self.assertEqual(self.changes(), [])
        health.failed(A, codes.CANCELLED, "gone", self.now, trial)
        self.breaks(health, B)
        self.assertEqual(self.changes(), [(A.address, "back", 0.0), (B.address, "ejected", 10.0)])
        self.assertEqual(self.admitted(health, A, B), [A])

    def test_never_means_never(self) -> None:
        """``failures: 0``, also for one that is stopping."""
        health = self.make(A, B, ejection=EjectionSettings(failures=0))
        self.breaks(health, A, 100)
        self.breaks(health, A, 1, codes.STOPPING)
        self.assertFalse(health.impaired)

    def test_one_that_stops_is_ejected_at_once(self) -> None:
        """For the shortest time, however often: it has not failed."""
        health = self.make(A, B)
        for _ in range(3):
            self.breaks(health, A, 1, codes.STOPPING)
            self.assertEqual(self.changes(), [(A.address, "ejected", 10.0)])
            self.now += 10
            self.succeed(health, A)
            self.assertEqual(self.changes(), [(A.address, "back", 0.0)])

    def test_the_only_one_is_not_ejected_when_it_stops(self) -> None:
        """There is no other."""
        health = self.make(A)
        self.breaks(health, A, 1, codes.STOPPING)
        self.assertFalse(health.impaired)

    def test_old_news_is_no_news(self) -> None:
        """What began before the ejection neither ends it nor makes it longer."""
        health = self.make(A, B, C, D)
        early, late = object(), object()
        health.opened(A, self.now, early)
        health.opened(A, self.now, late)
        self.breaks(health, A, 5)
        health.established(A, self.now + 1, early)
        self.assertFalse(health.admits(A, self.now + 1))
        health.failed(A, codes.CONNECT_TIMEOUT, "late", self.now + 11, late)
        self.assertTrue(health.admits(A, self.now + 11))
        self.assertEqual(health.state(A.address, self.now + 11).state, "probation")

    def test_forgets_what_is_not_an_endpoint(self) -> None:
        """One that was removed has no past, and what comes too late makes it none."""
        health = self.make(A, B)
        self.breaks(health, A, 5)
        health.retain([B], self.now)
        self.assertFalse(health.impaired)
        self.breaks(health, A, 5)
        health.lost(A, codes.CLOSED_BEFORE_OK, REASON, self.now)
        health.checked(A.address, BAD, 0.1, self.now)
        health.retain([A, B], self.now)
        self.assertFalse(health.impaired)
        self.assertEqual(health.state(A.address, self.now).failures, 0)

    def test_a_change_of_weight_forgets_nothing(self) -> None:
        """It is the address that counts."""
        health = self.make(A, B)
        self.breaks(health, A, 4)
        heavier = attrs.evolve(A, weight=9)
        health.retain([heavier, B], self.now)
        self.breaks(health, heavier)
        self.assertFalse(health.admits(heavier, self.now))

    def test_takes_back_who_cannot_be_done_without(self) -> None:
        """Of four two may be ejected, of two one: the one whose time ends first is back."""
        health = self.make(A, B, C, D)
        self.breaks(health, A, 5)
        self.now += 1
        self.breaks(health, B, 5)
        self.changes()
        health.retain([A, B], self.now)
        self.assertEqual(self.changes(), [(A.address, "back", 0.0)])
        self.assertEqual(self.admitted(health, A, B), [A])

    def test_reasons_are_bounded(self) -> None:
        """A part of them may be a peer's."""
        health = self.make(A, B, circuit=CircuitSettings(failures=1))
        for _ in range(5):
            health.failed(A, codes.CONNECT_REFUSED, "x" * 10_000, self.now, self)
        health.connection_failed(codes.CONNECT_REFUSED, "x" * 10_000, self.now, self)
        trouble = health.state(A.address, self.now).trouble
        assert trouble is not None
        self.assertEqual(len(trouble.reason), MAX_REASON)
        self.assertLess(len(health.refuses(self.now, object()) or ""), MAX_REASON + 100)
        self.assertLess(len(health.why_none([A, B] * 100, self.now)), 3 * (MAX_REASON + 100))

    def test_how_many_are_ejected_is_known_without_counting(self) -> None:
        """However they went: back, removed, or taken back for want of others."""
        many = [endpoint(number) for number in range(1, 11)]
        health = self.make(*many, ejection=EjectionSettings(failures=1))
        for each in many:
            self.breaks(health, each)
        self.assertEqual([each.address for each in many if not health.admits(each, self.now)], list(health._ejected))
        health.retain(many[2:], self.now)
        self.assertEqual(list(health._ejected), [each.address for each in many[2:5]])
        self.now += 10
        self.succeed(health, many[2])
        health.retain(many[2:6], self.now)
        self.assertEqual(list(health._ejected), [each.address for each in many[3:5]])
        health.retain(many[3:5], self.now)
        self.assertEqual(list(health._ejected), [many[4].address])

    def test_says_of_several_why_none_is_admitted(self) -> None:
        """Three of them, and how many more."""
        many = [endpoint(number) for number in range(1, 6)]
        health = self.make(*many, ejection=EjectionSettings(max_share=1.0))
        for each in many:
            self.breaks(health, each, 5)
        why = f"ejected for another 10s: TM-U101 {REASON}"
        self.assertEqual(
            health.why_none(many, self.now),
            f"{many[0].address} is {why}; {many[1].address} is {why}; {many[2].address} is {why}; and 2 more",
        )


class EarlyLossTests(HealthCase):
    """Endpoints that accept and close before payload moves."""

    def lose(self, health: ServiceHealth, at: Endpoint, times: int = 1) -> None:
        for _ in range(times):
            self.succeed(health, at)
            health.lost(at, codes.CLOSED_BEFORE_OK, "closed at once", self.now)

    def test_they_count_in_a_row(self) -> None:
        """Although each of them was established."""
        health = self.make(A, B)
        self.lose(health, A, 4)
        self.assertFalse(health.impaired)
        self.lose(health, A)
        self.assertTrue(health.impaired)

    def test_they_count_together_with_failures(self) -> None:
        """Two and two and one."""
        health = self.make(A, B)
        self.breaks(health, A, 2)
        self.lose(health, A, 2)
        self.breaks(health, A)
        self.assertTrue(health.impaired)

    def test_two_connections_that_stay_wipe_them_out(self) -> None:
        """One might be the one that breaks next."""
        health = self.make(A, B)
        self.lose(health, A, 4)
        self.succeed(health, A)
        self.succeed(health, A)
        self.lose(health, A, 4)
        self.assertFalse(health.impaired)

    def test_a_trial_that_breaks_ejects_again(self) -> None:
        """For longer, as a failed one."""
        health = self.make(A, B)
        self.breaks(health, A, 5)
        self.now += 10
        self.changes()
        self.lose(health, A)
        self.assertEqual(self.changes(), [(A.address, "back", 0.0), (A.address, "ejected", 20.0)])

    def test_how_a_connection_ends_that_is_no_fault_takes_nothing_back(self) -> None:
        """Only faults do."""
        health = self.make(A, B)
        self.breaks(health, A, 4)
        self.succeed(health, A)
        health.lost(A, codes.INTERNAL, "ours", self.now)
        self.assertEqual(health.state(A.address, self.now).failures, 0)


class ProbationTests(HealthCase):
    """How an ejected endpoint comes back."""

    def setUp(self) -> None:
        super().setUp()
        self.health = self.make(A, B)
        self.breaks(self.health, A, 5)
        self.changes()

    def test_one_connection_at_a_time_tries_it(self) -> None:
        """The next one only after that has failed to tell anything."""
        self.now += 9.999
        self.assertFalse(self.health.admits(A, self.now))
        self.now += 0.001
        first, second = object(), object()
        self.assertEqual(self.health.state(A.address, self.now).state, "probation")
        self.assertTrue(self.health.admits(A, self.now))
        self.health.opened(A, self.now, first)
        self.assertFalse(self.health.admits(A, self.now))
        self.assertEqual(
            self.health.why(A, self.now),
            f"on probation, and another connection is trying it: TM-U101 {REASON}",
        )
        self.health.opened(A, self.now, second)  # whoever may have been on its way: it is not the trial
        self.health.established(A, self.now, second)
        self.assertFalse(self.health.admits(A, self.now))
        self.health.failed(A, codes.CANCELLED, "the client went away", self.now, first)
        self.assertTrue(self.health.admits(A, self.now))

    def test_a_success_brings_it_back(self) -> None:
        """With everything forgotten but how long the next ejection is."""
        self.now += 10
        self.succeed(self.health, A)
        self.assertEqual(self.changes(), [(A.address, "back", 0.0)])
        self.assertFalse(self.health.impaired)
        self.breaks(self.health, A, 4)
        self.assertFalse(self.health.impaired)
        self.breaks(self.health, A)
        self.assertEqual(self.changes(), [(A.address, "ejected", 20.0)])

    def test_an_answer_brings_it_back(self) -> None:
        """Else a client that is never allowed in would keep it away from others."""
        self.now += 10
        self.breaks(self.health, A, 1, codes.NO_RULE_ALLOWS)
        self.assertFalse(self.health.impaired)

    def test_a_failure_ejects_it_for_longer(self) -> None:
        """Each time by as much, up to the limit; one failure is enough."""
        times = []
        for _ in range(40):
            self.now += 300
            self.breaks(self.health, A)
            ((_, change, seconds),) = self.changes()
            self.assertEqual(change, "ejected")
            times.append(seconds)
        self.assertEqual(times, [min(300.0, 10.0 * number) for number in range(2, 42)])
        self.assertEqual(self.health.state(A.address, self.now).ejections, 41)

    def test_a_trial_that_is_told_to_go_elsewhere_ejects_it_too(self) -> None:
        """It is stopping: for the shortest time, and its next failure is the second in a row, not the third."""
        for _ in range(2):
            self.now += 10
            self.breaks(self.health, A, 1, codes.STOPPING)
            self.assertEqual(self.changes(), [(A.address, "ejected", 10.0)])
        self.now += 10
        self.breaks(self.health, A)
        self.assertEqual(self.changes(), [(A.address, "ejected", 20.0)])

    def test_a_stop_makes_no_later_ejection_longer(self) -> None:
        """What it was in use before it stopped counts: two ejections in a row, 20 s of use, a stop, and the first."""
        self.now += 10
        self.breaks(self.health, A)
        self.now += 20
        self.succeed(self.health, A)
        self.now += 20
        self.breaks(self.health, A, 1, codes.STOPPING)
        self.now += 10
        self.succeed(self.health, A)
        self.changes()
        self.breaks(self.health, A, 5)
        self.assertEqual(self.changes(), [(A.address, "ejected", 10.0)])

    def test_times_get_shorter_while_it_behaves(self) -> None:
        """By one for each ``time`` in use: after six ejections in a row and 25 seconds in use the fifth, of 50 s."""
        for _ in range(5):
            self.now += 300
            self.breaks(self.health, A)
        self.now += 300
        self.succeed(self.health, A)
        self.changes()
        self.now += 25
        self.breaks(self.health, A, 5)
        self.assertEqual(self.changes(), [(A.address, "ejected", 50.0)])

    def test_an_outage_of_days_is_forgotten_in_max_time(self) -> None:
        """What is remembered is bounded by what has an effect."""
        for _ in range(1000):
            self.now += 300
            self.breaks(self.health, A)
        self.now += 300
        self.succeed(self.health, A)
        self.now += 300
        self.changes()
        self.breaks(self.health, A, 5)
        self.assertEqual(self.changes(), [(A.address, "ejected", 10.0)])


class CheckTests(HealthCase):
    """Active checks."""

    CHECK = CheckSettings("tcp", rise=2, fall=3)

    def check(self, health: ServiceHealth, *outcomes: bool) -> None:
        for good in outcomes:
            health.checked(A.address, None if good else BAD, 0.25, self.now)

    def test_rise_and_fall_for_every_sequence(self) -> None:
        """All sequences of eight checks, against counting backwards."""
        for outcomes in itertools.product((True, False), repeat=8):
            state, up = RiseFall(rise=2, fall=3), True
            for count in range(1, len(outcomes) + 1):
                seen = outcomes[:count]
                changed = (up and seen[-3:] == (False,) * 3) or (not up and seen[-2:] == (True,) * 2)
                self.assertEqual(state.note(seen[-1]), changed, seen)
                up = up != changed
                self.assertEqual(state.up, up, seen)

    def test_an_endpoint_that_was_never_checked_is_up(self) -> None:
        """Also while the first checks fail."""
        health = self.make(A, check=self.CHECK)
        self.assertFalse(health.impaired)
        self.check(health, False, False)
        self.assertFalse(health.impaired)

    def test_down_and_up(self) -> None:
        """Even the only one: nobody is there."""
        health = self.make(A, check=self.CHECK)
        self.check(health, False, False, False)
        self.assertEqual(self.changes(), [(A.address, "down", 0.0)])
        self.assertTrue(health.impaired)
        self.assertFalse(health.admits(A, self.now))
        self.assertEqual(health.why(A, self.now), f"down by its checks: TM-U101 {REASON}")
        state = health.state(A.address, self.now)
        assert state.check is not None
        self.assertEqual((state.state, state.share, state.check.duration), ("down", 0.0, 0.25))
        self.assertEqual(state.check.trouble, Trouble("TM-U101", REASON, self.now))
        self.check(health, True)
        self.assertEqual(health.why(A, self.now), "down by its checks")
        self.check(health, True)
        self.assertEqual(self.changes(), [(A.address, "up", 0.0)])
        self.assertFalse(health.impaired)

    def test_down_counts_more_than_ejected(self) -> None:
        """And who is up again may still be ejected."""
        health = self.make(A, B, check=self.CHECK)
        self.breaks(health, A, 5)
        self.check(health, False, False, False)
        self.now += 11
        self.assertFalse(health.admits(A, self.now))
        self.check(health, True, True)
        self.assertEqual(health.state(A.address, self.now).state, "probation")
        self.assertTrue(health.admits(A, self.now))


class SlowStartTests(HealthCase):
    """Endpoints that come, or come back."""

    def test_grows_in_a_straight_line(self) -> None:
        """From a tenth to all of it."""
        found = [round(slow_share(0.0, 30.0, now), 3) for now in (-5.0, 0.0, 10.0, 15.0, 29.999, 30.0, 99.0)]
        self.assertEqual(found, [0.1, 0.1, 0.4, 0.55, 1.0, 1.0, 1.0])
        self.assertEqual(slow_share(0.0, 0.0, 0.0), 1.0)

    def test_is_off_unless_wanted(self) -> None:
        """Whoever joins gets its share."""
        health = self.make(A)
        health.retain([A, B], self.now)
        self.assertFalse(health.impaired)

    def test_who_joins_a_running_set_begins_slowly(self) -> None:
        """Those that were there go on as they were; once it is over nothing is left of it."""
        health = self.make(A, slow_start=Duration(30.0))
        self.assertFalse(health.impaired)
        health.retain([A, B], self.now)
        self.assertTrue(health.impaired)
        self.assertEqual((health.share(A, self.now), health.share(B, self.now)), (1.0, FIRST_SHARE))
        state = health.state(B.address, self.now)
        self.assertEqual((state.state, state.until, state.share), ("slow-start", self.now + 30, FIRST_SHARE))
        self.now += 30
        self.assertEqual(health.state(B.address, self.now).state, "up")
        self.assertEqual(health.share(B, self.now), 1.0)
        self.assertFalse(health.impaired)

    def test_tells_of_all_at_once_what_it_tells_of_each(self) -> None:
        """Who is away, and who is starting; asking ends a slow start that is over, as it does for each."""
        health = self.make(A, slow_start=Duration(30.0), ejection=EjectionSettings(failures=1, max_share=1.0))
        health.retain([A, B], self.now)
        health.failed(A, codes.CONNECT_REFUSED, "nobody listens", self.now, object())
        for _ in range(5):
            away, starting = health.away(self.now), health.starting(self.now)
            for each in (A, B):
                self.assertEqual(each.address not in away, health.admits(each, self.now))
                self.assertEqual(starting.get(each.address, 1.0), health.share(each, self.now))
            self.now += 4
        health.retain([B], self.now)
        self.assertEqual((health.away(self.now), list(health.starting(self.now))), (frozenset(), [B.address]))
        self.now += 30
        self.assertEqual((health.starting(self.now), health.impaired), ({}, False))

    def test_a_set_that_is_all_new_begins_at_once(self) -> None:
        """The first one, and one of which nobody stayed: sparing all is sparing none."""
        health = self.make(A, B, slow_start=Duration(30.0))
        self.assertFalse(health.impaired)
        health.retain([C, D], self.now)
        self.assertFalse(health.impaired)

    def test_who_comes_back_begins_slowly(self) -> None:
        """From an ejection, and from being down; not while it is still the one or the other."""
        health = self.make(A, B, slow_start=Duration(30.0), check=CheckSettings("tcp", rise=1, fall=1))
        self.breaks(health, A, 5)
        health.checked(A.address, BAD, 0.1, self.now)
        health.checked(A.address, None, 0.1, self.now)
        self.now += 10
        self.assertEqual((health.state(A.address, self.now).state, health.share(A, self.now)), ("probation", 1.0))
        self.succeed(health, A)
        self.assertEqual(health.share(A, self.now), FIRST_SHARE)
        self.now += 15
        health.checked(A.address, BAD, 0.1, self.now)
        health.checked(A.address, None, 0.1, self.now)
        self.assertEqual(health.share(A, self.now), FIRST_SHARE)

    def test_who_is_ejected_meanwhile_begins_anew(self) -> None:
        """It has shown that it cannot even take a little."""
        health = self.make(A, B, slow_start=Duration(30.0))
        health.retain([A, B, C, D], self.now)
        self.breaks(health, C, 5)
        self.now += 40
        self.succeed(health, C)
        self.assertEqual(health.share(C, self.now), FIRST_SHARE)


class CircuitTests(HealthCase):
    """The circuit of a service."""

    CIRCUIT = CircuitSettings(failures=3, time=Duration(5.0), max_time=Duration(12.0))

    def lose(self, health: ServiceHealth, times: int = 1, code: codes.Code = codes.CONNECT_REFUSED) -> None:
        """Whole connections, all of whose attempts failed."""
        for _ in range(times):
            who = object()
            self.assertIsNone(health.refuses(self.now, who))
            health.connection_failed(code, REASON, self.now, who)

    def test_there_is_none_unless_wanted(self) -> None:
        """Whatever fails."""
        health = self.make(A)
        self.lose(health, 1000)
        self.assertEqual((health.impaired, health.circuit(self.now)), (False, CircuitState()))

    def test_opens_after_failures_in_a_row(self) -> None:
        """And says why."""
        health = self.make(A, circuit=self.CIRCUIT)
        self.lose(health, 2)
        self.succeed(health, A)
        self.lose(health, 2)
        self.assertFalse(health.impaired)
        self.lose(health)
        self.assertEqual(self.changes(), [(None, "circuit-open", 5.0)])
        self.assertTrue(health.impaired)
        self.assertEqual(
            health.refuses(self.now + 1, object()),
            f"the circuit is open for another 4s: 3 connections in a row failed, lastly with TM-U101 {REASON}",
        )
        self.assertEqual(
            health.circuit(self.now + 1), CircuitState("open", self.now, self.now + 5, failures=3, opened=1)
        )

    def test_tells_the_last_errors(self) -> None:
        """Three different ones, the newest last."""
        health = self.make(A, circuit=attrs.evolve(self.CIRCUIT, failures=5))
        for code in (
            codes.UNREACHABLE,
            codes.TARGET_FAILED,
            codes.CONNECT_TIMEOUT,
            codes.TARGET_FAILED,
            codes.CONNECT_REFUSED,
        ):
            self.lose(health, 1, code)
        text = health.refuses(self.now, object()) or ""
        self.assertTrue(
            text.endswith(f"TM-T101 {REASON}; TM-U106 {REASON}; TM-U101 {REASON}"),
            text,
        )

    def test_is_half_open_for_one_connection_at_a_time(self) -> None:
        """The next one may try when that has told nothing."""
        health = self.make(A, circuit=self.CIRCUIT)
        self.lose(health, 3)
        self.now += 5
        first, second = object(), object()
        self.assertEqual(health.circuit(self.now).state, "half-open")
        self.assertIsNone(health.refuses(self.now, first))
        self.assertIn("half-open, and another connection is trying", health.refuses(self.now, second) or "")
        health.connection_failed(codes.CANCELLED, "went away", self.now, first)
        self.assertIsNone(health.refuses(self.now, second))

    def test_a_failed_trial_opens_it_for_longer(self) -> None:
        """Up to the limit."""
        health = self.make(A, circuit=self.CIRCUIT)
        self.lose(health, 3)
        times = [5.0]
        for _ in range(3):
            self.now += 12
            self.changes()
            self.lose(health)
            times += [seconds for _, _, seconds in self.changes()]
        self.assertEqual(times, [5.0, 10.0, 12.0, 12.0])

    def test_what_began_before_it_opened_does_not_hold_it_open(self) -> None:
        """Only the trial does."""
        health = self.make(A, circuit=self.CIRCUIT)
        early = object()
        self.assertIsNone(health.refuses(self.now, early))
        self.lose(health, 3)
        self.changes()
        health.connection_failed(codes.CONNECT_TIMEOUT, "late", self.now + 5, early)
        self.assertEqual(self.changes(), [])
        self.assertIsNone(health.refuses(self.now + 5, object()))

    def test_a_success_closes_it(self) -> None:
        """Whoever's; the next time it opens for the shortest time again."""
        health = self.make(A, circuit=self.CIRCUIT)
        self.lose(health, 3)
        self.now += 5
        self.lose(health)
        self.now += 10
        self.changes()
        self.succeed(health, A)
        self.assertEqual(self.changes(), [(None, "circuit-closed", 0.0)])
        self.assertEqual(health.circuit(self.now), CircuitState("closed", self.now, None, 0, 2))
        self.assertFalse(health.impaired)
        self.lose(health, 3)
        self.assertEqual(self.changes(), [(None, "circuit-open", 5.0)])

    def test_an_answer_closes_it(self) -> None:
        """The service works, and refuses."""
        health = self.make(A, circuit=self.CIRCUIT)
        self.lose(health, 2)
        self.lose(health, 1, codes.NO_RULE_ALLOWS)
        self.lose(health, 2)
        self.assertFalse(health.impaired)

    def test_what_is_our_own_doing_does_not_count(self) -> None:
        """Nor that there is no endpoint to try: that fails at once anyway."""
        health = self.make(A, circuit=self.CIRCUIT)
        for code in (codes.CANCELLED, codes.NO_IDENTITY, codes.NO_ENDPOINT, codes.OUT_OF_DESCRIPTORS):
            self.lose(health, 10, code)
        self.assertFalse(health.impaired)

    def test_established_and_lost_at_once_is_failed(self) -> None:
        """A foreign server that takes every connection and closes it opens the circuit, too."""
        health = self.make(A, circuit=self.CIRCUIT)
        for _ in range(3):
            who = object()
            self.assertIsNone(health.refuses(self.now, who))
            health.opened(A, self.now, who)
            health.established(A, self.now, who)
            health.lost(A, codes.CLOSED_BEFORE_OK, "closed at once", self.now)
            health.connection_failed(codes.CLOSED_BEFORE_OK, "closed at once", self.now, who)
        self.assertTrue(health.impaired)
