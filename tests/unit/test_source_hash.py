"""The source-hash balancer."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.source_hash import SourceHash
from tcpmesh.testing import endpoint
from tcpmesh.values import Endpoint, TCPAddress, UnixAddress

NONE: frozenset[Endpoint] = frozenset()
SOURCES = [TCPAddress(f"10.1.{number >> 8}.{number & 255}", 40000) for number in range(2000)]
TEN = tuple(endpoint(port) for port in range(1, 11))


def placed(endpoints: tuple[Endpoint, ...], exclude: frozenset[Endpoint] = NONE) -> dict[TCPAddress, Endpoint | None]:
    """Where a new balancer sends each source."""
    balancer = SourceHash(random.Random(6))
    return {source: balancer.pick_for(endpoints, exclude, source) for source in SOURCES}


def moved(before: dict[TCPAddress, Endpoint | None], after: dict[TCPAddress, Endpoint | None]) -> list[TCPAddress]:
    return [source for source in SOURCES if before[source] != after[source]]


class SourceHashTests(SynchronousTestCase):
    def test_a_host_stays_where_it_is(self) -> None:
        """From whichever port it connects, whatever the order of the endpoints, and in another proxy as well."""
        balancer = SourceHash(random.Random(1))
        first = balancer.pick_for(TEN, NONE, SOURCES[0])
        self.assertEqual(
            {balancer.pick_for(TEN, NONE, TCPAddress(SOURCES[0].host, port)) for port in range(9)}, {first}
        )
        other = SourceHash(random.Random(2))
        self.assertEqual(other.pick_for(tuple(reversed(TEN)), NONE, SOURCES[0]), first)

    def test_the_mapping_is_frozen(self) -> None:
        """Proxies of two versions side by side must agree."""
        balancer = SourceHash(random.Random(1))
        found = [balancer.pick_for(TEN, NONE, source) for source in (*SOURCES[:6], TCPAddress("2001:db8::1", 1))]
        self.assertEqual([TEN.index(each) + 1 for each in found if each is not None], [5, 8, 3, 5, 3, 5, 7])
        heavy = (endpoint(1), endpoint(2, weight=3), endpoint(3, weight=2))
        self.assertEqual(
            [heavy.index(each) + 1 for each in (balancer.pick_for(heavy, NONE, one) for one in SOURCES[:8]) if each],
            [2, 2, 3, 2, 3, 2, 2, 3],
        )

    def test_spreads_evenly(self) -> None:
        """2000 sources on ten endpoints: 200 each, give or take."""
        counted = Counter(placed(TEN).values())
        self.assertEqual(len(counted), 10)
        self.assertGreater(min(counted.values()), 150)
        self.assertLess(max(counted.values()), 250)

    def test_spreads_by_weight(self) -> None:
        """Three times the weight, three times the sources."""
        light, heavy, resting = endpoint(1), endpoint(2, weight=3), endpoint(3, weight=0)
        counted = Counter(placed((light, heavy, resting)).values())
        self.assertEqual(set(counted), {light, heavy})
        self.assertTrue(430 < counted[light] < 570, counted)

    def test_an_endpoint_that_goes_moves_its_own_sources_only(self) -> None:
        """They are spread over all others, and are back when it is."""
        before = placed(TEN)
        after = placed(TEN[1:])
        self.assertEqual(moved(before, after), [source for source in SOURCES if before[source] == TEN[0]])
        spread = Counter(after[source] for source in moved(before, after))
        self.assertEqual(len(spread), 9)
        self.assertEqual(placed(TEN), before)

    def test_an_endpoint_that_comes_takes_its_share_and_moves_nothing_else(self) -> None:
        """An eleventh takes about an eleventh, all of it to itself."""
        before = placed(TEN)
        new = endpoint(11)
        after = placed((*TEN, new))
        self.assertEqual({after[source] for source in moved(before, after)}, {new})
        self.assertTrue(130 < len(moved(before, after)) < 240, len(moved(before, after)))

    def test_a_weight_that_grows_only_gains(self) -> None:
        """And nobody else's sources change places among each other."""
        unequal = (endpoint(1, weight=2), *TEN[1:])
        before = placed(unequal)
        heavier = endpoint(1, weight=4)
        after = placed((heavier, *TEN[1:]))
        changed = [source for source in SOURCES if before[source] != after[source] and before[source] != unequal[0]]
        self.assertTrue(changed)
        self.assertEqual({after[source] for source in changed}, {heavier})
        self.assertFalse([source for source in SOURCES if before[source] == unequal[0] and after[source] != heavier])

    def test_an_exclusion_is_as_if_it_were_gone(self) -> None:
        """A source whose endpoint fails goes where it would go without it."""
        self.assertEqual(placed(TEN, frozenset({TEN[0]})), placed(TEN[1:]))
        self.assertEqual(set(placed(TEN[:1], frozenset({TEN[0]})).values()), {None})

    def test_an_exclusion_is_forgotten(self) -> None:
        """The next connection of the source is back at its endpoint."""
        balancer = SourceHash(random.Random(6))
        first = balancer.pick_for(TEN, NONE, SOURCES[0])
        assert first is not None
        self.assertNotEqual(balancer.pick_for(TEN, frozenset({first}), SOURCES[0]), first)
        self.assertEqual(balancer.pick_for(TEN, NONE, SOURCES[0]), first)

    def test_local_programs_on_a_unix_socket_are_one_source(self) -> None:
        """They have no address that could tell them apart."""
        balancer = SourceHash(random.Random(6))
        self.assertEqual(len({balancer.pick_for(TEN, NONE, UnixAddress("")) for _ in range(20)}), 1)

    def test_without_a_source_it_draws_lots(self) -> None:
        """All endpoints get their share of attempts of which nobody says where they come from."""
        balancer = SourceHash(random.Random(6))
        counted = Counter(balancer.pick(TEN, NONE) for _ in range(2000))
        self.assertEqual(set(counted), set(TEN))
        self.assertIsNone(balancer.pick(TEN, frozenset(TEN)))

    def test_remembers_a_bounded_number_of_sources(self) -> None:
        """A hundred thousand sources do not fill the memory."""
        balancer = SourceHash(random.Random(6))
        two = TEN[:2]
        for number in range(3000):
            balancer.pick_for(two, NONE, TCPAddress(f"2001:db8::{number:x}", 1))
        [places] = balancer._places
        self.assertEqual(len(places._known), 1024)

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 2**32 - 1), st.integers(0, 11))
    def test_only_the_sources_of_the_one_that_is_taken_away_move(self, weights, source, gone) -> None:  # type: ignore[no-untyped-def]
        """Whatever the weights."""
        endpoints = tuple(endpoint(port, weight=weight) for port, weight in enumerate(weights, 1))
        balancer = SourceHash(random.Random(6))
        where = TCPAddress(f"host-{source}", 1)
        before = balancer.pick_for(endpoints, NONE, where)
        left = endpoints[: gone % len(endpoints)] + endpoints[gone % len(endpoints) + 1 :]
        after = balancer.pick_for(left, NONE, where)
        if before in left:
            self.assertEqual(after, before)
        self.assertEqual(before is None, not any(weights))
