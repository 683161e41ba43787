"""
How a service's endpoints are used: the mappings ``health`` of a service and those of its limits.

Ring 0, as ``tcpmesh.settings``, of which it is a part. What is out of bounds is said by ``tcpmesh.config``.
"""

from __future__ import annotations

from typing import Literal

import attrs

from tcpmesh.values import Duration, WorkloadName

__all__ = [
    "CheckSettings",
    "CircuitSettings",
    "EjectionSettings",
    "HealthSettings",
    "QueueSettings",
    "RetryBudgetSettings",
    "ServiceLimits",
]


@attrs.frozen
class EjectionSettings:
    """
    When an endpoint that fails is left alone for a while, although nobody checks it.

    ``failures`` in a row eject it (0: never) for ``time``, the n-th time in a row for n times as long, at most for
    ``max_time``; never more than ``max_share`` of the service's endpoints, rounded down.
    """

    failures: int = 5
    time: Duration = Duration(10.0)
    max_time: Duration = Duration(300.0)
    max_share: float = 0.5


@attrs.frozen
class CheckSettings:
    """
    Whether endpoints are asked, and how often: ``tcp`` connects and closes, ``tls`` also verifies who answers.

    An endpoint is down after ``fall`` failed checks in a row and up again after ``rise`` good ones.
    """

    type: Literal["tcp", "tls"]
    interval: Duration = Duration(10.0)
    timeout: Duration = Duration(2.0)
    jitter: float = 0.1  # each interval is up to this share shorter or longer, so that checks spread
    rise: int = 2
    fall: int = 3
    workload: WorkloadName | None = None  # whom tls checks come from; may be absent when only one uses the service


@attrs.frozen
class CircuitSettings:
    """
    When a service whose connections all fail is no longer tried: after ``failures`` in a row, for ``time``.

    Each opening in a row takes ``time`` longer than the one before, at most ``max_time``.
    """

    failures: int = 20
    time: Duration = Duration(5.0)
    max_time: Duration = Duration(60.0)


@attrs.frozen
class HealthSettings:
    """Which endpoints of a service get connections: ``tcpmesh.health``."""

    ejection: EjectionSettings = attrs.field(factory=EjectionSettings)
    check: CheckSettings | None = None
    slow_start: Duration | None = None  # how long an endpoint that is new or back takes to its whole share
    circuit: CircuitSettings | None = None


@attrs.frozen
class ServiceLimits:
    """
    How many connections this proxy has to a service at a time, those that are being made among them; None: any number.

    ``pending`` is how many of them are being made: from the begin of an attempt until it is established or has failed.
    """

    connections: int | None = None
    per_endpoint: int | None = None
    pending: int | None = None


@attrs.frozen
class QueueSettings:
    """How many connections may wait for room under the service's limits; 0: they are refused at once."""

    length: int = 0


@attrs.frozen
class RetryBudgetSettings:
    """How many retries a service gets: in each ``window`` this ``share`` of its connections, and ``minimum`` anyway."""

    share: float = 0.2
    minimum: int = 3
    window: Duration = Duration(10.0)
