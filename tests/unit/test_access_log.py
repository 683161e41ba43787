"""The access log: JSON for programs, lines for people, never in the way."""

from __future__ import annotations

import json
import os
import pty
import re
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import StartError
from tcpmesh.observe import lines
from tcpmesh.observe.access_log import AccessLog, as_text_line, open_access_log
from tcpmesh.observe.records import as_mapping
from tcpmesh.settings import LogSettings
from tests.unit.record_samples import HOSTILE, a_record

# One logfmt pair as the text line writes it: a bare word or a JSON string.
PAIR = re.compile(r'([a-z_.]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)')


class FileTests(SynchronousTestCase):
    """Records in a file."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp())
        self.events: list[LogEvent] = []

    def open(self, **settings: str) -> AccessLog:
        """Open the log as the configuration would."""
        log = open_access_log(LogSettings(access=self.path, **settings), self.clock)  # type: ignore[arg-type]
        log._log = Logger(namespace="test", observer=self.events.append)
        self.addCleanup(log.close)
        return log

    def test_writes_one_json_object_a_line(self) -> None:
        """What is in the file is what as_mapping says, open and close."""
        log = self.open()
        record = a_record(code=codes.CLEAN)
        log.write(record, "open", 1.0)
        log.write(record, "close", 2.0)
        self.clock.advance(0)
        written = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.assertEqual(written, [as_mapping(record, "open", 1.0), as_mapping(record, "close", 2.0)])

    def test_writes_text_where_the_configuration_says_so(self) -> None:
        """format: text holds for a file too, without colour."""
        log = self.open(format="text")
        record = a_record()
        log.write(record, "open", 1.0)
        self.clock.advance(0)
        self.assertEqual(self.path.read_text(), as_text_line(record, "open", 1.0) + "\n")

    def test_follows_a_rotation(self) -> None:
        """After reopen, records go to the new file, which is private too."""
        log = self.open()
        log.write(a_record(id=1), "open", 1.0)
        moved = self.path.rename(self.mktemp())
        log.reopen()
        log.write(a_record(id=2), "open", 1.0)
        log.close()
        self.assertEqual([json.loads(moved.read_text())["id"], json.loads(self.path.read_text())["id"]], [1, 2])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_keeps_the_old_file_when_the_new_one_fails(self) -> None:
        """A rotation that breaks the path costs no record, and is an error in the log."""
        log = self.open()
        moved = self.path.rename(self.mktemp())
        self.path.mkdir()
        log.reopen()
        log.write(a_record(id=2), "open", 1.0)
        log.close()
        self.assertEqual(json.loads(moved.read_text())["id"], 2)
        [event] = self.events
        self.assertIn(f"TM-C106 the access log {self.path} cannot be opened again", formatEvent(event))

    def test_says_when_it_cannot_be_opened(self) -> None:
        """A path that cannot be written stops the start with a code and the reason."""
        self.path.mkdir()
        failure = self.assertRaises(StartError, self.open)
        self.assertIs(failure.code, codes.LOG_UNUSABLE)
        self.assertEqual(failure.reason, f"log.access: {self.path} cannot be written: Is a directory")

    def test_is_silent_after_close(self) -> None:
        """A record that comes late is not an error."""
        log = self.open()
        log.close()
        log.write(a_record(), "close", 1.0)
        log.close()
        self.assertEqual(self.path.read_text(), "")


class StandardOutputTests(SynchronousTestCase):
    """Records on a descriptor that others use too."""

    def test_drops_for_a_pipe_that_nobody_reads(self) -> None:
        """The data path goes on; losses are counted and logged once, with code and next step."""
        clock = Clock()
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        log = open_access_log(LogSettings(), clock, stdout=writer)
        self.addCleanup(log.close)
        events: list[LogEvent] = []
        log._log = Logger(namespace="test", observer=events.append)
        record = a_record(reason="x" * 1000)
        for _ in range(20):
            for _ in range(100):
                log.write(record, "close", 1.0)
            clock.advance(lines.RETRY)
        self.assertGreater(log.dropped, 0)
        [event] = events
        self.assertIn("TM-L104", formatEvent(event))
        self.assertIn("access log on standard output: 1 lines dropped so far", formatEvent(event))
        self.assertIn(codes.LINES_DROPPED.next_step, formatEvent(event))

    def test_is_text_in_colour_on_a_terminal(self) -> None:
        """format: auto looks at the descriptor."""
        self.patch(os, "environ", {})
        clock = Clock()
        primary, secondary = pty.openpty()
        self.addCleanup(os.close, primary)
        self.addCleanup(os.close, secondary)
        log = open_access_log(LogSettings(), clock, stdout=secondary)
        self.addCleanup(log.close)
        log.write(a_record(), "open", 1.0)
        clock.advance(0)
        shown = os.read(primary, 4096).decode()
        self.assertIn("1970-01-01T00:00:01.000Z \x1b[32mOPEN  \x1b[0m #7 inbound orders-in 10.0.0.7:40000", shown)

    def test_has_no_colour_where_that_is_unwanted(self) -> None:
        """NO_COLOR is respected."""
        self.patch(os, "environ", {"NO_COLOR": ""})
        clock = Clock()
        primary, secondary = pty.openpty()
        self.addCleanup(os.close, primary)
        self.addCleanup(os.close, secondary)
        log = open_access_log(LogSettings(), clock, stdout=secondary)
        self.addCleanup(log.close)
        log.write(a_record(), "open", 1.0)
        clock.advance(0)
        self.assertNotIn(b"\x1b", os.read(primary, 4096))

    def test_none_opens_nothing(self) -> None:
        """access: none costs nothing and loses nothing."""
        clock = Clock()
        log = open_access_log(LogSettings(access="none"), clock, stdout=-1)
        log.write(a_record(), "open", 1.0)
        log.reopen()
        self.assertEqual((clock.getDelayedCalls(), log.dropped), ([], 0))
        log.close()

    def test_says_when_standard_output_is_closed(self) -> None:
        """A descriptor that is not there stops the start."""
        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)
        failure = self.assertRaises(StartError, open_access_log, LogSettings(), Clock(), writer)
        self.assertEqual(str(failure), "TM-C106 log.access: - cannot be written: Bad file descriptor")


class TextLineTests(SynchronousTestCase):
    """The line for people."""

    def test_shows_an_established_connection(self) -> None:
        """Who, from where, to what, under which rule."""
        record = a_record(
            direction="outbound",
            listener="web-to-orders",
            dst_addr="10.0.0.2:4143",
            dst_identity="spiffe://a.test/orders",
            policy="web-may",
            rule="policies[0] (mesh.yaml:24:16)",
            tls_version="TLSv1.3",
            conn="00ff",
        )
        self.assertEqual(
            as_text_line(record, "open", 1.0),
            "1970-01-01T00:00:01.000Z OPEN   #7 outbound web-to-orders 10.0.0.7:40000 -> "
            "10.0.0.2:4143 (spiffe://a.test/orders) policy=web-may tls=TLSv1.3 conn=00ff",
        )

    def test_shows_the_route(self) -> None:
        """And that TLS is passed through, where the version of ours would stand; the name is a stranger's."""
        record = a_record(dst_addr="10.0.0.2:443", route="*.test", sni="a\x1b.test", passthrough=True)
        self.assertTrue(
            as_text_line(record, "open", 1.0).endswith(
                r'-> 10.0.0.2:443 route="*.test" sni="a\u001b.test" tls="passed through"'
            ),
            as_text_line(record, "open", 1.0),
        )
        record.established = True
        self.assertNotIn("route", as_text_line(record, "close", 1.0))
        refused = a_record(sni="b.test", code=codes.NO_ROUTE, closed_by="proxy")
        self.assertIn(" sni=b.test ", as_text_line(refused, "close", 1.0))

    def test_shows_what_it_took_to_get_there(self) -> None:
        """How long it waited, and which attempts failed before; the close line need not repeat that."""
        record = a_record(dst_addr="10.0.0.2:4143", queue_ms=1234.0, attempts=2, code=codes.CLEAN)
        record.note_failure("10.0.0.1:4143", codes.CONNECT_REFUSED, "nobody listens", 0.001)
        way = ' waited=1.234s attempts=2 failed="TM-U101 at 10.0.0.1:4143"'
        self.assertTrue(as_text_line(record, "open", 1.0).endswith(way), as_text_line(record, "open", 1.0))
        record.established = True
        self.assertNotIn("waited", as_text_line(record, "close", 1.0))

    def test_shows_how_far_a_refused_one_got(self) -> None:
        """The first three failures; a single one is the reason already."""
        record = a_record(attempts=1, code=codes.CONNECT_REFUSED, reason="nobody listens", closed_by="proxy")
        record.note_failure("10.0.0.1:1", codes.CONNECT_REFUSED, "nobody listens", 0.001)
        self.assertTrue(as_text_line(record, "close", 1.0).endswith('reason="nobody listens"'))
        for number in range(2, 6):
            record.attempts = number
            record.note_failure(f"10.0.0.1:{number}", codes.CONNECT_TIMEOUT, "silence", 3.0)
        self.assertIn(
            ' attempts=5 failed="TM-U101 at 10.0.0.1:1, TM-T101 at 10.0.0.1:2, TM-T101 at 10.0.0.1:3, and 2 more"',
            as_text_line(record, "close", 1.0),
        )

    def test_shows_how_it_ended(self) -> None:
        """Bytes, who ended it, the code and what it means."""
        record = a_record(
            dst_addr="127.0.0.1:5000",
            established=True,
            bytes_sent=67,
            bytes_recv=490,
            closed_by="dst",
            code=codes.RESET,
            errno="ECONNRESET",
            duration_ms=1234.5678,
        )
        self.assertEqual(
            as_text_line(record, "close", 1.0),
            "1970-01-01T00:00:01.000Z CLOSE  #7 inbound orders-in 10.0.0.7:40000 -> 127.0.0.1:5000 sent=67 "
            'received=490 by=dst code=TM-D101 errno=ECONNRESET reason="one side reset the connection" after=1.235s',
        )

    def test_shows_a_refusal(self) -> None:
        """The word says it; there are no bytes to count, and no open record that would tell what joins both hops."""
        record = a_record(
            src_identity="spiffe://a.test/intruder",
            decision="deny",
            policy="web-only",
            code=codes.NO_RULE_ALLOWS,
            closed_by="proxy",
            conn="00112233aabbccdd",
        )
        self.assertEqual(
            as_text_line(record, "close", 1.0),
            "1970-01-01T00:00:01.000Z REFUSE #7 inbound orders-in 10.0.0.7:40000 (spiffe://a.test/intruder) -> (none) "
            'conn=00112233aabbccdd by=proxy code=TM-P102 policy=web-only reason="no policy allows this identity"',
        )

    def test_does_not_call_it_refused_when_the_peer_left(self) -> None:
        """Connect-and-close is not a refusal."""
        record = a_record(code=codes.NO_BYTE, closed_by="src")
        self.assertIn(" CLOSE  #7 ", as_text_line(record, "close", 1.0))

    def test_does_not_call_it_refused_when_a_peer_was_told_what_it_asked(self) -> None:
        """A health check, or how it is seen."""
        for code in (codes.HEALTH_CHECKED, codes.PROBE_ANSWERED):
            line = as_text_line(a_record(code=code, closed_by="proxy", established=False), "close", 1.0)
            self.assertIn(" CLOSE  #7 ", line)

    def test_colours_the_word_only(self) -> None:
        """Green for open, red for refused, yellow for what ended badly, nothing for what ended well."""
        clean = as_text_line(a_record(code=codes.CLEAN), "close", 1.0, colour=True)
        self.assertIn(" \x1b[0mCLOSE \x1b[0m ", clean)
        reset = as_text_line(a_record(code=codes.RESET, closed_by="src"), "close", 1.0, colour=True)
        self.assertIn(" \x1b[33mCLOSE \x1b[0m ", reset)
        refused = as_text_line(a_record(code=codes.EXPIRED, closed_by="proxy"), "close", 1.0, colour=True)
        self.assertIn(" \x1b[31mREFUSE\x1b[0m ", refused)

    def test_keeps_hostile_texts_in_their_field(self) -> None:
        """Whatever a peer is called, the line stays one, and its code is the one that the record has."""
        for text in HOSTILE:
            for name in ("src_identity", "dst_identity", "reason", "policy", "rule", "listener", "dst_addr"):
                record = a_record(**{"code": codes.NO_SPIFFE_ID, "closed_by": "proxy", "decision": "deny", name: text})
                for event in ("open", "close"):
                    line = as_text_line(record, event, 1.0)  # type: ignore[arg-type]
                    self.assertTrue(line.isascii() and line.isprintable(), line)
                    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "Q", line)
                    self.assertNotIn('"', unquoted)
                    codes_shown = [value for key, value in PAIR.findall(unquoted) if key == "code"]
                    self.assertEqual(codes_shown, ["TM-I501"] if event == "close" else [])
