"""Balancers, priorities and zones over minutes of simulated traffic; docs/upstream-balancing.md shows the shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

import attrs
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.balancing import (
    BALANCERS,
    BLACK_HOLE,
    HEALTHY,
    REFUSING,
    SLOW,
    Behaviour,
    Outcome,
    Simulation,
    fleet,
)
from tcpmesh.values import Address, Endpoint

HUNDRED = fleet(100)
SLOW_ONE, REFUSING_ONE, HOLE = HUNDRED[10], HUNDRED[40], HUNDRED[70]
MISBEHAVING = {SLOW_ONE: SLOW, REFUSING_ONE: REFUSING, HOLE: BLACK_HOLE}
REST = tuple(endpoint for endpoint in HUNDRED if endpoint not in MISBEHAVING)
FAIR = 1 / len(HUNDRED)


@cache
def minute(name: str, *, ejects: bool = False, attempts: int = 1) -> Outcome:
    """A minute of 200 connections a second on a hundred endpoints, three of which misbehave."""
    return Simulation(name, HUNDRED, MISBEHAVING, ejects=ejects, attempts=attempts).run(60)


def failed(outcome: Outcome) -> float:
    return outcome.failed / outcome.connections


class SharesTests(SynchronousTestCase):
    def between(self, least: float, share: float, most: float) -> None:
        self.assertTrue(least <= share <= most, f"{share:.4f} is not between {least} and {most}")

    def test_p2c_ewma_avoids_all_three(self) -> None:
        """Whoever fails gets less than a tenth of its fair share, without ejection, however fast it fails."""
        outcome = minute("p2c-ewma")
        self.between(0, outcome.share(REFUSING_ONE), FAIR / 10)
        self.between(0, outcome.share(HOLE), FAIR / 10)
        self.between(0, outcome.share(SLOW_ONE), FAIR / 2)
        self.between(0, failed(outcome), 0.002)

    def test_p2c_ewma_tries_them_all_the_same(self) -> None:
        """Nobody starves: each of the three is tried now and then, and no healthy one gets less than half."""
        outcome = minute("p2c-ewma")
        for endpoint in MISBEHAVING:
            self.assertGreater(outcome.attempts[endpoint.address], 0)
        for endpoint in REST:
            self.between(FAIR / 2, outcome.share(endpoint), FAIR * 1.5)

    def test_least_connections_runs_to_the_one_that_refuses(self) -> None:
        """It has the fewest connections, for a reason: without ejection most of all connections fail."""
        outcome = minute("least-connections")
        self.between(0.5, outcome.share(REFUSING_ONE), 1)
        self.between(0.5, failed(outcome), 1)

    def test_round_robin_and_random_take_no_notice(self) -> None:
        """Everybody gets a fair share, and two of a hundred connections fail."""
        for endpoint in MISBEHAVING:
            self.between(FAIR * 0.99, minute("round-robin").share(endpoint), FAIR * 1.01)
            self.between(FAIR * 0.6, minute("random").share(endpoint), FAIR * 1.4)
        for name in ("round-robin", "random"):
            self.between(0.015, failed(minute(name)), 0.025)

    def test_source_hash_takes_no_notice_either(self) -> None:
        """The sources whose endpoint fails fail, and the shares are as even as the sources are many."""
        outcome = minute("source-hash")
        self.assertGreater(failed(outcome), 0.005)
        self.between(FAIR * 0.4, outcome.share(SLOW_ONE), FAIR * 3)

    def test_ejection_helps_those_that_take_no_notice(self) -> None:
        """With it, no balancer loses more than one of two hundred connections."""
        for name in BALANCERS:
            outcome = minute(name, ejects=True)
            self.between(0, failed(outcome), 0.005)
            self.between(0, outcome.share(REFUSING_ONE, HOLE), FAIR / 2)

    def test_retries_hide_what_is_left(self) -> None:
        """With a second and third attempt at others, p2c-ewma loses no connection at all."""
        self.assertEqual(minute("p2c-ewma", attempts=3).failed, 0)
        self.assertEqual(minute("round-robin", attempts=3, ejects=True).failed, 0)

    def test_half_of_all_failing_is_half_of_the_work(self) -> None:
        """With fifty of a hundred refusing, nearly all connections find one that does not."""
        simulation = Simulation("p2c-ewma", HUNDRED, dict.fromkeys(HUNDRED[::2], REFUSING))
        self.between(0, failed(simulation.run(60)), 0.02)
        self.between(0, failed(simulation.run(60)), 0.01)

    def test_all_failing_is_not_nothing(self) -> None:
        """When everybody fails, everybody goes on to be tried."""
        outcome = Simulation("p2c-ewma", HUNDRED[:5], dict.fromkeys(HUNDRED[:5], REFUSING)).run(10)
        self.assertEqual(failed(outcome), 1)
        for endpoint in HUNDRED[:5]:
            self.between(0.1, outcome.share(endpoint), 0.3)

    def test_who_is_well_again_gets_its_share_again(self) -> None:
        """Two minutes after its recovery at the latest, whatever it did."""
        simulation = Simulation("p2c-ewma", HUNDRED, MISBEHAVING)
        simulation.run(60)
        simulation.behaviours.clear()
        simulation.run(120)
        outcome = simulation.run(60)
        for endpoint in MISBEHAVING:
            self.between(FAIR * 0.6, outcome.share(endpoint), FAIR * 1.4)

    def test_a_newcomer_neither_starves_nor_gets_everything(self) -> None:
        """It is drawn as often as the others, and preferred while it has fewer connections: twice a share at most."""
        simulation = Simulation("p2c-ewma", HUNDRED[:50], {})
        simulation.run(30)
        simulation.change_endpoints(HUNDRED[:51])
        self.between(1 / 51, simulation.run(5).share(HUNDRED[50]), 2.5 / 51)

    def test_a_newcomer_that_refuses_does_not_attract(self) -> None:
        """Nor does one that nobody answers at."""
        for behaviour in (REFUSING, BLACK_HOLE):
            simulation = Simulation("p2c-ewma", HUNDRED[:50], {HUNDRED[50]: behaviour})
            simulation.run(30)
            simulation.change_endpoints(HUNDRED[:51])
            self.between(0, simulation.run(30).share(HUNDRED[50]), 0.2 / 51)

    def test_a_small_service_avoids_its_bad_half_as_well(self) -> None:
        """With two endpoints there is no crowd to hide in."""
        for behaviour in (REFUSING, BLACK_HOLE):
            for life in (0.01, 5.0):
                outcome = Simulation("p2c-ewma", HUNDRED[:2], {HUNDRED[0]: behaviour}, life=life).run(60)
                self.between(0, outcome.share(HUNDRED[0]), 0.01)


class WeightTests(SynchronousTestCase):
    def shares(self, name: str, life: float, spread: float = 0.3) -> dict[int, float]:
        """How much endpoints get for their weight, by weight."""
        endpoints = tuple(attrs.evolve(each, weight=1 + number % 4) for number, each in enumerate(fleet(40)))
        total = sum(each.weight for each in endpoints)
        outcome = Simulation(name, endpoints, dict.fromkeys(endpoints, Behaviour(0.005, spread)), life=life).run(60)
        found = Counter[int]()
        for each in endpoints:
            found[each.weight] += outcome.attempts[each.address]
        return {weight: count / sum(found.values()) / (10 * weight / total) for weight, count in found.items()}

    def test_all_honour_them(self) -> None:
        """Weights from 1 to 4, with connections that last and with such that end at once."""
        for life in (0.005, 5.0):
            for name in ("round-robin", "random", "least-connections", "p2c-ewma"):
                for weight, share in self.shares(name, life).items():
                    self.assertTrue(0.75 < share < 1.3, (name, life, weight, share))

    def test_noise_does_not_make_them_equal(self) -> None:
        """Times that differ by a factor of three for no reason move the shares of p2c-ewma, and do not undo them."""
        shares = self.shares("p2c-ewma", 5.0, 1.0)
        self.assertTrue(0.8 < shares[4] < 1.1 and 0.9 < shares[1] < 1.5, shares)


class TiersTests(SynchronousTestCase):
    def near(self, share: float, expected: float) -> None:
        self.assertTrue(abs(share - expected) < 0.02, f"{share:.4f} is not about {expected}")

    def test_priorities_fail_over_and_return(self) -> None:
        """The second priority gets everything while the first one fails, and nothing when it is back."""
        first = fleet(4)
        second = tuple(attrs.evolve(each, priority=1) for each in fleet(8)[4:])
        for name in BALANCERS:
            simulation = Simulation(name, (*second, *first), {}, ejects=True, rate=50.0)
            self.near(simulation.run(20).share(*second), 0)
            simulation.behaviours = dict.fromkeys(addresses(first), REFUSING)
            simulation.run(10)
            self.near(simulation.run(20).share(*second), 1)
            simulation.behaviours = {}
            simulation.run(90)
            self.near(simulation.run(20).share(*second), 0)

    def test_the_own_zone_is_left_when_less_than_half_of_it_works(self) -> None:
        """With two of six failing all traffic stays; with four the other zone helps, as long as they do."""
        near = fleet(6, zone="eu-1a")
        far = tuple(attrs.evolve(each, zone="eu-1b") for each in fleet(12)[6:])
        simulation = Simulation("round-robin", (*near, *far), {}, ejects=True, rate=50.0, zone="eu-1a")
        self.near(simulation.run(20).share(*far), 0)
        simulation.behaviours = dict.fromkeys(addresses(near[:2]), REFUSING)
        simulation.run(30)
        self.near(simulation.run(20).share(*far), 0)
        simulation.behaviours = dict.fromkeys(addresses(near[:4]), REFUSING)
        simulation.run(30)
        self.assertTrue(0.5 < simulation.run(20).share(*far) < 0.9)
        simulation.behaviours = {}
        simulation.run(150)
        self.near(simulation.run(20).share(*far), 0)


class BookkeepingTests(SynchronousTestCase):
    def test_counts_return_to_zero(self) -> None:
        """After minutes of all kinds of ends nothing is left open or pending."""
        for name in ("least-connections", "p2c-ewma"):
            simulation = Simulation(name, HUNDRED, {**MISBEHAVING, HUNDRED[1]: HEALTHY}, attempts=3, ejects=True)
            simulation.run(20)
            simulation.change_endpoints(HUNDRED[30:])
            simulation.run(20)
            balancer = simulation.balancer
            self.assertGreater(sum(load.both for load in balancer._loads), 500)
            simulation.finish()
            self.assertEqual({(load.open, load.pending) for load in balancer._loads}, {(0, 0)})
            self.assertEqual(getattr(balancer, "_total", 0), 0)

    def test_a_run_can_be_repeated(self) -> None:
        """The same seed gives the same counts, another one others."""
        one, same, other = (Simulation("p2c-ewma", HUNDRED, MISBEHAVING, seed=seed).run(5) for seed in (1, 1, 2))
        self.assertEqual(one.attempts, same.attempts)
        self.assertNotEqual(one.attempts, other.attempts)


def addresses(endpoints: Iterable[Endpoint]) -> list[Address]:
    return [endpoint.address for endpoint in endpoints]
