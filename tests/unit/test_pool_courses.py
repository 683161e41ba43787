"""A pool in any course of events: health, limits, queue and discovery together, and nothing is lost or taken twice."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import Refusal
from tcpmesh.net.booking import Booking
from tcpmesh.upstream_settings import (
    CheckSettings,
    CircuitSettings,
    EjectionSettings,
    HealthSettings,
    ServiceLimits,
)
from tcpmesh.values import AttemptFailure, Duration, Endpoint
from tests.unit.pools import Caller, Service, endpoint

COURSES = 200
STEPS = 150
QUEUE = 4
LIMITS = ServiceLimits(connections=12, per_endpoint=3, pending=6)
HEALTH = HealthSettings(
    ejection=EjectionSettings(failures=2, time=Duration(1.0), max_time=Duration(3.0)),
    check=CheckSettings("tcp", rise=1, fall=2),
    slow_start=Duration(2.0),
    circuit=CircuitSettings(failures=3, time=Duration(1.0), max_time=Duration(2.0)),
)
ENDS = (
    codes.CONNECT_REFUSED, codes.CONNECT_TIMEOUT, codes.CANCELLED, codes.STOPPING, codes.NO_RULE_ALLOWS,
    codes.OUT_OF_DESCRIPTORS,
)  # fmt: skip
REFUSALS = {
    codes.NO_ENDPOINT, codes.ALL_UNAVAILABLE, codes.QUEUE_FULL, codes.QUEUE_TIMEOUT, codes.RESOLVE_TIMEOUT,
}  # fmt: skip


class Course:
    """One service, and connections that do to it what connections do."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.service = Service(limits=LIMITS, queue=QUEUE, health=HEALTH)
        self.pool, self.health = self.service.pool, self.service.health
        self.all = [endpoint(number, priority=number // 4, weight=1 + number % 3) for number in range(7)]
        self.there: tuple[Endpoint, ...] = ()
        self.waiting: list[Caller] = []
        self.trying: list[Caller] = []
        self.established: list[Caller] = []
        self.refused: Counter[Code] = Counter()

    @property
    def now(self) -> float:
        return float(self.service.clock.seconds())

    def booking(self, caller: Caller) -> Booking:
        assert caller.booking is not None
        return caller.booking

    # --- what may happen

    def discover(self) -> None:
        """Endpoints come and go, all of them too; the numbers of those that stay are theirs."""
        share = self.chance.choice((0.0, 0.3, 0.6, 0.9))
        self.there = self.service.discover(*(each for each in self.all if self.chance.random() < share))

    def begin(self) -> None:
        caller = Caller()
        if self.health.refuses(self.now, caller) is None:
            self.sort(self.service.call(caller, exclude=frozenset(self.chance.sample(self.all, 2))))

    def sort(self, caller: Caller) -> None:
        """A connection has a place, waits, or is over."""
        if caller.booking is not None:
            self.trying.append(caller)
        elif caller.waiter is not None:
            self.waiting.append(caller)
        else:
            self.over(caller)

    def over(self, caller: Caller) -> None:
        assert caller.refusal is not None
        self.refused[caller.refusal.code] += 1
        self.health.connection_failed(caller.refusal.code, caller.refusal.reason, self.now, caller)

    def leave(self) -> None:
        if self.waiting:
            caller = self.waiting.pop(self.chance.randrange(len(self.waiting)))
            assert caller.waiter is not None
            self.pool.leave(caller.waiter)
            self.health.connection_failed(codes.CANCELLED, "gone", self.now, caller)

    def establish(self) -> None:
        if self.trying:
            caller = self.trying.pop(self.chance.randrange(len(self.trying)))
            self.established.append(caller)
            self.booking(caller).established(0.01)

    def fail(self) -> None:
        if self.trying:
            caller = self.trying.pop(self.chance.randrange(len(self.trying)))
            code = self.chance.choice(ENDS)
            self.booking(caller).failed(AttemptFailure(code, "why", self.booking(caller).endpoint, 0.01))
            self.health.connection_failed(code, "why", self.now, caller)

    def end(self) -> None:
        if self.established:
            caller = self.established.pop(self.chance.randrange(len(self.established)))
            booking = self.booking(caller)
            if self.chance.random() < 0.3:
                booking.lost(AttemptFailure(codes.CLOSED_BEFORE_OK, "closed", booking.endpoint, 0.01))
            booking.closed()

    def check(self) -> None:
        bad = Refusal(codes.CONNECT_REFUSED, "refused") if self.chance.random() < 0.5 else None
        self.health.checked(self.chance.choice(self.all).address, bad, 0.01, self.now)

    def wait(self) -> None:
        self.service.clock.pump([0.05] * self.chance.choice((1, 5, 20, 120)))

    def step(self) -> None:
        """One of these, and then whoever has waited in vain, or no longer."""
        what = (self.begin, self.establish, self.fail, self.end, self.check, self.wait, self.leave, self.discover)
        self.chance.choices(what, (8, 4, 4, 3, 2, 3, 1, 1))[0]()
        self.settle()

    def settle(self) -> None:
        self.service.turn()
        done = [caller for caller in self.waiting if caller.told]
        self.waiting = [caller for caller in self.waiting if not caller.told]
        for caller in done:
            self.sort(caller)


class CourseTests(SynchronousTestCase):
    """Whatever happens in whatever order."""

    def assert_booked(self, course: Course) -> None:
        """Each place is counted once, within the limits, and nobody waits beside room."""
        pool = course.pool
        self.assertEqual((pool.counts.pending, pool.counts.open), (len(course.trying), len(course.established)))
        taken = Counter(course.booking(caller).endpoint.address for caller in course.trying + course.established)
        self.assertEqual({where: each.total for where, each in pool.addresses.items() if each.total}, dict(taken))
        self.assertLessEqual(pool.counts.open + pool.counts.pending, LIMITS.connections or 0)
        self.assertLessEqual(pool.counts.pending, LIMITS.pending or 0)
        self.assertLessEqual(max(taken.values(), default=0), LIMITS.per_endpoint or 0)
        self.assertEqual(pool.waiting + pool.unresolved, len(course.waiting))
        self.assertLessEqual(pool.waiting, QUEUE)
        self.assertTrue(all(caller.told <= 1 for caller in course.trying + course.established))
        self.assertLessEqual(len(course.health._ejected), len(course.there) // 2)

    def test_nothing_is_lost_or_taken_twice(self) -> None:
        """Then all connections end, the endpoints are well again, and nothing is left of it all."""
        refused: Counter[Code] = Counter()
        for number in range(COURSES):
            course = Course(random.Random(number))
            for _ in range(STEPS):
                before = set(course.trying)
                away = course.health.away(course.now)
                course.step()
                self.assert_booked(course)
                for caller in set(course.trying) - before:
                    known = course.health.state(course.booking(caller).endpoint.address, course.now)
                    if course.booking(caller).endpoint.address in away:
                        self.assertNotIn(known.state, ("down", "ejected"), number)
            while course.waiting:
                course.leave()
            while course.trying:
                course.establish()
            while course.established:
                course.end()
            course.settle()
            self.assert_booked(course)
            course.service.clock.advance(1)
            self.assertEqual(course.service.clock.getDelayedCalls(), [], number)
            there = course.there = course.service.discover(
                *course.there, *(each for each in course.all if each not in course.there)
            )
            for each in there:
                course.health.checked(each.address, None, 0.01, course.now)
            course.service.clock.advance(3)
            self.assertEqual(course.health.away(course.now), frozenset(), number)
            for _ in range(100):
                course.begin()
                course.establish()
                course.end()
            course.service.clock.advance(3)
            self.assertEqual(course.pool.counts.pending + course.pool.counts.open, 0, number)
            self.assertIsNone(course.health.refuses(course.now, course), number)
            self.assertLessEqual(set(course.pool.addresses), {each.address for each in there})
            refused += course.refused
        self.assertEqual(set(refused), REFUSALS)
