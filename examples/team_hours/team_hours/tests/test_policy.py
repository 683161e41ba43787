"""The policy team-hours keeps the contract, and the hours."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.interfaces import PluginContext
from tcpmesh.testing import AuthorizationPolicyContract, authorization_request, peer_identity
from tcpmesh.values import AuthorizationRequest, Effect
from team_hours.policy import Hours, TeamHours, TeamHoursFactory, TeamHoursSettings

MONDAY = 1_767_571_200.0  # 2026-01-05, 00:00 UTC
HOUR, DAY = 3600.0, 86400.0


class TeamHoursTests(AuthorizationPolicyContract, SynchronousTestCase):
    """Team day from 8 to 18 in UTC, team york from 9 to 17 in New York, five hours later, also on Sundays."""

    now = MONDAY + 15 * HOUR

    def make_factory(self) -> TeamHoursFactory:
        return TeamHoursFactory()

    def make_settings(self) -> TeamHoursSettings:
        return TeamHoursSettings({"day": Hours(8, 18), "york": Hours(9, 17, [1, 7], "America/New_York")})

    def make_context(self) -> PluginContext:
        return attrs.evolve(super().make_context(), wall_clock=lambda: self.now)

    def allowed(self) -> list[AuthorizationRequest]:
        return [authorization_request(f"spiffe://example.test/team/{team}/web") for team in ("day", "york")]

    def denied(self) -> list[AuthorizationRequest]:
        others = ["team/night/web", "teams/day/web", "day/web", "team", "x/team/day"]
        found = [authorization_request(f"spiffe://example.test/{path}") for path in others]
        found.append(authorization_request("spiffe://partner.example/team/day/web"))
        return [*found, authorization_request(peer_identity(None, dns_name="day.example.test"))]

    def test_hours_are_kept(self) -> None:
        """From the first second to the last, on the days of the team, by its own clock."""
        day, york = self.allowed()
        for request, now, effect in [
            (day, MONDAY + 8 * HOUR, Effect.ALLOW),
            (day, MONDAY + 8 * HOUR - 1, Effect.DENY),
            (day, MONDAY + 18 * HOUR - 1, Effect.ALLOW),
            (day, MONDAY + 18 * HOUR, Effect.DENY),
            (day, MONDAY - DAY + 12 * HOUR, Effect.DENY),
            (york, MONDAY + 13 * HOUR, Effect.DENY),
            (york, MONDAY + 14 * HOUR, Effect.ALLOW),
            (york, MONDAY - DAY + 21 * HOUR, Effect.ALLOW),
            (york, MONDAY + DAY + 15 * HOUR, Effect.DENY),
        ]:
            self.now = now
            self.assertEqual(self.decision(request).effect, effect, now)

    def test_an_answer_counts_until_the_next_full_hour(self) -> None:
        """When it may become another one."""
        self.now = MONDAY + 15 * HOUR + 60
        policy: TeamHours = self.create()
        self.assertEqual(policy.decide(self.allowed()[0]).valid_for, HOUR - 60)

    def test_a_zone_that_is_none_is_refused(self) -> None:
        """While the configuration is read."""
        self.assertRaises(Exception, Hours, 8, 18, [1], "Nowhere/Town")  # noqa: B017
