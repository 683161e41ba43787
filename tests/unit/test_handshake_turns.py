"""Handshakes in turns: what is counted is work per turn of the reactor."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.net.handshake_turns import STEPS, HandshakeTurns


class TurningClock(Clock):
    """A clock that, as a reactor does, leaves to the next turn what is asked for in this one."""

    def turn(self) -> None:
        due, self.calls = self.calls, []
        for call in due:
            call.called = 1
            call.func(*call.args, **call.kw)


class HandshakeTurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = TurningClock()
        self.turns = HandshakeTurns(self.clock)
        self.done: list[int] = []

    def step(self, number: int) -> Callable[[], None]:
        return lambda: self.done.append(number)

    def test_few_are_run_at_once(self) -> None:
        """As many as a turn has room for wait for nothing."""
        self.assertEqual([self.turns.take(self.step(number)) for number in range(STEPS)], [True] * STEPS)
        self.assertEqual((self.done, self.turns.waiting), (list(range(STEPS)), 0))

    def test_a_flood_is_spread_over_turns_in_its_order(self) -> None:
        """No turn runs more than its share, and nobody is overtaken."""
        for number in range(10 * STEPS):
            self.turns.take(self.step(number))
        for turn in range(1, 11):
            self.assertEqual(self.done, list(range(turn * STEPS)))
            self.clock.turn()
        self.assertEqual(self.turns.waiting, 0)

    def test_late_comers_wait_behind_those_who_wait(self) -> None:
        """The room of a turn goes to those who came first, and what they leave to the next."""
        for number in range(STEPS + 2):
            self.turns.take(self.step(number))
        self.clock.turn()
        for number in range(100, 100 + STEPS):
            self.turns.take(self.step(number))
        self.assertEqual(self.done, [*range(STEPS + 2), *range(100, 98 + STEPS)])
        self.clock.turn()
        self.assertEqual(self.done[-2:], [98 + STEPS, 99 + STEPS])

    def test_a_step_may_ask_for_another(self) -> None:
        """It is counted like every other."""

        def again() -> None:
            self.done.append(0)
            self.turns.take(again)

        again()
        for turn in range(1, 5):
            self.assertEqual(len(self.done), 1 + turn * STEPS)
            self.clock.turn()

    def test_costs_nothing_when_there_are_none(self) -> None:
        """After the last handshake the reactor is asked for one turn more and no further."""
        self.turns.take(self.step(0))
        self.clock.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_step_that_raises_costs_the_others_nothing(self) -> None:
        """Steps must not; should one do so all the same, those behind it have their turn."""
        for _ in range(STEPS):
            self.turns.take(self.step(0))
        self.turns.take(lambda: self.fail("as a defect would"))
        self.turns.take(self.step(7))
        self.assertRaises(self.failureException, self.clock.turn)
        self.clock.turn()
        self.assertEqual(self.done[-1], 7)
