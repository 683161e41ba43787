"""ghostunnel with an identity from the same SPIRE, at the other end of a hop."""

from __future__ import annotations

from tests.integration import go_program
from tests.integration.processes import accepts, free_port
from tests.integration.servers import Server
from tests.integration.spire_case import US, Load, SpireProxy, SpireTestCase, call

WEB, ORDERS, LEDGER = (f"spiffe://{US}/{name}" for name in ("web", "orders", "ledger"))
TTL = 15  # seconds


class GhostunnelTests(SpireTestCase):
    """It has no files, and verifies SPIFFE IDs only."""

    def setUp(self) -> None:
        self.program = go_program("ghostunnel")
        super().setUp()
        self.wire, self.plain = free_port(), free_port()

    def start_ghostunnel(self, role: str, listen: int, target: int, *options: str) -> Server:
        """Run ``ghostunnel client`` or ``ghostunnel server`` until it listens."""
        places = ["--listen", f"127.0.0.1:{listen}", "--target", f"127.0.0.1:{target}"]
        api = ["--use-workload-api-addr", f"unix://{self.agent.socket}"]
        server = Server(self, [self.program, role, *places, *api, *options], directory=self.directory)
        server.wait_until(lambda: accepts(listen), "ghostunnel does not listen")
        return server

    def assert_renewed_under_load(self, proxy: SpireProxy, whose: str) -> None:
        """
        Connections are carried until both sides have shown three certificates, and none fails.

        :param whose: which of a record's serials is the peer's.
        """
        load = Load(self, self.plain, lasting=1)
        own: set[str] = set()

        def renewed() -> bool:
            own.add(proxy.serial(next(iter(proxy.states()))))
            return len(own) >= 3 and len({record[whose] for record in proxy.records("open")}) >= 3

        proxy.until(renewed, "fewer than three certificates on one side")
        load.stop()
        self.assertEqual(load.errors, [])
        closed = proxy.closed(len(proxy.records("open")))
        self.assertEqual({record["code"] for record in closed}, {"TM-D100"})

    def test_as_the_client(self) -> None:
        """It finds out who we are by our SPIFFE ID, and we find out the same of it."""
        self.server.register("/orders", ttl=TTL)
        self.server.register("/web", ttl=TTL, program=self.program)
        inner = self.start_spire_proxy("inner", self.source(self.agent, "orders") + self.inbound(self.wire, WEB))
        self.start_ghostunnel("client", self.plain, self.wire, "--verify-uri", ORDERS)
        self.assert_renewed_under_load(inner, "src.serial")
        self.assertEqual({record["src.identity"] for record in inner.records("open")}, {WEB})
        other = free_port()
        self.start_ghostunnel("client", other, self.wire, "--verify-uri", LEDGER)
        self.assertFalse(call(other))
        inner.wait_for("close", lambda record: record["code"] == "TM-I403" and "bad certificate" in record["reason"])

    def test_as_the_server(self) -> None:
        """It lets in whom it is told to, by SPIFFE ID."""
        self.server.register("/web", ttl=TTL)
        self.server.register("/orders", ttl=TTL, program=self.program)
        outer = self.start_spire_proxy(
            "outer", self.source(self.agent, "web") + self.outbound(self.wire, self.plain, ORDERS)
        )
        server = self.start_ghostunnel("server", self.wire, self.application.port, "--allow-uri", WEB)
        self.assert_renewed_under_load(outer, "dst.serial")
        self.assertEqual({record["dst.identity"] for record in outer.records("open")}, {ORDERS})
        server.kill()
        self.start_ghostunnel("server", self.wire, self.application.port, "--allow-uri", LEDGER)
        self.assertFalse(call(self.plain))
        outer.wait_for("close", lambda record: record["code"] == "TM-I403" and "bad certificate" in record["reason"])
