"""The authorization policy ``acme-office-hours``: allows whom it names on some days, from hour to hour."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
from zope.interface import implementer

from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.interfaces import IAuthorizationPolicy, IAuthorizationPolicyFactory, PluginContext
from tcpmesh.values import AuthorizationRequest, Decision, Effect

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)


def _not_empty(_instance: object, _attribute: object, value: list[Any]) -> None:
    if not value:
        raise ValueError("the list is empty, so that nobody could ever come in")


def _check_hour(_instance: object, _attribute: object, value: int) -> None:
    if not 0 <= value <= 24:
        raise ValueError(f"{value} is not an hour from 0 to 24")


def _check_zone(_instance: object, _attribute: object, value: str) -> None:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{value!r} is not a time zone like Europe/Berlin, or this machine has no tzdata") from None


@attrs.frozen
class OfficeHoursSettings:
    """``ids`` may come in on ``days`` between the hours ``start`` and ``end`` of ``zone``, else they are denied."""

    ids: list[SpiffeId] = attrs.field(validator=_not_empty)
    days: list[Day] = attrs.field(factory=lambda: list(DAYS[:5]), validator=_not_empty)
    start: int = attrs.field(default=8, validator=_check_hour)
    end: int = attrs.field(default=18, validator=_check_hour)
    zone: str = attrs.field(default="UTC", validator=_check_zone)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@implementer(IAuthorizationPolicy)
class OfficeHours:
    """Allows in office hours, denies outside of them, abstains about everybody else."""

    def __init__(self, settings: OfficeHoursSettings, now: Callable[[], datetime.datetime]) -> None:
        self._ids = frozenset(settings.ids)
        self._settings = settings
        self._zone = ZoneInfo(settings.zone)
        self._now = now

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Look at the clock."""
        peer = request.peer.spiffe_id
        if peer not in self._ids:
            return Decision(Effect.ABSTAIN)
        now = self._now().astimezone(self._zone)
        open_now = DAYS[now.weekday()] in self._settings.days and self._settings.start <= now.hour < self._settings.end
        # Asked again at the next full hour at the latest: until then the answer stays the same.
        valid_for = 3600.0 - now.minute * 60 - now.second
        reason = f"it is {now:%a %H:%M} and the office is {'open' if open_now else 'closed'}"
        return Decision(Effect.ALLOW if open_now else Effect.DENY, "office-hours", self._hours, reason, valid_for)

    @property
    def _hours(self) -> str:
        return (
            f"{' '.join(self._settings.days)} {self._settings.start}:00-{self._settings.end}:00 {self._settings.zone}"
        )

    def describe(self) -> Sequence[str]:
        """One line for all."""
        return [f"allow {', '.join(map(str, sorted(self._ids)))} {self._hours}"]


@implementer(IAuthorizationPolicyFactory)
class OfficeHoursFactory:
    """
    Makes policies of office hours.

    :param now: the time of day; tests have their own.
    """

    name = "acme-office-hours"
    description = "whom it names, in office hours only"
    settings = OfficeHoursSettings

    def __init__(self, now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._now = now

    def create(self, settings: OfficeHoursSettings, context: PluginContext) -> OfficeHours:
        """
        Make one policy.

        :raises ValueError: when the hours end before they begin.
        """
        if settings.end <= settings.start:
            raise ValueError(f"office hours end at {settings.end}, before they begin at {settings.start}")
        return OfficeHours(settings, self._now)
