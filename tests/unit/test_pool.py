"""The pool of a service: candidates, what everybody is told, and limits without a queue."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh import codes
from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.balance.tiers import Tiers
from tcpmesh.balance_interfaces import ISourceBalancer
from tcpmesh.errors import Refusal
from tcpmesh.net.arms_length import GuardedBalancer
from tcpmesh.net.candidates import Candidates
from tcpmesh.upstream_settings import CircuitSettings, EjectionSettings, HealthSettings, ServiceLimits
from tcpmesh.values import Address, AttemptFailure, Duration, Endpoint
from tests.unit.pools import ONE_STRIKE, Caller, Ledger, Service, endpoint

A, B, C = endpoint(1), endpoint(2), endpoint(3)
NONE: frozenset[Endpoint] = frozenset()


def failure(where: Endpoint, code: codes.Code = codes.CONNECT_REFUSED) -> AttemptFailure:
    return AttemptFailure(code, "nobody listens", where, 0.001)


def fail(caller: Caller, code: codes.Code = codes.CONNECT_REFUSED) -> None:
    assert caller.booking is not None
    caller.booking.failed(failure(caller.booking.endpoint, code))


def chosen(caller: Caller) -> Endpoint | None:
    return caller.booking.endpoint if caller.booking is not None else None


class CandidateTests(SynchronousTestCase):
    """Which endpoints the balancer is offered."""

    def test_the_tuple_of_the_state_goes_through_unchanged(self) -> None:
        """The same object each time, so that a balancer can keep what it has worked out for it."""
        service = Service()
        endpoints = service.discover(A, B)
        for _ in range(3):
            service.call()
        self.assertEqual(len(service.ledger.asked), 3)
        for asked, exclude in service.ledger.asked:
            self.assertIs(asked, endpoints)
            self.assertEqual(exclude, frozenset())

    def test_what_failed_is_left_out_also_when_it_was_altered_since(self) -> None:
        """An endpoint is its address: another weight does not make it another one."""
        service = Service()
        service.discover(A, B)
        service.discover(endpoint(1, weight=99), endpoint(2, zone="eu-1a"), C)
        for _ in range(20):
            self.assertEqual(chosen(service.call(exclude=frozenset({A, B}))), C)

    def test_what_failed_for_the_connection_is_left_out_until_all_have(self) -> None:
        """Then all are open again."""
        service = Service()
        service.discover(A, B)
        self.assertIs(chosen(service.call(exclude=frozenset({A}))), B)
        self.assertIs(chosen(service.call(exclude=frozenset({B}))), A)
        self.assertIn(chosen(service.call(exclude=frozenset({A, B}))), (A, B))

    def test_a_standby_comes_after_those_that_failed(self) -> None:
        """Before any of them is tried again."""
        standby = endpoint(9, priority=1)
        service = Service()
        service.discover(A, standby)
        self.assertEqual([chosen(service.call()) for _ in range(3)], [A] * 3)
        self.assertIs(chosen(service.call(exclude=frozenset({A}))), standby)
        self.assertIs(chosen(service.call(exclude=frozenset({A, standby}))), A)

    def test_the_own_zone_is_preferred(self) -> None:
        """As the tiers have it."""
        near, far = endpoint(1, zone="here"), endpoint(2, zone="there")
        service = Service(zone="here")
        service.discover(near, far)
        self.assertEqual({chosen(service.call()) for _ in range(4)}, {near})
        self.assertIs(chosen(service.call(exclude=frozenset({near}))), far)

    def test_who_is_ejected_is_not_offered(self) -> None:
        """And when its time is over it is."""
        service = Service(health=HealthSettings(ejection=EjectionSettings(failures=1, time=Duration(10.0))))
        service.discover(A, B)
        caller = service.call()
        bad = chosen(caller)
        fail(caller)
        good = B if bad is A else A
        self.assertEqual({chosen(service.call()) for _ in range(4)}, {good})
        service.clock.advance(10.0)
        self.assertIn(bad, {chosen(service.call()) for _ in range(4)})

    def test_who_is_left_is_the_same_tuple_while_it_stays_the_same(self) -> None:
        """Until an ejection begins or ends, or discovery says something new."""
        service = Service(health=HealthSettings(ejection=EjectionSettings(failures=1, time=Duration(10.0))))
        service.discover(A, B, C)
        fail(service.call(position=0))
        for _ in range(3):
            service.call()
        first, second, third = (asked for asked, _ in service.ledger.asked)
        self.assertEqual(first, (B, C))
        self.assertTrue(first is second is third)
        service.discover(A, B)
        service.call()
        self.assertEqual(service.ledger.asked[-1][0], (B,))
        service.clock.advance(10.0)
        service.call()
        self.assertEqual(service.ledger.asked[-1][0], (A, B))

    def test_all_unavailable_says_why(self) -> None:
        """Each with its last failure, the first three of them."""
        service = Service(health=ONE_STRIKE)
        endpoints = service.discover(*(endpoint(number) for number in range(5)))
        for _ in endpoints:
            fail(service.call())
        refusal = service.call().refusal
        assert refusal is not None
        self.assertIs(refusal.code, codes.ALL_UNAVAILABLE)
        self.assertIn("none of 5 endpoints of service 'orders' can be used: 192.0.2.1:1000 is ejected", refusal.reason)
        self.assertIn("TM-U101 nobody listens", refusal.reason)
        self.assertIn("; and 2 more", refusal.reason)

    def test_why_all_are_unavailable_is_worked_out_now_and_then(self) -> None:
        """Each connection has its own refusal; that of thousands is not put together anew for each."""
        service = Service(health=ONE_STRIKE)
        service.discover(A, B)
        asked: list[float] = []
        why_none = service.health.why_none

        class Watched:
            def __getattr__(self, name: str) -> object:
                return getattr(service.health, name)

            def why_none(self, endpoints: Sequence[Endpoint], now: float) -> str:
                asked.append(now)
                return why_none(endpoints, now)

        health: Any = Watched()
        guarded = GuardedBalancer("orders", "round-robin", RoundRobin())
        some = Candidates("orders", Tiers(), health, guarded, service.clock, None, random.Random(1))
        for where in (A, B):
            service.health.failed(where, codes.CONNECT_REFUSED, "nobody listens", 0.0, self)
        endpoints = (A, B)
        first, second = (self.assertRaises(Refusal, some.choose, endpoints, NONE, None) for _ in range(2))
        self.assertIsNot(first, second)
        self.assertEqual(first.reason, second.reason)
        service.clock.advance(0.1)
        third = self.assertRaises(Refusal, some.choose, endpoints, NONE, None)
        self.assertIn("ejected for another 9.9s", third.reason)
        service.health.checked(A.address, Refusal(codes.CONNECT_REFUSED, "x"), 0.0, 0.1)
        service.health.retain((A,), 0.1)
        self.assertRaises(Refusal, some.choose, (A,), NONE, None)
        self.assertEqual(asked, [0.0, 0.1, 0.1])

    def test_no_endpoints_says_since_when_and_what_discovery_says(self) -> None:
        """An empty list is an answer, and not waited for."""
        service = Service()
        service.discover(A)
        service.discover()
        service.clock.advance(12.34)
        refusal = service.call().refusal
        assert refusal is not None
        self.assertEqual(
            (refusal.code, refusal.reason), (codes.NO_ENDPOINT, "service 'orders' has had no endpoints for 12.3s")
        )
        service.cell.swap(discovery_failures={"orders": "the resolver is silent"})
        refusal = service.call().refusal
        assert refusal is not None
        self.assertTrue(refusal.reason.endswith("for 12.3s; its discovery fails: the resolver is silent"))
        service.cell.swap(discovery_failures={}, no_endpoints={"orders": "db.test does not exist", "other": "x"})
        refusal = service.call().refusal
        assert refusal is not None
        self.assertTrue(refusal.reason.endswith("for 12.3s; its discovery says: db.test does not exist"))

    def test_endpoints_without_weight_are_not_tried(self) -> None:
        """Which is said."""
        service = Service()
        service.discover(endpoint(1, weight=0))
        refusal = service.call().refusal
        assert refusal is not None
        self.assertEqual(refusal.reason, "all endpoints of service 'orders' have weight 0 (1)")

    def test_a_slow_start_gets_its_share(self) -> None:
        """An endpoint that has just come gets a tenth of its share at first, and everything when it is alone."""
        service = Service(health=HealthSettings(ejection=EjectionSettings(failures=0), slow_start=Duration(100.0)))
        service.discover(A)
        service.discover(A, B)
        service.clock.advance(5.0)
        picks = [chosen(service.call()) for _ in range(2000)]
        # 0.145 of the draws leave B in, and of these it gets every second one.
        self.assertTrue(50 < picks.count(B) < 350, picks.count(B))
        self.assertEqual({chosen(service.call(exclude=frozenset({A}))) for _ in range(20)}, {B})

    def test_a_slow_start_costs_no_new_tuple(self) -> None:
        """Balancers prepare themselves for each; of ten thousand endpoints that takes longer than a connection."""
        service = Service(health=HealthSettings(ejection=EjectionSettings(failures=0), slow_start=Duration(100.0)))
        service.discover(A)
        everything = service.discover(*(endpoint(number) for number in range(1, 11)))
        for _ in range(200):
            service.call()
        self.assertEqual({id(endpoints) for endpoints, _ in service.ledger.asked}, {id(everything)})
        self.assertTrue(200 < len(service.ledger.asked) <= 200 * 9, len(service.ledger.asked))

    def test_slow_starts_are_over_for_those_whom_nobody_picks(self) -> None:
        """Or health would be asked about them for ever: here a standby."""
        service = Service(health=HealthSettings(ejection=EjectionSettings(failures=0), slow_start=Duration(10.0)))
        service.discover(A)
        service.discover(A, endpoint(2, priority=1))
        service.clock.advance(5.0)
        service.call()
        self.assertTrue(service.health.impaired)
        service.clock.advance(5.0)
        self.assertIs(chosen(service.call()), A)
        self.assertFalse(service.health.impaired)

    def test_who_is_full_is_looked_for_when_that_changes(self) -> None:
        """And not for every connection."""

        class Counting(set[Address]):
            asked = 0

            def __contains__(self, address: object) -> bool:
                self.asked += 1
                return super().__contains__(address)

        service, full = Service(), Counting({A.address})
        guarded = GuardedBalancer("orders", "round-robin", RoundRobin())
        some = Candidates("orders", Tiers(), service.health, guarded, service.clock, full, random.Random(1))
        endpoints = (A, B)
        self.assertEqual([some.choose(endpoints, NONE, None) for _ in range(5)], [B] * 5)
        self.assertEqual(full.asked, 2)
        full.add(B.address)
        some.room_changed()
        self.assertEqual([some.choose(endpoints, NONE, None) for _ in range(5)], [None] * 5)
        self.assertEqual(full.asked, 4)
        full.discard(A.address)
        some.room_changed()
        self.assertIs(some.choose(endpoints, NONE, None), A)
        self.assertIs(some.choose((C,), NONE, None), C)

    def test_a_balancer_that_wants_the_source_gets_it(self) -> None:
        """And is asked by pick_for alone."""

        @implementer(ISourceBalancer)
        class BySource(Ledger):
            sources: list[Address] = []

            def pick_for(
                self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint], source: Address
            ) -> Endpoint:
                self.sources.append(source)
                return endpoints[0]

        balancer = BySource()
        service = Service(balancer=balancer)
        service.discover(A, B)
        self.assertIs(chosen(service.call()), A)
        self.assertEqual((balancer.sources, balancer.asked), ([Caller.source], []))

    def test_a_balancer_that_fails_or_invents_means_no_endpoint(self) -> None:
        """With its name; the exception is logged."""

        class Inventive(Ledger):
            def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint:
                return endpoint(99)

        class Broken(Ledger):
            def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint:
                raise RuntimeError("lost count")

        class Undecided(Ledger):
            def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> None:
                return None

        for balancer, code, text in (
            (Inventive(), codes.BALANCER_FAILED, "the balancer 'the-balancer' chose something that is not an endpoint"),
            (Broken(), codes.BALANCER_FAILED, "the balancer 'the-balancer' raised an exception"),
            (Undecided(), codes.NO_ENDPOINT, "the balancer 'the-balancer' offers none of 2 endpoints"),
        ):
            service = Service(balancer=balancer)
            service.discover(A, B)
            refusal = service.call().refusal
            assert refusal is not None
            self.assertEqual((refusal.code, refusal.reason), (code, text))
            self.assertEqual(service.pool.counts.pending, 0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class PositionTests(SynchronousTestCase):
    """Who insists on one endpoint."""

    def test_gets_that_one(self) -> None:
        """By its place in the list, whatever the balancer or health would have."""
        service = Service(health=ONE_STRIKE)
        service.discover(A, B, C)
        for number, where in enumerate((A, B, C)):
            caller = service.call(position=number, exclude=frozenset({where}))
            self.assertIs(chosen(caller), where)
            fail(caller)
            self.assertIs(chosen(service.call(position=number)), where)
        self.assertEqual(service.ledger.asked, [])

    def test_is_refused_when_it_is_not_there(self) -> None:
        """With the number of those that are."""
        service = Service()
        service.discover(A, B)
        for number in (2, 7):
            refusal = service.call(position=number).refusal
            assert refusal is not None
            self.assertIs(refusal.code, codes.NO_ENDPOINT)
            self.assertEqual(refusal.reason, f"service 'orders' has no endpoint {number}, but 2")

    def test_keeps_to_the_endpoint_s_limit(self) -> None:
        """It is full although others are not."""
        service = Service(limits=ServiceLimits(per_endpoint=1))
        service.discover(A, B)
        service.call(position=1)
        refusal = service.call(position=1).refusal
        assert refusal is not None
        self.assertIs(refusal.code, codes.ENDPOINT_CONNECTIONS)
        self.assertIn("endpoint 1, 192.0.2.1:1002, has 1 connections (limits.per_endpoint)", refusal.reason)
        self.assertIs(chosen(service.call()), A)


class TellingTests(SynchronousTestCase):
    """What balancer, health and counters are told of an attempt."""

    def setUp(self) -> None:
        self.service = Service(health=HealthSettings(ejection=EjectionSettings(failures=2, max_share=1.0)))
        self.service.discover(A)
        self.counts = self.service.pool.counts_of(A)

    def told(self) -> list[str]:
        return [what for what, where in self.service.ledger.told if where is A]

    def check_counts(self, pending: int, opened: int, established: int, failed: dict[codes.Code, int]) -> None:
        counts, whole = self.service.pool.counts_of(A), self.service.pool.counts
        self.assertEqual((counts.pending, counts.open, counts.established), (pending, opened, established))
        self.assertEqual(dict(counts.failed), failed)
        self.assertEqual((whole.pending, whole.open), (pending, opened))

    def test_of_one_that_succeeds(self) -> None:
        """Opened, established, closed, each once however often the end is told."""
        booking = self.service.call().booking
        assert booking is not None
        self.check_counts(1, 0, 0, {})
        booking.established(0.5)
        self.check_counts(0, 1, 1, {})
        booking.closed()
        booking.closed()
        self.check_counts(0, 0, 1, {})
        self.assertEqual(self.told(), ["opened", "established", "closed"])

    def test_of_one_that_fails(self) -> None:
        """Opened, failed; twice in a row ejects."""
        for number in (1, 2):
            caller = self.service.call()
            fail(caller)
            fail(caller)
            self.check_counts(0, 0, 0, {codes.CONNECT_REFUSED: number})
        self.assertEqual(self.told(), ["opened", "failed"] * 2)
        self.assertTrue(self.service.health.impaired)

    def test_of_one_that_was_given_up(self) -> None:
        """The endpoint is not to blame."""
        for _ in range(5):
            fail(self.service.call(), codes.CANCELLED)
        self.assertFalse(self.service.health.impaired)
        self.assertEqual(self.told(), ["opened", "failed"] * 5)

    def test_of_one_that_is_lost_before_any_payload(self) -> None:
        """Closed for who counts connections, and a failure for health: who accepts and closes at once is ejected."""
        for number in (1, 2):
            self.assertFalse(self.service.health.impaired)
            booking = self.service.call().booking
            assert booking is not None
            booking.established(0.1)
            booking.lost(failure(A, codes.CLOSED_BEFORE_OK))
            booking.closed()
            self.check_counts(0, 0, number, {codes.CLOSED_BEFORE_OK: number})
        self.assertTrue(self.service.health.impaired)
        self.assertEqual(self.told(), ["opened", "established", "closed"] * 2)

    def test_counts_go_by_address_and_with_the_last_connection(self) -> None:
        """Another weight is the same endpoint; one that is gone is forgotten once nothing is left of it."""
        one, other = self.service.call().booking, self.service.call().booking
        assert one is not None
        assert other is not None
        one.established(0.1)
        other.established(0.1)
        self.service.discover(endpoint(1, weight=7))
        self.assertEqual(self.service.pool.counts_of(A).open, 2)
        self.service.discover(B)
        self.assertEqual(list(self.service.pool.addresses), [A.address])
        one.closed()
        other.closed()
        self.service.discover(B, C)
        self.assertEqual(list(self.service.pool.addresses), [])

    def test_plugins_that_raise_harm_nobody(self) -> None:
        """It is logged, and the counts go on."""

        class Broken(Ledger):
            def opened(self, endpoint: Endpoint) -> None:
                raise RuntimeError

            def established(self, endpoint: Endpoint, duration: float) -> None:
                raise RuntimeError

            def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
                raise RuntimeError

            def closed(self, endpoint: Endpoint) -> None:
                raise RuntimeError

        self.service = Service(balancer=Broken())
        self.service.discover(A)
        booking = self.service.call().booking
        assert booking is not None
        booking.established(0.1)
        booking.closed()
        fail(self.service.call())
        self.check_counts(0, 0, 1, {codes.CONNECT_REFUSED: 1})
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)  # the first, the second, the fourth


class LimitTests(SynchronousTestCase):
    """Limits without a queue: refused at once, with what is full."""

    def check_refused(self, service: Service, code: codes.Code, reason: str) -> None:
        refusal = service.call().refusal
        assert refusal is not None
        self.assertEqual((refusal.code, refusal.reason), (code, reason))

    def test_of_connections(self) -> None:
        """Those that are being made count."""
        service = Service(limits=ServiceLimits(connections=2))
        service.discover(A)
        one, other = service.call().booking, service.call()
        assert one is not None
        one.established(0.1)
        reason = "service 'orders' has 2 connections (limits.connections: 2)"
        self.check_refused(service, codes.SERVICE_CONNECTIONS, reason)
        fail(other)
        self.assertIs(chosen(service.call()), A)
        self.check_refused(service, codes.SERVICE_CONNECTIONS, reason)
        one.closed()
        self.assertIs(chosen(service.call()), A)

    def test_of_pending_dials(self) -> None:
        """One that is established, or has failed, is none."""
        service = Service(limits=ServiceLimits(pending=1))
        service.discover(A)
        one = service.call().booking
        assert one is not None
        reason = "1 dials of service 'orders' are under way (limits.pending: 1)"
        self.check_refused(service, codes.PENDING_DIALS, reason)
        one.established(0.1)
        other = service.call()
        self.check_refused(service, codes.PENDING_DIALS, reason)
        fail(other)
        self.assertIs(chosen(service.call()), A)

    def test_per_endpoint(self) -> None:
        """Those that are full are not offered; when all are, nobody comes in."""
        service = Service(limits=ServiceLimits(per_endpoint=2))
        service.discover(A, B)
        callers = [service.call() for _ in range(4)]
        self.assertEqual(sorted(chosen(caller) == A for caller in callers), [False, False, True, True])
        reason = "service 'orders': each endpoint that could be used has 2 connections (limits.per_endpoint)"
        self.check_refused(service, codes.ENDPOINT_CONNECTIONS, reason)
        fail(callers[0])
        self.assertEqual(chosen(service.call()), chosen(callers[0]))

    def test_what_is_left_is_the_same_tuple_while_it_stays_the_same(self) -> None:
        """A balancer that keeps what it has worked out need not do so for each connection."""
        service = Service(limits=ServiceLimits(per_endpoint=1))
        service.discover(A, B, C)
        service.call(position=0)
        for _ in range(2):
            fail(service.call())
        (first, _), (second, _) = service.ledger.asked
        self.assertEqual(first, (B, C))
        self.assertIs(first, second)

    def test_a_standby_does_not_stand_by_for_those_that_are_full(self) -> None:
        """Two that write to a primary and a third to its standby would be two truths."""
        service = Service(limits=ServiceLimits(per_endpoint=1))
        service.discover(A, endpoint(9, priority=1))
        service.call()
        refusal = service.call().refusal
        assert refusal is not None
        self.assertIs(refusal.code, codes.ENDPOINT_CONNECTIONS)

    def test_but_for_those_that_are_ejected(self) -> None:
        """It is there for these."""
        standby = endpoint(9, priority=1)
        service = Service(limits=ServiceLimits(per_endpoint=1), health=ONE_STRIKE)
        service.discover(A, standby)
        fail(service.call())
        self.assertIs(chosen(service.call()), standby)

    def test_what_failed_for_the_connection_is_better_than_nothing(self) -> None:
        """When the others are full."""
        service = Service(limits=ServiceLimits(per_endpoint=1))
        service.discover(A, B)
        service.call(position=1)
        self.assertIs(chosen(service.call(exclude=frozenset({A}))), A)


class CircuitTests(SynchronousTestCase):
    def test_is_the_health_s_business(self) -> None:
        """The pool offers endpoints whatever the circuit says: who asks it is the connection, once."""
        service = Service(
            health=HealthSettings(ejection=EjectionSettings(failures=0), circuit=CircuitSettings(failures=1))
        )
        service.discover(A)
        service.health.connection_failed(codes.CONNECT_REFUSED, "nobody listens", 0.0, object())
        self.assertTrue(service.health.impaired)
        self.assertIs(chosen(service.call()), A)
