"""What holds for all built-in balancers, whatever happens to them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.least_connections import LeastConnections
from tcpmesh.balance.loads import Load, Loads
from tcpmesh.balance.p2c_ewma import P2cEwma, P2cEwmaSettings
from tcpmesh.balance.random_choice import RandomChoice
from tcpmesh.balance.recent import Recent
from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.balance.source_hash import SourceHash
from tcpmesh.codes import CANCELLED, CONNECT_REFUSED, CONNECT_TIMEOUT
from tcpmesh.testing import attempt_failure, endpoint
from tcpmesh.values import Endpoint, TCPAddress

NONE: frozenset[Endpoint] = frozenset()
MAKERS: dict[str, Callable[[Clock, random.Random], Any]] = {
    "round-robin": lambda clock, chance: RoundRobin(),
    "random": lambda clock, chance: RandomChoice(chance),
    "least-connections": lambda clock, chance: LeastConnections(chance),
    "source-hash": lambda clock, chance: SourceHash(chance),
    "p2c-ewma": lambda clock, chance: P2cEwma(P2cEwmaSettings(), clock, chance),
}
ENDPOINTS = [endpoint(port) for port in range(1, 7)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pick", "pick", "pick", "established", "failed", "cancelled", "closed", "wait", "change"]),
        st.integers(0, 2**16),
    ),
    max_size=120,
)
NEWS = st.lists(
    st.tuples(st.sampled_from(["opened", "established", "failed", "closed", "pick"]), st.sampled_from(ENDPOINTS)),
    max_size=60,
)


@attrs.define
class Life:
    """A balancer, and a pool that uses it properly."""

    balancer: Any
    clock: Clock
    endpoints: tuple[Endpoint, ...]
    pending: list[Endpoint] = attrs.field(factory=list)
    open: list[Endpoint] = attrs.field(factory=list)

    def step(self, what: str, number: int) -> tuple[frozenset[Endpoint], Endpoint | None] | None:
        """One thing that can happen; for a pick, what was excluded and what was chosen."""
        balancer = self.balancer
        if what == "pick":
            exclude = frozenset(each for bit, each in enumerate(self.endpoints) if number >> bit & 1 and number % 3)
            chosen = balancer.pick(self.endpoints, exclude)
            if chosen is not None:
                balancer.opened(chosen)
                self.pending.append(chosen)
            return exclude, chosen
        if what == "wait":
            self.clock.advance(number / 1000)
        elif what == "change":
            self.endpoints = tuple(
                attrs.evolve(each, weight=number >> 2 * bit & 3)
                for bit, each in enumerate(ENDPOINTS)
                if number >> bit & 1
            )
        elif what == "closed" and self.open:
            balancer.closed(self.open.pop(number % len(self.open)))
        elif what in ("established", "failed", "cancelled") and self.pending:
            where = self.pending.pop(number % len(self.pending))
            if what == "established":
                balancer.established(where, number / 1e5)
                self.open.append(where)
            else:
                code = CANCELLED if what == "cancelled" else (CONNECT_REFUSED, CONNECT_TIMEOUT)[number % 2]
                balancer.failed(where, attempt_failure(where, code=code, duration=number / 1e4))
        return None

    def finish(self) -> None:
        for where in self.pending:
            self.balancer.failed(where, attempt_failure(where))
        for where in self.open:
            self.balancer.closed(where)


def lives(seed: int) -> Iterator[tuple[str, Life]]:
    for name, make in MAKERS.items():
        clock = Clock()
        yield name, Life(make(clock, random.Random(seed)), clock, tuple(ENDPOINTS))


class PickTests(SynchronousTestCase):
    @given(STEPS, st.integers(0, 2**32))
    def test_picks_what_may_be_picked_and_something_if_there_is_anything(self, steps, seed) -> None:  # type: ignore[no-untyped-def]
        """Never what is excluded, has no weight or is not there, in any history; None only when nothing is left."""
        for name, life in lives(seed):
            for what, number in steps:
                found = life.step(what, number)
                if found is None:
                    continue
                exclude, chosen = found
                allowed = {each for each in life.endpoints if each.weight >= 1} - exclude
                if chosen is None:
                    self.assertEqual(allowed, set(), name)
                else:
                    self.assertIn(chosen, allowed, name)

    @given(STEPS, st.integers(0, 2**32))
    def test_what_began_and_ended_leaves_nothing(self, steps, seed) -> None:  # type: ignore[no-untyped-def]
        """Open and pending are what they are at each step, and zero in the end."""
        for name, life in lives(seed):
            loads = getattr(life.balancer, "_loads", None)
            if loads is None:
                continue
            for what, number in steps:
                life.step(what, number)
                self.assertEqual(sum(load.pending for load in loads), len(life.pending), name)
                self.assertEqual(sum(load.open for load in loads), len(life.open), name)
            life.finish()
            self.assertEqual({load.both for load in loads} - {0}, set(), name)
            self.assertEqual(getattr(life.balancer, "_total", 0), 0, name)

    @given(NEWS, st.integers(0, 2**32))
    def test_news_in_any_order_do_no_harm(self, news, seed) -> None:  # type: ignore[no-untyped-def]
        """Of endpoints that were never picked, twice, or the wrong way round: nothing raises, nothing is below zero."""
        for name, life in lives(seed):
            balancer = life.balancer
            for what, where in news:
                if what == "pick":
                    self.assertIn(balancer.pick(tuple(ENDPOINTS[:3]), NONE), ENDPOINTS[:3], name)
                elif what == "established":
                    balancer.established(where, 0.01)
                elif what == "failed":
                    balancer.failed(where, attempt_failure(where))
                else:
                    getattr(balancer, what)(where)
                for load in getattr(balancer, "_loads", ()):
                    self.assertGreaterEqual(min(load.open, load.pending), 0, name)
                self.assertGreaterEqual(getattr(balancer, "_total", 0), 0, name)
            self.assertEqual(
                getattr(balancer, "_total", 0),
                sum(load.both for load in getattr(balancer, "_loads", ())) if name == "p2c-ewma" else 0,
            )

    @settings(max_examples=20)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.integers(0, 2**32))
    def test_shares_are_those_of_the_weights(self, weights, seed) -> None:  # type: ignore[no-untyped-def]
        """Of connections that last: within a tenth of all, for each balancer that goes by nothing else."""
        endpoints = tuple(endpoint(port, weight=weight) for port, weight in enumerate(weights, 1))
        count = 1000
        for name, life in lives(seed):
            if name == "source-hash":
                continue
            counted: Counter[Endpoint] = Counter()
            for _ in range(count):
                chosen = life.balancer.pick(endpoints, NONE)
                counted[chosen] += 1
                life.balancer.opened(chosen)
                life.clock.advance(0.01)
                life.balancer.established(chosen, 0.01)
            for each in endpoints:
                fair = count * each.weight / sum(weights)
                self.assertLess(abs(counted[each] - fair), count / 10, (name, weights, counted))

    @settings(max_examples=20)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**32))
    def test_sources_are_spread_by_weight(self, weights, seed) -> None:  # type: ignore[no-untyped-def]
        """Many sources get what the weights say, in a mapping that nothing else changes."""
        endpoints = tuple(endpoint(port, weight=weight) for port, weight in enumerate(weights, 1))
        balancer = SourceHash(random.Random(seed))
        counted = Counter(
            balancer.pick_for(endpoints, NONE, TCPAddress(f"{seed}.{number}", 1)) for number in range(1000)
        )
        for each in endpoints:
            self.assertLess(abs(counted[each] - 1000 * each.weight / sum(weights)), 100, counted)


class RecentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.prepared: list[Any] = []

        def prepare(endpoints: Any) -> int:
            self.prepared.append(endpoints)
            return len(self.prepared)

        self.recent = Recent(prepare)

    def test_prepares_a_tuple_once(self) -> None:
        """Also when others come in between."""
        one, other = tuple(ENDPOINTS[:2]), tuple(ENDPOINTS[2:])
        found = [self.recent.of(each) for each in (one, other, one, other, other, one)]
        self.assertEqual(found, [1, 2, 1, 2, 2, 1])

    def test_keeps_four(self) -> None:
        """The one that was not asked about for longest goes."""
        tuples = [(each,) for each in ENDPOINTS[:5]]
        for each in (*tuples[:4], tuples[0], tuples[4]):
            self.recent.of(each)
        self.assertEqual(len(list(self.recent)), 4)
        self.recent.of(tuples[0])
        self.assertEqual(len(self.prepared), 5)
        self.recent.of(tuples[1])
        self.assertEqual(len(self.prepared), 6)

    def test_does_not_trust_what_may_change(self) -> None:
        """A list may have other members in the next call."""
        endpoints = ENDPOINTS[:2]
        self.assertEqual([self.recent.of(endpoints), self.recent.of(endpoints)], [1, 2])


class LoadsTests(SynchronousTestCase):
    def test_who_is_away_for_a_moment_is_known_when_it_returns(self) -> None:
        """Nothing is forgotten before there is much to forget."""
        loads = Loads(Load)
        known = loads.of(ENDPOINTS[0].address)
        loads.sweep(lambda: {ENDPOINTS[1].address})
        self.assertIs(loads.find(ENDPOINTS[0].address), known)

    def test_sweeping_keeps_who_is_there_or_connected(self) -> None:
        """And nobody else, once there are many."""
        loads = Loads(Load)
        many = [endpoint(port) for port in range(1, 201)]
        for each in many:
            loads.of(each.address)
        loads.of(many[5].address).opened()
        loads.sweep(lambda: {many[0].address})
        self.assertEqual(len(loads), 2)
        self.assertIsNotNone(loads.find(many[5].address))
