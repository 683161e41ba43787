"""The last decisions, and what silent policies noted: kept within bounds, whatever strangers write."""

from __future__ import annotations

import json
import sys
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.observe.decisions import KEPT, MAX_ENTRY_BYTES, Decisions, Recorded, denies, recorded_as_mapping
from tcpmesh.observe.noted import OTHERS, NotedPolicies
from tcpmesh.observe.records import as_json_line
from tcpmesh.values import PolicyNote
from tests.unit.record_samples import HOSTILE, a_record


def size(entry: Recorded) -> int:
    """The bytes of an entry and of everything that it alone refers to."""
    values = [getattr(entry, field.name) for field in attrs.fields(Recorded)]
    notes = [part for note in entry.notes for part in (note, note.policy, note.rule, note.says)]
    return sys.getsizeof(entry) + sum(sys.getsizeof(value) for value in (*values, *notes) if value is not None)


def denied(**fields: Any) -> Any:
    return a_record(decision="deny", code=codes.NO_RULE_ALLOWS, reason="nobody allows it", **fields)


class DecisionsTests(SynchronousTestCase):
    """Two ring buffers."""

    def test_keeps_everything_that_a_policy_looked_at(self) -> None:
        """With the record's names, and what it lacks: since when the certificate is valid."""
        decisions = Decisions()
        record = denied(
            conn="ab12",
            workload="orders",
            src_identity="spiffe://a.test/web",
            src_serial="4f1c",
            src_not_before=1_700_000_000.0,
            src_not_after=1_700_003_600.0,
            sni="orders.test",
            alpn="tcpmesh/1",
            policy="p",
            rule="policies[0].from[0].ids[0] (f.yaml:3:5)",
            generation=4,
            notes=(PolicyNote("watch", "policies[1].from[0].any (f.yaml:9:5)", "audit"),),
        )
        decisions.denied(record, 1_700_000_100.0)
        [entry] = decisions.last_denied(5)
        self.assertEqual(
            recorded_as_mapping(entry),
            {
                "time": "2023-11-14T22:15:00.000Z",
                "id": 7,
                "conn": "ab12",
                "direction": "inbound",
                "listener": "orders-in",
                "workload": "orders",
                "src.addr": "10.0.0.7:40000",
                "src.identity": "spiffe://a.test/web",
                "src.serial": "4f1c",
                "src.not_before": "2023-11-14T22:13:20.000Z",
                "src.not_after": "2023-11-14T23:13:20.000Z",
                "sni": "orders.test",
                "alpn": "tcpmesh/1",
                "decision": "deny",
                "policy": "p",
                "rule": "policies[0].from[0].ids[0] (f.yaml:3:5)",
                "code": "TM-P102",
                "reason": "nobody allows it",
                "generation": 4,
                "notes": [{"policy": "watch", "rule": "policies[1].from[0].any (f.yaml:9:5)", "says": "audit"}],
            },
        )

    def test_finds_a_connection_by_either_name(self) -> None:
        """The newest first: what was allowed may be denied later."""
        decisions = Decisions()
        record = a_record(id=12, conn="c0ffee", decision="allow")
        decisions.allowed(record, 1.0)
        decisions.allowed(a_record(id=13, decision="allow"), 2.0)
        record.policy, record.rule = "p", "policies[0]"
        record.code, record.reason = codes.POLICY_CHANGED, "no longer allowed: a policy denies it"
        decisions.denied(record, 3.0)
        [newest, *_] = decisions.find("12")
        self.assertEqual(
            (newest.code, newest.reason, newest.policy, newest.rule),
            ("TM-P109", "no longer allowed: a policy denies it", "", ""),
        )
        for text in ("12", "c0ffee"):
            self.assertEqual([(e.id, e.decision) for e in decisions.find(text)], [(12, "deny"), (12, "allow")])
        self.assertEqual([entry.code for entry in decisions.find("13")], [""])
        for text in ("", "1", "c0"):
            self.assertEqual(decisions.find(text), [])

    def test_shows_the_newest_denials(self) -> None:
        """As many as are asked for."""
        decisions = Decisions()
        for number in range(5):
            decisions.denied(denied(id=number), float(number))
        self.assertEqual([entry.id for entry in decisions.last_denied(2)], [4, 3])

    def test_one_kind_does_not_push_out_the_other(self) -> None:
        """A scanner that is denied a million times leaves the permissions where they were."""
        decisions = Decisions(kept=10)
        decisions.allowed(a_record(id=1, decision="allow"), 0.0)
        for number in range(100):
            decisions.denied(denied(id=100 + number), 1.0)
        self.assertEqual(len(decisions), 11)
        self.assertEqual([entry.id for entry in decisions.find("1")], [1])
        self.assertEqual(decisions.find("189"), [])
        self.assertEqual(len(decisions.find("190")), 1)

    def test_memory_is_bounded(self) -> None:
        """However long every field is that a peer or a plugin fills, and in whatever script."""
        long = "\U0001f600" * 100_000
        decisions = Decisions()
        record = denied(
            conn="0" * 16,
            src_addr=long,
            src_identity=long,
            src_serial=long,
            src_not_before=1e9,
            src_not_after=1e9,
            sni=long,
            alpn=long,
            policy=long,
            rule=long,
            notes=(PolicyNote(long, long, long),) * 50,
        )
        record.reason = long
        decisions.denied(record, 1.0)
        [entry] = decisions.last_denied(1)
        self.assertGreater(size(entry), 1000)
        self.assertLess(size(entry), MAX_ENTRY_BYTES)
        for number in range(KEPT + 5):
            decisions.denied(denied(id=number), 1.0)
            decisions.allowed(a_record(id=number, decision="allow"), 1.0)
        self.assertEqual(len(decisions), 2 * KEPT)

    def test_what_a_stranger_wrote_is_escaped(self) -> None:
        """One line of printable ASCII, in every field."""
        for text in HOSTILE:
            decisions = Decisions()
            decisions.denied(
                denied(src_identity=text, sni=text, alpn=text, notes=(PolicyNote("p", text, "audit"),)), 1.0
            )
            [entry] = decisions.last_denied(1)
            for value in (entry.src_identity, entry.sni, entry.alpn, entry.notes[0].rule):
                self.assertTrue(value.isascii())
                self.assertTrue(value.isprintable())
            json.loads(as_json_line(recorded_as_mapping(entry)))

    def test_tells_denials(self) -> None:
        """A refusal by policy, and the later end of what it once allowed; no failure of anything else."""
        self.assertTrue(denies(denied()))
        self.assertTrue(denies(a_record(decision="allow", code=codes.POLICY_CHANGED)))
        self.assertFalse(denies(a_record(decision="allow", code=codes.TARGET_FAILED)))
        self.assertFalse(denies(a_record(code=codes.NO_BYTE)))
        self.assertFalse(denies(a_record(code=codes.PROBE_NOT_ALLOWED)))
        self.assertTrue(denies(a_record(direction="outbound", decision="allow", code=codes.POLICY_CHANGED)))

    def test_a_peers_refusal_is_no_decision_of_ours(self) -> None:
        """Its policy refused, at its end, with the same code: there it is kept."""
        for decision in ("", "allow"):
            self.assertFalse(denies(a_record(direction="outbound", decision=decision, code=codes.NO_RULE_ALLOWS)))


class NotedPoliciesTests(SynchronousTestCase):
    """Counts by identity."""

    def note(self, noted: NotedPolicies, identity: str, *notes: PolicyNote, **fields: Any) -> None:
        noted.note(a_record(src_identity=identity, notes=notes, **fields))

    def test_counts_by_identity_and_place(self) -> None:
        """Most connections first; outbound, the place is the service."""
        noted = NotedPolicies()
        dry, audit = PolicyNote("x", "r", "would-deny"), PolicyNote("y", "s", "audit")
        for _ in range(3):
            self.note(noted, "spiffe://a.test/batch", dry)
        self.note(noted, "spiffe://a.test/web", dry, audit, direction="outbound", dst_service="db")
        first, *rest = noted.report()["notes"]
        self.assertEqual(
            first,
            {
                "says": "would-deny",
                "policy": "x",
                "rule": "r",
                "where": "orders-in",
                "identity": "spiffe://a.test/batch",
                "connections": 3,
            },
        )
        self.assertEqual(
            [(e["says"], e["where"], e["connections"]) for e in rest], [("would-deny", "db", 1), ("audit", "db", 1)]
        )

    def test_tells_only_so_many_identities_apart(self) -> None:
        """The others are counted together, and nothing is lost."""
        noted = NotedPolicies(limit=5)
        for number in range(50):
            self.note(noted, f"spiffe://a.test/{number}", PolicyNote("x", "r", "would-deny"))
        entries = noted.report()["notes"]
        self.assertEqual(len(entries), 6)
        self.assertEqual((entries[0]["identity"], entries[0]["connections"]), (OTHERS, 45))

    def test_counts_what_finds_no_place(self) -> None:
        """A plugin that calls every rule something else fills no memory."""
        noted = NotedPolicies(limit=5)
        for number in range(1000):
            self.note(noted, "spiffe://a.test/x", PolicyNote("x", str(number), "would-deny"))
        report = noted.report()
        self.assertEqual(len(report["notes"]), 205)
        self.assertEqual(report["left_out"], 795)

    def test_what_a_stranger_wrote_is_escaped(self) -> None:
        """The identity comes from a certificate."""
        noted = NotedPolicies()
        for text in HOSTILE:
            self.note(noted, text, PolicyNote(text, text, "audit"))
        for entry in noted.report()["notes"]:
            self.assertTrue(all(str(value).isprintable() and str(value).isascii() for value in entry.values()))
