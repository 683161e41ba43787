"""The p2c-ewma balancer."""

from __future__ import annotations

import random
from collections import Counter

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.p2c_ewma import P2cEwma, P2cEwmaSettings
from tcpmesh.codes import CANCELLED, CLOSED_BEFORE_OK, CONNECT_TIMEOUT, NO_IDENTITY
from tcpmesh.testing import attempt_failure, endpoint
from tcpmesh.values import Duration, Endpoint

NONE: frozenset[Endpoint] = frozenset()
A, B, C = endpoint(1), endpoint(2), endpoint(3)
THREE = (A, B, C)
HEAVY = endpoint(4, weight=4)


class P2cTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.balancer = P2cEwma(P2cEwmaSettings(), self.clock, random.Random(6))

    def connect(self, where: Endpoint, seconds: float, *, stays: bool = False) -> None:
        """One connection that took so long to be established."""
        self.balancer.opened(where)
        self.clock.advance(seconds)
        self.balancer.established(where, seconds)
        if not stays:
            self.balancer.closed(where)

    def refuse(self, where: Endpoint, seconds: float = 0.001, **more: object) -> None:
        """One attempt that failed after so long."""
        self.balancer.opened(where)
        self.clock.advance(seconds)
        self.balancer.failed(where, attempt_failure(where, duration=seconds, **more))  # type: ignore[arg-type]

    def settle(self, *where: Endpoint, seconds: float = 0.01) -> None:
        """All of these take equally long."""
        for each in where:
            self.connect(each, seconds)

    def picked(self, endpoints: tuple[Endpoint, ...], count: int = 1000) -> Counter[Endpoint | None]:
        return Counter(self.balancer.pick(endpoints, NONE) for _ in range(count))


class CostTests(P2cTestCase):
    def test_equals_share_equally(self) -> None:
        """Unmeasured, and all measured alike."""
        for _ in range(2):
            counted = self.picked(THREE)
            self.assertEqual(set(counted), set(THREE))
            self.assertGreater(min(counted.values()), 270)
            self.settle(*THREE)

    def test_equals_share_by_weight(self) -> None:
        """While nothing speaks against an endpoint, lots decide, and they are drawn by weight."""
        for _ in range(2):
            counted = self.picked((A, HEAVY), 5000)
            self.assertTrue(900 < counted[A] < 1100, counted)
            self.settle(A, HEAVY)

    def test_connections_are_evened_out_by_weight(self) -> None:
        """With connections that last, each has as many for its weight, within what counts as equal."""
        counted: Counter[Endpoint] = Counter()
        for _ in range(500):
            picked = self.balancer.pick((A, HEAVY), NONE)
            assert picked is not None
            self.connect(picked, 0.01, stays=True)
            counted[picked] += 1
        self.assertTrue(80 <= counted[A] <= 120, counted)

    def test_a_slow_sample_counts_at_once(self) -> None:
        """After one connection that took ten times as long, the others are preferred: it loses every comparison."""
        self.settle(*THREE)
        self.connect(A, 0.1)
        self.assertEqual(set(self.picked(THREE)), {B, C})

    def test_a_fast_sample_counts_bit_by_bit(self) -> None:
        """One good one does not make up for a bad one; ten seconds of them do."""
        self.settle(*THREE)
        self.connect(A, 0.1)
        self.connect(A, 0.01)
        self.assertNotIn(A, self.picked(THREE))
        for _ in range(60):
            self.clock.advance(1)
            self.settle(*THREE)
        self.assertGreater(self.picked(THREE)[A], 270)

    def test_what_was_learned_fades(self) -> None:
        """An endpoint that was slow is tried again without anybody's help."""
        self.settle(*THREE)
        self.connect(A, 0.1)
        self.clock.advance(20)
        self.assertNotIn(A, self.picked(THREE))
        self.clock.advance(40)
        self.assertGreater(self.picked(THREE)[A], 270)

    def test_fades_as_soon_as_it_is_told_to(self) -> None:
        """With a decay of a second it is back after six instead of sixty."""
        self.balancer = P2cEwma(P2cEwmaSettings(Duration(1.0)), self.clock, random.Random(6))
        self.settle(*THREE)
        self.connect(A, 0.1)
        self.clock.advance(2)
        self.assertNotIn(A, self.picked(THREE))
        self.clock.advance(4)
        self.assertGreater(self.picked(THREE)[A], 270)

    def test_a_newcomer_is_taken_for_a_typical_one(self) -> None:
        """It neither waits for a sample nor gets everything, whatever the others take."""
        for seconds in (0.002, 2.0):
            for _ in range(100):
                self.settle(A, B, seconds=seconds)
            new = endpoint(1000 + int(seconds))
            self.assertTrue(270 < self.picked((A, B, new))[new] < 400)

    def test_slow_and_busy_are_weighed_against_each_other(self) -> None:
        """One that takes four times as long gets a connection when the other has four times as many."""
        self.settle(A, seconds=0.04)
        self.connect(B, 0.01, stays=True)
        self.connect(B, 0.01, stays=True)
        self.assertLess(self.picked((A, B))[A], 300)
        for _ in range(20):
            self.connect(B, 0.01, stays=True)
        self.assertGreater(self.picked((A, B))[A], 900)

    def test_attempts_under_way_count_like_connections(self) -> None:
        """Ten programs that start at once do not all go to the same endpoint."""
        self.settle(*THREE)
        for _ in range(30):
            picked = self.balancer.pick(THREE, NONE)
            assert picked is not None
            self.balancer.opened(picked)
        counts = [self.balancer._loads.of(each.address).pending for each in THREE]
        self.assertEqual(sum(counts), 30)
        self.assertGreater(min(counts), 6)


class FailureTests(P2cTestCase):
    def test_a_fast_failure_repels(self) -> None:
        """It took a tenth of what the others take, and counts as slow."""
        self.settle(*THREE)
        self.refuse(A)
        self.assertNotIn(A, self.picked(THREE))

    def test_a_failure_of_one_that_was_never_tried_repels_too(self) -> None:
        """There is nothing to measure it by but what is typical."""
        self.settle(B, C)
        self.refuse(A)
        self.assertNotIn(A, self.picked(THREE))

    def test_it_repels_although_nobody_is_there(self) -> None:
        """The others have hundreds of connections, the one that fails has none: that is no reason to go there."""
        self.settle(*THREE)
        for _ in range(1000):
            self.connect(B, 0.01, stays=True)
            self.connect(C, 0.01, stays=True)
        self.settle(A)
        self.assertIn(A, self.picked(THREE))
        self.refuse(A)
        self.assertNotIn(A, self.picked(THREE))

    def test_a_penalty_fades(self) -> None:
        """In the end it is tried again, and when it works, it is one of them."""
        self.settle(*THREE)
        self.refuse(A)
        for _ in range(100):
            self.clock.advance(1)
            self.settle(B, C)
        self.assertIn(A, self.picked(THREE))
        self.connect(A, 0.01)
        self.assertGreater(self.picked(THREE)[A], 200)

    def test_each_further_failure_repels_longer(self) -> None:
        """Who was tried again in vain is left alone longer the second time."""

        def seconds_until_tried() -> int:
            for second in range(1, 1000):
                self.clock.advance(1)
                self.settle(B, C)
                if A in self.picked(THREE, 100):
                    return second
            return 1000

        self.settle(*THREE)
        self.refuse(A)
        first = seconds_until_tried()
        self.refuse(A)
        self.refuse(A)
        self.assertGreater(seconds_until_tried(), first + 10)
        self.assertLess(first, 100)

    def test_failures_at_once_are_one(self) -> None:
        """Fifty attempts that were under way when the endpoint died are not fifty lessons."""
        self.settle(*THREE)
        for _ in range(50):
            self.balancer.opened(A)
        self.clock.advance(0.5)
        for _ in range(50):
            self.balancer.failed(A, attempt_failure(A, duration=0.5))
        self.assertEqual(self.balancer._loads.of(A.address).estimate, 1.0)

    def test_one_attempt_shows_whether_it_is_well_again(self) -> None:
        """While it is under way nobody else is sent there."""
        self.settle(*THREE)
        self.refuse(A)
        self.clock.advance(300)
        self.assertIn(A, self.picked(THREE))
        self.balancer.opened(A)
        self.assertNotIn(A, self.picked(THREE))

    def test_who_has_succeeded_gets_several_at_a_time_again(self) -> None:
        """One good attempt is enough."""
        self.settle(*THREE)
        self.refuse(A)
        self.clock.advance(300)
        self.connect(A, 0.01)
        self.settle(B, C)
        for each in THREE:
            self.balancer.opened(each)
        self.assertIn(A, self.picked(THREE))

    def test_an_attempt_that_nobody_answers_repels_before_it_fails(self) -> None:
        """Silence is a sample, too: a black hole gets few attempts although each takes seconds to fail."""
        self.settle(*THREE)
        self.balancer.opened(A)
        self.clock.advance(0.005)
        self.assertIn(A, self.picked(THREE))
        self.clock.advance(0.1)
        self.assertNotIn(A, self.picked(THREE))

    def test_a_timeout_counts_for_as_long_as_it_took(self) -> None:
        """Three seconds are worse than a second's penalty."""
        self.settle(*THREE)
        self.refuse(A, 3.0, code=CONNECT_TIMEOUT)
        self.assertEqual(self.balancer._loads.of(A.address).estimate, 3.0)

    def test_breaking_before_payload_is_a_failure(self) -> None:
        """A server that takes the TLS connection and has nobody behind it is fast, and repels all the same."""
        self.settle(*THREE)
        self.connect(A, 0.001, stays=True)
        self.balancer.lost(A, attempt_failure(A, code=CLOSED_BEFORE_OK))
        self.balancer.closed(A)
        self.assertNotIn(A, self.picked(THREE))
        self.assertEqual(self.balancer._total, 0)
        self.balancer.lost(endpoint(99), attempt_failure(code=CLOSED_BEFORE_OK))

    def test_who_gives_up_early_says_nothing_of_the_endpoint(self) -> None:
        """A client that goes away at once is not the endpoint's fault."""
        self.settle(*THREE)
        self.refuse(A, 0.001, code=CANCELLED)
        self.assertGreater(self.picked(THREE)[A], 270)

    def test_who_gives_up_after_long_does(self) -> None:
        """It would have taken at least so long."""
        self.settle(*THREE)
        self.refuse(A, 1.0, code=CANCELLED)
        self.assertNotIn(A, self.picked(THREE))

    def test_what_is_our_own_fault_says_nothing(self) -> None:
        """Without an identity of our own every endpoint would fail."""
        self.settle(*THREE)
        self.refuse(A, 0.001, code=NO_IDENTITY)
        self.assertGreater(self.picked(THREE)[A], 270)

    def test_somebody_is_picked_when_all_fail(self) -> None:
        """What is not worth a try is for health to say."""
        for each in THREE:
            self.refuse(each)
            self.balancer.opened(each)
        self.assertEqual(set(self.picked(THREE)), set(THREE))


class RobustnessTests(P2cTestCase):
    def test_the_only_one_is_picked_whatever_it_did(self) -> None:
        """There is no choice."""
        self.refuse(A)
        self.assertEqual(self.balancer.pick((A,), NONE), A)

    def test_the_excluded_are_not_drawn(self) -> None:
        """Neither first nor second nor third, whatever the others cost."""
        self.settle(*THREE)
        self.refuse(C)
        self.assertEqual({self.balancer.pick(THREE, frozenset({A, B})) for _ in range(100)}, {C})
        self.assertEqual({self.balancer.pick(THREE, frozenset({A})) for _ in range(100)}, {B})
        self.assertIsNone(self.balancer.pick(THREE, frozenset(THREE)))

    def test_no_endpoint_left_is_none(self) -> None:
        """None with a weight, or no list."""
        self.assertIsNone(self.balancer.pick((endpoint(1, weight=0),), NONE))
        self.assertIsNone(self.balancer.pick((), NONE))

    def test_nonsense_durations_do_no_harm(self) -> None:
        """A clock that went backwards, a connection that took no time."""
        for duration in (-1.0, 0.0, 1e9):
            self.balancer.opened(A)
            self.balancer.established(A, duration)
        self.assertIn(self.balancer.pick(THREE, NONE), THREE)

    def test_is_remembered_while_it_is_away(self) -> None:
        """An endpoint that was ejected for a moment is not taken for a new one."""
        self.settle(*THREE)
        self.picked(THREE, 1)
        self.refuse(A)
        self.picked((B, C), 10)
        self.assertNotIn(A, self.picked((B, A, C)))

    def test_forgets_who_is_gone_and_has_no_connection(self) -> None:
        """Thousands that came and went leave little behind, and nothing in the counts."""
        self.connect(A, 0.01, stays=True)
        for port in range(10, 5000):
            visitor = endpoint(port)
            self.balancer.pick((visitor, B), NONE)
            self.connect(visitor, 0.01)
        self.assertLess(len(self.balancer._loads), 200)
        self.assertIsNotNone(self.balancer._loads.find(A.address))
        self.balancer.closed(A)
        self.assertEqual(self.balancer._total, 0)

    def test_a_decay_is_a_time_that_makes_sense(self) -> None:
        """Neither nothing nor a day."""
        for seconds in (0.0, 0.01, 86400.0):
            error = self.assertRaises(ValueError, P2cEwmaSettings, Duration(seconds))
            self.assertIn("is not between 100ms and 1h", str(error))


class EstimateTests(P2cTestCase):
    """What is said of endpoints to people."""

    def test_is_what_an_attempt_is_expected_to_take(self) -> None:
        """Nothing of one that was never tried; a penalty after a failure; and asking changes nothing."""
        self.assertIsNone(self.balancer.expected(A))
        self.connect(A, 0.25)
        self.assertEqual(self.balancer.expected(A), 0.25)
        self.refuse(B)
        penalty = self.balancer.expected(B)
        assert penalty is not None
        self.assertGreaterEqual(penalty, 1.0)
        self.assertEqual((self.balancer.expected(B), self.balancer.expected(C)), (penalty, None))
