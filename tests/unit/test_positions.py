"""Tests for the numbers of endpoints: who has which port, and that it stays so while endpoints come and go."""

from __future__ import annotations

import itertools
import random

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import NO_ENDPOINT
from tcpmesh.discovery.positions import Moved, Positions, index_of
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.service_positions import ServicePositions
from tcpmesh.values import Endpoint, TCPAddress


def one(letter: str, index: str | None = None) -> Endpoint:
    """An endpoint that a letter tells from others."""
    metadata = () if index is None else (("index", index), ("rack", "7"))
    return Endpoint(TCPAddress("10.0.0.1", ord(letter)), metadata=metadata)


def some(letters: str) -> tuple[Endpoint, ...]:
    return tuple(one(letter) for letter in letters)


class PositionsTests(SynchronousTestCase):
    """``Positions``."""

    def setUp(self) -> None:
        self.positions = Positions(3)

    def held(self) -> str:
        """Who has which number, by letter; "-" where nobody is."""
        found = (self.positions.at(number) for number in range(len(self.positions)))
        return "".join("-" if endpoint is None else chr(endpoint.address.port) for endpoint in found)

    def after(self, *deliveries: str) -> str:
        for letters in deliveries:
            self.positions.update(some(letters))
        return self.held()

    def test_are_those_of_the_list(self) -> None:
        """As delivered first."""
        self.assertEqual(self.held(), "---")
        self.assertEqual(self.after("abc"), "abc")
        self.assertEqual(self.positions.complaints, ())

    def test_do_not_shift_when_one_goes(self) -> None:
        """Its number leads nowhere until it is back, in whatever order the others are delivered."""
        self.assertEqual(self.after("abc", "bc"), "-bc")
        self.assertEqual(self.positions.holder(0), one("a").address)
        self.assertEqual(self.after("cb"), "-bc")
        self.assertEqual(self.after("cab"), "abc")
        self.assertEqual(self.after("", "b"), "-b-")

    def test_are_those_of_others_only_for_want_of_free_ones(self) -> None:
        """Of a new endpoint: its place in the list, else a number that nobody had, else that of one that is gone."""
        self.assertEqual(self.after("abc", "adc"), "adc")
        self.assertEqual(self.after("acb"), "abc")

    def test_never_held_ones_go_first(self) -> None:
        """So that one who comes back finds its own free."""
        self.positions = Positions(4)
        self.assertEqual(self.after("abc", "acd"), "a-cd")
        self.assertEqual(self.after("abcd"), "abcd")

    def test_of_one_that_is_gone_are_given_away_last(self) -> None:
        """And who comes back to find it taken gets another."""
        self.assertEqual(self.after("abc", "bcd"), "dbc")
        self.assertEqual(self.after("abc"), "abc")

    def test_tell_what_was_given_to_another(self) -> None:
        """Not the first time, and not when the same one comes back."""
        self.assertEqual(self.positions.update(some("abc")), [])
        self.assertEqual(self.positions.update(some("ab")), [])
        self.assertEqual(self.positions.update(some("abc")), [])
        moved = self.positions.update(some("abx"))
        self.assertEqual(moved, [Moved(2, one("c").address, one("x").address)])

    def test_tell_who_has_none(self) -> None:
        """There are more endpoints than ports."""
        self.assertEqual(self.after("abcde"), "abc")
        self.assertEqual(
            self.positions.complaints,
            (
                "10.0.0.1:100 has no port: the 3 that there are lead to others",
                "10.0.0.1:101 has no port: the 3 that there are lead to others",
            ),
        )
        self.assertIsNone(self.positions.number_of(one("d")))
        self.assertEqual(self.positions.number_of(one("c")), 2)
        self.assertEqual(self.after("abde"), "abd")

    def test_are_those_of_the_metadata(self) -> None:
        """Whatever the order, over restarts too; changing one is a move."""
        self.positions.update((one("c", "2"), one("a", "0")))
        self.assertEqual(self.held(), "a-c")
        self.positions.update((one("b", "1"), one("c", "2")))
        self.assertEqual(self.held(), "-bc")
        moved = self.positions.update((one("b", "2"), one("c", "1")))
        self.assertEqual(self.held(), "-cb")
        self.assertEqual([each.position for each in moved], [1, 2])

    def test_of_the_metadata_that_contradict_each_other_are_told(self) -> None:
        """Not numbers, beyond the ports, twice, or missing: those have no port."""
        self.positions.update(
            (
                one("a", "0"),
                one("b", "first"),
                one("c", "3"),
                one("d", "0"),
                one("e"),
                one("f", "-1"),
                one("g", "9" * 9),
            )
        )
        self.assertEqual(self.held(), "a--")
        self.assertEqual(
            self.positions.complaints,
            (
                "10.0.0.1:98 has the index 'first', which is not a whole number from 0",
                "10.0.0.1:99 has the index 3; the last port is that of 2",
                "10.0.0.1:100 has the index 0, as 10.0.0.1:97 has",
                "10.0.0.1:101 has no index, and others have",
                "10.0.0.1:102 has the index '-1', which is not a whole number from 0",
                "10.0.0.1:103 has the index '999999999', which is not a whole number from 0",
            ),
        )
        self.assertEqual(index_of(one("a", "007")), 7)
        self.assertIsNone(index_of(one("a")))

    def test_belong_to_one_each_whatever_is_delivered(self) -> None:
        """Nobody has two, nobody who stays loses its own, and nobody is without one while one is free."""
        chance = random.Random(6)
        for _ in range(200):
            self.positions = Positions(4)
            before: dict[str, int] = {}
            for _ in range(20):
                letters = chance.sample("abcdefg", chance.randrange(8))
                self.positions.update(some("".join(letters)))
                held = self.held()
                now = {letter: number for number, letter in enumerate(held) if letter != "-"}
                self.assertEqual(len(now), min(4, len(letters)))
                for letter in letters:
                    if letter in before:
                        self.assertEqual(now[letter], before[letter])
                before = now


class ServicePositionsTests(SynchronousTestCase):
    """``ServicePositions``: the same, along with what discovery delivers."""

    def setUp(self) -> None:
        self.cell = MeshStateCell()
        self.found = ServicePositions("kafka", 2, self.cell)

    def deliver(self, *endpoints: Endpoint) -> list[str]:
        """Deliver, and give the lines that were logged."""
        with capturedLogs() as events:
            self.cell.swap(endpoints={"other": (one("z"),), "kafka": endpoints})
        return [formatEvent(event) for event in events]

    def refusal(self, position: int) -> str:
        refusal = self.assertRaises(Refusal, self.found.endpoint, position)
        self.assertIs(refusal.code, NO_ENDPOINT)
        return refusal.reason

    def test_follow_each_delivery(self) -> None:
        """The endpoint is the one that was delivered last, with its weight of now."""
        self.assertEqual(self.refusal(0), "service 'kafka' has no endpoint 0: nobody has had that number yet")
        self.assertEqual(self.deliver(one("a"), one("b")), [])
        self.assertEqual(self.found.endpoint(1), one("b"))
        heavier = Endpoint(one("b").address, weight=7)
        self.assertEqual(self.deliver(heavier), [])
        self.assertIs(self.found.endpoint(1), heavier)
        self.assertEqual(self.found.number_of(heavier), 1)
        self.assertEqual(
            self.refusal(0), "service 'kafka' has no endpoint 0: 10.0.0.1:97, which had that number, is gone"
        )

    def test_follow_also_when_nobody_asks(self) -> None:
        """Who has which number must not depend on when somebody connected."""
        self.deliver(one("b"))
        self.deliver(one("a"), one("b"))
        self.assertEqual((self.found.endpoint(0), self.found.endpoint(1)), (one("b"), one("a")))

    def test_say_in_the_log_what_clients_must_know(self) -> None:
        """A port that leads elsewhere now, and endpoints without a port; once, and not again for the same."""
        self.deliver(one("a"), one("b"))
        self.assertEqual(
            self.deliver(one("a"), one("c")),
            [
                "service 'kafka': its clients now find another endpoint on a port: endpoint 1 is 10.0.0.1:99, it was "
                "10.0.0.1:98"
            ],
        )
        complaint = [
            "service 'kafka': not every endpoint has a port: 10.0.0.1:98 has no port: the 2 that there are lead to "
            "others"
        ]
        self.assertEqual(self.deliver(one("a"), one("c"), one("b")), complaint)
        self.assertEqual(self.deliver(one("a"), one("c"), one("b")), [])
        self.assertEqual(self.deliver(one("a"), one("c")), [])
        self.assertEqual(self.deliver(one("a"), one("c"), one("b")), complaint)

    def test_say_it_in_one_line(self) -> None:
        """Of many only the first."""
        [line] = self.deliver(*(one(chr(code)) for code in itertools.chain(range(97, 110))))
        self.assertTrue(
            line.endswith("10.0.0.1:103 has no port: the 2 that there are lead to others; and 6 more"), line
        )
