"""Connections that wait for a service: in order, bounded, for a time, and with every place given back once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import Refusal
from tcpmesh.net.booking import Booking
from tcpmesh.net.waiting import Teller, Waiter
from tcpmesh.settings import Timeouts
from tcpmesh.upstream_settings import EjectionSettings, HealthSettings, ServiceLimits
from tcpmesh.values import AttemptFailure, Duration, Endpoint
from tests.unit.pools import Caller, Service, endpoint

A, B, C = endpoint(1), endpoint(2), endpoint(3)
ONE = ServiceLimits(connections=1)


def end(booking: Booking | None) -> None:
    """Whatever it is at, it is over."""
    assert booking is not None
    booking.failed(AttemptFailure(codes.CONNECT_REFUSED, "nobody listens", booking.endpoint, 0.0))


class QueueTests(SynchronousTestCase):
    """Room under limits."""

    def service(self, limits: ServiceLimits = ONE, queue: int = 3, *endpoints: Endpoint, **more: Any) -> Service:
        service = Service(limits=limits, queue=queue, **more)
        service.discover(*(endpoints or (A,)))
        return service

    def check_refused(self, caller: Caller, code: codes.Code, reason: str) -> None:
        assert caller.refusal is not None
        self.assertEqual((caller.refusal.code, caller.refusal.reason), (code, reason))

    def test_room_goes_to_who_came_first(self) -> None:
        """One place, one wake-up, told in a later turn; the others go on to wait."""
        service = self.service()
        first = service.call()
        waiting = [service.call(Caller(number)) for number in range(3)]
        self.assertEqual((service.pool.waiting, service.pool.counts.queued), (3, 3))
        before = first.booking
        for number, caller in enumerate(waiting):
            end(before)
            self.assertEqual([one.told for one in waiting], [1] * number + [0] * (3 - number))
            service.turn()
            self.assertEqual([one.told for one in waiting], [1] * (number + 1) + [0] * (2 - number))
            before = caller.booking
        self.assertEqual(service.pool.waiting, 0)

    def test_a_newcomer_does_not_overtake(self) -> None:
        """Not even between the moment when there is room and the one when it is told."""
        service = self.service()
        first, second = service.call(), service.call()
        end(first.booking)
        third = service.call()
        self.assertIsNone(third.booking)
        service.turn()
        self.assertEqual((second.told, third.told), (1, 0))
        end(second.booking)
        service.turn()
        self.assertEqual(third.told, 1)

    def test_established_connections_make_room_for_dials(self) -> None:
        """limits.pending counts attempts only."""
        service = self.service(ServiceLimits(pending=1))
        first, second = service.call(), service.call()
        assert first.booking is not None
        first.booking.established(0.1)
        service.turn()
        self.assertEqual(second.told, 1)

    def test_a_full_endpoint_does_not_hold_up_those_who_take_any(self) -> None:
        """Who insists on it waits for it alone."""
        service = self.service(ServiceLimits(per_endpoint=1), 3, A, B)
        held, other = service.call(position=0), service.call(position=1)
        picky, easy = service.call(position=0), service.call()
        end(other.booking)
        service.turn()
        self.assertEqual((picky.told, easy.told), (0, 1))
        end(held.booking)
        service.turn()
        self.assertEqual(picky.told, 1)
        assert picky.booking is not None
        self.assertIs(picky.booking.endpoint, A)

    def test_who_came_first_of_two_lanes_is_first(self) -> None:
        """When a place suits both."""
        for picky_first in (True, False):
            service = self.service(ONE, 3, A, B)
            held = service.call()
            callers = [
                service.call(position=0 if picky_first else None),
                service.call(position=None if picky_first else 0),
            ]
            end(held.booking)
            service.turn()
            self.assertEqual([caller.told for caller in callers], [1, 0])

    def test_who_leaves_is_not_waited_for(self) -> None:
        """Wherever it stands, and its timer goes with it."""
        for leaver in range(3):
            service = self.service()
            held = service.call()
            waiting = [service.call() for _ in range(3)]
            waiter = waiting[leaver].waiter
            assert waiter is not None
            service.pool.leave(waiter)
            service.pool.leave(waiter)
            self.assertEqual(service.pool.waiting, 2)
            end(held.booking)
            service.turn()
            self.assertEqual(sum(caller.told for caller in waiting), 1)
            self.assertEqual(waiting[leaver].told, 0)
            self.assertEqual(len(service.clock.getDelayedCalls()), 1)

    def test_who_leaves_with_a_place_in_hand_passes_it_on(self) -> None:
        """It was given room, and is gone before it is told."""
        service = self.service()
        held, gone, last = service.call(), service.call(), service.call()
        end(held.booking)
        assert gone.waiter is not None
        service.pool.leave(gone.waiter)
        service.turn()
        self.assertEqual((gone.told, last.told), (0, 1))
        self.assertEqual(service.pool.counts.pending, 1)
        self.assertEqual([what for what, _ in service.ledger.told].count("failed"), 2)

    def test_waits_no_longer_than_it_may(self) -> None:
        """TM-T109, with what for."""
        service = self.service()
        service.call()
        waiting = service.call()
        service.clock.advance(0.999)
        self.assertEqual(waiting.told, 0)
        service.clock.advance(0.001)
        service.turn()
        self.check_refused(
            waiting,
            codes.QUEUE_TIMEOUT,
            "waited 1s for room: service 'orders' has 1 connections (limits.connections: 1)",
        )
        self.assertEqual((service.pool.waiting, waiting.told), (0, 1))

    def test_waits_no_longer_than_the_connection_may_take(self) -> None:
        """TM-T110, whose reason the connection completes."""
        service = self.service()
        service.call()
        waiting = service.call(times=Timeouts(queue=Duration(5.0), establish=Duration(2.0)))
        service.clock.advance(2.0)
        service.turn()
        assert waiting.refusal is not None
        self.assertIs(waiting.refusal.code, codes.ESTABLISH_TIMEOUT)
        self.assertIn("waited 2s for room: service 'orders' has 1 connections", waiting.refusal.reason)

    def test_is_bounded(self) -> None:
        """TM-L108, with what is full."""
        service = self.service(ServiceLimits(pending=1), 2)
        service.call(), service.call(), service.call()
        self.check_refused(
            service.call(),
            codes.QUEUE_FULL,
            "1 dials of service 'orders' are under way (limits.pending: 1); and 2 wait already (queue.length)",
        )

    def test_endpoints_that_come_are_room(self) -> None:
        """As many as discovery adds, for as many as wait."""
        service = self.service(ServiceLimits(per_endpoint=1))
        service.call()
        waiting = [service.call() for _ in range(3)]
        service.discover(A, B, C)
        service.turn()
        self.assertEqual([caller.told for caller in waiting], [1, 1, 0])
        self.assertEqual({caller.booking.endpoint for caller in waiting[:2] if caller.booking}, {B, C})

    def test_endpoints_that_go_are_told(self) -> None:
        """Nobody waits for room where nothing is left."""
        service = self.service(ServiceLimits(per_endpoint=1))
        service.call()
        waiting = service.call()
        service.discover()
        service.turn()
        self.check_refused(waiting, codes.NO_ENDPOINT, "service 'orders' has had no endpoints for 0ms")

    def test_an_endpoint_that_comes_back_by_itself_is_room(self) -> None:
        """Its ejection is over, which nobody tells; who waits finds it all the same."""
        health = HealthSettings(ejection=EjectionSettings(failures=1, time=Duration(0.5)))
        service = self.service(ServiceLimits(per_endpoint=1), 3, A, B, health=health)
        first, second = service.call(), service.call()
        end(first.booking)
        waiting = service.call()
        self.assertIsNone(waiting.booking)
        for _ in range(4):
            service.clock.advance(0.1)
        self.assertEqual(waiting.told, 0)
        service.clock.advance(0.1)
        service.turn()
        assert waiting.booking is not None
        assert first.booking is not None
        self.assertIs(waiting.booking.endpoint, first.booking.endpoint)
        end(second.booking)
        service.clock.advance(10.0)
        self.assertEqual(service.clock.getDelayedCalls(), [])

    def test_somebody_s_mistake_is_not_the_others(self) -> None:
        """One that raises as it is told is logged."""

        class Broken(Caller):
            def room_refused(self, refusal: Refusal) -> None:
                raise RuntimeError("cannot bear it")

        service = self.service()
        service.call()
        service.call(Broken())
        other = service.call()
        service.discover()
        service.turn()
        self.assertEqual((other.told, len(self.flushLoggedErrors(RuntimeError))), (1, 1))

    def test_endpoints_that_go_are_told_however_full_it_is(self) -> None:
        """There will be no room."""
        service = self.service()
        service.call()
        waiting = service.call()
        service.discover()
        service.turn()
        self.assertEqual((waiting.told, waiting.refusal and waiting.refusal.code), (1, codes.NO_ENDPOINT))

    def test_ends_when_the_proxy_stops(self) -> None:
        """TM-O102 for who waits, and for who would."""
        service = self.service()
        service.call()
        waiting = service.call()
        service.pool.stop()
        service.turn()
        self.check_refused(waiting, codes.STOPPING, "this proxy is stopping")
        self.check_refused(service.call(), codes.STOPPING, "this proxy is stopping")
        self.assertEqual(service.clock.getDelayedCalls(), [])


class TellerTests(SynchronousTestCase):
    """Telling outcomes."""

    def test_tells_a_few_in_each_turn(self) -> None:
        """A hundred places at once are no hundred attempts in one turn."""

        class Turns:
            """A clock that does at a time what was due before."""

            def __init__(self) -> None:
                self.due: list[Callable[[], None]] = []

            def callLater(self, seconds: float, call: Callable[[], None]) -> object:
                self.due.append(call)
                return call

            def turn(self) -> None:
                due, self.due = self.due, []
                for call in due:
                    call()

        turns = Turns()
        teller = Teller(turns)
        callers = [Caller(number) for number in range(100)]
        for caller in callers:
            waiter = Waiter(caller, frozenset(), None, Timeouts(), 0.0, 0.0)
            teller.tell(waiter, Refusal(codes.NO_ENDPOINT, "gone"))
        told = []
        while turns.due:
            before = sum(caller.told for caller in callers)
            turns.turn()
            told.append(sum(caller.told for caller in callers) - before)
        self.assertEqual(told, [16] * 6 + [4])


class DiscoveryTests(SynchronousTestCase):
    """A service of which discovery has said nothing yet."""

    def test_is_waited_for(self) -> None:
        """Whoever came gets its endpoint when it speaks, in order."""
        service = Service()
        waiting = [service.call(Caller(number)) for number in range(3)]
        self.assertEqual((service.pool.unresolved, service.pool.waiting), (3, 0))
        service.discover(A, B)
        service.turn()
        self.assertEqual([caller.told for caller in waiting], [1, 1, 1])
        self.assertEqual([caller.booking.endpoint for caller in waiting if caller.booking], [A, B, A])
        self.assertEqual((service.pool.unresolved, service.clock.getDelayedCalls()), (0, []))

    def test_is_not_waited_for_without_end(self) -> None:
        """TM-T108, with what discovery said last."""
        service = Service()
        waiting = service.call()
        service.cell.swap(discovery_failures={"orders": "no resolver answers"})
        service.clock.advance(5.0)
        service.turn()
        assert waiting.refusal is not None
        self.assertIs(waiting.refusal.code, codes.RESOLVE_TIMEOUT)
        self.assertTrue(waiting.refusal.code.retryable)
        self.assertEqual(
            waiting.refusal.reason,
            "the discovery of service 'orders' has said nothing for 5s; its discovery fails: no resolver answers",
        )

    def test_may_say_that_there_is_nothing(self) -> None:
        """That is an answer, at once."""
        service = Service()
        waiting = service.call()
        service.discover()
        service.turn()
        assert waiting.refusal is not None
        self.assertIs(waiting.refusal.code, codes.NO_ENDPOINT)

    def test_what_other_services_hear_is_not_for_this_one(self) -> None:
        """It waits on."""
        service = Service()
        waiting = service.call()
        service.cell.swap(endpoints={"elsewhere": (A,)})
        service.turn()
        self.assertEqual((waiting.told, service.pool.unresolved), (0, 1))

    def test_who_leaves_is_forgotten(self) -> None:
        """With its timer."""
        service = Service()
        waiter = service.call().waiter
        assert waiter is not None
        service.pool.leave(waiter)
        self.assertEqual((service.pool.unresolved, service.clock.getDelayedCalls()), (0, []))
        service.discover(A)
        self.assertEqual(service.pool.counts.pending, 0)

    def test_leads_into_the_queue(self) -> None:
        """Where there is no room for all; behind it, there is no place for all either."""
        service = Service(limits=ONE, queue=1)
        waiting = [service.call() for _ in range(3)]
        service.clock.advance(4.0)
        service.discover(A)
        service.turn()
        self.assertEqual([caller.told for caller in waiting], [1, 0, 1])
        assert waiting[2].refusal is not None
        self.assertIs(waiting[2].refusal.code, codes.QUEUE_FULL)
        service.clock.advance(1.0)  # in the queue its time begins anew
        service.turn()
        assert waiting[1].refusal is not None
        self.assertIs(waiting[1].refusal.code, codes.QUEUE_TIMEOUT)

    def test_ends_when_the_proxy_stops(self) -> None:
        """TM-O102."""
        service = Service()
        waiting = service.call()
        service.pool.stop()
        service.turn()
        assert waiting.refusal is not None
        self.assertIs(waiting.refusal.code, codes.STOPPING)
        later = service.call()
        assert later.refusal is not None
        self.assertIs(later.refusal.code, codes.STOPPING)


LIMITS = st.builds(
    ServiceLimits,
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 3),
    st.none() | st.integers(1, 3),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "call",
                "call",
                "call",
                "pinned",
                "leave",
                "establish",
                "fail",
                "close",
                "lose",
                "wait",
                "turn",
                "discover",
            ]
        ),
        st.integers(0, 30),
    ),
    max_size=80,
)


class CourseOfEventsTests(SynchronousTestCase):
    """Any sequence of events, against plain lists."""

    @settings(max_examples=300, deadline=None)
    @given(LIMITS, st.integers(0, 4), STEPS)
    def test_every_place_is_given_back_once_and_given_to_who_is_next(
        self, limits: ServiceLimits, length: int, steps: list[tuple[str, int]]
    ) -> None:
        """Limits hold, whoever could be served is, nobody is overtaken in its lane, and each is told once."""
        self.limits, self.length = limits, length
        self.service = Service(limits=limits, queue=length)
        self.service.discover(A, B)
        self.callers: list[Caller] = []
        self.positions: dict[int, int | None] = {}
        self.left: set[int] = set()
        for what, number in steps:
            getattr(self, f"do_{what}")(number)
            self.check()
        # Everything ends, in any order: nothing is left behind.
        self.service.turn()
        while bookings := self.bookings():
            self.finish(bookings[0])
            self.service.turn()
            self.check()
        self.service.clock.advance(100.0)
        self.service.turn()
        self.service.turn()
        counts = self.service.pool.counts
        self.assertEqual((counts.open, counts.pending, self.service.pool.waiting), (0, 0, 0))
        for where in self.service.pool.addresses.values():
            self.assertEqual(where.total, 0)
        for caller in self.callers:
            self.assertLessEqual(caller.told, 1)
            if caller.name not in self.left:
                self.assertTrue((caller.booking is None) != (caller.refusal is None), caller)
        told = [what for what, _ in self.service.ledger.told]
        self.assertEqual(told.count("opened"), told.count("failed") + told.count("established"))
        self.assertEqual(told.count("established"), told.count("closed"))
        self.assertEqual([call for call in self.service.clock.getDelayedCalls() if call.active()], [])

    # --- events

    def call(self, position: int | None) -> None:
        caller = Caller(len(self.callers))
        self.callers.append(caller)
        self.positions[caller.name] = position
        before = self.waiting()
        self.service.call(caller, position=position)
        same_lane = [one for one in before if self.positions[one.name] == position]
        if caller.booking is not None:
            self.assertEqual(same_lane, [], "a newcomer overtook")
        elif caller.refusal is not None and caller.refusal.code is codes.QUEUE_FULL:
            self.assertEqual(len(before), self.length)

    def do_call(self, _number: int) -> None:
        self.call(None)

    def do_pinned(self, number: int) -> None:
        self.call(number % 2)

    def do_leave(self, number: int) -> None:
        candidates = [caller for caller in self.callers if caller.waiter is not None and caller.name not in self.left]
        if candidates:
            caller = candidates[number % len(candidates)]
            assert caller.waiter is not None
            self.service.pool.leave(caller.waiter)
            self.left.add(caller.name)

    def do_establish(self, number: int) -> None:
        pending = [booking for booking in self.bookings() if not booking._is_established]
        if pending:
            pending[number % len(pending)].established(0.1)

    def do_fail(self, number: int) -> None:
        pending = [booking for booking in self.bookings() if not booking._is_established]
        if pending:
            end(pending[number % len(pending)])

    def do_close(self, number: int) -> None:
        opened = [booking for booking in self.bookings() if booking._is_established]
        if opened:
            opened[number % len(opened)].closed()

    def do_lose(self, number: int) -> None:
        opened = [booking for booking in self.bookings() if booking._is_established]
        if opened:
            booking = opened[number % len(opened)]
            booking.lost(AttemptFailure(codes.CLOSED_BEFORE_OK, "gone", booking.endpoint, 0.0))

    def do_wait(self, number: int) -> None:
        self.service.clock.advance(number / 10)

    def do_turn(self, _number: int) -> None:
        self.service.turn()

    def do_discover(self, number: int) -> None:
        self.service.discover(*[(A, B), (A, B, C), (B, A)][number % 3])

    def finish(self, booking: Booking) -> None:
        booking.closed() if booking._is_established else end(booking)

    # --- the plain lists

    def given(self, caller: Caller) -> Booking | None:
        """Its place, also one that it has not been told of yet."""
        if caller.booking is not None:
            return caller.booking
        outcome = caller.waiter.outcome if caller.waiter is not None and caller.name not in self.left else None
        return outcome if isinstance(outcome, Booking) else None

    def all_bookings(self) -> list[Booking]:
        return [
            booking for caller in self.callers if (booking := self.given(caller)) is not None and not booking._is_over
        ]

    def bookings(self) -> list[Booking]:
        """Those that their connections know of."""
        return [caller.booking for caller in self.callers if caller.booking is not None and not caller.booking._is_over]

    def waiting(self) -> list[Caller]:
        """In the order in which they came."""
        return [
            caller
            for caller in self.callers
            if caller.waiter is not None and caller.waiter.outcome is None and caller.name not in self.left
        ]

    def check(self) -> None:
        pool, limits = self.service.pool, self.limits
        bookings = self.all_bookings()
        pending = [booking for booking in bookings if not booking._is_established]
        self.assertEqual((pool.counts.open, pool.counts.pending), (len(bookings) - len(pending), len(pending)))
        if limits.connections is not None:
            self.assertLessEqual(len(bookings), limits.connections)
        if limits.pending is not None:
            self.assertLessEqual(len(pending), limits.pending)
        at = {where: sum(booking.endpoint == where for booking in bookings) for where in (A, B, C)}
        for where, count in at.items():
            self.assertEqual(pool.counts_of(where).total, count)
            if limits.per_endpoint is not None:
                self.assertLessEqual(count, limits.per_endpoint)
        waiting = self.waiting()
        self.assertEqual(pool.waiting, len(waiting))
        self.assertLessEqual(len(waiting), self.length)
        full = (limits.connections is not None and len(bookings) >= limits.connections) or (
            limits.pending is not None and len(pending) >= limits.pending
        )
        if not full:
            roomy = [where for where in pool.endpoints if at[where] < (limits.per_endpoint or 1_000)]
            for caller in waiting:
                position = self.positions[caller.name]
                wanted = pool.endpoints if position is None else (pool.endpoints[position],)
                self.assertEqual([where for where in wanted if where in roomy], [], f"{caller} could be served")
