"""Failure lines: one that explains, then a count; bounded, and honest whatever a peer calls itself."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.observe.failures import WINDOW, FailureLog
from tcpmesh.observe.log import JSONLogObserver, TextLogObserver
from tests.unit.record_samples import HOSTILE, a_record


class FailureLogCase(SynchronousTestCase):
    """A failure log whose events are collected."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[LogEvent] = []
        self.log = Logger(namespace="test", observer=self.events.append)
        self.failures = FailureLog(self.clock, self.log, peers=5)

    def warnings(self) -> list[str]:
        """The texts of the warnings so far."""
        return [formatEvent(event) for event in self.events if event["log_level"] is LogLevel.warn]

    def refuse(self, **fields: Any) -> None:
        """Report a refused inbound connection."""
        self.failures.closed(a_record(**({"code": codes.UNKNOWN_AUTHORITY, "closed_by": "proxy"} | fields)))


# Of the data path, but an established connection has them behind it; and damage, which is somebody's doing.
_BEFORE_PAYLOAD = (codes.PROXY_HEADER_MALFORMED, codes.PROXY_HEADER_MISSING, codes.NOT_TLS, codes.TLS_BROKEN)


class LineTests(FailureLogCase):
    """What a line says, and which failures have one."""

    def test_names_everything_that_one_needs(self) -> None:
        """Both addresses, listener, expected and presented identity, code, reason and next step."""
        self.refuse(
            code=codes.ID_DIFFERS,
            dst_addr="127.0.0.1:5000",
            expected="spiffe://a.test/web",
            presented="spiffe://a.test/other",
            reason="expected spiffe://a.test/web, got spiffe://a.test/other",
        )
        self.assertEqual(
            self.warnings(),
            [
                "inbound connection refused: code=TM-I701 direction=inbound listener=orders-in src=10.0.0.7:40000 "
                "local=10.0.0.1:4143 dst=127.0.0.1:5000 expected=spiffe://a.test/web presented=spiffe://a.test/other "
                'reason="expected spiffe://a.test/web, got spiffe://a.test/other" '
                f'next="{codes.ID_DIFFERS.next_step}"'
            ],
        )

    def test_names_the_policy_that_denied(self) -> None:
        """The verified identity is the one presented; policy and rule are named."""
        self.refuse(
            code=codes.DENIED_BY_RULE,
            src_identity="spiffe://a.test/x",
            decision="deny",
            policy="no-x",
            rule="1",
        )
        [line] = self.warnings()
        self.assertIn('presented=spiffe://a.test/x policy=no-x rule=1 reason="a policy denies this identity"', line)

    def test_explains_to_the_application_what_it_saw(self) -> None:
        """An outbound refusal says that the reset came from here, and whether trying again can help."""
        self.refuse(direction="outbound", src_addr="127.0.0.1:9", dst_service="orders", code=codes.CONNECT_REFUSED)
        self.refuse(direction="outbound", src_addr="127.0.0.1:9", dst_service="orders", code=codes.NO_RULE_ALLOWS)
        safe, useless = self.warnings()
        self.assertTrue(safe.startswith("outbound connection failed: code=TM-U101 "), safe)
        self.assertIn(" service=orders ", safe)
        self.assertIn('application="was reset before a byte of it was sent: connecting again is safe"', safe)
        self.assertIn("connecting again will not help until this is corrected", useless)

    def test_promises_nothing_of_what_passes_and_denies_nothing(self) -> None:
        """Limits, circuits and ejections are over by themselves: nobody has to correct anything for that."""
        passing = [code for code in codes.all_codes() if code.passes]
        self.assertEqual(
            [code.id for code in passing],
            [
                *("TM-I101", "TM-L101", "TM-L102", "TM-L108", "TM-L109", "TM-L110", "TM-L111", "TM-L112"),
                *("TM-P104", "TM-T109", "TM-T110", "TM-U103", "TM-U105", "TM-U107"),
            ],
        )
        for code in passing:
            self.assertFalse(code.retryable, code.id)
            self.refuse(direction="outbound", src_addr="127.0.0.1:9", dst_service="orders", code=code)
        for line in self.warnings():
            self.assertIn("byte of it was sent: connecting again is safe, and may succeed somewhat later", line)

    def test_reports_an_attempt_that_is_followed_by_another(self) -> None:
        """The endpoint that failed has its line though the connection lives."""
        record = a_record(direction="outbound", dst_addr="10.0.0.2:4143")
        self.failures.attempt_failed(record, codes.HANDSHAKE_TIMEOUT, "no answer for 10s")
        [line] = self.warnings()
        self.assertTrue(line.startswith("attempt failed, another follows: code=TM-T102 "), line)
        self.assertIn('dst=10.0.0.2:4143 reason="no answer for 10s"', line)
        self.assertNotIn("application=", line)

    def test_keeps_quiet_about_what_is_no_failure(self) -> None:
        """Ends of established connections are for the records; a client that left is for nobody."""
        for code in (codes.CLEAN, codes.TRUNCATED_AS_EOF, codes.CANCELLED, codes.SHUTDOWN):
            self.refuse(code=code)
        for code in codes.all_codes():
            ended = code.id.startswith("TM-D") and code not in _BEFORE_PAYLOAD
            if ended or code.id in ("TM-T104", "TM-T105", "TM-T106", "TM-T107", "TM-O101"):
                self.refuse(code=code, established=True)
        self.assertEqual(self.warnings(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_speaks_of_damage_on_an_established_connection(self) -> None:
        """A TLS record that cannot be read is somebody's doing; an alert, a client that dislikes us."""
        self.refuse(code=codes.TLS_BROKEN, established=True)
        self.refuse(code=codes.PEER_ALERT, established=True)
        self.refuse(code=codes.CONNECT_REFUSED, established=True, direction="outbound", dst_addr="10.0.0.2:1")
        broken, alert, lost = self.warnings()
        self.assertTrue(lost.startswith("outbound connection broken: code=TM-U101 "), lost)
        self.assertTrue(broken.startswith("inbound connection broken: code=TM-D106 "), broken)
        self.assertTrue(alert.startswith("inbound connection broken: code=TM-I403 "), alert)

    def test_whispers_about_connect_and_close(self) -> None:
        """Health checks are for debugging only."""
        self.refuse(code=codes.NO_BYTE)
        [event] = self.events
        self.assertIs(event["log_level"], LogLevel.debug)
        self.assertEqual(
            formatEvent(event), "connected and closed without a byte: src=10.0.0.7:40000 listener=orders-in"
        )


class LimitTests(FailureLogCase):
    """How many lines there are."""

    def test_says_it_once_and_counts(self) -> None:
        """Whatever port the peer comes from; the count follows when the window ends."""
        for port in range(42):
            self.refuse(src_addr=f"10.0.0.7:{port}")
        self.assertEqual(len(self.warnings()), 1)
        self.clock.advance(WINDOW)
        self.assertEqual(
            self.warnings()[1:],
            [
                "41 more like this suppressed within 10s: code=TM-I604 listener=orders-in peer=10.0.0.7 "
                'reason="no known authority signed the peer\'s certificate"'
            ],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_begins_a_new_window_with_a_line(self) -> None:
        """After the window the next failure is explained again, and nothing is said of no suppressed ones."""
        self.refuse()
        self.clock.advance(WINDOW)
        self.refuse()
        self.assertEqual(len(self.warnings()), 2)
        self.assertEqual(self.warnings()[0], self.warnings()[1])

    def test_says_the_count_before_the_next_line_when_the_timer_is_late(self) -> None:
        """A busy reactor changes no order."""
        self.refuse()
        self.refuse()
        self.clock.rightNow += WINDOW  # the time has come, the timer has not
        self.refuse()
        self.assertEqual([line.split(":")[0] for line in self.warnings()][1:], [
            "1 more like this suppressed within 10s",
            "inbound connection refused",
        ])  # fmt: skip

    def test_tells_peers_codes_and_listeners_apart(self) -> None:
        """Only the same failure of the same peer at the same listener is suppressed."""
        self.refuse()
        self.refuse(src_addr="10.0.0.8:1")
        self.refuse(code=codes.EXPIRED)
        self.refuse(listener="other")
        self.refuse(src_addr="[2001:db8::7]:1")
        self.refuse(src_addr="[2001:db8::7]:2")
        self.assertEqual(len(self.warnings()), 5)

    def test_ends_windows_one_by_one(self) -> None:
        """Each lasts its own ten seconds."""
        for _ in range(2):
            self.refuse(src_addr="10.0.0.1:1")
        self.clock.advance(4)
        for _ in range(3):
            self.refuse(src_addr="10.0.0.2:1")
        self.clock.advance(6)
        self.assertEqual([line.split(" ")[0] for line in self.warnings()], ["inbound", "inbound", "1"])
        self.clock.advance(4)
        self.assertEqual([line.split(" ")[0] for line in self.warnings()][3:], ["2"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_takes_a_unix_peer_by_its_path(self) -> None:
        """There is no port to cut off."""
        self.refuse(src_addr="unix:/run/a:1.sock")
        self.refuse(src_addr="unix:/run/a:2.sock")
        self.assertEqual(len(self.warnings()), 2)

    def test_is_not_flooded_by_many_peers(self) -> None:
        """Beyond the limit all others share one line, and their number is not lost."""
        for number in range(100):
            self.refuse(src_addr=f"10.0.1.{number}:1")
        self.assertEqual(len(self.warnings()), 6)  # five peers and one for the others
        self.assertEqual(len(self.failures._windows), 6)
        self.clock.advance(WINDOW)
        self.assertIn("94 more like this suppressed within 10s: code=TM-I604", self.warnings()[6])
        self.assertIn("peer=(others)", self.warnings()[6].replace('"', ""))

    def test_writes_the_counts_when_it_is_closed(self) -> None:
        """The last words of a stopping proxy; no timer stays."""
        for _ in range(3):
            self.refuse()
        self.failures.close()
        self.assertTrue(self.warnings()[1].startswith("2 more like this suppressed"))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class InjectionTests(FailureLogCase):
    """What a peer calls itself stays what it calls itself."""

    FIELDS = ("presented", "expected", "src_identity", "reason", "src_addr", "dst_addr", "listener", "policy", "rule")

    def lines_for(self, text: str, json_lines: bool) -> list[str]:
        """Everything that is written for a failure with this text in each field in turn."""
        written: list[str] = []
        observer = JSONLogObserver(written.append) if json_lines else TextLogObserver(written.append)
        for name in self.FIELDS:
            failures = FailureLog(Clock(), Logger(namespace="test", observer=observer))
            for _ in range(2):
                failures.closed(a_record(**{"code": codes.NO_SPIFFE_ID, "decision": "deny", name: text}))
            failures.close()
        return written

    def test_in_json(self) -> None:
        """One object a line, whose level and code are ours."""
        for text in HOSTILE:
            written = self.lines_for(text, json_lines=True)
            self.assertEqual(len(written), 2 * len(self.FIELDS))
            for line in written:
                self.assertTrue(line.isascii() and line.isprintable(), line)
                pairs = json.loads(line, object_pairs_hook=list)
                self.assertEqual(len(dict(pairs)), len(pairs))
                self.assertEqual((dict(pairs)["level"], dict(pairs)["code"]), ("warn", "TM-I501"))
                self.assertNotIn("event", dict(pairs))
                self.assertLess(len(line), 30_000)

    def test_in_text(self) -> None:
        """One line each, whose only code outside quotes is ours."""
        for text in HOSTILE:
            written = self.lines_for(text, json_lines=False)
            self.assertEqual(len(written), 2 * len(self.FIELDS))
            for line in written:
                self.assertTrue(line.isascii() and line.isprintable(), line)
                unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "Q", line)
                self.assertNotIn('"', unquoted)
                self.assertEqual(re.findall(r" code=(\S*)", unquoted), ["TM-I501"])
                self.assertEqual(re.findall(r" (DEBUG|INFO|WARN|ERROR|CRIT) ", unquoted), ["WARN"])
