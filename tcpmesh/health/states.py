"""
What is known of the health of endpoints and services, as values to be shown and counted.

Ring 1. Times are those of the reactor's clock, in seconds: what is shown is their distance to now.
"""

from __future__ import annotations

from typing import Literal

import attrs

from tcpmesh.values import Address

__all__ = ["MAX_REASON", "CheckResult", "CircuitState", "EndpointState", "HealthChange", "Trouble", "cut"]

MAX_REASON = 240  # characters that are kept of a reason: parts of it may come from a peer

EndpointWord = Literal["up", "slow-start", "probation", "ejected", "down"]
CircuitWord = Literal["closed", "open", "half-open"]
ChangeWord = Literal["ejected", "back", "down", "up", "circuit-open", "circuit-closed"]


def cut(text: str) -> str:
    """A reason, no longer than is kept."""
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


@attrs.frozen
class Trouble:
    """What went wrong last, and when."""

    code: str
    reason: str
    at: float

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"


@attrs.frozen
class CheckResult:
    """How the last active check ended: ``trouble`` is None for a good one; ``duration`` in seconds."""

    at: float
    duration: float
    trouble: Trouble | None


@attrs.frozen
class EndpointState:
    """
    One endpoint: ``state`` holds until ``until``, where that is known.

    :ivar failures: attempts in a row that failed by the endpoint's fault.
    :ivar ejections: how often it was ejected since it is known.
    :ivar share: of what it would get in full health.
    """

    address: Address
    state: EndpointWord
    until: float | None = None
    failures: int = 0
    ejections: int = 0
    share: float = 1.0
    trouble: Trouble | None = None
    check: CheckResult | None = None


@attrs.frozen
class CircuitState:
    """
    A service's circuit.

    :ivar since: when it came into this state; None for one that never was in another.
    :ivar until: when it lets the next connection through; None unless it is open.
    :ivar failures: connections in a row that failed.
    :ivar opened: how often it was opened.
    """

    state: CircuitWord = "closed"
    since: float | None = None
    until: float | None = None
    failures: int = 0
    opened: int = 0


@attrs.frozen
class HealthChange:
    """
    Something to tell: an endpoint of a service, or the service's circuit (``address`` is None), changed its state.

    :ivar seconds: for how long, 0 where that is not known.
    """

    service: str
    address: Address | None
    change: ChangeWord
    reason: str
    seconds: float = 0.0
