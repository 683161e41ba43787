"""How Envoy checks SPIFFE IDs, of one trust domain and of two, and whether it dials before."""

from __future__ import annotations

import re

from tcpmesh.codes import CLEAN, PEER_ALERT
from tcpmesh.observe.records import ConnectionRecord
from tests.integration.applications import until, whole
from tests.integration.envoy import (
    PARTNER_BUNDLE,
    SPIFFE_VALIDATOR,
    Change,
    in_place_of,
    then,
    unchanged,
    with_agent,
    with_tls,
)
from tests.integration.envoy_case import HELLO, EnvoyTestCase
from tests.integration.field import TRUST_DOMAIN, authority
from tests.integration.foreign_case import Hop
from tests.integration.foreign_programs import changed, issued_files
from tests.integration.mesh import Pki, echo
from tests.integration.sds_agent import Agent

OTHER = changed(r"exact: ['\"]?spiffe://example.org/(orders|web)['\"]?", 'exact: "spiffe://example.org/other"')
EVERY_BUNDLE = in_place_of('name: "spiffe://example.org"', "name: ALL")
PARTNERS = in_place_of('exact: "spiffe://example.org/', 'exact: "spiffe://partner.test/')


class ExpectedIdentityTests(EnvoyTestCase):
    """Envoy expects somebody else of the same trust domain: it says so in an alert, and no byte gets through."""

    async def assert_refused(self, hop: Hop, dialled: list[bytes], data: bytes, pattern: str) -> ConnectionRecord:
        answer = await self.ask(hop, data)
        self.assertEqual(answer.length, 0)
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.bytes_recv, dialled), (PEER_ALERT, 0, []), record)
        self.assertEqual(record.reason, "the peer sent the TLS alert 'certificate unknown'")
        await self.said(hop, pattern)
        return record

    async def client(self, change: Change, pattern: str) -> None:
        """It refuses our listener during its handshake."""
        dialled: list[bytes] = []
        hop = await self.client_hop(self.kind, "inbound", lambda c: dialled.append(c.recv(1)), change=change)
        record = await self.assert_refused(hop, dialled, HELLO, rf"^UF,URX 0 0 TLS_error:\S+{pattern}:TLS_error_end$")
        self.assertEqual(record.decision, "")

    async def server(self, change: Change, pattern: str) -> None:
        """It refuses us when our side of the handshake is done."""
        dialled: list[bytes] = []
        hop = await self.server_hop(self.kind, "service", lambda c: dialled.append(c.recv(1)), change=change)
        # Nothing is sent: a server that closes with unread payload resets, which may come before the alert is read.
        await self.assert_refused(hop, dialled, b"", rf"^- 0 0 \S+/web TLS_error:\S+{pattern}:TLS_error_end$")

    async def test_names_that_were_shown(self) -> None:
        """The access log has them all."""
        names = "verify_cert_failed:_SAN_matcher,_certificate_SANs_are_"
        await self.client(OTHER, rf"{names}\[spiffe://example\.org/orders,_orders\.example\.org\]")
        await self.server(OTHER, rf"{names}\[spiffe://example\.org/web\]")

    async def test_spiffe_validator(self) -> None:
        """It refuses the same, without the names."""
        await self.client(then(with_tls(SPIFFE_VALIDATOR, server=False), OTHER), "verify_cert_failed:_SAN_match")
        await self.server(then(with_tls(SPIFFE_VALIDATOR, server=True), OTHER), "verify_cert_failed:_SAN_match")


class EarlyDialTests(EnvoyTestCase):
    """Envoy dials its application when somebody connects, unless it is told to complete the handshake first."""

    async def dialled(self, change: Change) -> list[bytes]:
        """What the application got of connections whose client Envoy then refused."""
        dialled: list[bytes] = []
        hop = await self.server_hop(
            self.kind, "service", lambda c: dialled.append(c.recv(1)), change=then(change, OTHER)
        )
        await self.ask(hop, b"")
        await hop.proxy.closed()
        await self.said(hop, "^- 0 0 ")
        return dialled

    async def test_by_default(self) -> None:
        """The application sees a connection without a byte, of somebody who was not let in."""
        early = changed(r"^ *(upstream_connect_mode|max_early_data_bytes): .*\n", "")
        dialled = await self.dialled(early)
        await until(lambda: dialled, "the application was dialled")
        self.assertEqual(dialled, [b""])

    async def test_as_documented(self) -> None:
        """It sees nothing."""
        self.assertEqual(await self.dialled(unchanged), [])


def swap(text: str) -> str:
    """Give each of two trust domains the other's bundle."""
    other = {TRUST_DOMAIN: "partner.test", "partner.test": TRUST_DOMAIN}
    return re.sub(r"(?<=- {name: )[\w.]+", lambda found: other[found[0]], text)


class FederationTests(EnvoyTestCase):
    """Our proxy is of partner.test, Envoy of example.org, and each trusts the other's authority for its own."""

    trust_domain = "partner.test"

    def setUp(self) -> None:
        super().setUp()
        self.partner = Pki(self.directory / "partner", self.trust_domain)

    def acting_as(self, name: str, *dns: str) -> str:
        self.partner.issue(name, dns=dns)
        federation = f'{{{TRUST_DOMAIN}: {{bundle: "{authority().bundle}"}}}}'
        return self.identity(name, pki=self.partner) + f"  federation: {federation}\n"

    def change(self, *, server: bool, swapped: bool = False) -> Change:
        """
        Envoy's configuration for a peer of partner.test.

        :param swapped: each trust domain has the other's bundle.
        """
        bundle = in_place_of(PARTNER_BUNDLE, str(self.partner.bundle.absolute()))
        return with_tls("envoy-federation", server=server, change=then(bundle, swap if swapped else unchanged))

    async def test_client(self) -> None:
        """Envoy calls into the other trust domain."""
        hop = await self.client_hop(self.kind, "inbound", echo, change=self.change(server=False))
        self.assertEqual(await self.ask(hop), whole(HELLO))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.src_identity), (CLEAN, f"spiffe://{TRUST_DOMAIN}/web"))

    async def test_server(self) -> None:
        """Envoy is called from the other trust domain."""
        hop = await self.server_hop(self.kind, "service", echo, change=self.change(server=True))
        self.assertEqual(await self.ask(hop), whole(HELLO))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.dst_identity), (CLEAN, f"spiffe://{TRUST_DOMAIN}/orders"))
        self.assertEqual(record.src_identity, "spiffe://partner.test/web")

    async def test_bundle_of_the_wrong_domain(self) -> None:
        """Envoy believes nobody of partner.test whom only the authority of example.org vouches for."""
        change = self.change(server=True, swapped=True)
        hop = await self.server_hop(self.kind, "service", echo, change=change)
        self.assertEqual((await self.ask(hop, b"")).length, 0)
        self.assertEqual((await hop.proxy.closed()).code, PEER_ALERT)
        await self.said(
            hop, r"^- 0 0 spiffe://partner\.test/web TLS_error:\S+:_unable_to_get_local_issuer_certificate:"
        )


class AgentFederationTests(FederationTests):
    """The same with the bundles and the certificate from an agent, which names all its bundles ALL."""

    def change(self, *, server: bool, swapped: bool = False) -> Change:
        agent = Agent(self)
        bundles = [authority().bundle, self.partner.bundle]
        domains = ["partner.test", TRUST_DOMAIN] if swapped else [TRUST_DOMAIN, "partner.test"]
        agent.put_bundles("ALL", dict(zip(domains, bundles, strict=True)))
        name = "orders" if server else "web"
        agent.put_certificate(name, issued_files(self, name))
        return with_agent(agent.socket, server=server, change=then(EVERY_BUNDLE, PARTNERS))
