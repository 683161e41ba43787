"""The log lines about health: one per change, complete in itself, and a count when there are too many."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CIRCUIT_OPEN, ENDPOINT_DOWN, ENDPOINT_EJECTED
from tcpmesh.health.states import ChangeWord, HealthChange
from tcpmesh.observe.health_lines import LINES, HealthLines
from tcpmesh.values import TCPAddress

ADDRESS = TCPAddress("127.0.0.1", 4143)


class HealthLinesTests(SynchronousTestCase):
    """With a clock of the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[LogEvent] = []
        log: Any = Logger(namespace="test", observer=self.events.append)  # type: ignore[arg-type]
        self.lines = HealthLines(self.clock, log)
        self.addCleanup(self.lines.close)

    def tell(self, change: ChangeWord = "ejected", *, service: str = "orders", reason: str = "why") -> None:
        address = None if change.startswith("circuit") else ADDRESS
        self.lines.tell(HealthChange(service, address, change, reason, 12.34 if change == "ejected" else 0.0))

    def said(self) -> list[str]:
        said, self.events[:] = [event["line"] for event in self.events], []
        return said

    def test_say_who_why_how_long_and_what_next(self) -> None:
        """The same in the text and in the fields."""
        self.tell()
        [event] = self.events
        self.assertEqual(
            event["line"],
            "endpoint ejected: code=TM-U116 service=orders endpoint=127.0.0.1:4143 for=12.3s reason=why "
            f'next="{ENDPOINT_EJECTED.next_step}"',
        )
        self.assertEqual((event["log_level"], event["summary"]), (LogLevel.warn, "endpoint ejected"))
        self.assertEqual(event["fields"]["endpoint"], "127.0.0.1:4143")

    def test_warn_of_the_worse_and_inform_of_the_better(self) -> None:
        """Each with its code; what is better needs nothing done."""
        expected: list[tuple[ChangeWord, LogLevel, str]] = [
            ("ejected", LogLevel.warn, ENDPOINT_EJECTED.id),
            ("back", LogLevel.info, ENDPOINT_EJECTED.id),
            ("down", LogLevel.warn, ENDPOINT_DOWN.id),
            ("up", LogLevel.info, ENDPOINT_DOWN.id),
            ("circuit-open", LogLevel.warn, CIRCUIT_OPEN.id),
            ("circuit-closed", LogLevel.info, CIRCUIT_OPEN.id),
        ]
        for change, level, code in expected:
            self.tell(change)
            fields = self.events[-1]["fields"]
            self.assertEqual((self.events[-1]["log_level"], fields["code"]), (level, code))
            self.assertEqual("next" in fields, level is LogLevel.warn)
            self.assertEqual("endpoint" in fields, not change.startswith("circuit"))

    def test_a_flood_is_a_count(self) -> None:
        """Of one service; another one is heard."""
        for _ in range(LINES + 5):
            self.tell()
        self.tell(service="archive")
        self.assertEqual(len(self.said()), LINES + 1)
        self.clock.advance(9.9)
        self.assertEqual(self.said(), [])
        self.clock.advance(0.1)
        self.assertEqual(self.said(), ["5 more changes of the service's health suppressed within 10s: service=orders"])
        self.tell()
        self.assertEqual(len(self.said()), 1)

    def test_the_end_tells_the_counts(self) -> None:
        """And leaves no timer behind."""
        for _ in range(LINES + 1):
            self.tell()
        self.said()
        self.lines.close()
        self.assertEqual(len(self.said()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_strange_reasons_stay_within_their_field(self) -> None:
        """A part of them may be a peer's."""
        self.tell(reason='a "{code}"\n\x1b[31m next=nothing')
        [line] = self.said()
        self.assertTrue(line.isascii() and line.isprintable(), line)
        self.assertIn(r'reason="a \"{code}\"\n\u001b[31m next=nothing"', line)
