"""The reporter tells everybody, and never raises into the data path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe import lines
from tcpmesh.observe.access_log import AccessLog
from tcpmesh.observe.failures import FailureLog
from tcpmesh.observe.live import as_connection
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.records import IRecordSink
from tcpmesh.observe.reporter import Reporter
from tcpmesh.values import PolicyNote
from tests.unit.record_samples import a_record


class ReporterTests(SynchronousTestCase):
    """One reporter over a file and a log."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[LogEvent] = []
        self.path = Path(self.mktemp())
        log = Logger(namespace="test", observer=self.events.append)
        self.reporter = Reporter(
            AccessLog(lines.append_to(self.path), self.clock, text=True),
            FailureLog(self.clock, log),
            Metrics(MeshStateCell(), lambda: 5.0, {}),
            lambda: 5.0,
            log=log,
        )
        self.sink: IRecordSink = self.reporter
        self.addCleanup(self.reporter.close)

    def words(self) -> list[str]:
        """The words of the access log's lines."""
        self.clock.advance(0)
        return [line.split()[1] for line in self.path.read_text().splitlines()]

    def metric(self, sample: str) -> bool:
        """Whether a scrape has this line."""
        return sample in self.reporter.metrics.render()[1].decode().splitlines()

    def test_follows_a_connection(self) -> None:
        """Pending, open, gone: in the list, the metrics and the access log."""
        record = a_record()
        self.sink.accepted(record)
        self.assertEqual(self.reporter.live.snapshot(), [record])
        self.assertTrue(self.metric('tcpmesh_pending_handshakes{direction="inbound",listener="orders-in"} 1.0'))
        record.established, record.tls_version = True, "TLSv1.3"
        self.sink.opened(record)
        self.assertEqual(self.words(), ["OPEN"])
        record.code, record.closed_by = codes.CLEAN, "src"
        self.sink.closed(record)
        self.assertEqual((self.words(), len(self.reporter.live)), (["OPEN", "CLOSE"], 0))
        self.assertTrue(
            self.metric('tcpmesh_connections_closed_total{code="TM-D100",direction="inbound",listener="orders-in"} 1.0')
        )
        self.assertEqual(self.events, [])

    def test_explains_refusals_and_failed_attempts(self) -> None:
        """Both in the failure log; only the end in the access log."""
        record = a_record(direction="outbound", dst_service="orders", dst_addr="10.0.0.2:4143")
        self.sink.accepted(record)
        self.sink.attempt_failed(record, codes.CONNECT_REFUSED, "refused")
        record.code, record.closed_by = codes.CONNECT_TIMEOUT, "proxy"
        self.sink.closed(record)
        self.assertEqual(self.words(), ["REFUSE"])
        self.assertEqual(
            [formatEvent(event).split(" direction")[0] for event in self.events],
            ["attempt failed, another follows: code=TM-U101", "outbound connection failed: code=TM-T101"],
        )
        self.assertTrue(self.metric('tcpmesh_attempts_failed_total{code="TM-U101",service="orders"} 1.0'))

    def test_takes_an_opening_only_once(self) -> None:
        """A second endpoint after a first that was lost at once does not make two connections of one."""
        record = a_record(direction="outbound", dst_addr="10.0.0.2:1", established=True)
        self.sink.accepted(record)
        self.sink.opened(record)
        record.dst_addr = "10.0.0.3:1"
        self.sink.opened(record)
        self.assertEqual(self.words(), ["OPEN"])
        record.code = codes.CLEAN
        self.sink.closed(record)
        self.assertEqual(self.words(), ["OPEN", "CLOSE"])
        self.assertTrue(self.metric('tcpmesh_pending_handshakes{direction="outbound",listener="orders-in"} 0.0'))

    def test_takes_an_end_only_once(self) -> None:
        """A second one would falsify every count; it is a bug, and said so."""
        record = a_record(code=codes.CLEAN, established=True)
        self.sink.accepted(record)
        self.sink.closed(record)
        self.sink.closed(record)
        self.assertEqual(self.words(), ["CLOSE"])
        [event] = self.events
        self.assertIs(event["log_level"], LogLevel.error)
        self.assertIn("connection 7 was reported as closed without being open", formatEvent(event))

    def test_remembers_decisions(self) -> None:
        """A permission when it is established, or when nothing came of it; a refusal when it ends; each once."""
        for number, fields in enumerate(
            (
                {"established": True, "decision": "allow", "code": codes.CLEAN},
                {"decision": "allow", "code": codes.TARGET_FAILED},
                {"decision": "deny", "code": codes.NO_RULE_ALLOWS},
                {"code": codes.NO_BYTE},
            )
        ):
            record = a_record(id=number, notes=(PolicyNote("x", "r", "would-deny"),) if "decision" in fields else ())
            self.sink.accepted(record)
            record.established, record.decision = bool(fields.get("established")), str(fields.get("decision", ""))
            if record.established:
                self.sink.opened(record)
            record.code = fields["code"]  # type: ignore[assignment]
            self.sink.closed(record)
        found = [self.reporter.decisions.find(str(number)) for number in range(4)]
        self.assertEqual(
            [[entry.decision for entry in entries] for entries in found], [["allow"], ["allow"], ["deny"], []]
        )
        self.assertEqual([entry["connections"] for entry in self.reporter.noted.report()["notes"]], [3])

    def test_remembers_that_policy_ended_a_connection(self) -> None:
        """It was allowed once, and is denied now; its notes count once."""
        record = a_record(established=True, decision="allow", notes=(PolicyNote("x", "r", "audit"),))
        self.sink.accepted(record)
        self.sink.opened(record)
        record.code = codes.POLICY_CHANGED
        self.sink.closed(record)
        self.assertEqual([entry.decision for entry in self.reporter.decisions.find("7")], ["deny", "allow"])
        self.assertEqual([entry["connections"] for entry in self.reporter.noted.report()["notes"]], [1])

    def test_survives_its_own_mistakes(self) -> None:
        """What cannot be written is logged with a traceback; everybody else is told all the same."""
        record: Any = a_record(code=codes.NO_SPIFFE_ID, closed_by="proxy", duration_ms="not a number")
        self.sink.accepted(record)
        self.sink.closed(record)
        self.assertEqual(
            [(event["log_level"], "log_failure" in event) for event in self.events],
            [(LogLevel.critical, True), (LogLevel.warn, False)],
        )
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        self.assertEqual(len(self.reporter.live), 0)

    def test_writes_what_is_left_when_it_is_closed(self) -> None:
        """Records of the last turn and counts of suppressed lines."""
        for number in range(3):
            record = a_record(id=number, code=codes.EXPIRED, closed_by="proxy")
            self.sink.accepted(record)
            self.sink.closed(record)
        self.reporter.close()
        self.assertEqual(self.words(), ["REFUSE"] * 3)
        self.assertIn("2 more like this suppressed", formatEvent(self.events[-1]))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectionTests(SynchronousTestCase):
    """A live connection's description."""

    def test_has_state_age_and_bytes_beside_the_records_names(self) -> None:
        """What is known so far, in the names of the record."""
        record = a_record(established=True, bytes_sent=3, dst_addr="127.0.0.1:5000")
        self.assertEqual(
            as_connection(record, record.time + 1.5),
            {
                "id": 7,
                "direction": "inbound",
                "listener": "orders-in",
                "src.addr": "10.0.0.7:40000",
                "dst.addr": "127.0.0.1:5000",
                "generation": 0,
                "state": "open",
                "since": "2023-11-14T22:13:20.000Z",
                "age_ms": 1500,
                "bytes_sent": 3,
                "bytes_recv": 0,
            },
        )
        self.assertEqual(as_connection(a_record(), 0.0)["state"], "pending")
