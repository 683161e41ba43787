"""Metrics: Linkerd's names and labels, exact while connections live, bounded whoever connects."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.observe.series import MAX_LABEL, error_of
from tcpmesh.observe.text import printable
from tcpmesh.values import IdentityState, Svid
from tests.unit.record_samples import HOSTILE, a_record


def established(**fields: Any) -> ConnectionRecord:
    """An inbound record as it is when the connection opens."""
    return a_record(
        **(
            {
                "src_identity": "spiffe://a.test/web",
                "decision": "allow",
                "policy": "web-may",
                "tls_version": "TLSv1.3",
                "dst_addr": "127.0.0.1:5000",
                "established": True,
            }
            | fields
        )
    )


class MetricsCase(SynchronousTestCase):
    """Metrics over a state that can be changed, at a time that stands still."""

    def setUp(self) -> None:
        self.cell = MeshStateCell()
        self.dropped = 0
        self.metrics = Metrics(
            self.cell, lambda: 1000.0, {"tcpmesh": "0.1.0", "Python": "3.11"}, lambda: self.dropped, max_series=4
        )

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of that name in what a scraper reads, by their sorted labels."""
        _, text = self.metrics.render()
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; fails when there is none."""
        found = [value for key, value in self.samples(name).items() if labels.items() <= dict(key).items()]
        self.assertTrue(found, f"{name} has no sample with {labels}")
        return sum(found)

    def open(self, **fields: Any) -> ConnectionRecord:
        """Accept and open a connection."""
        record = established(**fields)
        self.metrics.accepted(record)
        self.metrics.opened(record)
        return record

    def refuse(self, code: Code, **fields: Any) -> None:
        """Accept and refuse a connection."""
        record = a_record(**({"code": code, "closed_by": "proxy"} | fields))
        self.metrics.accepted(record)
        self.metrics.closed(record)


class TransportTests(MetricsCase):
    """tcp_*: the names and labels that Linkerd's dashboards know."""

    SRC = (
        ("client_id", "spiffe://a.test/web"),
        ("direction", "inbound"),
        ("listener", "orders-in"),
        ("peer", "src"),
        ("target_addr", "10.0.0.1:4143"),
        ("target_ip", "10.0.0.1"),
        ("target_port", "4143"),
        ("tls", "true"),
    )
    DST = (("direction", "inbound"), ("listener", "orders-in"), ("peer", "dst"), ("tls", "disabled"))

    def test_counts_both_sides_of_an_inbound_connection(self) -> None:
        """The caller's identity and our address on one side, the plain application on the other."""
        record = self.open()
        self.assertEqual(self.samples("tcp_open_total"), {self.SRC: 1, self.DST: 1})
        self.assertEqual(self.samples("tcp_open_connections"), {self.SRC: 1, self.DST: 1})
        self.assertEqual(self.samples("tcp_close_total"), {})
        record.code, record.closed_by, record.errno = codes.RESET, "src", "ECONNRESET"
        self.metrics.closed(record)
        self.assertEqual(self.samples("tcp_open_total"), {self.SRC: 1, self.DST: 1})
        self.assertEqual(self.samples("tcp_open_connections"), {self.SRC: 0, self.DST: 0})
        self.assertEqual(
            self.samples("tcp_close_total"),
            {
                tuple(sorted((*self.SRC, ("errno", "ECONNRESET")))): 1,
                tuple(sorted((*self.DST, ("errno", "")))): 1,
            },
        )

    def test_labels_an_outbound_connection_with_endpoint_and_server(self) -> None:
        """The endpoint and the identity that answered, the service they were picked for."""
        self.open(
            direction="outbound",
            listener="web-to-orders",
            src_identity="spiffe://a.test/web",
            local_addr="unix:/run/app:1.sock",
            dst_addr="[2001:db8::2]:4143",
            dst_identity="spiffe://a.test/orders",
            dst_service="orders",
        )
        src, dst = self.samples("tcp_open_total")
        if dict(src)["peer"] == "dst":
            src, dst = dst, src
        self.assertEqual(
            dict(src),
            {
                "direction": "outbound",
                "listener": "web-to-orders",
                "peer": "src",
                "target_addr": "unix:/run/app:1.sock",
                "tls": "disabled",
            },
        )
        self.assertEqual(
            dict(dst),
            {
                "direction": "outbound",
                "listener": "web-to-orders",
                "peer": "dst",
                "target_addr": "[2001:db8::2]:4143",
                "target_ip": "2001:db8::2",
                "target_port": "4143",
                "tls": "true",
                "server_id": "spiffe://a.test/orders",
                "dst_service": "orders",
            },
        )

    def test_counts_bytes_exactly_while_connections_live(self) -> None:
        """What a record says now is in the next scrape, and stays when it ends."""
        one, two = self.open(id=1), self.open(id=2)
        one.bytes_sent, one.bytes_recv = 10, 200
        two.bytes_sent, two.bytes_recv = 1, 2
        for _ in range(2):  # a scrape changes nothing
            self.assertEqual(self.value("tcp_read_bytes_total", peer="src"), 11)
            self.assertEqual(self.value("tcp_write_bytes_total", peer="src"), 202)
            self.assertEqual(self.value("tcp_read_bytes_total", peer="dst"), 202)
            self.assertEqual(self.value("tcp_write_bytes_total", peer="dst"), 11)
        self.metrics.closed(one)
        two.bytes_sent = 1_000_000
        self.assertEqual(self.value("tcp_read_bytes_total", peer="src"), 1_000_010)
        self.metrics.closed(two)
        self.assertEqual(self.value("tcp_read_bytes_total", peer="src"), 1_000_010)
        self.assertEqual(self.value("tcp_write_bytes_total", peer="src"), 202)

    def test_never_counts_bytes_back(self) -> None:
        """A reset drops what was queued; a counter that shrinks would look like a restart."""
        one = self.open(id=1)
        one.bytes_sent = 100
        self.assertEqual(self.value("tcp_read_bytes_total", peer="src"), 100)
        one.bytes_sent = 60
        self.metrics.closed(one)
        self.assertEqual(self.value("tcp_read_bytes_total", peer="src"), 100)
        two = self.open(id=2)
        two.bytes_sent = 50
        self.assertEqual(self.value("tcp_read_bytes_total", peer="src"), 110)

    def test_counts_a_refused_connection_without_its_claims(self) -> None:
        """What a stranger calls itself is no label; that it came over TLS or not is."""
        for text in HOSTILE:
            self.refuse(codes.NO_SPIFFE_ID, src_identity=text, presented=text, tls_version="TLSv1.3")
        self.refuse(codes.PLAINTEXT_PEER)
        shown = self.samples("tcp_open_total")
        self.assertEqual(sorted((dict(key)["tls"], value) for key, value in shown.items()), [
            ("no_identity", 1),
            ("true", len(HOSTILE)),
        ])  # fmt: skip
        self.assertFalse(any("client_id" in dict(key) for key in shown))
        self.assertEqual(self.samples("tcp_open_total").keys(), shown.keys())
        self.assertEqual(self.value("tcp_open_connections"), 0)

    def test_counts_what_is_passed_through_as_opaque(self) -> None:
        """On both sides: the same TLS, which nobody looked into here; whose it is, is no label."""
        self.open(id=1, passthrough=True, sni="a.test", tls_version="", src_identity="")
        shown = [dict(key) for key in self.samples("tcp_open_total")]
        self.assertEqual([labels["tls"] for labels in shown], ["opaque", "opaque"])
        self.assertFalse([labels for labels in shown if {"client_id", "sni"} & set(labels)])

    def test_keeps_a_bound_on_label_sets(self) -> None:
        """Past the limit the many are counted together, and none is lost."""
        records = [self.open(id=number, src_identity=f"spiffe://a.test/{number}") for number in range(50)]
        shown = self.samples("tcp_open_total")
        self.assertEqual(sum(value for key, value in shown.items() if dict(key)["peer"] == "src"), 50)
        self.assertEqual(len(shown), 5)  # three callers and the application, then "other"
        self.assertEqual(self.value("tcp_open_total", client_id="other", target_addr="other"), 47)
        for record in records:
            record.bytes_sent = 1
            self.metrics.closed(record)
        self.assertEqual(self.value("tcp_open_connections"), 0)
        self.assertEqual(self.value("tcp_read_bytes_total", client_id="other"), 47)


class OutcomeTests(MetricsCase):
    """Decisions, errors and codes."""

    def test_counts_decisions_once(self) -> None:
        """Allowed at the open, or at the end if it never opened; denied at the refusal."""
        self.metrics.closed(self.open())
        self.refuse(codes.TARGET_FAILED, decision="allow", src_identity="spiffe://a.test/web", policy="web-may")
        self.refuse(codes.NO_RULE_ALLOWS, decision="deny", src_identity="spiffe://a.test/x", tls_version="TLSv1.3")
        self.refuse(codes.UNKNOWN_AUTHORITY)
        self.assertEqual(self.value("inbound_tcp_authz_allow_total"), 2)
        self.assertEqual(
            self.samples("inbound_tcp_authz_deny_total"),
            {(("client_id", "spiffe://a.test/x"), ("listener", "orders-in"), ("tls", "true")): 1},
        )

    def test_keeps_a_bound_on_denied_identities(self) -> None:
        """Many callers that are not wanted do not make many series."""
        for number in range(50):
            self.refuse(codes.NO_RULE_ALLOWS, decision="deny", src_identity=f"spiffe://a.test/{number}")
        self.assertEqual(len(self.samples("inbound_tcp_authz_deny_total")), 5)
        self.assertEqual(self.value("inbound_tcp_authz_deny_total", client_id="other"), 46)

    def test_counts_errors_as_linkerd_does(self) -> None:
        """Denials are not among them, as there."""
        self.refuse(codes.HANDSHAKE_TIMEOUT)
        self.refuse(codes.NO_RULE_ALLOWS, decision="deny")
        self.refuse(codes.NO_ENDPOINT, direction="outbound", listener="out")
        self.assertEqual(
            self.samples("inbound_tcp_errors_total"),
            {(("error", "tls detection timeout"), ("listener", "orders-in")): 1},
        )
        self.assertEqual(self.samples("outbound_tcp_errors_total"), {(("error", "failfast"), ("listener", "out")): 1})

    def test_counts_every_end_by_its_code(self) -> None:
        """Health checks among them: they have no other trace at the default level."""
        for _ in range(3):
            self.refuse(codes.NO_BYTE, closed_by="src")
        record = self.open()
        record.code = codes.CLEAN
        self.metrics.closed(record)
        self.assertEqual(self.value("tcpmesh_connections_closed_total", code="TM-D105", direction="inbound"), 3)
        self.assertEqual(self.value("tcpmesh_connections_closed_total", code="TM-D100", listener="orders-in"), 1)

    def test_tells_handshake_failures_apart(self) -> None:
        """What Linkerd counts as i/o has its own code here; attempts count too, broken connections do not."""
        self.refuse(codes.UNKNOWN_AUTHORITY)
        self.refuse(codes.HANDSHAKE_TIMEOUT)
        self.refuse(codes.NO_RULE_ALLOWS, decision="deny")
        record = a_record(direction="outbound", listener="out", dst_service="orders")
        self.metrics.attempt_failed(record, codes.ID_DIFFERS)
        self.metrics.attempt_failed(record, codes.CONNECT_REFUSED)
        self.assertEqual(
            {dict(key)["code"]: value for key, value in self.samples("tcpmesh_handshake_failures_total").items()},
            {"TM-I604": 1, "TM-T102": 1, "TM-I701": 1},
        )
        self.assertEqual(
            self.samples("tcpmesh_attempts_failed_total"),
            {(("code", "TM-I701"), ("service", "orders")): 1, (("code", "TM-U101"), ("service", "orders")): 1},
        )

    def test_counts_limits(self) -> None:
        """Which limit was hit, and where."""
        self.refuse(codes.CONNECTION_LIMIT)
        self.refuse(codes.HANDSHAKE_LIMIT)
        self.refuse(codes.HANDSHAKE_LIMIT)
        self.assertEqual(
            {dict(key)["code"]: value for key, value in self.samples("tcpmesh_limits_hit_total").items()},
            {"TM-L101": 1, "TM-L102": 2},
        )

    def test_shows_what_is_pending(self) -> None:
        """Accepted, and neither open nor over."""
        one, two = established(id=1), established(id=2)
        self.metrics.accepted(one)
        self.metrics.accepted(two)
        self.assertEqual(self.value("tcpmesh_pending_handshakes", direction="inbound", listener="orders-in"), 2)
        self.assertEqual(self.samples("tcp_open_connections"), {})
        self.metrics.opened(one)
        self.metrics.closed(two)
        self.metrics.closed(one)
        self.assertEqual(self.value("tcpmesh_pending_handshakes"), 0)

    def test_gives_each_code_a_place_among_linkerds_errors_on_purpose(self) -> None:
        """A new code must be looked at here: which error it is to Linkerd's dashboards, or that it is none."""
        none = {
            *("TM-C101", "TM-C102", "TM-C103", "TM-C104", "TM-C105", "TM-C106"),
            *(
                "TM-D100",
                "TM-D103",
                "TM-D104",
                "TM-D105",
                "TM-D107",
                "TM-D111",
                "TM-I103",
                "TM-I201",
                "TM-I202",
                "TM-I203",
            ),
            *("TM-I301", "TM-I302", "TM-L104"),
            *("TM-O101", "TM-O102", "TM-P101", "TM-P102", "TM-P103", "TM-P104"),
            *("TM-P105", "TM-P106", "TM-P107", "TM-P108", "TM-P109"),
            *("TM-T104", "TM-T105", "TM-T106", "TM-U113", "TM-U114", "TM-U115", "TM-U116"),
        }
        for direction in ("inbound", "outbound"):
            found = {code.id: error_of(code, direction) for code in codes.all_codes()}  # type: ignore[arg-type]
            self.assertEqual({name for name, error in found.items() if error is None}, none)
        self.assertEqual(
            {name for name, error in found.items() if error != "i/o"} - none,
            {
                "TM-I101",
                "TM-I102",
                "TM-I104",
                "TM-I105",
                "TM-O199",
                "TM-U103",
                "TM-U105",
                "TM-U107",
                "TM-U108",
                "TM-U112",
                "TM-T108",
                "TM-T109",
                "TM-T111",
                "TM-L101",
                "TM-L102",
                "TM-L103",
                "TM-L105",
                "TM-L106",
                "TM-L107",
                "TM-L108",
                "TM-L109",
                "TM-L110",
                "TM-L111",
                "TM-L112",
                "TM-T103",
            },
        )


class StateTests(MetricsCase):
    """What the state and the process say when asked."""

    def test_shows_identities(self) -> None:
        """Seconds left per workload, and one of the states."""
        leaf = SimpleNamespace(not_valid_after_utc=datetime.datetime.fromtimestamp(1600, datetime.UTC))
        svid = Svid(id=None, chain=(leaf,), private_key=None)  # type: ignore[arg-type]
        self.cell.swap(svids={"web": svid}, identity_states={"web": IdentityState.STALE, "orders": IdentityState.INIT})
        self.assertEqual(self.samples("tcpmesh_svid_expiry_seconds"), {(("workload", "web"),): 600})
        states = self.samples("tcpmesh_identity_state")
        self.assertEqual(len(states), 2 * len(IdentityState))
        self.assertEqual(
            sorted(key for key, value in states.items() if value == 1),
            [(("state", "init"), ("workload", "orders")), (("state", "stale"), ("workload", "web"))],
        )
        self.assertEqual(self.samples("tcpmesh_generation"), {(): 1})

    def test_shows_losses_and_build(self) -> None:
        """Dropped records, versions, and the process's own metrics."""
        self.dropped = 3
        self.assertEqual(self.samples("tcpmesh_records_dropped_total"), {(): 3})
        self.assertEqual(self.samples("tcpmesh_build_info"), {(("python", "3.11"), ("version", "0.1.0")): 1})
        self.assertGreater(self.value("process_open_fds"), 2)

    def test_answers_in_the_form_that_is_asked_for(self) -> None:
        """OpenMetrics for those who accept it; it is stricter, and takes all of it."""
        self.open()
        content_type, text = self.metrics.render("application/openmetrics-text; version=1.0.0")
        self.assertTrue(content_type.startswith("application/openmetrics-text; version=1.0.0"), content_type)
        self.assertTrue(text.endswith(b"# EOF\n"))
        self.assertIn(b"# TYPE tcp_open counter\n", text)
        content_type, text = self.metrics.render()
        self.assertTrue(content_type.startswith("text/plain"), content_type)
        self.assertIn(b"# TYPE tcp_open_total counter\n", text)

    def test_keeps_hostile_names_in_their_label(self) -> None:
        """Whatever a policy or an identity is called, the text can be scraped, and the name is escaped and short."""
        for number, text in enumerate(HOSTILE):
            self.open(id=number, src_identity=text, policy=text, local_addr=text)
        shown = self.samples("inbound_tcp_authz_allow_total")
        self.assertEqual(
            {dict(labels)["authz_name"] for labels in shown}, {printable(text, MAX_LABEL) for text in HOSTILE}
        )
        self.assertEqual(self.value("tcp_open_total", peer="src"), len(HOSTILE))
