"""Priorities and zones: which endpoints come into question."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.tiers import Tiers
from tcpmesh.values import Endpoint, TCPAddress

A = "eu-1a"
B = "eu-1b"


def at(port: int, *, zone: str = "", priority: int = 0, weight: int = 1) -> Endpoint:
    return Endpoint(TCPAddress("127.0.0.1", port), weight, zone, priority)


def without(*gone: Endpoint) -> Callable[[Endpoint], bool]:
    return lambda endpoint: endpoint not in gone


def circles(endpoints: tuple[Endpoint, ...], *gone: Endpoint, zone: str | None = None) -> list[tuple[Endpoint, ...]]:
    return list(Tiers(zone).circles(endpoints, without(*gone) if gone else None))


class PriorityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.first = (at(1), at(2))
        self.second = (at(3, priority=1), at(4, priority=1))
        self.third = (at(5, priority=7),)
        self.endpoints = (*self.third, *self.second, *self.first)

    def test_the_lowest_number_is_used_first(self) -> None:
        """Whatever the order in which discovery names them."""
        self.assertEqual(circles(self.endpoints), [self.first, self.second, self.third])

    def test_one_admitted_endpoint_keeps_its_priority_in_use(self) -> None:
        """The next priority is for when there is none left."""
        self.assertEqual(circles(self.endpoints, self.first[0])[0], self.first[1:])

    def test_fails_over_and_returns(self) -> None:
        """Without an admitted endpoint the next priority is used, and no longer when one is admitted again."""
        tiers = Tiers()
        used = [
            next(iter(tiers.circles(self.endpoints, without(*gone))))
            for gone in ((), self.first, (*self.first, *self.second), self.first, self.first[:1], ())
        ]
        self.assertEqual(used, [self.first, self.second, self.third, self.second, self.first[1:], self.first])

    def test_nothing_admitted_is_nothing(self) -> None:
        """What is to be said then is the caller's to know."""
        self.assertEqual(circles(self.endpoints, *self.endpoints), [])
        self.assertEqual(circles(()), [])

    def test_weights_below_one_hold_no_priority(self) -> None:
        """A priority whose endpoints all have weight 0 is not there."""
        resting = at(9, weight=0)
        self.assertEqual(circles((resting, *self.second)), [self.second])
        self.assertEqual(circles((resting, *self.second), self.second[0]), [self.second[1:]])
        self.assertEqual(circles((resting,)), [])


class ZoneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.near = (at(1, zone=A), at(2, zone=A))
        self.far = (at(3, zone=B), at(4))
        self.endpoints = (*self.near, *self.far)

    def test_the_own_zone_comes_first_and_all_zones_behind_it(self) -> None:
        """An attempt that has failed at every endpoint of the own zone goes on in the others."""
        self.assertEqual(circles(self.endpoints, zone=A), [self.near, self.endpoints])

    def test_without_a_zone_all_are_alike(self) -> None:
        """No zone in the settings, or one in which nothing is, or in which everything is."""
        self.assertEqual(circles(self.endpoints), [self.endpoints])
        self.assertEqual(circles(self.endpoints, zone="eu-1c"), [self.endpoints])
        self.assertEqual(circles(self.near, zone=A), [self.near])

    def test_half_of_the_zone_is_enough(self) -> None:
        """With one of two equal ones the zone stays on its own; with none of them it does not."""
        self.assertEqual(circles(self.endpoints, self.near[0], zone=A)[0], self.near[1:])
        self.assertEqual(circles(self.endpoints, *self.near, zone=A), [self.far])

    def test_half_means_weight(self) -> None:
        """One of two endpoints is not half when the other one weighs three times as much."""
        light, heavy, far = at(1, zone=A), at(2, zone=A, weight=3), at(3, zone=B)
        self.assertEqual(circles((light, heavy, far), heavy, zone=A), [(light, far)])
        self.assertEqual(circles((light, heavy, far), light, zone=A), [(heavy,), (heavy, far)])

    def test_the_zone_is_chosen_within_a_priority(self) -> None:
        """A near endpoint of the second priority does not beat a far one of the first."""
        reserve = at(9, zone=A, priority=1)
        self.assertEqual(circles((reserve, *self.far), zone=A), [self.far, (reserve,)])

    def test_each_endpoint_is_asked_about_once(self) -> None:
        """Slow start may draw lots: a second answer could contradict the first."""
        asked: list[Endpoint] = []

        def admits(endpoint: Endpoint) -> bool:
            asked.append(endpoint)
            return True

        list(Tiers(A).circles(self.endpoints, admits))
        self.assertEqual(asked, list(self.endpoints))

    def test_a_reserve_is_not_asked_about_before_it_is_needed(self) -> None:
        """Looking at the first circle costs the first priority only."""
        asked: list[Endpoint] = []
        reserve = at(9, priority=1)
        next(iter(Tiers().circles((*self.endpoints, reserve), lambda endpoint: not asked.append(endpoint))))
        self.assertEqual(asked, list(self.endpoints))


class IdentityTests(SynchronousTestCase):
    """Balancers know a tuple by its identity."""

    def test_one_circle_of_all_is_the_tuple_itself(self) -> None:
        """The common case makes nothing."""
        endpoints = (at(1), at(2))
        tiers = Tiers(A)
        self.assertIs(next(iter(tiers.circles(endpoints))), endpoints)
        self.assertIs(next(iter(tiers.circles(endpoints, lambda _: True))), endpoints)

    def test_the_same_admitted_ones_are_the_same_tuple(self) -> None:
        """Also those of a zone, and again after all were admitted in between."""
        endpoints = (at(1, zone=A), at(2, zone=A), at(3, zone=B), at(4, zone=B))
        tiers = Tiers(A)
        some = without(endpoints[0], endpoints[3])
        before = list(tiers.circles(endpoints, some))
        self.assertEqual(before, [(endpoints[1],), endpoints[1:3]])
        everything = list(tiers.circles(endpoints, lambda _: True))
        after = list(tiers.circles(endpoints, some))
        self.assertTrue(all(one is other for one, other in zip(before, after, strict=True)))
        self.assertTrue(all(one is other for one, other in zip(everything, tiers.circles(endpoints), strict=True)))

    def test_follows_a_change_of_endpoints(self) -> None:
        """Nothing of the old tuple is offered."""
        tiers = Tiers(A)
        old, new = (at(1, zone=A), at(2, zone=B)), (at(3, zone=B), at(4, zone=A))
        tiers.circles(old)
        self.assertEqual(list(tiers.circles(new)), [(new[1],), new])


ENDPOINTS = st.builds(
    lambda port, zone, priority, weight: at(port, zone=zone, priority=priority, weight=weight),
    st.integers(1, 60000),
    st.sampled_from(["", A, B]),
    st.integers(0, 3),
    st.integers(0, 3),
)


class PropertyTests(SynchronousTestCase):
    @given(
        st.lists(ENDPOINTS, unique_by=lambda each: each.address, max_size=12).map(tuple),
        st.sampled_from([None, A, B]),
        st.randoms(use_true_random=False),
    )
    def test_whoever_may_be_used_is_reached_and_nobody_else(self, endpoints, zone, random) -> None:  # type: ignore[no-untyped-def]
        """The circles together hold every admitted endpoint of a weight, in ascending priority."""
        gone = {endpoint for endpoint in endpoints if random.random() < 0.4}
        found = list(Tiers(zone).circles(endpoints, lambda endpoint: endpoint not in gone))
        expected = {endpoint for endpoint in endpoints if endpoint.weight >= 1 and endpoint not in gone}
        self.assertEqual({endpoint for circle in found for endpoint in circle}, expected)
        self.assertTrue(all(found))
        priorities = [{endpoint.priority for endpoint in circle} for circle in found]
        self.assertTrue(all(len(each) == 1 for each in priorities))
        self.assertEqual([min(each) for each in priorities], sorted(min(each) for each in priorities))
