"""
The circuit of a service: after many connections have failed at all endpoints, the next ones fail at once for a while.

Ring 1, pure. It spares a service that is coming up again, and lets applications know sooner.
"""

from __future__ import annotations

import math

import attrs

from tcpmesh.codes import Code
from tcpmesh.health.faults import is_fault
from tcpmesh.health.states import CircuitState, cut
from tcpmesh.upstream_settings import CircuitSettings
from tcpmesh.values import format_duration

__all__ = ["Circuit"]

_MOST_ERRORS = 3  # of different codes that are told


@attrs.define(eq=False)
class Circuit:
    """
    One service: closed, open until ``until``, or from then on half-open until one connection tells how it goes.

    :ivar trial: whose connection that is.
    """

    settings: CircuitSettings
    failures: int = 0  # connections in a row
    opened: int = 0
    until: float | None = None  # None while it is closed
    trial: object | None = None
    _in_row: int = 0
    _spared: tuple[int, int] = (0, 0)  # what the last success has wiped out
    _since: float | None = None
    _errors: dict[str, str] = attrs.field(factory=dict)  # reasons by code, the newest last

    def refuses(self, now: float, who: object) -> str | None:
        """Say why a connection must not begin; None lets it, as the trial if the circuit is half-open."""
        if self.until is None:
            return None
        if now >= self.until and self.trial is None:
            self.trial = who
            return None
        if now < self.until:
            state = f"open for another {format_duration(round(self.until - now, 1))}"
        else:
            state = "half-open, and another connection is trying"
        return f"the circuit is {state}: {self.errors}"

    @property
    def errors(self) -> str:
        """What went wrong, the newest last."""
        told = "; ".join(f"{code} {reason}" for code, reason in self._errors.items())
        return f"{self.failures} connections in a row failed, lastly with {told}"

    def succeeded(self, now: float) -> bool:
        """A connection was established; says whether that closed the circuit."""
        was_open = self.until is not None
        if was_open:
            self._since = now
        self._spared = self.failures, self._in_row
        self.failures = self._in_row = 0
        self.until = self.trial = None
        return was_open

    def lost(self) -> None:
        """The last success was none: its connection broke before a payload byte had moved."""
        failures, in_row = self._spared
        self.failures, self._in_row = max(self.failures, failures), max(self._in_row, in_row)
        self._spared = (0, 0)

    def failed(self, code: Code, reason: str, now: float, who: object) -> float:
        """
        All attempts of a connection failed, or it was given up; ``code`` is no answer of a peer that works.

        :return: for how many seconds that opened the circuit; 0 if it did not.
        """
        of_trial = self.trial is who
        if of_trial:
            self.trial = None
        if not is_fault(code):
            return 0.0
        if self.failures == 0:
            self._errors.clear()
        self._errors.pop(code.id, None)
        self._errors[code.id] = cut(reason)
        while len(self._errors) > _MOST_ERRORS:
            del self._errors[next(iter(self._errors))]
        self.failures += 1
        if of_trial or (self.until is None and self.failures >= self.settings.failures):
            return self._open(now)
        return 0.0

    def _open(self, now: float) -> float:
        settings = self.settings
        self._in_row = min(self._in_row + 1, math.ceil(settings.max_time / settings.time))
        seconds = min(settings.max_time, settings.time * self._in_row)
        self.until = now + seconds
        self._since = now
        self.opened += 1
        return seconds

    def state(self, now: float) -> CircuitState:
        """For display."""
        if self.until is None:
            return CircuitState("closed", self._since, None, self.failures, self.opened)
        if now < self.until:
            return CircuitState("open", self._since, self.until, self.failures, self.opened)
        return CircuitState("half-open", self.until, None, self.failures, self.opened)
