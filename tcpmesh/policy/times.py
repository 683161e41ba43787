"""
When a policy holds: hours of days in a time zone, and how old or near its end the peer's certificate is.

Ring 1. Everything begins at its first second and ends before its last: 08:00-18:00 holds at 08:00:00, and no longer at
18:00:00. An hour that the clock shows twice is meant the first time; one that it skips begins when it would have.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs

from tcpmesh.addresses import shown
from tcpmesh.values import Duration, PeerIdentity

__all__ = [
    "DAYS",
    "CertificateTimes",
    "Conditions",
    "Hours",
    "Schedule",
    "TimeZone",
    "Weekday",
    "Window",
    "parse_hours",
    "parse_zone",
]

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_HOURS = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DAY = 24 * 60
_NEVER = float("inf")


@attrs.frozen
class Hours:
    """A part of a day, in minutes from its midnight; an ``end`` beyond 24 hours is on the next day."""

    start: int
    end: int
    text: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        return self.text


_WHOLE_DAY = Hours(0, _DAY)


def parse_hours(text: str) -> Hours:
    """
    Read ``08:00-18:00``; ``22:00-06:00`` ends on the day after.

    :raises ValueError: saying what is wrong.
    """
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f'{shown(text)} is no part of a day; write "08:00-18:00", with two digits each')
    start, end = (int(found[place]) * 60 + int(found[place + 1]) for place in (1, 3))
    if start >= _DAY or end > _DAY:
        raise ValueError(f"{shown(text)} has a time that no day has; the last one is 24:00, as an end")
    if start == end:
        raise ValueError(f"{shown(text)} ends when it begins, so it never holds; for whole days leave hours out")
    return Hours(start, end if end > start else end + _DAY, text)


@attrs.frozen
class TimeZone:
    """A time zone of the system's database."""

    name: str
    rules: datetime.tzinfo = attrs.field(eq=False, repr=False)

    def __str__(self) -> str:
        return self.name


def parse_zone(text: str) -> TimeZone:
    """
    Find a time zone by its name in the system's database, as ``Europe/Berlin``.

    :raises ValueError: when there is none of that name.
    """
    import zoneinfo

    try:
        return TimeZone(text, zoneinfo.ZoneInfo(text))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
    if not known:
        raise ValueError("this machine has no time zones; install the package tzdata") from None
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; zones are written as Europe/Berlin"
    raise ValueError(f"there is no time zone {shown(text)}{hint}")


def _not_empty(_instance: object, _attribute: object, value: Any) -> None:
    if value is not None and not value:
        raise ValueError("the list is empty, so that it would never hold; leave it out for all")


@attrs.frozen
class Window:
    """``windows``: hours of days, which are those of the time zone."""

    days: list[Weekday] | None = attrs.field(default=None, validator=_not_empty)  # none: every day
    hours: list[Hours] | None = attrs.field(default=None, validator=_not_empty)  # none: whole days
    timezone: TimeZone | None = None  # none: UTC

    def spans(self, now: float) -> Iterator[tuple[float, float]]:
        """When it holds, from what has not ended before ``now`` to a week later, in seconds since the epoch."""
        zone = self.timezone.rules if self.timezone is not None else datetime.UTC
        today = datetime.datetime.fromtimestamp(now, zone).date()
        for offset in range(-2, 9):
            day = today + datetime.timedelta(days=offset)
            if self.days is None or DAYS[day.weekday()] in self.days:
                for hours in self.hours or (_WHOLE_DAY,):
                    yield _moment(day, hours.start, zone), _moment(day, hours.end, zone)


def _moment(day: datetime.date, minutes: int, zone: datetime.tzinfo) -> float:
    days, minutes = divmod(minutes, _DAY)
    clock = datetime.time(minutes // 60, minutes % 60, tzinfo=zone)
    return datetime.datetime.combine(day + datetime.timedelta(days=days), clock).timestamp()


@attrs.frozen
class CertificateTimes:
    """``certificate``: how long ago the peer's certificate became valid, and how long it remains so."""

    min_age: Duration | None = None
    max_age: Duration | None = None
    min_remaining: Duration | None = None
    max_remaining: Duration | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what says nothing, or never holds."""
        if all(value is None for value in attrs.astuple(self)):
            raise ValueError("nothing is said of it; give min_age, max_age, min_remaining or max_remaining")
        for low, high, what in (
            (self.min_age, self.max_age, "age"),
            (self.min_remaining, self.max_remaining, "remaining"),
        ):
            if low is not None and high is not None and low >= high:
                raise ValueError(f"min_{what} must be less than max_{what}, else it never holds")

    def span(self, peer: PeerIdentity) -> tuple[float, float]:
        """When it holds for a certificate; it never does when the end is not behind the beginning."""
        start, end = -_NEVER, _NEVER
        if self.min_age is not None:
            start = peer.not_before + self.min_age
        if self.max_remaining is not None:
            start = max(start, peer.not_after - self.max_remaining)
        if self.max_age is not None:
            end = peer.not_before + self.max_age
        if self.min_remaining is not None:
            end = min(end, peer.not_after - self.min_remaining)
        return start, end


@attrs.frozen
class Conditions:
    """``when``: what must hold beside who comes from where to what; all of it, and one of the ``windows``."""

    certificate: CertificateTimes | None = None
    windows: list[Window] | None = attrs.field(default=None, validator=_not_empty)

    def __attrs_post_init__(self) -> None:
        """Refuse what says nothing."""
        if self.certificate is None and self.windows is None:
            raise ValueError("nothing is said here; give certificate or windows, or leave 'when' out")


class Schedule:
    """Conditions, made ready to be asked often: the windows are computed once for each of their changes."""

    __slots__ = ("_certificate", "_holds", "_since", "_until", "_windows")

    def __init__(self, conditions: Conditions) -> None:
        self._certificate = conditions.certificate
        self._windows = conditions.windows
        self._since, self._until, self._holds = _NEVER, -_NEVER, False

    def at(self, peer: PeerIdentity, now: float) -> tuple[bool, float]:
        """Whether the conditions hold, and the first moment after ``now`` at which that may change, or infinity."""
        holds, until = (True, _NEVER) if self._windows is None else self._at(self._windows, now)
        if self._certificate is not None:
            start, end = self._certificate.span(peer)
            holds = holds and start <= now < end
            until = min([until, *(edge for edge in (start, end) if edge > now)])
        return holds, until

    def _at(self, windows: Sequence[Window], now: float) -> tuple[bool, float]:
        if not self._since <= now < self._until:
            spans = [span for window in windows for span in window.spans(now)]
            self._since = now
            self._until = min(edge for span in spans for edge in span if edge > now)
            self._holds = any(start <= now < end for start, end in spans)
        return self._holds, self._until
