"""The round-robin balancer."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.testing import endpoint
from tcpmesh.values import Endpoint

NONE: frozenset[Endpoint] = frozenset()
A, B, C = endpoint(1, weight=5), endpoint(2), endpoint(3)


def picks(balancer: RoundRobin, endpoints: tuple[Endpoint, ...], count: int) -> list[Endpoint | None]:
    return [balancer.pick(endpoints, NONE) for _ in range(count)]


class RoundRobinTests(SynchronousTestCase):
    def test_equal_weights_take_turns(self) -> None:
        """Each of two is picked every other time."""
        self.assertEqual(picks(RoundRobin(), (B, C), 5), [B, C, B, C, B])

    def test_weights_are_spread_smoothly(self) -> None:
        """The heavy one is not picked five times in a row."""
        self.assertEqual(picks(RoundRobin(), (A, B, C), 7), [A, A, B, A, C, A, A])

    def test_skips_the_excluded(self) -> None:
        """The turn of an excluded endpoint goes to another."""
        balancer = RoundRobin()
        self.assertEqual([balancer.pick((A, B, C), frozenset({A})) for _ in range(4)], [B, C, B, C])

    def test_an_exclusion_is_forgotten_by_the_next_connection(self) -> None:
        """After it was excluded once, an endpoint still gets its share."""
        balancer = RoundRobin()
        balancer.pick((B, C), frozenset({B}))
        self.assertEqual(Counter(picks(balancer, (B, C), 10)), Counter({B: 5, C: 5}))

    def test_no_endpoint_left_is_none(self) -> None:
        """When all are excluded, or none has a weight, there is nothing to pick."""
        self.assertIsNone(RoundRobin().pick((A, B), frozenset({A, B})))
        self.assertIsNone(RoundRobin().pick((endpoint(1, weight=0), endpoint(2, weight=-1)), NONE))

    def test_weight_zero_gets_nothing(self) -> None:
        """An endpoint of weight 0 is passed over."""
        self.assertEqual(picks(RoundRobin(), (endpoint(9, weight=0), B), 3), [B, B, B])

    def test_a_newcomer_gets_its_share_at_once(self) -> None:
        """After a change of endpoints the new one is not starved, nor does it get everything."""
        balancer = RoundRobin()
        picks(balancer, (B,), 100)
        self.assertEqual(Counter(picks(balancer, (B, C), 10)), Counter({B: 5, C: 5}))

    def test_forgets_endpoints_that_are_gone(self) -> None:
        """A thousand endpoints that came and went leave nothing behind."""
        balancer = RoundRobin()
        for port in range(1, 1000):
            balancer.pick((endpoint(port), A), NONE)
        self.assertLessEqual(len(list(balancer._turns)), 4)

    def test_goes_on_where_it_was_after_a_change(self) -> None:
        """Endpoints that change with each connection do not all begin with the first one."""
        balancer = RoundRobin()
        counted = Counter(picks(balancer, tuple(endpoint(port) for port in (1, 2, 3)), 1)[0] for _ in range(9))
        self.assertEqual(set(counted.values()), {3})

    def test_what_is_owed_survives_a_change(self) -> None:
        """With unequal weights as well: shares are right over many changes."""
        balancer = RoundRobin()
        counted = Counter(picks(balancer, (A, B, C), 1)[0] for _ in range(70))
        self.assertEqual(counted, Counter({A: 50, B: 10, C: 10}))

    def test_a_detour_changes_nothing(self) -> None:
        """Connections that are sent to another priority in between do not disturb the turns."""
        balancer = RoundRobin()
        usual, reserve = (A, B, C), (endpoint(8, weight=2), endpoint(9))
        counted: Counter[Endpoint | None] = Counter()
        for _ in range(70):
            counted[balancer.pick(usual, NONE)] += 1
            balancer.pick(reserve, NONE)
        self.assertEqual(counted, Counter({A: 50, B: 10, C: 10}))

    @given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
    def test_shares_are_exact_over_a_whole_round(self, weights: list[int]) -> None:
        """In as many picks as the weights add up to, each endpoint is picked as often as its weight says."""
        endpoints = tuple(endpoint(port, weight=weight) for port, weight in enumerate(weights, 1))
        counted = Counter(picks(RoundRobin(), endpoints, sum(weights)))
        self.assertEqual(counted, Counter({each: each.weight for each in endpoints}))
