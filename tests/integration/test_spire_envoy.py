"""Envoy with certificate and bundle from the secret discovery service of the same SPIRE, at the other end of a hop."""

from __future__ import annotations

from tests.integration.envoy import OPTIONS, Change, envoy_program, in_place_of, then, unchanged, with_agent
from tests.integration.processes import accepts, free_port
from tests.integration.servers import Server, temporary_directory
from tests.integration.snippets import fill
from tests.integration.spire import SpireAgent, SpireServer
from tests.integration.spire_case import PARTNER, US, Load, SpireProxy, SpireTestCase, call

WEB, ORDERS, LEDGER = (f"spiffe://{US}/{name}" for name in ("web", "orders", "ledger"))
TTL = 15  # seconds
RENEWALS = 3
PARTNERS = then(
    in_place_of(f'name: "spiffe://{US}"', "name: ALL"),
    in_place_of(f'exact: "spiffe://{US}/', f'exact: "spiffe://{PARTNER}/'),
)


class EnvoyTestCase(SpireTestCase):
    """Runs Envoy as docs/foreign-peers.md says, with the agent's names for what it serves."""

    def setUp(self) -> None:
        self.program = envoy_program()
        super().setUp()
        self.wire, self.plain = free_port(), free_port()

    def start_envoy(
        self, role: str, wire: int, plain: int, change: Change = unchanged, *, asked: Change = unchanged
    ) -> Server:
        """
        Run it as ``client`` or ``server`` until it listens, which it does when it has got what it asked for.

        :param asked: changes what it asks the agent for.
        """
        agent = with_agent(self.agent.socket, server=role == "server", change=asked)
        directory = temporary_directory(self)
        configuration = directory / "envoy.yaml"
        configuration.write_text(then(agent, change)(fill(f"envoy-{role}", wire=wire, plain=plain)))
        server = Server(self, [self.program, *OPTIONS, "-c", configuration], directory=directory)
        listening = plain if role == "client" else wire
        server.wait_until(lambda: accepts(listening), "Envoy does not listen")
        return server


class EnvoyTests(EnvoyTestCase):
    """All in one trust domain."""

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

    def test_entry_that_is_deleted(self) -> None:
        """The agent then refuses everything, and Envoy goes on with what it has until that has expired."""
        self.server.register("/orders")
        entry = self.server.register("/web", ttl=TTL, program=self.program)
        inner = self.start_spire_proxy("inner", self.source(self.agent, "orders") + self.inbound(self.wire, WEB))
        envoy = self.start_envoy("client", self.wire, self.plain)
        self.assertTrue(call(self.plain))
        self.server.delete(entry)
        refusal = "workload is not authorized for the requested identities"
        envoy.wait_until(lambda: refusal in envoy.err, "the agent does not refuse")
        self.assertTrue(call(self.plain))
        inner.until(lambda: not call(self.plain), "Envoy still has a certificate")
        self.assertEqual(inner.wait_for("close", lambda record: record["code"] != "TM-D100")["code"], "TM-I503")


class FederationTests(EnvoyTestCase):
    """Envoy is of ``example.org`` and has the bundles of both, our proxy is of ``partner.example``."""

    def setUp(self) -> None:
        super().setUp()
        self.partner = SpireServer(self, PARTNER)
        self.partners_agent = SpireAgent(self, self.partner)
        for server, other in ((self.server, self.partner), (self.partner, self.server)):
            server.ask(
                "federation", "create", "-trustDomain", other.trust_domain,
                "-trustDomainBundlePath", self.file(f"{other.trust_domain}.pem", other.bundle()),
                "-bundleEndpointURL", f"https://127.0.0.1:{other.bundle_port}/",
                "-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", other.id,
            )  # fmt: skip

    def register(self, own: str, path: str) -> str:
        """Make the entries of our proxy and of Envoy; give that of Envoy."""
        self.partner.register(own, "-federatesWith", f"spiffe://{US}")
        return self.server.register(path, "-federatesWith", f"spiffe://{PARTNER}", program=self.program)

    def assert_carried_until_withdrawn(self, proxy: SpireProxy, path: str, entry: str, peer: str) -> None:
        """
        A connection crosses; when Envoy's entry has no partner any more, Envoy refuses the next.

        :param peer: which of a record's identities is Envoy's.
        """
        proxy.until(lambda: proxy.authorities(US), "there is no bundle of Envoy's trust domain")
        self.assertTrue(call(self.plain))
        proxy.wait_for("close", lambda record: (record[peer], record["code"]) == (f"spiffe://{US}{path}", "TM-D100"))
        self.server.delete(entry)
        self.server.register(path, program=self.program)
        proxy.until(lambda: not call(self.plain), "Envoy still trusts the partner")
        proxy.wait_for("close", lambda record: record["code"] == "TM-I403")

    def test_as_the_client(self) -> None:
        """It calls into the other trust domain."""
        entry = self.register("/orders", "/web")
        inner = self.source(self.partners_agent, "orders", trust_domain=PARTNER) + self.inbound(self.wire, WEB)
        proxy = self.start_spire_proxy("inner", inner, PARTNER)
        self.start_envoy("client", self.wire, self.plain, asked=PARTNERS)
        self.assert_carried_until_withdrawn(proxy, "/web", entry, "src.identity")

    def test_as_the_server(self) -> None:
        """It is called from the other trust domain."""
        entry = self.register("/web", "/orders")
        outer = self.source(self.partners_agent, "web", trust_domain=PARTNER)
        proxy = self.start_spire_proxy("outer", outer + self.outbound(self.wire, self.plain, ORDERS), PARTNER)
        self.start_envoy("server", self.wire, self.application.port, asked=PARTNERS)
        self.assert_carried_until_withdrawn(proxy, "/orders", entry, "dst.identity")
