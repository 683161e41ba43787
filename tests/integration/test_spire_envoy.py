"""Envoy with certificate and bundle from the secret discovery service of the same SPIRE, at the other end of a hop."""

from __future__ import annotations

from tests.integration.envoy import OPTIONS, Change, envoy_program, in_place_of, then, unchanged, with_agent
from tests.integration.processes import accepts, free_port
from tests.integration.servers import Server, temporary_directory
from tests.integration.snippets import fill
from tests.integration.spire_case import US, Load, SpireProxy, SpireTestCase, call

WEB, ORDERS, LEDGER = (f"spiffe://{US}/{name}" for name in ("web", "orders", "ledger"))
TTL = 15  # seconds
RENEWALS = 3


class EnvoyTests(SpireTestCase):
    """Configured as docs/foreign-peers.md says, with the agent's names for what it serves."""

    def setUp(self) -> None:
        self.program = envoy_program()
        super().setUp()
        self.wire, self.plain = free_port(), free_port()

    def start_envoy(self, role: str, wire: int, plain: int, change: Change = unchanged) -> Server:
        """Run it as ``client`` or ``server`` until it listens, which it does when it has got what it asked for."""
        agent = with_agent(self.agent.socket, server=role == "server")
        directory = temporary_directory(self)
        configuration = directory / "envoy.yaml"
        configuration.write_text(then(agent, change)(fill(f"envoy-{role}", wire=wire, plain=plain)))
        server = Server(self, [self.program, *OPTIONS, "-c", configuration], directory=directory)
        listening = plain if role == "client" else wire
        server.wait_until(lambda: accepts(listening), "Envoy does not listen")
        return server

    def assert_renewed_under_load(self, proxy: SpireProxy, whose: str) -> None:
        """
        Connections are carried until both sides have shown new certificates several times, and none fails.

        :param whose: which of a record's serials is Envoy's.
        """
        load = Load(self, self.plain, lasting=1)
        ours: set[str] = set()

        def renewed() -> bool:
            ours.add(proxy.serial(next(iter(proxy.states()))))
            theirs = {record[whose] for record in proxy.records("open")}
            return min(len(ours), len(theirs)) > RENEWALS

        proxy.until(renewed, f"fewer than {RENEWALS} renewals on one side")
        load.stop()
        self.assertEqual(load.errors, [])
        closed = proxy.closed(len(proxy.records("open")))
        self.assertEqual({record["code"] for record in closed}, {"TM-D100"})

    def assert_refused_by_envoy(self, proxy: SpireProxy, port: int, envoy: Server) -> None:
        """It wanted somebody else."""
        self.assertFalse(call(port))
        proxy.wait_for("close", lambda record: (record["code"], record["bytes_recv"]) == ("TM-I403", 0))
        envoy.wait_until(lambda: "verify_cert_failed:_SAN_match:" in envoy.out, "the access log has no reason")

    def test_as_the_client(self) -> None:
        """It finds out who we are by our SPIFFE ID, and we find out the same of it."""
        self.server.register("/orders", ttl=TTL)
        self.server.register("/web", ttl=TTL, program=self.program)
        inner = self.start_spire_proxy("inner", self.source(self.agent, "orders") + self.inbound(self.wire, WEB))
        self.start_envoy("client", self.wire, self.plain)
        self.assert_renewed_under_load(inner, "src.serial")
        self.assertEqual({record["src.identity"] for record in inner.records("open")}, {WEB})

        other = free_port()
        envoy = self.start_envoy("client", self.wire, other, in_place_of(f"exact: {ORDERS}", f"exact: {LEDGER}"))
        self.assert_refused_by_envoy(inner, other, envoy)

    def test_as_the_server(self) -> None:
        """It lets in whom it is told to, by SPIFFE ID."""
        self.server.register("/web", ttl=TTL)
        self.server.register("/orders", ttl=TTL, program=self.program)
        outer = self.start_spire_proxy(
            "outer", self.source(self.agent, "web") + self.outbound(self.wire, self.plain, ORDERS)
        )
        envoy = self.start_envoy("server", self.wire, self.application.port)
        self.assert_renewed_under_load(outer, "dst.serial")
        self.assertEqual({record["dst.identity"] for record in outer.records("open")}, {ORDERS})

        envoy.kill()
        other = in_place_of(f"exact: {WEB}", f"exact: {LEDGER}")
        envoy = self.start_envoy("server", self.wire, self.application.port, other)
        self.assert_refused_by_envoy(outer, self.plain, envoy)
