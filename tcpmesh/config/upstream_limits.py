"""
Bounds of a service's limits, queue and retry budget, and times that cannot be kept together.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.settings import ServiceSettings, Settings, Timeouts
from tcpmesh.upstream_settings import QueueSettings, RetryBudgetSettings, ServiceLimits
from tcpmesh.values import format_duration

__all__ = ["check_upstream_limits", "hasty_listeners"]

_LARGEST_LIMIT = 1_000_000
_LONGEST_QUEUE = 100_000
_MOST_RETRIES = 100_000
_SHORTEST_WINDOW, _LONGEST_WINDOW = 1.0, 3600.0


def check_upstream_limits(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with how much a service may be asked for."""
    for place, limits in read.of(ServiceLimits):
        for name, value in attrs.asdict(limits).items():
            if value is not None:
                yield from _number(read, place.key(name), value, 1, _LARGEST_LIMIT)
    for place, queue in read.of(QueueSettings):
        yield from _number(read, place.key("length"), queue.length, 0, _LONGEST_QUEUE)
    for place, service in read.of(ServiceSettings):
        if service.queue.length and service.limits == ServiceLimits():
            yield _at(
                read, place.key("queue"), "without limits there is always room, and nobody waits; set one in limits"
            )
    for place, budget in read.of(RetryBudgetSettings):
        yield from _number(read, place.key("minimum"), budget.minimum, 0, _MOST_RETRIES)
        if not 0 <= budget.share <= 1:
            yield _at(read, place.key("share"), f"{budget.share:g} is not a share of the connections, from 0 to 1")
        if not _SHORTEST_WINDOW <= budget.window <= _LONGEST_WINDOW:
            yield _at(
                read,
                place.key("window"),
                f"{format_duration(budget.window)} is not between {format_duration(_SHORTEST_WINDOW)} and "
                f"{format_duration(_LONGEST_WINDOW)}",
            )


def hasty_listeners(settings: Settings) -> Iterator[Problem]:
    """Outbound listeners whose connections have no time for even one attempt, to be warned of."""
    uses = [(index, outbound, name) for index, outbound in enumerate(settings.outbound) for name in outbound.services]
    for index, outbound, name in uses:
        service = settings.services.get(name)
        if service is None:
            continue
        times: Timeouts = settings.timeouts.override(service.timeouts).override(outbound.timeouts)
        if times.establish < times.connect:
            yield Problem(
                f"outbound[{index}] ({outbound.name}): timeouts.establish, {format_duration(times.establish)}, ends "
                f"attempts before timeouts.connect, {format_duration(times.connect)}, can: none is followed by "
                "another, and who is silent is never ejected",
                outbound.mark,
            )


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))


def _number(read: SettingsReader, place: Place, value: int, least: int, most: int) -> Iterator[Problem]:
    if not least <= value <= most:
        yield _at(read, place, f"{value} is not between {least} and {most}")
