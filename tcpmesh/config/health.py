"""
The keys below ``services.*.health``: what is out of bounds, what contradicts, and whom TLS checks come from.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.settings import OutboundSettings, Settings
from tcpmesh.upstream_settings import CheckSettings, CircuitSettings, EjectionSettings, HealthSettings
from tcpmesh.values import format_duration

__all__ = ["check_health", "check_workload"]

_LEAST_TIME = 0.1  # seconds; anything shorter is a busy loop
_MOST_TIME = 86400.0
_MOST_FAILURES = 1000
_MOST_CHECKS = 100  # in a row
_MOST_JITTER = 0.5


def check_health(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with how the health of services is looked after."""
    for place, ejection in read.of(EjectionSettings):
        yield from _number(read, place.key("failures"), ejection.failures, 0, _MOST_FAILURES)
        yield from _times(read, place, ejection)
        if not 0 < ejection.max_share <= 1:
            yield _at(
                read,
                place.key("max_share"),
                f"{ejection.max_share:g} is not a share of the endpoints, above 0 and at most 1; to eject none, write "
                "failures: 0",
            )
    for place, circuit in read.of(CircuitSettings):
        yield from _number(read, place.key("failures"), circuit.failures, 1, _MOST_FAILURES)
        yield from _times(read, place, circuit)
    for place, check in read.of(CheckSettings):
        yield from _check(read, place, check)
    for place, health in read.of(HealthSettings):
        if health.slow_start is not None:
            yield from _time(read, place.key("slow_start"), health.slow_start)
    for _, settings in read.of(Settings):
        yield from _workloads(read, settings)


def _check(read: SettingsReader, place: Place, check: CheckSettings) -> Iterator[Problem]:
    yield from _time(read, place.key("interval"), check.interval)
    if not 0.001 <= check.timeout <= check.interval:
        yield _misfit(
            read,
            place.key("timeout"),
            f"{format_duration(check.timeout)} is not between 1ms and the interval, {format_duration(check.interval)}",
        )
    if not 0 <= check.jitter <= _MOST_JITTER:
        yield _at(
            read,
            place.key("jitter"),
            f"{check.jitter:g} is not a share of the interval, from 0 to {_MOST_JITTER:g}",
        )
    yield from _number(read, place.key("rise"), check.rise, 1, _MOST_CHECKS)
    yield from _number(read, place.key("fall"), check.fall, 1, _MOST_CHECKS)
    if check.type == "tcp" and check.workload is not None:
        yield _at(read, place.key("workload"), "checks of type tcp show no identity; write type: tls, or leave it out")


def _times(read: SettingsReader, place: Place, settings: EjectionSettings | CircuitSettings) -> Iterator[Problem]:
    yield from _time(read, place.key("time"), settings.time)
    yield from _time(read, place.key("max_time"), settings.max_time)
    if settings.max_time < settings.time:
        yield _misfit(
            read,
            place.key("max_time"),
            f"{format_duration(settings.max_time)} is shorter than time, {format_duration(settings.time)}",
        )


def _time(read: SettingsReader, place: Place, seconds: float) -> Iterator[Problem]:
    if not _LEAST_TIME <= seconds <= _MOST_TIME:
        yield _at(
            read,
            place,
            f"{format_duration(seconds)} is too {'short' if seconds < _LEAST_TIME else 'long'}; write "
            f"{format_duration(_LEAST_TIME)} to {format_duration(_MOST_TIME)}",
        )


def _number(read: SettingsReader, place: Place, value: int, least: int, most: int) -> Iterator[Problem]:
    if not least <= value <= most:
        yield _at(read, place, f"{value} is not between {least} and {most}")


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    # What is wrong may be a default: then the mapping is the place to write something else.
    parent = place.path.rpartition(".")[0]
    return Problem(f"{place}: {message}", read.marks.get(place.path, read.marks.get(parent)))


def _misfit(read: SettingsReader, place: Place, message: str) -> Problem:
    # Who did not write this key, but the one that it does not fit to, is told where its value comes from.
    default = "" if place.path in read.marks else "; that is its default, so write this key, too"
    return _at(read, place, f"{message}{default}")


# --- whom TLS checks come from


def check_workload(service: str, check: CheckSettings, outbound: Iterable[OutboundSettings]) -> str:
    """
    As whom the TLS checks of a service connect.

    :raises ValueError: when nobody says so, and the listeners that lead to the service are not of one workload.
    """
    if check.workload is not None:
        return check.workload
    found = list(dict.fromkeys(listener.workload for listener in outbound if service in listener.services))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError("no outbound listener leads to the service; name the workload that its checks come from")
    raise ValueError(f"several workloads use the service: {', '.join(found)}; name the one that its checks come from")


def _workloads(read: SettingsReader, settings: Settings) -> Iterator[Problem]:
    services = {id(health): place for place, health in read.of(HealthSettings)}
    for name, service in settings.services.items():
        check = service.health.check
        place = services.get(id(service.health))
        if check is None or check.type != "tls" or place is None:
            continue
        try:
            check_workload(name, check, settings.outbound)
        except ValueError as error:
            at = place.key("check").key("workload")
            yield _at(read, at, str(error))
