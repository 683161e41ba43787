"""Certificates of the shortest life that there is, renewed under a PostgreSQL that is busy all the time."""

from __future__ import annotations

import itertools
import re
from typing import Any

from tests.integration import program
from tests.integration.field import TRUST_DOMAIN, FieldTestCase
from tests.integration.processes import Running, free_port
from tests.integration.servers import PostgreSQL, run

TTL = 10  # seconds, the shortest that the embedded source issues
LOAD = 20  # seconds: longer than three renewals, each at 45 to 55 % of the life
CLIENTS = 4


class RenewalTests(FieldTestCase):
    """One process with the embedded authority and both hops."""

    def test_renews_three_times_under_pgbench_without_an_error(self) -> None:
        """Open sessions live on, new ones show the new certificates, and not one transaction fails."""
        database = PostgreSQL(self)
        inbound, outbound = free_port(), free_port()
        proxy = self.start_proxy(
            "proxy",
            f"""\
            identity:
              sources: {{local: {{plugin: embedded, state: state, ttl: {TTL}s}}}}
              workloads:
                web: {{id: "spiffe://{TRUST_DOMAIN}/web"}}
                orders: {{id: "spiffe://{TRUST_DOMAIN}/orders"}}
            services:
              orders:
                expect: ["spiffe://{TRUST_DOMAIN}/orders"]
                discovery: {{plugin: static, endpoints: ["127.0.0.1:{inbound}"]}}
            outbound: [{{name: to-orders, listen: "127.0.0.1:{outbound}", service: orders, workload: web}}]
            inbound:
              - name: orders-in
                listen: "127.0.0.1:{inbound}"
                target: "127.0.0.1:{database.port}"
                workload: orders
            authorization:
              - plugin: rules
                policies: [{{name: web-may, action: allow, from: [{{ids: ["spiffe://{TRUST_DOMAIN}/web"]}}]}}]
            """,
        )
        pgbench = program("pgbench", "postgresql")
        place = f"host=127.0.0.1 port={outbound} user=postgres dbname=postgres sslmode=disable"
        run(pgbench, "-i", "-q", place)
        before = proxy.metric("tcpmesh_generation")
        options = ["-n", "-c", str(CLIENTS), "-j", "1", "-T", str(LOAD)]
        lasting = Running(self, [pgbench, *options, place], directory=self.directory)
        # Unlimited, a connection for each transaction would leave no processor time to anything else.
        connecting = Running(self, [pgbench, *options, "-C", "-S", "-R", "20", place], directory=self.directory)
        for load in (lasting, connecting):
            self.assertEqual(load.wait(), 0, load.both())
            self.assertIn("number of failed transactions: 0 (0.000%)", load.out)
            self.assertNotIn("error", load.err)
            self.assertNotIn("aborted", load.err)
        self.assertGreaterEqual(proxy.metric("tcpmesh_generation"), before + 3)
        self.assertNotIn('"level":"error"', proxy.running.err)

        opened = [record for record in proxy.records("open") if record["direction"] == "inbound"]
        self.assert_serials_follow_each_other(opened)
        self.assert_no_expired_certificate_was_shown(opened)
        self.assert_lasting_sessions_were_kept(proxy.records("close"), lasting)
        for record in proxy.records("close"):
            self.assertEqual(record["code"], "TM-D100", record)

    def assert_serials_follow_each_other(self, opened: list[dict[str, Any]]) -> None:
        """The client's certificate changes at least three times, and never back."""
        serials = [serial for serial, _ in itertools.groupby(record["src.serial"] for record in opened)]
        self.assertGreaterEqual(len(serials), 4)
        self.assertEqual(len(serials), len(set(serials)), serials)

    def assert_no_expired_certificate_was_shown(self, opened: list[dict[str, Any]]) -> None:
        """At the time of each new session its client's certificate was valid."""
        for record in opened:
            self.assertLess(record["time"], record["src.not_after"])

    def assert_lasting_sessions_were_kept(self, closed: list[dict[str, Any]], lasting: Running) -> None:
        """CLIENTS sessions outlived the certificate that they began with."""
        outlived = [
            record for record in closed if record["direction"] == "inbound" and record["duration_ms"] > (TTL + 2) * 1000
        ]
        self.assertEqual(len(outlived), CLIENTS)
        for record in outlived:
            self.assertGreater(record["time"], record["src.not_after"])
        processed = re.search(r"actually processed: (\d+)", lasting.out)
        assert processed is not None
        self.assertGreater(int(processed[1]), CLIENTS)
