"""
What the connections of a service tell its circuit, and what the circuit tells others.

Ring 1, pure: ``now`` is the reactor's clock in seconds. When it opens, for how long and who is the trial is the
:class:`~tcpmesh.health.circuit.Circuit`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable

from tcpmesh.codes import Code
from tcpmesh.health.circuit import Circuit
from tcpmesh.health.faults import is_answer
from tcpmesh.health.states import CircuitState, HealthChange
from tcpmesh.upstream_settings import CircuitSettings

__all__ = ["ServiceCircuit"]


class ServiceCircuit:
    """
    One service that has a circuit.

    :param on_change: told when it opens and when it closes.
    """

    __slots__ = ("_circuit", "_on_change", "_service")

    def __init__(self, service: str, settings: CircuitSettings, on_change: Callable[[HealthChange], None]) -> None:
        self._service = service
        self._circuit = Circuit(settings)
        self._on_change = on_change

    @property
    def is_closed(self) -> bool:
        """Whether any connection may try."""
        return self._circuit.until is None

    def refuses(self, now: float, who: object) -> str | None:
        """Say why a connection must fail at once; None lets it try."""
        return self._circuit.refuses(now, who)

    def succeeded(self, now: float) -> None:
        """A connection was established, or refused by a peer that works."""
        if self._circuit.succeeded(now):
            self._on_change(HealthChange(self._service, None, "circuit-closed", "a connection succeeded"))

    def failed(self, code: Code, reason: str, now: float, who: object) -> None:
        """A connection that was let try is over, and was never established; ``code`` is of the last attempt."""
        if is_answer(code):
            self.succeeded(now)
            return
        seconds = self._circuit.failed(code, reason, now, who)
        if seconds:
            self._on_change(HealthChange(self._service, None, "circuit-open", self._circuit.errors, seconds))

    def lost(self) -> None:
        """The last success was none: its connection broke before a payload byte had moved."""
        self._circuit.lost()

    def state(self, now: float) -> CircuitState:
        """For display."""
        return self._circuit.state(now)
