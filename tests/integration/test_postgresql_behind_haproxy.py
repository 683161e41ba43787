"""PostgreSQL behind a proxy of ours behind HAProxy, which says whom it relays for (PROXY protocol version 2)."""

from __future__ import annotations

from typing import Any

from tests.integration.balancers import haproxy
from tests.integration.field import TRUST_DOMAIN, ProxyProcess
from tests.integration.processes import free_port
from tests.integration.test_postgresql import PostgreSQLTestCase

BALANCER = "127.0.0.77"  # loopback has room for somebody else
CLIENTS, TRANSACTIONS = 4, 25


class BehindHAProxyTests(PostgreSQLTestCase):
    """psql and pgbench → outbound → HAProxy → inbound → PostgreSQL."""

    def start_hops(self) -> None:
        self.guarded_port, self.inbound_port = free_port(), free_port()
        self.inner = self.start_proxy(
            "inbound",
            self.identity("orders")
            + f'inbound: [{{name: orders-in, listen: "127.0.0.1:{self.guarded_port}", '
            + f'target: "127.0.0.1:{self.database.port}", workload: orders, '
            + f"proxy_protocol: {{accept_from: [{BALANCER}]}}}}]\n"
            + "authorization: [{plugin: rules, policies: [{name: web-may, action: allow, from: "
            + f'[{{ids: ["spiffe://{TRUST_DOMAIN}/web"], networks: [127.0.0.1]}}]}}]}}]\n',
        )
        self.balancer = haproxy(
            self,
            f"frontend in\nbind 127.0.0.1:{self.inbound_port}\ndefault_backend out\nbackend out\n"
            f"server mesh 127.0.0.1:{self.guarded_port} source {BALANCER} send-proxy-v2 check inter 100ms\n",
            self.inbound_port,
        )
        self.outer = self.start_outbound()

    def test_serves_and_knows_who_it_is_for(self) -> None:
        """Every connection is the client's by its address, which the policy asks for, and HAProxy's by src.via."""
        self.start_hops()
        self.bench("-i", "-q")
        self.bench("-C", "-c", str(CLIENTS), "-t", str(TRANSACTIONS), "-n")
        self.assertEqual(self.told("SELECT 6 * 7"), "42")
        self.outer.running.wait_until(
            lambda: set(self.of(self.outer)) == set(self.of(self.inner)), "records are missing"
        )
        served, asked = self.of(self.inner), self.of(self.outer)
        self.assertGreater(len(asked), CLIENTS * TRANSACTIONS)
        for conn, outer in asked.items():
            inner = served[conn]
            self.assert_joined(outer, inner)
            self.assertTrue(inner["src.addr"].startswith("127.0.0.1:"), inner)
            self.assertTrue(inner["src.via"].startswith(f"{BALANCER}:"), inner)

    @staticmethod
    def of(proxy: ProxyProcess) -> dict[str, dict[str, Any]]:
        """The close records of clients, by connection; checks have none."""
        return {record["conn"]: record for record in proxy.records("close") if record["code"] != "TM-D105"}

    def test_checks_of_haproxy_are_no_failures(self) -> None:
        """They say LOCAL and close: TM-D105, by the balancer's own address, and not a warning."""
        self.start_hops()
        check = self.inner.wait_for("close", lambda record: record["code"] == "TM-D105")
        self.assertTrue(check["src.addr"].startswith(f"{BALANCER}:"), check)
        self.assertNotIn("src.via", check)
        self.assertEqual(self.told("SELECT 1"), "1")
        self.assertNotIn("TM-", self.inner.running.both())
