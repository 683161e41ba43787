"""Two trust domains, each with a SPIRE of its own, and a connection from one to the other."""

from __future__ import annotations

from tcpmesh.codes import NO_BUNDLE
from tcpmesh.testing import TestAuthority
from tcpmesh.wall_clock import wall_clock
from tests.integration.processes import free_port
from tests.integration.servers import temporary_directory
from tests.integration.spire import SpireAgent, SpireServer
from tests.integration.spire_case import PARTNER, US, SpireProxy, SpireTestCase, call

WEB, ORDERS = f"spiffe://{US}/web", f"spiffe://{PARTNER}/orders"


class FederationTests(SpireTestCase):
    """The client is of ``example.org``, the server of ``partner.example``."""

    def setUp(self) -> None:
        super().setUp()
        # The partner's bundle endpoint has an ordinary certificate.
        place = temporary_directory(self)
        web = TestAuthority("web.test", now=wall_clock() - 60)
        self.web_bundle = web.write_bundle(place / "web.pem")
        certificate, key = web.write_svid(web.svid("/endpoint", dns=["localhost"], now=wall_clock()), place, "endpoint")
        profile = (
            f'"https_web" {{ serving_cert_file {{ cert_file_path = "{certificate}" key_file_path = "{key}" '
            'file_sync_interval = "1h" } }'
        )
        self.partner = SpireServer(self, PARTNER, profile=profile)
        self.partners_agent = SpireAgent(self, self.partner)
        self.wire, self.plain = free_port(), free_port()

    def start_pair(self, ours: str = "", theirs: str = "") -> tuple[SpireProxy, SpireProxy]:
        """
        The client's proxy and the server's.

        :param ours: what the client's says of federation, ``theirs`` likewise.
        """
        inner = self.source(self.partners_agent, "orders", trust_domain=PARTNER, more=theirs)
        outer = self.source(self.agent, "web", more=ours)
        server = self.start_spire_proxy("server", inner + self.inbound(self.wire, WEB), PARTNER)
        client = self.start_spire_proxy("client", outer + self.outbound(self.wire, self.plain, ORDERS))
        return client, server

    def assert_carried(self, client: SpireProxy, server: SpireProxy) -> None:
        """A connection crosses, and each side knows the other by its own trust domain's name."""
        before = len(server.records("close"))
        self.assertTrue(call(self.plain))
        server.until(lambda: len(server.records("close")) == before + 1, "no record")
        record = server.records("close")[-1]
        self.assertEqual((record["src.identity"], record["code"]), (WEB, "TM-D100"))
        client.wait_for("close", lambda one: one["conn"] == record["conn"] and one["dst.identity"] == ORDERS)

    def test_bundles_from_the_servers_endpoints(self) -> None:
        """One by https_spiffe, the other by https_web; no entry says anything of federation."""
        self.server.register("/web")
        self.partner.register("/orders")
        begin = self.file("first.json", self.server.bundle("spiffe"))
        client, server = self.start_pair(
            f'  federation: {{{PARTNER}: {{url: "https://localhost:{self.partner.bundle_port}/", profile: https_web, '
            f'trust: "{self.web_bundle}"}}}}\n',
            f'  federation: {{{US}: {{url: "https://127.0.0.1:{self.server.bundle_port}/", profile: https_spiffe, '
            f'endpoint_id: "{self.server.id}", bundle: "{begin}"}}}}\n',
        )
        for proxy, other in ((client, self.partner), (server, self.server)):
            authority = {other.authorities()["active"]}
            proxy.until(
                lambda proxy=proxy, other=other, authority=authority: (
                    proxy.authorities(other.trust_domain) == authority and self.origin(proxy, other) is not None
                ),
                "the endpoint has not been asked",
            )
        self.assert_carried(client, server)

    def origin(self, proxy: SpireProxy, other: SpireServer) -> int | None:
        """The sequence number of a bundle from an endpoint; None before the endpoint has given one."""
        (found,) = (each for each in proxy.identity()["trust_domains"] if each["trust_domain"] == other.trust_domain)
        (origin,) = found["from"]
        sequence: int | None = origin["sequence"]
        return sequence

    def federate(self, server: SpireServer, other: SpireServer, *how: str) -> None:
        """Let a server ask another one's bundle endpoint."""
        bundle = self.file(f"{other.trust_domain}.pem", other.bundle())
        server.ask(
            "federation", "create", "-trustDomain", other.trust_domain, "-trustDomainBundlePath", bundle, *how
        )  # fmt: skip

    def test_bundles_from_the_workload_api(self) -> None:
        """The servers federate, and the agents deliver; new authorities come the same way, and withdrawal does."""
        # SPIRE's server knows https_web endpoints by the system's authorities only, so this one is never reached.
        self.federate(
            self.server, self.partner,
            "-bundleEndpointURL", f"https://localhost:{self.partner.bundle_port}/",
            "-bundleEndpointProfile", "https_web",
        )  # fmt: skip
        self.federate(
            self.partner, self.server, "-bundleEndpointURL", f"https://127.0.0.1:{self.server.bundle_port}/",
            "-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", self.server.id,
        )  # fmt: skip
        entry = self.server.register("/web", "-federatesWith", f"spiffe://{PARTNER}")
        self.partner.register("/orders", "-federatesWith", f"spiffe://{US}")
        client, server = self.start_pair()
        first = self.server.authorities()["active"]
        server.until(lambda: server.authorities(US) == {first}, "the partner has not our bundle")
        client.until(lambda: client.authorities(PARTNER) != set(), "we have not the partner's bundle")
        self.assert_carried(client, server)

        self.server.step("prepare")
        second = self.server.authorities()["prepared"]
        self.partner.ask("federation", "refresh", "-id", f"spiffe://{US}")
        server.until(lambda: server.authorities(US) == {first, second}, "the partner has not our new authority")
        self.server.step("activate", second)
        before = client.serial("web")
        self.server.step("taint", first)
        client.until(lambda: client.serial("web") != before, "our certificate is still that of the old authority")
        self.server.step("revoke", first)
        client.until(lambda: client.authorities(US) == {second}, "our old authority is still there")
        self.assert_carried(client, server)
        self.partner.ask("federation", "refresh", "-id", f"spiffe://{US}")
        server.until(lambda: server.authorities(US) == {second}, "the partner has our old authority still")
        self.assert_carried(client, server)

        self.server.delete(entry)
        self.server.register("/web")
        client.until(
            lambda: client.authorities(PARTNER) == set() and client.states() == {"web": "ready"}, "still there"
        )
        self.assertFalse(call(self.plain))
        client.wait_for("close", lambda record: record["code"] == NO_BUNDLE.id)


class BundlesOnlyTests(SpireTestCase):
    """An agent that is asked for bundles, beside identities from files."""

    def test_brings_the_bundle_of_its_trust_domain(self) -> None:
        """And what replaces it, although no workload of this proxy is of that trust domain."""
        self.server.register("/anybody")
        own = TestAuthority("mesh.test", now=wall_clock() - 60)
        bundle = own.write_bundle(self.directory / "mesh.pem")
        certificate, key = own.write_svid(own.svid("/orders", now=wall_clock()), self.directory)
        proxy = self.start_spire_proxy(
            "proxy",
            f'identity:\n  sources: {{disk: {{plugin: files, bundles: {{mesh.test: "{bundle}"}}}}, '
            f'agent: {{plugin: workload-api, socket: "unix://{self.agent.socket}"}}}}\n'
            f'  workloads: {{orders: {{id: "spiffe://mesh.test/orders", source: disk, certificate: "{certificate}", '
            f'key: "{key}"}}}}\n' + self.inbound(free_port(), WEB),
            "mesh.test",
        )
        first = self.server.authorities()["active"]
        proxy.until(lambda: proxy.authorities(US) == {first}, "no bundle from the agent")
        self.server.step("prepare")
        second = self.server.authorities()["prepared"]
        proxy.until(lambda: proxy.authorities(US) == {first, second}, "no second authority")
        self.assertEqual(len(proxy.authorities("mesh.test")), 1)
