"""What each plugin is for."""

from __future__ import annotations

import datetime
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from acme_mesh.discovery_list import ListFactory, ListSettings
from acme_mesh.identity_command import CommandSettings
from acme_mesh.least_used import LeastUsed
from acme_mesh.office_hours import OfficeHours, OfficeHoursFactory, OfficeHoursSettings
from acme_mesh.patient import Patient, PatientSettings
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.testing import FakeDiscoveryObserver, attempt_failure, authorization_request, endpoint, plugin_context
from tcpmesh.values import Duration, Effect, RetryContext

WEB = SpiffeId.parse("spiffe://example.test/web")


class ListTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = Clock()
        self.observer = FakeDiscoveryObserver()

    def start(self) -> None:
        discovery = ListFactory().create(ListSettings(self.path), plugin_context(clock=self.clock))
        discovery.start(self.observer)
        self.addCleanup(discovery.stop)

    def test_delivers_changes_only(self) -> None:
        """A new line is delivered at the next look, an unchanged file is not."""
        self.path.write_text("127.0.0.1:1\n")
        self.start()
        self.clock.advance(5)
        self.path.write_text("127.0.0.1:1\n127.0.0.1:2\n")
        self.clock.advance(5)
        self.assertEqual(self.observer.deliveries, [(endpoint(1),), (endpoint(1), endpoint(2))])

    def test_a_bad_file_keeps_the_last_list(self) -> None:
        """A file that is gone, empty, wrong or huge is reported once, and the list stays."""
        self.path.write_text("127.0.0.1:1\n")
        self.start()
        for text, message in [
            ("", "holds no address"),
            ("127.0.0.1:1\nlocalhost:2\n", "line 2: "),
            ("# " + 65536 * "x", "larger than 65536 bytes"),
        ]:
            self.path.write_text(text)
            self.clock.pump([5, 5])
            self.assertIn(message, self.observer.failures[-1])
        self.path.unlink()
        self.clock.advance(5)
        self.assertEqual(len(self.observer.failures), 4)
        self.assertEqual(self.observer.deliveries, [(endpoint(1),)])

    def test_recovers(self) -> None:
        """A file that appears after the start is found."""
        self.start()
        self.path.write_text("127.0.0.1:1\n")
        self.clock.advance(5)
        self.assertEqual(self.observer.deliveries, [(endpoint(1),)])


class OfficeHoursTests(SynchronousTestCase):
    def effect(self, moment: str, zone: str = "UTC", peer: str = str(WEB)) -> Effect:
        now = datetime.datetime.fromisoformat(moment)
        policy = OfficeHours(OfficeHoursSettings([WEB], start=8, end=18, zone=zone), lambda: now)
        return policy.decide(authorization_request(peer)).effect

    def test_opens_and_closes_on_the_hour(self) -> None:
        """The first second belongs to the hours, the last one does not; Saturday is no working day."""
        self.assertIs(self.effect("2026-03-02T07:59:59+00:00"), Effect.DENY)
        self.assertIs(self.effect("2026-03-02T08:00:00+00:00"), Effect.ALLOW)
        self.assertIs(self.effect("2026-03-02T17:59:59+00:00"), Effect.ALLOW)
        self.assertIs(self.effect("2026-03-02T18:00:00+00:00"), Effect.DENY)
        self.assertIs(self.effect("2026-03-07T12:00:00+00:00"), Effect.DENY)

    def test_hours_are_those_of_the_zone(self) -> None:
        """At eight in Berlin it is seven in Greenwich, in winter."""
        self.assertIs(self.effect("2026-03-02T07:00:00+00:00", "Europe/Berlin"), Effect.ALLOW)

    def test_has_nothing_to_say_about_others(self) -> None:
        """Whom it does not name is left to other policies."""
        self.assertIs(self.effect("2026-03-02T12:00:00+00:00", peer="spiffe://example.test/x"), Effect.ABSTAIN)

    def test_an_answer_is_valid_until_the_next_hour(self) -> None:
        """Nothing changes before."""
        now = datetime.datetime.fromisoformat("2026-03-02T09:59:50+00:00")
        decision = OfficeHours(OfficeHoursSettings([WEB]), lambda: now).decide(authorization_request(str(WEB)))
        self.assertEqual(decision.valid_for, 10.0)

    def test_refuses_impossible_hours(self) -> None:
        """Each mistake is named."""
        context = plugin_context()
        cases = [
            (lambda: OfficeHoursSettings([]), "the list is empty, so that nobody could ever come in"),
            (lambda: OfficeHoursSettings([WEB], start=25), "25 is not an hour from 0 to 24"),
            (lambda: OfficeHoursSettings([WEB], zone="Mars/Olympus"), "'Mars/Olympus' is not a time zone"),
            (
                lambda: OfficeHoursFactory().create(OfficeHoursSettings([WEB], start=18, end=8), context),
                "end at 8, before they",
            ),
        ]
        for make, message in cases:
            self.assertIn(message, str(self.assertRaises(ValueError, make)))


class PatientTests(SynchronousTestCase):
    def test_stops_when_the_time_is_spent(self) -> None:
        """Slow failures leave room for fewer attempts than fast ones."""
        strategy = Patient(PatientSettings(Duration(1.0), Duration(5.0)))
        for took, expected in ((0.0, 5), (1.5, 2)):
            context = RetryContext("orders")
            count = 0
            for wait in strategy.attempts(context):
                context.elapsed += wait + took
                count += 1
            self.assertEqual(count, expected)

    def test_refuses_times_of_nothing(self) -> None:
        """A wait of zero would never end in a test with a standing clock, nor help anybody."""
        self.assertEqual(str(self.assertRaises(ValueError, PatientSettings, 0.0)), "wait must be longer than nothing")


class LeastUsedTests(SynchronousTestCase):
    def test_evens_out_connections(self) -> None:
        """Each new connection goes where there are fewest, relative to the weight."""
        one, heavy = endpoint(1), endpoint(2, weight=2)
        balancer = LeastUsed()
        picked = []
        for _ in range(6):
            choice = balancer.pick((one, heavy), frozenset())
            assert choice is not None
            balancer.opened(choice)
            picked.append(choice)
        self.assertEqual((picked.count(one), picked.count(heavy)), (2, 4))
        balancer.closed(one)
        self.assertEqual(balancer.pick((one, heavy), frozenset()), one)

    def test_a_failed_attempt_no_longer_counts(self) -> None:
        """After everything ended nothing is remembered."""
        balancer = LeastUsed()
        balancer.opened(endpoint(1))
        balancer.failed(endpoint(1), attempt_failure())
        self.assertEqual(balancer.pick((endpoint(1), endpoint(2)), frozenset()), endpoint(1))
        self.assertFalse(balancer._used)


class CommandTests(SynchronousTestCase):
    def test_needs_a_program(self) -> None:
        """An empty command is refused when the configuration is read."""
        message = str(self.assertRaises(ValueError, CommandSettings, []))
        self.assertEqual(message, "the list is empty; name the program and its arguments")
