"""The authorization policy ``team-hours``: lets spiffe://…/team/NAME/… in at the hours of team NAME."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import attrs
from zope.interface import implementer

from tcpmesh.interfaces import IAuthorizationPolicy, IAuthorizationPolicyFactory, PluginContext
from tcpmesh.values import AuthorizationRequest, Decision, Effect


@attrs.frozen
class Hours:
    """From one hour to another, Monday to Friday unless ``days`` says otherwise (1 is Monday)."""

    start: int
    end: int
    days: list[int] = attrs.field(factory=lambda: [1, 2, 3, 4, 5])
    zone: str = attrs.field(default="UTC", validator=lambda _self, _field, value: ZoneInfo(value))


@attrs.frozen
class TeamHoursSettings:
    """The keys beside ``plugin: team-hours``."""

    teams: dict[str, Hours]


@implementer(IAuthorizationPolicy)
class TeamHours:
    """Allows a team in its hours, denies it outside of them, abstains about everybody else."""

    def __init__(self, settings: TeamHoursSettings, context: PluginContext) -> None:
        self._teams, self._domain, self._now = settings.teams, context.trust_domain, context.wall_clock

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Look who it is, and at the clock."""
        peer = request.peer.spiffe_id
        if (
            peer is None
            or peer.trust_domain != self._domain
            or peer.segments[:1] != ("team",)
            or len(peer.segments) < 2
        ):
            return Decision(Effect.ABSTAIN)
        hours = self._teams.get(peer.segments[1])
        if hours is None:
            return Decision(Effect.ABSTAIN)
        now = datetime.fromtimestamp(self._now(), ZoneInfo(hours.zone))
        effect = Effect.ALLOW if hours.start <= now.hour < hours.end and now.isoweekday() in hours.days else Effect.DENY
        full_hour = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        reason = f"team {peer.segments[1]} comes from {hours.start} to {hours.end} o'clock, and it is {now:%a %H:%M}"
        return Decision(effect, "team-hours", peer.segments[1], reason, (full_hour - now).total_seconds())

    def describe(self) -> Sequence[str]:
        """One line per team."""
        return [
            f"team {name}: {hours.start} to {hours.end} o'clock {hours.zone}" for name, hours in self._teams.items()
        ]


@implementer(IAuthorizationPolicyFactory)
class TeamHoursFactory:
    """What tcpmesh finds under ``plugin: team-hours``."""

    name, description, settings = "team-hours", "each team at its own hours", TeamHoursSettings

    def create(self, settings: TeamHoursSettings, context: PluginContext) -> TeamHours:
        """Make one policy."""
        return TeamHours(settings, context)
