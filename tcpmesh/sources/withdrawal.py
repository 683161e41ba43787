"""
A withdrawal that is not believed before it has been asked for a second time.

Ring 3. SPIRE's agent throws away what a tainted authority has signed before it has the new certificates, and in
between tells a workload the same as when its entry was deleted. A call that is made then waits for the new ones; where
the entry is gone, it is told so again at once. (Seen with SPIRE 1.15.)
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["CONFIRMATION", "Withdrawal"]

CONFIRMATION = 5.0  # seconds that the second answer may take; no answer is a yes


class Withdrawal:
    """
    At most one withdrawal that waits to be confirmed, and none sooner than CONFIRMATION after the one before.

    So a server that gives and takes all the time can neither keep an identity alive nor make us ask without pause.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._last: float | None = None  # when a doubt began, on the reactor's clock
        self._deadline: IDelayedCall | None = None
        self._carry_out: Callable[[], None] | None = None

    def doubt(self, carry_out: Callable[[], None]) -> bool:
        """
        Say whether the server is to be asked again; if so, the withdrawal is carried out unless it is dropped in time.

        :param carry_out: does what the server said.
        """
        now = self._clock.seconds()
        if self._carry_out is not None or (self._last is not None and now - self._last < CONFIRMATION):
            return False
        self._last = now
        self._carry_out = carry_out
        self._deadline = self._clock.callLater(CONFIRMATION, self.stand)
        return True

    def drop(self) -> None:
        """The server has said something since, and that counts. Safe at any time."""
        self._carry_out = None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def stand(self) -> None:
        """Carry it out, if there is one: nothing has come that takes it back."""
        carry_out = self._carry_out
        self.drop()
        if carry_out is not None:
            carry_out()
