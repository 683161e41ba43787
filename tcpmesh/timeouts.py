"""
How long each step of a connection may take, as the configuration says it: for the proxy, a service or a listener.

Ring 0, a part of ``tcpmesh.settings``.
"""

from __future__ import annotations

import attrs

from tcpmesh.values import Duration

__all__ = ["DECISION_BUDGET", "TimeoutOverrides", "Timeouts"]

DECISION_BUDGET = 0.2  # seconds


@attrs.frozen
class TimeoutOverrides:
    """Times of one listener or service; what is absent is taken from ``timeouts``."""

    resolve: Duration | None = None
    queue: Duration | None = None
    connect: Duration | None = None
    handshake: Duration | None = None
    preface: Duration | None = None
    establish: Duration | None = None
    idle: Duration | None = None
    half_close: Duration | None = None
    lifetime: Duration | None = None
    lifetime_jitter: float | None = None
    linger: Duration | None = None
    keepalive: Duration | None = None
    user_timeout: Duration | None = None


@attrs.frozen
class Timeouts:
    """
    How long each step may take. ``idle`` and ``lifetime`` are off unless set; all others have a default.

    ``half_close`` counts silence, not time: a slow reply that keeps coming is never cut.
    """

    resolve: Duration = Duration(5.0)  # until the discovery has said anything
    queue: Duration = Duration(1.0)
    connect: Duration = Duration(3.0)
    handshake: Duration = Duration(10.0)
    preface: Duration = Duration(10.0)  # must be longer than the far proxy's connect
    establish: Duration = Duration(30.0)  # from accept on, with all attempts and waits
    idle: Duration | None = None
    half_close: Duration = Duration(60.0)
    lifetime: Duration | None = None
    lifetime_jitter: float = 0.1  # up to this share of the lifetime is taken off, so that closes spread
    linger: Duration = Duration(1.0)
    keepalive: Duration = Duration(60.0)
    user_timeout: Duration = Duration(60.0)
    shutdown: Duration = Duration(30.0)
    decision: Duration = Duration(DECISION_BUDGET)  # of all policies together; silence denies

    def override(self, more: TimeoutOverrides) -> Timeouts:
        """Take over whatever the more specific place has set."""
        changes = {
            field.name: value
            for field in attrs.fields(TimeoutOverrides)
            if (value := getattr(more, field.name)) is not None
        }
        return attrs.evolve(self, **changes)
