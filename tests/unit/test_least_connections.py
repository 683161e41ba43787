"""The least-connections balancer."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.least_connections import LeastConnections
from tcpmesh.testing import attempt_failure, endpoint
from tcpmesh.values import Endpoint

NONE: frozenset[Endpoint] = frozenset()
A, B, C = endpoint(1), endpoint(2), endpoint(3)
HEAVY = endpoint(4, weight=3)


class LeastConnectionsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.balancer = LeastConnections(random.Random(6))

    def open(self, endpoints: tuple[Endpoint, ...], count: int) -> Counter[Endpoint]:
        """So many connections that last."""
        counted: Counter[Endpoint] = Counter()
        for _ in range(count):
            picked = self.balancer.pick(endpoints, NONE)
            assert picked is not None
            self.balancer.opened(picked)
            counted[picked] += 1
        return counted

    def test_evens_out(self) -> None:
        """Connections that last are spread equally."""
        self.assertEqual(self.open((A, B, C), 30), Counter({A: 10, B: 10, C: 10}))

    def test_counts_by_weight(self) -> None:
        """Three times the weight, three times the connections."""
        self.assertEqual(self.open((A, HEAVY), 40), Counter({A: 10, HEAVY: 30}))

    def test_whoever_lost_connections_gets_the_next(self) -> None:
        """An end is noticed, whether it was an attempt's or a connection's."""
        self.open((A, B), 20)
        for _ in range(3):
            self.balancer.established(B, 0.01)
            self.balancer.closed(B)
        self.balancer.failed(B, attempt_failure(B))
        self.assertEqual(self.open((A, B), 4), Counter({B: 4}))

    def test_lots_are_drawn_among_equals(self) -> None:
        """Idle endpoints are all picked, not the first one only."""
        picked = Counter(self.balancer.pick((A, B, C), NONE) for _ in range(300))
        self.assertEqual(len(picked), 3)
        self.assertGreater(min(picked.values()), 60)

    def test_lots_are_drawn_by_weight(self) -> None:
        """While nobody has a connection, weights hold all the same."""
        picked = Counter(self.balancer.pick((A, HEAVY), NONE) for _ in range(1000))
        self.assertGreater(picked[HEAVY], 700)
        self.assertGreater(picked[A], 200)

    def test_one_free_among_many_is_found(self) -> None:
        """Also where lots alone would hardly ever hit it."""
        endpoints = tuple(endpoint(port) for port in range(1, 501))
        for each in endpoints[1:]:
            self.balancer.opened(each)
        self.assertEqual(self.balancer.pick(endpoints, NONE), endpoints[0])

    def test_the_excluded_are_not_touched(self) -> None:
        """The least loaded of the others is picked, and the exclusion holds for that one pick."""
        self.balancer.opened(B)
        self.assertEqual(self.balancer.pick((A, B), frozenset({A})), B)
        self.assertEqual(self.balancer.pick((A, B), NONE), A)

    def test_counts_outlive_a_change_of_endpoints(self) -> None:
        """Weight, zone and the other endpoints may change, and an endpoint may be away for a while."""
        self.open((A, B), 20)
        self.balancer.pick((C,), NONE)
        self.assertEqual(self.open((A, B, C), 10), Counter({C: 10}))
        heavier = endpoint(1, weight=2)
        self.assertEqual(self.open((heavier, B, C), 10), Counter({heavier: 10}))

    def test_news_are_counted_for_every_list(self) -> None:
        """Two lists in turn, as with a reserve, see the same connections."""
        usual, reserve = (A, B), (B, C)
        for endpoints in (usual, reserve):
            self.balancer.pick(endpoints, NONE)
        self.balancer.opened(B)
        self.assertEqual({self.balancer.pick(usual, NONE) for _ in range(20)}, {A})
        self.assertEqual({self.balancer.pick(reserve, NONE) for _ in range(20)}, {C})

    def test_an_address_that_comes_twice_is_one_place(self) -> None:
        """Its connections are counted together."""
        twin = endpoint(1, weight=3)
        self.assertEqual(set(self.open((A, twin, B), 10)), {A, B})

    def test_no_endpoint_left_is_none(self) -> None:
        """All excluded, all without weight, or no list at all."""
        self.assertIsNone(self.balancer.pick((A,), frozenset({A})))
        self.assertIsNone(self.balancer.pick((endpoint(1, weight=0), endpoint(2, weight=-1)), NONE))
        self.assertIsNone(self.balancer.pick((), NONE))

    def test_forgets_who_is_gone_and_has_no_connection(self) -> None:
        """Thousands that came and went leave little behind; one that is still connected is known."""
        self.balancer.opened(A)
        for port in range(10, 5000):
            visitor = endpoint(port)
            self.balancer.pick((visitor, B), NONE)
            self.balancer.opened(visitor)
            self.balancer.failed(visitor, attempt_failure(visitor))
        self.assertLess(len(self.balancer._loads), 200)
        self.assertEqual(self.balancer.pick((A, C), NONE), C)
