"""The health of a service in any course of events: what is promised holds, and in the end everything is back."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.health.states import HealthChange
from tcpmesh.testing import endpoint
from tcpmesh.upstream_settings import CheckSettings, CircuitSettings, EjectionSettings, HealthSettings
from tcpmesh.values import Duration, Endpoint

A, B = endpoint(1), endpoint(2)
BAD = Refusal(codes.CONNECT_REFUSED, "refused")


class AnyCourse(RuleBasedStateMachine):
    """Endpoints come and go, fail, succeed and are checked, connections begin and end in any order, time goes on."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.all = [endpoint(number) for number in range(1, 8)]
        self.share = 0.5
        self.health = ServiceHealth(
            "orders",
            HealthSettings(
                ejection=EjectionSettings(failures=2, time=Duration(1.0), max_time=Duration(4.0), max_share=self.share),
                check=CheckSettings("tcp", rise=1, fall=2),
                slow_start=Duration(3.0),
                circuit=CircuitSettings(failures=3, time=Duration(1.0), max_time=Duration(3.0)),
            ),
            self.hear,
        )
        self.endpoints: list[Endpoint] = []
        self.trials: dict[Any, object] = {}
        self.tries_circuit: object | None = None
        self.states: dict[Any, str] = {}
        self.change(frozenset(range(4)))

    def hear(self, change: HealthChange) -> None:
        # An endpoint is told to be back only after it was told to be ejected, and so on.
        before = self.states.get((change.address, change.change in ("down", "up")), "")
        assert (change.change in ("back", "up", "circuit-closed")) == (
            before in ("ejected", "down", "circuit-open")
        ) or (change.change in ("ejected", "circuit-open") and before == change.change)
        self.states[change.address, change.change in ("down", "up")] = change.change

    @rule(chosen=st.frozensets(st.integers(0, 6)))
    def change(self, chosen: frozenset[int]) -> None:
        self.endpoints = [self.all[number] for number in sorted(chosen)]
        kept = {each.address for each in self.endpoints}
        for key in list(self.states):
            if key[0] is not None and key[0] not in kept:
                del self.states[key]
        self.trials = {address: who for address, who in self.trials.items() if address in kept}
        self.health.retain(self.endpoints, self.now)

    @precondition(lambda self: self.endpoints)
    @rule(target=running, number=st.integers(0, 6))
    def begin(self, number: int) -> Any:
        who = object()
        half_open = self.health.circuit(self.now).state == "half-open"
        if self.health.refuses(self.now, who) is not None:
            return multiple()
        if half_open:
            assert self.tries_circuit is None, "a second connection tries a half-open circuit"
            self.tries_circuit = who
        at = self.endpoints[number % len(self.endpoints)]
        if not self.health.admits(at, self.now):
            self.health.connection_failed(codes.ALL_UNAVAILABLE, "none", self.now, who)
            self.over(who)
            return multiple()
        if self.health.state(at.address, self.now).state == "probation":
            assert at.address not in self.trials, "a second connection tries an endpoint upon probation"
            self.trials[at.address] = who
        self.health.opened(at, self.now, who)
        return at, who

    def over(self, who: object) -> None:
        self.trials = {address: trial for address, trial in self.trials.items() if trial is not who}
        if self.tries_circuit is who:
            self.tries_circuit = None

    @rule(attempt=consumes(running))
    def establish(self, attempt: tuple[Endpoint, object]) -> None:
        self.health.established(attempt[0], self.now, attempt[1])
        self.over(attempt[1])
        self.tries_circuit = None

    @rule(attempt=consumes(running), code=st.sampled_from([codes.CONNECT_REFUSED, codes.CANCELLED, codes.STOPPING]))
    def fail(self, attempt: tuple[Endpoint, object], code: codes.Code) -> None:
        at, who = attempt
        self.health.failed(at, code, "failed", self.now, who)
        self.health.connection_failed(code, "failed", self.now, who)
        self.over(who)

    @precondition(lambda self: self.endpoints)
    @rule(number=st.integers(0, 6))
    def lose(self, number: int) -> None:
        self.health.lost(self.endpoints[number % len(self.endpoints)], codes.CLOSED_BEFORE_OK, "lost", self.now)

    @rule(number=st.integers(0, 6), good=st.booleans())
    def check(self, number: int, good: bool) -> None:
        self.health.checked(self.all[number].address, None if good else BAD, 0.1, self.now)

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_more_than_the_share_is_ejected(self) -> None:
        states = [self.health.state(each.address, self.now).state for each in self.endpoints]
        away = sum(
            self.health._known[each.address].ejection.until is not None
            for each in self.endpoints
            if each.address in self.health._known
        )
        assert away == len(self.health._ejected)
        assert away <= int(len(self.endpoints) * self.share)
        assert states.count("ejected") + states.count("probation") <= away

    @invariant()
    def impaired_tells_the_truth(self) -> None:
        whole = all(self.health.admits(each, self.now) for each in self.endpoints) and all(
            self.health.share(each, self.now) == 1.0 for each in self.endpoints
        )
        assert self.health.impaired or (whole and self.health.circuit(self.now).state == "closed")

    @invariant()
    def nothing_is_kept_of_who_is_gone(self) -> None:
        assert set(self.health._known) <= {each.address for each in self.endpoints}

    @invariant()
    def reasons_are_given_to_those_that_are_not_admitted(self) -> None:
        for each in self.endpoints:
            assert bool(self.health.why(each, self.now)) != self.health.admits(each, self.now)

    def teardown(self) -> None:
        """Whatever happened: once the connections are over, checks succeed and time has gone by, all is well again."""
        for who in {*self.trials.values(), self.tries_circuit} - {None}:
            for each in self.endpoints:
                self.health.failed(each, codes.CANCELLED, "over", self.now, who)
            self.health.connection_failed(codes.CANCELLED, "over", self.now, who)
        self.now += 5.0
        who = object()
        assert self.health.refuses(self.now, who) is None
        for each in self.endpoints:
            self.health.checked(each.address, None, 0.1, self.now)
            assert self.health.admits(each, self.now)
            self.health.opened(each, self.now, who)
            self.health.established(each, self.now, who)
        if self.endpoints:
            self.now += 3.0
            assert all(self.health.share(each, self.now) == 1.0 for each in self.endpoints)
            assert not self.health.impaired


class CourseTests(SynchronousTestCase):
    """Random courses of a service, and all short ones of one endpoint of two."""

    def test_any_course_keeps_what_is_promised(self) -> None:
        """
        The share is kept, one connection at a time is a trial, and in the end everything is back.

        The checks are the invariants and the teardown of the state machine above.
        """
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            AnyCourse, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
        )

    def test_every_course_of_five_events_ends_well(self) -> None:
        """Whatever happened, an ejected endpoint is tried after its time, and back after one success."""
        ejection = EjectionSettings(failures=2, time=Duration(1.0), max_time=Duration(3.0))
        events = ("fail", "succeed", "stop", "cancel", "answer", "lose", "wait")
        for course in itertools.product(events, repeat=5):
            health = ServiceHealth("orders", HealthSettings(ejection=ejection))
            health.retain([A, B], 0.0)
            now = 0.0
            for event in course:
                who = object()
                if event == "wait":
                    now += 1.0
                    continue
                if not health.admits(A, now):
                    continue
                health.opened(A, now, who)
                if event in ("succeed", "lose"):
                    health.established(A, now, who)
                    if event == "lose":
                        health.lost(A, codes.CLOSED_BEFORE_OK, "lost", now)
                else:
                    code = {
                        "fail": codes.CONNECT_REFUSED,
                        "stop": codes.STOPPING,
                        "cancel": codes.CANCELLED,
                        "answer": codes.NO_RULE_ALLOWS,
                    }[event]
                    health.failed(A, code, "failed", now, who)
                state = health.state(A.address, now)
                self.assertEqual(health.impaired, state.state != "up", course)
                self.assertLessEqual((state.until or now) - now, 3.0, course)
            now += 3.0
            self.assertTrue(health.admits(A, now), course)
            who = object()
            health.opened(A, now, who)
            health.established(A, now, who)
            self.assertFalse(health.impaired, course)
