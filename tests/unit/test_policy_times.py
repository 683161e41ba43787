"""When a policy holds: hours, days, time zones with their changes, and certificates' times."""

from __future__ import annotations

import datetime

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.times import (
    CertificateTimes,
    Conditions,
    Schedule,
    TimeZone,
    Window,
    parse_hours,
    parse_zone,
)
from tcpmesh.testing import peer_identity
from tcpmesh.values import Duration, PeerIdentity

PEER = peer_identity()
BERLIN = parse_zone("Europe/Berlin")


def moment(text: str) -> float:
    """Seconds since the epoch of a time with its offset."""
    return datetime.datetime.fromisoformat(text).timestamp()


class WindowTests(SynchronousTestCase):
    """``windows``."""

    def schedule(self, *hours: str, days: list[str] | None = None, zone: TimeZone | None = None) -> Schedule:
        window = Window(days, [parse_hours(text) for text in hours] or None, zone)  # type: ignore[arg-type]
        return Schedule(Conditions(windows=[window]))

    def changes(self, schedule: Schedule, start: str, count: int) -> list[tuple[str, bool]]:
        """What holds from when on, in UTC: where the schedule says that it may change, and does."""
        now = moment(start)
        holds, until = schedule.at(PEER, now)
        found = [(start, holds)]
        while len(found) < count:
            self.assertGreater(until, now)
            now = until
            before, (holds, until) = holds, schedule.at(PEER, now)
            if holds is not before:
                text = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat()
                found.append((text.replace("+00:00", "Z"), holds))
        return found

    def test_begins_and_ends_to_the_second(self) -> None:
        """It holds at its first second, and no longer at its last one."""
        schedule = self.schedule("08:00-18:00")
        for text, expected in {
            "2026-11-23T07:59:59+00:00": False,
            "2026-11-23T08:00:00+00:00": True,
            "2026-11-23T17:59:59+00:00": True,
            "2026-11-23T18:00:00+00:00": False,
        }.items():
            self.assertEqual(schedule.at(PEER, moment(text))[0], expected, text)

    def test_days_are_those_of_the_zone(self) -> None:
        """Monday begins in Berlin while it is Sunday in London."""
        found = self.changes(self.schedule(days=["mon"], zone=BERLIN), "2026-11-22T12:00:00Z", 4)
        self.assertEqual(
            found,
            [
                ("2026-11-22T12:00:00Z", False),
                ("2026-11-22T23:00:00Z", True),
                ("2026-11-23T23:00:00Z", False),
                ("2026-11-29T23:00:00Z", True),
            ],
        )

    def test_a_night_belongs_to_the_day_on_which_it_begins(self) -> None:
        """Friday's ends on Saturday, and Saturday has none."""
        found = self.changes(self.schedule("22:00-06:00", days=["fri"]), "2026-11-26T23:00:00Z", 4)
        self.assertEqual(
            found[1:],
            [("2026-11-27T22:00:00Z", True), ("2026-11-28T06:00:00Z", False), ("2026-12-04T22:00:00Z", True)],
        )

    def test_an_hour_that_the_clock_skips(self) -> None:
        """On 2026-03-29 Berlin has no 02:30; the window begins when it would have, and the next day is as ever."""
        found = self.changes(self.schedule("02:30-05:00", zone=BERLIN), "2026-03-29T00:00:00Z", 4)
        self.assertEqual(
            found[1:],
            [("2026-03-29T01:30:00Z", True), ("2026-03-29T03:00:00Z", False), ("2026-03-30T00:30:00Z", True)],
        )

    def test_an_hour_that_the_clock_shows_twice(self) -> None:
        """On 2026-10-25 Berlin has two 02:30; the first one is meant, as a beginning and as an end."""
        found = self.changes(self.schedule("02:30-05:00", zone=BERLIN), "2026-10-24T22:00:00Z", 3)
        self.assertEqual(found[1:], [("2026-10-25T00:30:00Z", True), ("2026-10-25T04:00:00Z", False)])
        found = self.changes(self.schedule("00:30-02:30", zone=BERLIN), "2026-10-24T22:00:00Z", 3)
        self.assertEqual(found[1:], [("2026-10-24T22:30:00Z", True), ("2026-10-25T00:30:00Z", False)])

    def test_days_have_the_length_that_they_have(self) -> None:
        """A whole day is 23 hours long when clocks are set forward, 25 when they are set back."""
        for day, hours in (("2026-03-28", 23), ("2026-10-24", 25)):
            found = self.changes(self.schedule(days=["sun"], zone=BERLIN), f"{day}T12:00:00Z", 3)
            begin, end = (moment(text) for text, _ in found[1:])
            self.assertEqual((end - begin) / 3600, hours)

    def test_a_clock_that_is_set_back_is_followed(self) -> None:
        """What was computed for later does not count for earlier."""
        schedule = self.schedule("08:00-18:00")
        self.assertTrue(schedule.at(PEER, moment("2026-11-23T12:00:00+00:00"))[0])
        self.assertFalse(schedule.at(PEER, moment("2026-11-23T05:00:00+00:00"))[0])
        self.assertTrue(schedule.at(PEER, moment("2026-11-23T12:00:00+00:00"))[0])

    def test_any_of_several_windows_will_do(self) -> None:
        """And the next boundary is that of the nearest."""
        schedule = Schedule(
            Conditions(windows=[Window(hours=[parse_hours("08:00-09:00")]), Window(hours=[parse_hours("08:30-10:00")])])
        )
        self.assertEqual(
            self.changes(schedule, "2026-11-23T07:00:00Z", 3)[1:],
            [("2026-11-23T08:00:00Z", True), ("2026-11-23T10:00:00Z", False)],
        )
        at, change = moment("2026-11-23T08:45:00+00:00"), moment("2026-11-23T09:00:00+00:00")
        self.assertEqual(schedule.at(PEER, at), (True, change))

    def test_refuses_what_is_no_part_of_a_day(self) -> None:
        """Each refusal says what to write."""
        for text, message in {
            "08:00-08:00": "ends when it begins, so it never holds; for whole days leave hours out",
            "24:00-06:00": "has a time that no day has",
            "08:00-24:01": "has a time that no day has",
            "8:00-18:00": 'write "08:00-18:00", with two digits each',
            "08:00-18:60": "is no part of a day",
            "08:00": "is no part of a day",
            "08:00-18:00\n": "is no part of a day",
            "\u06608:00-18:00": "is no part of a day",
        }.items():
            self.assertIn(message, str(self.assertRaises(ValueError, parse_hours, text)))
        self.assertEqual(parse_hours("00:00-24:00").end, 24 * 60)

    def test_refuses_zones_that_do_not_exist(self) -> None:
        """With the one that was probably meant; names are no paths."""
        self.assertEqual((parse_zone("Europe/Berlin"), str(BERLIN)), (BERLIN, "Europe/Berlin"))
        for text, message in {
            "Europe/Berln": "did you mean 'Europe/Berlin'?",
            "../../etc/passwd": "there is no time zone '../../etc/passwd'",
            "/etc/localtime": "there is no time zone",
            "a\0b": "there is no time zone 'a\\x00b'",
            "": "there is no time zone ''",
        }.items():
            self.assertIn(message, str(self.assertRaises(ValueError, parse_zone, text)))


class CertificateTests(SynchronousTestCase):
    """``certificate``."""

    def at(self, now: float, **times: float) -> tuple[bool, float]:
        peer = PeerIdentity(PEER.spiffe_id, "01", not_before=1000.0, not_after=2000.0)
        given = CertificateTimes(**{key: Duration(value) for key, value in times.items()})
        return Schedule(Conditions(certificate=given)).at(peer, now)

    def test_ages(self) -> None:
        """min_age holds from its second on, max_age until the second before; each says when that changes."""
        self.assertEqual(self.at(1099.0, min_age=100), (False, 1100.0))
        self.assertEqual(self.at(1100.0, min_age=100), (True, float("inf")))
        self.assertEqual(self.at(1099.0, max_age=100), (True, 1100.0))
        self.assertEqual(self.at(1100.0, max_age=100), (False, float("inf")))
        self.assertEqual(self.at(1050.0, min_age=100, max_age=200), (False, 1100.0))
        self.assertEqual(self.at(1150.0, min_age=100, max_age=200), (True, 1200.0))

    def test_remaining_times(self) -> None:
        """The same from the end."""
        self.assertEqual(self.at(1899.0, min_remaining=100), (True, 1900.0))
        self.assertEqual(self.at(1900.0, min_remaining=100), (False, float("inf")))
        self.assertEqual(self.at(1899.0, max_remaining=100), (False, 1900.0))
        self.assertEqual(self.at(1900.0, max_remaining=100), (True, float("inf")))

    def test_what_never_holds_is_refused(self) -> None:
        """As is what says nothing."""
        for times, message in (
            ({"min_age": 5.0, "max_age": 5.0}, "min_age must be less than max_age"),
            ({"min_remaining": 6.0, "max_remaining": 5.0}, "min_remaining must be less than max_remaining"),
            ({}, "nothing is said of it"),
        ):
            given = {key: Duration(value) for key, value in times.items()}
            self.assertIn(message, str(self.assertRaises(ValueError, CertificateTimes, **given)))
        self.assertIn("nothing is said here", str(self.assertRaises(ValueError, Conditions)))
