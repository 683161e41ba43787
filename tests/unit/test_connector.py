"""All attempts for one connection, without a network: attempts that the test ends, and a clock that it owns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh import codes
from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.codes import Code
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.interfaces import IRetryStrategy
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.connector import Establishment
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import make_upstream
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import PluginChoice, ServiceSettings, Timeouts
from tcpmesh.upstream_settings import (
    CircuitSettings,
    EjectionSettings,
    HealthSettings,
    QueueSettings,
    RetryBudgetSettings,
    ServiceLimits,
)
from tcpmesh.values import Address, Duration, Endpoint, RetryContext, TCPAddress, parse_expected_identity
from tests.unit.pools import endpoint
from tests.unit.record_samples import a_record

SERVICE = "orders"
A, B = endpoint(1), endpoint(2)
TIMES = Timeouts(connect=Duration(3.0), queue=Duration(60.0), establish=Duration(10.0))
STRICT = HealthSettings(ejection=EjectionSettings(failures=1, max_share=1.0), circuit=CircuitSettings(failures=1))


@implementer(IRetryStrategy)
class Waits:
    """Gives what the test wants."""

    def __init__(self, waits: Any) -> None:
        self.waits = waits
        self.context: RetryContext | None = None

    def attempts(self, context: RetryContext) -> Iterator[float]:
        self.context = context
        return iter(self.waits() if callable(self.waits) else self.waits)


class Scripted:
    """An attempt that ends when the test says so."""

    wire = None

    def __init__(self, proxy: Proxy, owner: Any, where: Endpoint) -> None:
        self.proxy, self.owner, self.where = proxy, owner, where
        self.started = proxy.clock.seconds()
        self.cancelled = False

    def start(self) -> None:
        self.proxy.attempts.append(self)
        if self.proxy.broken:
            raise OSError("no space left for one more descriptor to watch")

    def cancel(self) -> None:
        self.cancelled = True

    def fails(self, code: Code = codes.CONNECT_REFUSED) -> None:
        self.owner.attempt_failed(Refusal(code, "nobody listens"))


class Client:
    """Who wants a connection."""

    source: Address = TCPAddress("127.0.0.1", 40000)

    def __init__(self) -> None:
        self.record: ConnectionRecord = a_record(attempts=0, queue_ms=None)
        self.leg: Any = None
        self.refusals: list[Refusal] = []

    def upstream_established(self, leg: Any) -> None:
        self.leg = leg

    def upstream_refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


class Proxy:
    """One service, and what its connections live on."""

    def __init__(
        self,
        waits: Any = (),
        *,
        health: HealthSettings = HealthSettings(),  # noqa: B008  frozen
        budget: RetryBudgetSettings = RetryBudgetSettings(minimum=1000),  # noqa: B008  frozen
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        self.state = MeshStateCell()
        self.sink = self
        self.between: list[Code] = []
        self.attempts: list[Scripted] = []
        self.broken = False
        self.strategy = Waits(waits)
        made = ServiceSettings(
            expect=[parse_expected_identity("spiffe://a.test/orders")],
            discovery=PluginChoice("static", None),
            retry_budget=budget,
            health=health,
            **settings,
        )
        self.health = ServiceHealth(SERVICE, health)
        self.upstream = make_upstream(
            SERVICE, made, RoundRobin(), self.strategy, self.state, self.clock, health=self.health
        )
        self.health.retain((A, B), 0.0)
        self.state.swap(endpoints={SERVICE: (A, B)})

    def attempt_failed(self, record: ConnectionRecord, code: Code, reason: str) -> None:
        """One failed and another follows. (IRecordSink)"""
        self.between.append(code)

    def connect(self, started: float | None = None) -> tuple[Client, Establishment]:
        client = Client()
        plane: Any = self

        def attempt(owner: Any, _client: Any, _upstream: Any, where: Endpoint, *_: Any) -> Any:
            return Scripted(self, owner, where)

        made = Establishment(client, self.upstream, "web", TIMES, plane, started=started, make_attempt=attempt)
        made.attempt()
        return client, made

    def after(self, seconds: float, code: Code) -> Client:
        """A connection that comes to this service so late, and whose attempt takes until the end of its time."""
        self.clock.advance(100.0)
        client, _ = self.connect(self.clock.seconds() - seconds)
        self.clock.advance(TIMES.establish - seconds)
        self.attempts[-1].fails(code)
        return client

    @property
    def places(self) -> tuple[int, int]:
        return self.upstream.pool.counts.pending, self.upstream.pool.counts.open


def a_leg(alpn: bytes) -> Any:
    """A leg of which nothing is asked but this."""
    leg: Any = object.__new__(TLSLeg)
    leg.core = SimpleNamespace(alpn=alpn)
    return leg


class ShortOfTimeTests(SynchronousTestCase):
    """TM-T110 says something of an endpoint only if that had the time to answer."""

    def test_an_attempt_that_had_its_connect_time_speaks_against_the_endpoint(self) -> None:
        """Three seconds were enough to connect, and it is silent: ejected, and the circuit opens."""
        proxy = Proxy(health=STRICT)
        client = proxy.after(7.0, codes.ESTABLISH_TIMEOUT)
        self.assertIs(client.refusals[0].code, codes.ESTABLISH_TIMEOUT)
        now = proxy.clock.seconds()
        self.assertFalse(proxy.health.admits(proxy.attempts[0].where, now))
        self.assertEqual(proxy.health.circuit(now).state, "open")

    def test_one_that_was_cut_short_says_nothing(self) -> None:
        """Whoever waited in the queue for long, and then had no time left, must not eject who is well."""
        proxy = Proxy(health=STRICT)
        client = proxy.after(7.5, codes.ESTABLISH_TIMEOUT)
        self.assertIs(client.refusals[0].code, codes.ESTABLISH_TIMEOUT)
        now = proxy.clock.seconds()
        self.assertTrue(proxy.health.admits(proxy.attempts[0].where, now))
        self.assertEqual(proxy.health.circuit(now).state, "closed")
        self.assertEqual(proxy.places, (0, 0))
        self.assertEqual(proxy.upstream.pool.counts_of(proxy.attempts[0].where).failed[codes.ESTABLISH_TIMEOUT], 1)

    def test_a_refusal_counts_however_little_time_there_was(self) -> None:
        """An answer is an answer."""
        proxy = Proxy(health=STRICT)
        proxy.after(9.9, codes.CONNECT_REFUSED)
        self.assertFalse(proxy.health.admits(proxy.attempts[0].where, proxy.clock.seconds()))

    def test_waiting_for_room_until_the_time_is_over_is_no_failure_of_the_service(self) -> None:
        """The circuit hears of no attempt: there was none."""
        proxy = Proxy(health=STRICT, limits=ServiceLimits(connections=1), queue=QueueSettings(5))
        proxy.connect()
        client, _ = proxy.connect()
        proxy.clock.advance(10.0)
        proxy.clock.advance(0)
        self.assertIs(client.refusals[0].code, codes.ESTABLISH_TIMEOUT)
        self.assertEqual(proxy.health.circuit(proxy.clock.seconds()).state, "closed")

    def test_without_any_time_nothing_is_tried(self) -> None:
        """A service that comes too late in a failover, or allows less than the one before took, is not dialled."""
        proxy = Proxy(health=STRICT)
        proxy.clock.advance(100.0)
        client, _ = proxy.connect(90.0)
        self.assertEqual(
            [(refusal.code, refusal.reason) for refusal in client.refusals],
            [
                (
                    codes.ESTABLISH_TIMEOUT,
                    "not established within 10s, attempts: 0; lastly there was no time left to try",
                )
            ],
        )
        self.assertEqual((proxy.attempts, client.record.attempts, proxy.places), ([], 0, (0, 0)))
        self.assertFalse(proxy.health.impaired)

    def test_a_failure_before_the_time_was_over_is_the_service_s(self) -> None:
        """What was cut short after it does not wipe it out."""
        proxy = Proxy([8.0], health=HealthSettings(circuit=CircuitSettings(failures=1)))
        client, _ = proxy.connect()
        proxy.attempts[0].fails()
        proxy.clock.advance(8.0)
        proxy.clock.advance(2.0)
        proxy.attempts[1].fails(codes.ESTABLISH_TIMEOUT)
        self.assertIn("one failed with TM-U101 nobody listens", client.refusals[0].reason)
        self.assertEqual(proxy.health.circuit(proxy.clock.seconds()).state, "open")


class StopTests(SynchronousTestCase):
    """Connections between two attempts when the proxy stops."""

    def test_who_waits_for_a_retry_is_told(self) -> None:
        """TM-O102 at once, with what had failed; nothing is tried later."""
        proxy = Proxy([5.0])
        client, _ = proxy.connect()
        proxy.attempts[0].fails()
        proxy.upstream.stop()
        [refusal] = client.refusals
        self.assertEqual(
            (refusal.code, refusal.reason),
            (codes.STOPPING, "this proxy is stopping, attempts: 1; lastly TM-U101 nobody listens"),
        )
        self.assertEqual(proxy.clock.getDelayedCalls(), [])
        self.assertEqual(len(proxy.attempts), 1)

    def test_what_fails_while_it_stops_is_not_retried(self) -> None:
        """An attempt under way may still succeed; its failure is the last one."""
        proxy = Proxy([5.0])
        client, _ = proxy.connect()
        proxy.upstream.stop()
        proxy.attempts[0].fails()
        [refusal] = client.refusals
        self.assertEqual(
            (refusal.code, refusal.reason),
            (codes.CONNECT_REFUSED, "nobody listens; no retry: this proxy is stopping"),
        )

    def test_who_has_gone_or_goes_on_is_not_told(self) -> None:
        """One is cancelled, one makes its second attempt."""
        proxy = Proxy([5.0])
        gone, cancelled = proxy.connect()
        proxy.attempts[0].fails()
        cancelled.cancel()
        going, _ = proxy.connect()
        proxy.attempts[1].fails()
        proxy.clock.advance(5.0)
        self.assertEqual(len(proxy.attempts), 3)
        proxy.upstream.stop()
        self.assertEqual((gone.refusals, going.refusals), ([], []))
        self.assertEqual(proxy.places, (1, 0))


class ResumeTests(SynchronousTestCase):
    def test_what_was_lost_took_the_time_of_its_own_attempt(self) -> None:
        """And not of all before it: balancers shun an endpoint for as long as that."""
        proxy = Proxy([2.0, 1.0])
        client, made = proxy.connect()
        proxy.attempts[0].fails()
        proxy.clock.advance(2.0)
        leg = a_leg(b"")
        proxy.attempts[1].owner.attempt_succeeded(leg)
        self.assertIs(client.leg, leg)
        proxy.clock.advance(0.5)
        self.assertTrue(made.resume(Loss(codes.RESET, "reset by the server", "ECONNRESET")))
        self.assertEqual([failed.ms for failed in client.record.failures], [0.0, 500.0])
        proxy.clock.advance(1.0)
        self.assertEqual((len(proxy.attempts), proxy.places), (3, (1, 0)))


class BudgetTests(SynchronousTestCase):
    def test_connections_that_were_not_tried_do_not_count(self) -> None:
        """Nine that find no room, of ten, are no reason for more retries at who has no room."""
        proxy = Proxy([1.0], budget=RetryBudgetSettings(share=0.5, minimum=0), limits=ServiceLimits(connections=1))
        for _ in range(10):
            proxy.connect()
        self.assertEqual(len(proxy.attempts), 1)
        self.assertEqual(proxy.upstream.retries.budget.spent(0.0), (0, 0))

    def test_every_connection_that_was_tried_counts_once(self) -> None:
        """Its further attempts are retries."""
        proxy = Proxy([1.0, 1.0], budget=RetryBudgetSettings(share=1.0, minimum=0))
        proxy.connect()
        proxy.connect()
        proxy.attempts[0].fails()
        proxy.clock.advance(1.0)
        proxy.attempts[2].fails()
        self.assertEqual(proxy.upstream.retries.budget.spent(1.0), (2, 2))


class MisbehaviourTests(SynchronousTestCase):
    """Strategies, and what starts attempts, gone wrong: each connection gets its one end."""

    def test_waits_that_are_none(self) -> None:
        """Not retried, and said in the log."""
        for wait in ("soon", float("nan"), -1.0, float("inf"), 10**400, object(), 1j):
            proxy = Proxy([wait])
            client, _ = proxy.connect()
            proxy.attempts[0].fails()
            self.assertEqual([refusal.reason for refusal in client.refusals], ["nobody listens"], repr(wait))
            self.flushLoggedErrors()

    def test_strategies_that_raise(self) -> None:
        """At the begin, in the middle, or by returning nonsense."""

        def raising() -> Iterator[float]:
            raise KeyError("x")
            yield 1.0

        for waits in (raising, lambda: None, lambda: 1 / 0):
            proxy = Proxy(waits)
            client, _ = proxy.connect()
            proxy.attempts[0].fails()
            self.assertEqual([refusal.reason for refusal in client.refusals], ["nobody listens"])
            self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_a_strategy_that_spoils_what_it_is_told_spoils_nothing_else(self) -> None:
        """It empties its list and puts nonsense into it; another list it cannot give."""

        def spoiling() -> Iterator[float]:
            context = proxy.strategy.context
            assert context is not None
            context.failures[:] = [None]  # type: ignore[list-item]
            yield 1.0
            context.failures = ()  # type: ignore[misc, assignment]
            yield 1.0

        proxy = Proxy(spoiling)
        client, _ = proxy.connect()
        proxy.attempts[0].fails()
        proxy.clock.advance(1.0)
        proxy.attempts[1].fails()
        self.assertEqual([refusal.reason for refusal in client.refusals], ["nobody listens"])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

        proxy = Proxy(lambda: iter([proxy.strategy.context.failures.clear() or 0.5]))  # type: ignore[union-attr]
        client, _ = proxy.connect()
        proxy.attempts[0].fails()
        proxy.clock.advance(9.5)
        proxy.attempts[1].fails(codes.ESTABLISH_TIMEOUT)
        self.assertIn("one failed with TM-U101", client.refusals[0].reason)

    def test_waits_of_nothing_without_end_are_bounded_by_the_budget(self) -> None:
        """One attempt in each turn of the reactor, until the budget is spent."""

        def forever() -> Iterator[float]:
            while True:
                yield 0.0

        proxy = Proxy(forever, health=HealthSettings(), budget=RetryBudgetSettings(share=1.0, minimum=0))
        client, _ = proxy.connect()
        proxy.attempts[0].fails()
        self.assertEqual(len(proxy.attempts), 1)  # not from within the failure
        proxy.clock.advance(0)
        proxy.attempts[1].fails()
        self.assertEqual(
            [refusal.reason for refusal in client.refusals],
            [
                "nobody listens; no retry: the service's retry budget is spent: 1 of 1 retries within 10s, "
                "connections: 1 (retry_budget)"
            ],
        )

    def test_waits_of_nothing_without_end_are_bounded_by_the_time(self) -> None:
        """However large the budget is."""
        proxy = Proxy(lambda: iter(float, 1.0), health=HealthSettings(ejection=EjectionSettings(failures=0)))
        client, _ = proxy.connect()
        for _ in range(200):
            if client.refusals:
                break
            proxy.attempts[-1].fails()
            proxy.clock.advance(0.125)
        self.assertIs(client.refusals[0].code, codes.ESTABLISH_TIMEOUT)
        self.assertEqual(len(proxy.attempts), 80)
        self.assertEqual(len(client.record.failures), 8)

    def test_an_attempt_that_cannot_begin_is_over(self) -> None:
        """What of it has begun is cancelled, and cannot end the next one."""
        proxy = Proxy()
        proxy.broken = True
        client, _ = proxy.connect()
        self.assertEqual([refusal.code for refusal in client.refusals], [codes.INTERNAL])
        self.assertTrue(proxy.attempts[0].cancelled)
        self.assertEqual(proxy.places, (0, 0))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class Course:
    """A service whose limits, health and retries are drawn by lot, and connections that do whatever they can."""

    def __init__(self, seed: int) -> None:
        self.lots = lots = random.Random(seed)
        limits = ServiceLimits(lots.choice([None, 1, 2, 5]), lots.choice([None, 1, 2]), lots.choice([None, 1, 2]))
        self.proxy = Proxy(
            self.waits,
            health=HealthSettings(
                ejection=EjectionSettings(lots.choice([0, 1, 2]), Duration(1.0), max_share=1.0),
                slow_start=lots.choice([None, Duration(2.0)]),
                circuit=lots.choice([None, CircuitSettings(lots.choice([1, 3]), Duration(1.0))]),
            ),
            budget=RetryBudgetSettings(lots.choice([0.0, 0.2, 1.0]), lots.choice([0, 3, 100])),
            limits=limits,
            queue=QueueSettings(lots.choice([0, 1, 3, 50]) if limits != ServiceLimits() else 0),
        )
        self.live: dict[Client, Establishment] = {}
        self.gone: list[Client] = []

    def waits(self) -> Iterator[float]:
        while self.lots.random() < 0.8:
            yield self.lots.choice([0.0, 0.0, 0.01, 1.0, 5.0, 20.0])

    def step(self) -> None:
        lots, proxy = self.lots, self.proxy
        what = lots.random()
        if what < 0.3:
            client, made = proxy.connect(proxy.clock.seconds() - lots.choice([0, 0, 0, 5, 9, 11]))
            self.live[client] = made
        elif what < 0.65:
            self.end_an_attempt()
        elif what < 0.75:
            self.end_a_connection()
        elif what < 0.78:
            known = lots.choice([(), (A,), (B,), (A, B), (A, B, endpoint(3))])
            proxy.health.retain(known, proxy.clock.seconds())
            proxy.state.swap(endpoints={SERVICE: known})
        elif what < 0.785:
            proxy.upstream.stop()
        elif what < 0.8:
            proxy.broken = not proxy.broken
        else:
            proxy.clock.advance(lots.choice([0, 0, 0.01, 0.5, 1, 5]))

    def end_an_attempt(self) -> None:
        under_way = [attempt for attempt in self.proxy.attempts if not attempt.cancelled]
        if not under_way:
            return
        attempt = self.lots.choice(under_way)
        attempt.cancelled = True  # it has ended
        if self.lots.random() < 0.4:
            attempt.owner.attempt_succeeded(a_leg(self.lots.choice([b"", ALPN])))
        else:
            some = (codes.CONNECT_REFUSED, codes.ESTABLISH_TIMEOUT, codes.STOPPING, codes.NO_RULE_ALLOWS)
            attempt.fails(self.lots.choice(some))

    def end_a_connection(self) -> None:
        waiting = [client for client in self.live if not client.refusals]
        if not waiting:
            return
        client = self.lots.choice(waiting)
        made = self.live[client]
        if client.leg is None:
            made.cancel()
        elif self.lots.random() < 0.5 and made.resume(Loss(codes.RESET, "reset")):
            client.leg = None
            return
        made.closed()
        self.gone.append(client)
        del self.live[client]

    def finish(self) -> None:
        """Everything that is under way comes to its end."""
        self.proxy.broken = False
        for _ in range(400):
            self.proxy.clock.advance(0.25)
            for attempt in self.proxy.attempts:
                if not attempt.cancelled:
                    attempt.cancelled = True
                    attempt.fails()
        for client, made in self.live.items():
            if not client.refusals:
                made.closed()


class CourseOfEventsTests(SynchronousTestCase):
    """Whatever happens in whatever order."""

    def test_every_connection_has_one_end_and_gives_everything_back(self) -> None:
        """Places, trials of health, timers, and who waits."""
        for seed in range(60):
            course = Course(seed)
            for _ in range(120):
                course.step()
            course.finish()
            for client in course.live:
                self.assertEqual(len(client.refusals), 0 if client.leg is not None else 1, seed)
                self.assertFalse(client.record.waiting, seed)
            self.assertEqual([client for client in course.gone if client.refusals], [], seed)
            proxy, pool = course.proxy, course.proxy.upstream.pool
            self.assertEqual((*proxy.places, pool.waiting, pool.unresolved), (0, 0, 0, 0), seed)
            self.assertEqual([counts for counts in pool.addresses.values() if counts.total], [], seed)
            self.assertEqual((proxy.upstream.retries.pausing, proxy.clock.getDelayedCalls()), ({}, []), seed)
        self.flushLoggedErrors(OSError)
