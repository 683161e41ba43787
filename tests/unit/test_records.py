"""The record's JSON form: documented fields, one line, nothing forged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.observe.records import (
    MAX_FAILURE_TEXT,
    MAX_FAILURES,
    MAX_TEXT,
    FailedAttempt,
    as_json_line,
    as_mapping,
    bounded,
    rfc3339,
)
from tests.unit.record_samples import HOSTILE, a_record


def joined(value: Any) -> Any:
    """Two surrogates that happen to be a pair are one character after a way through JSON (RFC 8259 section 7)."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return value


class MappingTests(SynchronousTestCase):
    """What the JSON object holds."""

    def test_names_every_documented_field(self) -> None:
        """A full record has exactly the documented fields, in a fixed order."""
        record = a_record(
            conn="00ff",
            src_identity="spiffe://a.test/web",
            src_serial="0a",
            src_not_after=1_700_000_100.0,
            dst_addr="127.0.0.1:5000",
            dst_service="orders",
            dst_identity="spiffe://a.test/orders",
            dst_serial="0b",
            dst_not_after=1_700_000_200.0,
            workload="orders",
            sni="orders.test",
            alpn="tcpmesh/1",
            tls_version="TLSv1.3",
            tls_group="X25519",
            tls_cipher="TLS_AES_128_GCM_SHA256",
            decision="allow",
            policy="web",
            rule="1",
            generation=3,
            attempts=2,
            failures=(FailedAttempt("10.0.0.1:1", codes.CONNECT_REFUSED, "nobody listens", 1.5),),
            queue_ms=0.5,
            connect_ms=1.0,
            handshake_ms=2.0,
            duration_ms=3.0,
            bytes_sent=1,
            bytes_recv=2,
            closed_by="src",
            code=codes.CLEAN,
            reason="r",
            expected="e",
            presented="p",
            errno="EPIPE",
        )
        always = (
            *("v", "event", "time", "id", "conn", "direction", "listener", "workload"),
            *("src.addr", "src.identity", "src.serial", "src.not_after"),
            *("dst.addr", "dst.service", "dst.identity", "dst.serial", "dst.not_after"),
            *("sni", "alpn", "tls.version", "tls.group", "tls.cipher", "decision", "policy", "rule"),
            *("generation", "attempts", "failures", "queue_ms", "connect_ms", "handshake_ms"),
        )
        at_the_end = (
            *("duration_ms", "bytes_sent", "bytes_recv", "closed_by", "code", "reason"),
            *("expected", "presented", "errno"),
        )
        self.assertEqual(tuple(as_mapping(record, "open", 1.0)), always)
        self.assertEqual(
            as_mapping(record, "open", 1.0)["failures"],
            [{"endpoint": "10.0.0.1:1", "code": "TM-U101", "reason": "nobody listens", "ms": 1.5}],
        )
        self.assertEqual(tuple(as_mapping(record, "close", 1.0)), always + at_the_end)

    def test_names_the_first_failed_attempts_only(self) -> None:
        """However many there were and however much a peer has to say."""
        record = a_record()
        for number in range(20):
            record.note_failure(f"10.0.0.1:{number}", codes.REFUSED_BY_PEER, "x" * 10_000, 0.0004567)
        self.assertEqual(len(record.failures), MAX_FAILURES)
        self.assertEqual(record.failures[-1].endpoint, f"10.0.0.1:{MAX_FAILURES - 1}")
        self.assertEqual(record.failures[0].reason, "x" * MAX_FAILURE_TEXT + "...(10000 characters)")
        self.assertEqual(record.failures[0].ms, 0.457)
        self.assertLess(len(as_json_line(as_mapping(record, "close", 1.0))), 8192)

    def test_leaves_out_what_is_empty_but_keeps_zero_bytes(self) -> None:
        """A refused connection says that no byte went through, and has no fields without content."""
        mapping = as_mapping(a_record(code=codes.NO_RULE_ALLOWS, closed_by="proxy"), "close", 1.5)
        self.assertEqual(
            mapping,
            {
                "v": 1,
                "event": "close",
                "time": "1970-01-01T00:00:01.500Z",
                "id": 7,
                "direction": "inbound",
                "listener": "orders-in",
                "src.addr": "10.0.0.7:40000",
                "generation": 0,
                "bytes_sent": 0,
                "bytes_recv": 0,
                "closed_by": "proxy",
                "code": "TM-P102",
            },
        )

    def test_rounds_times_to_microseconds(self) -> None:
        """A float's noise does not get into the record; a time of zero does."""
        mapping = as_mapping(a_record(connect_ms=0.1 + 0.2, queue_ms=0.0), "open", 1.0)
        self.assertEqual((mapping["connect_ms"], mapping["queue_ms"]), (0.3, 0.0))

    def test_writes_the_last_moment_that_a_certificate_can_name(self) -> None:
        """RFC 5280 section 4.1.2.5: 99991231235959Z means no well-defined expiry; it must not break the record."""
        self.assertEqual(rfc3339(253_402_300_799.0), "9999-12-31T23:59:59.000Z")

    def test_cuts_long_texts_and_says_so(self) -> None:
        """A name of 10 kB does not make a record of 10 kB."""
        mapping = as_mapping(a_record(presented="x" * 10_000), "close", 1.0)
        self.assertEqual(mapping["presented"], "x" * MAX_TEXT + "...(10000 characters)")
        self.assertEqual(bounded("x" * MAX_TEXT), "x" * MAX_TEXT)


class LineTests(SynchronousTestCase):
    """The line is one line, and says nothing but what the fields say."""

    def assert_one_honest_line(self, text: str) -> None:
        """Whatever a text field holds, the line reads back as that field and nothing else."""
        for name in ("src_identity", "sni", "alpn", "reason", "presented", "expected", "src_serial", "policy"):
            mapping = as_mapping(a_record(**{name: text}, code=codes.NO_SPIFFE_ID), "close", 1.0)
            line = as_json_line(mapping)
            self.assertTrue(line.isascii() and line.isprintable(), line)
            pairs = json.loads(line, object_pairs_hook=list)
            self.assertEqual(pairs, [(key, joined(value)) for key, value in mapping.items()])
            self.assertEqual(dict(pairs)["event"], "close")
            self.assertEqual(dict(pairs)["code"], "TM-I501")

    def test_survives_hostile_names(self) -> None:
        """Newlines, quotes, terminal sequences, separators and lone surrogates stay inside their field."""
        for text in HOSTILE:
            self.assert_one_honest_line(text)

    @given(st.text(alphabet=st.characters(), max_size=200))
    def test_survives_any_text(self, text: str) -> None:
        """The same for whatever else there is."""
        self.assert_one_honest_line(text)
