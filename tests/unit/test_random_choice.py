"""The random balancer, and drawing lots by weight."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.draws import Draws
from tcpmesh.balance.random_choice import RandomChoice
from tcpmesh.testing import endpoint
from tcpmesh.values import Endpoint

NONE: frozenset[Endpoint] = frozenset()
A, B, C = endpoint(1), endpoint(2, weight=3), endpoint(3, weight=6)
RESTING = endpoint(9, weight=0)


class RandomChoiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.balancer = RandomChoice(random.Random(6))

    def counted(self, endpoints: tuple[Endpoint, ...], exclude: frozenset[Endpoint] = NONE) -> Counter[Endpoint | None]:
        return Counter(self.balancer.pick(endpoints, exclude) for _ in range(10_000))

    def near(self, counted: Counter[Endpoint | None], expected: dict[Endpoint, int]) -> None:
        self.assertEqual(set(counted), set(expected))
        for each, count in expected.items():
            self.assertTrue(abs(counted[each] - count) < 250, (each, counted[each], count))

    def test_shares_are_those_of_the_weights(self) -> None:
        """Equal ones and others; weight 0 gets none."""
        self.near(self.counted((A, B, C)), {A: 1000, B: 3000, C: 6000})
        self.near(self.counted((A, RESTING, endpoint(4))), {A: 5000, endpoint(4): 5000})

    def test_the_shares_of_the_excluded_go_to_the_others_by_weight(self) -> None:
        """However large they were."""
        self.near(self.counted((A, B, C), frozenset({C})), {A: 2500, B: 7500})
        giant = endpoint(5, weight=65535)
        self.near(self.counted((A, B, giant), frozenset({giant})), {A: 2500, B: 7500})

    def test_no_endpoint_left_is_none(self) -> None:
        """All excluded, none with a weight, or no list."""
        self.assertIsNone(self.balancer.pick((A, B), frozenset({A, B})))
        self.assertIsNone(self.balancer.pick((RESTING,), NONE))
        self.assertIsNone(self.balancer.pick((), NONE))


class DrawsTests(SynchronousTestCase):
    def test_another_one_is_another_one(self) -> None:
        """Also where nearly all lots would fall on the same."""
        giant = endpoint(5, weight=65535)
        draws = Draws((A, giant, B))
        generator = random.Random(6)
        others = Counter(draws.other(generator, 1, NONE) for _ in range(4000))
        self.assertEqual(set(others), {0, 2})
        self.assertTrue(850 < others[0] < 1150, others)
        self.assertEqual(draws.other(generator, 1, frozenset({A})), 2)
        self.assertIsNone(draws.other(generator, 1, frozenset({A, B})))
