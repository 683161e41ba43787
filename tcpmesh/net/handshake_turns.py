"""
Handshakes take turns, so that a flood of new connections does not stop those that there are.

Ring 3. A step of a handshake (a flight received, verified, signed and answered) costs as much time as a hundred small
messages. No more than :data:`STEPS` are taken in one turn of the reactor; between turns every connection that has
something to read is served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

STEPS = 4  # of handshakes a turn: some two milliseconds


class HandshakeTurns:
    """
    Runs steps at once while the turn has room, the others in later turns, in the order in which they came.

    :param clock: the reactor; what it is asked to call after no time at all comes in its next turn.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._room = STEPS
        self._waiting: deque[Callable[[], None]] = deque()
        self._next_turn: Any = None

    @property
    def waiting(self) -> int:
        """How many steps wait for a later turn."""
        return len(self._waiting)

    def take(self, step: Callable[[], None]) -> bool:
        """Run the step now, or later; true if it has been run. A step must not raise."""
        self._ask_for_turn()
        if not self._room:
            self._waiting.append(step)
            return False
        self._room -= 1
        step()
        return True

    def _ask_for_turn(self) -> None:
        if self._next_turn is None:
            self._next_turn = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._next_turn = None
        self._room = STEPS - min(STEPS, len(self._waiting))
        for _ in range(STEPS - self._room):
            self._ask_for_turn()
            self._waiting.popleft()()
