"""How Envoy checks SPIFFE IDs, of one trust domain and of two, when it dials, and how it ends connections."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable

from OpenSSL import SSL

from tcpmesh.codes import CLEAN, PEER_ALERT, RESET
from tcpmesh.observe.records import ConnectionRecord, Side
from tests.integration.applications import BROKEN, Outbox, Received, push, receive, reset, until, whole
from tests.integration.applications import RESET as RESET_SEEN
from tests.integration.envoy import PARTNER_BUNDLE, SPIFFE_VALIDATOR, Change, in_place_of, then, unchanged, with_tls
from tests.integration.field import TRUST_DOMAIN, authority
from tests.integration.foreign import ForeignTLS
from tests.integration.foreign_case import ForeignProgramTestCase, Hop, Serve
from tests.integration.foreign_programs import ForeignServer, changed, issued_files
from tests.integration.mesh import Pki, echo, in_thread
from tests.integration.sds_agent import Agent

OTHER = changed(r"exact: ['\"]?spiffe://example.org/(orders|web)['\"]?", 'exact: "spiffe://example.org/other"')
EVERY_BUNDLE = in_place_of('name: "spiffe://example.org"', "name: ALL")
PARTNERS = in_place_of('exact: "spiffe://example.org/', 'exact: "spiffe://partner.test/')
SIDES: tuple[Side, ...] = ("src", "dst")
HELLO = b"hello"


class EnvoyTestCase(ForeignProgramTestCase):
    """Has Envoy at either side."""

    kind = "envoy"

    async def envoy_hop(self, side: Side, serve: Serve, change: Change = unchanged) -> Hop:
        """Envoy before our inbound proxy, or behind our outbound one."""
        if side == "src":
            return await self.client_hop(self.kind, "inbound", serve, change=change)
        return await self.server_hop(self.kind, "service", serve, change=change)

    async def ask(self, hop: Hop, data: bytes = HELLO) -> Received:
        """Send something and take all that comes."""

        def ask() -> Received:
            with hop.connect() as client:
                if data:
                    push(client, data)
                    client.shutdown(socket.SHUT_WR)
                return receive(client)

        return await in_thread(ask)

    async def said(self, hop: Hop, pattern: str) -> None:
        """Wait until Envoy's log has it."""
        try:
            await until(lambda: re.search(pattern, hop.peer.said, re.MULTILINE), f"it says {pattern}")
        except AssertionError:
            raise AssertionError(f"Envoy does not say {pattern}, but {hop.peer.said}") from None


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


class ResetTests(EnvoyTestCase):
    """A reset of either end becomes a reset at the other, through Envoy and us."""

    async def test_of_the_client(self) -> None:
        """The application has what was sent before, and an error."""
        for side in SIDES:
            seen: Outbox[Received] = Outbox()

            def serve(connection: socket.socket, seen: Outbox[Received] = seen) -> None:
                got = receive(connection, len(HELLO))
                push(connection, HELLO)
                seen.put(got)
                seen.put(receive(connection))

            hop = await self.envoy_hop(side, serve)

            def ask(hop: Hop = hop) -> None:
                client = hop.connect()
                push(client, HELLO)
                receive(client, len(HELLO))
                reset(client)

            await in_thread(ask)
            self.assertEqual(await seen.take(), whole(HELLO))
            self.assertEqual((await seen.take()).ending, RESET_SEEN)
            record = await hop.proxy.closed()
            self.assertEqual((record.code, record.closed_by), (RESET, "src"), record)

    async def test_of_the_application(self) -> None:
        """The client has what was sent before, and an error."""
        for side in SIDES:

            def serve(connection: socket.socket) -> None:
                receive(connection, len(HELLO))
                push(connection, HELLO)
                receive(connection, len(HELLO))
                reset(connection)

            hop = await self.envoy_hop(side, serve)

            def ask(hop: Hop = hop) -> tuple[Received, Received]:
                with hop.connect() as client:
                    push(client, HELLO)
                    first = receive(client, len(HELLO))
                    push(client, HELLO)
                    return first, receive(client)

            first, second = await in_thread(ask)
            self.assertEqual(first, whole(HELLO))
            self.assertIn(second.ending, BROKEN)
            record = await hop.proxy.closed()
            self.assertEqual((record.code, record.closed_by), (RESET, "dst"), record)


class LeavingTests(EnvoyTestCase):
    """Envoy ends a connection that nobody else ends: both applications see an orderly end."""

    async def assert_ends(self, side: Side, change: Change, cause: Callable[[Hop], object]) -> None:
        seen: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            push(connection, HELLO)
            seen.put(receive(connection))

        hop = await self.envoy_hop(side, serve, change)
        client = hop.connect()
        self.assertEqual(await in_thread(receive, client, len(HELLO)), whole(HELLO))
        cause(hop)
        self.assertEqual(await in_thread(receive, client), whole(b""))
        client.close()
        self.assertEqual(await seen.take(), whole(b""))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by), (CLEAN, side), record)

    async def test_idle_connection(self) -> None:
        """By default that is an hour."""
        idle = changed(r"^( *)stat_prefix: orders$", r"\1stat_prefix: orders\n\1idle_timeout: 0.5s")
        await self.assert_ends("src", idle, lambda _hop: None)
        await self.assert_ends("dst", idle, lambda _hop: None)

    async def test_stopped(self) -> None:
        """It waits for nobody."""

        def stop(hop: Hop) -> None:
            assert hop.peer.server is not None
            hop.peer.server.signal(signal.SIGTERM)

        await self.assert_ends("src", unchanged, stop)
        await self.assert_ends("dst", unchanged, stop)


class TruncationTests(EnvoyTestCase):
    """What Envoy makes of a FIN without close_notify, which ours never sends."""

    async def test_as_a_server(self) -> None:
        """An end like any other: the application cannot tell that something may be missing."""
        seen: Outbox[Received] = Outbox()
        application = self.application(lambda connection: seen.put(receive(connection)))
        peer = await in_thread(lambda: ForeignServer(self, self.kind, issued_files(self, "orders"), application))
        files = issued_files(self, "web")
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_chain_file(str(files / "certificate.pem"))
        context.use_privatekey_file(str(files / "key.pem"))

        def cut() -> None:
            with socket.create_connection(("127.0.0.1", peer.wire)) as connection:
                tls = ForeignTLS(connection, context, server=False)
                tls.handshake()
                tls.sendall(HELLO)
                tls.fin()
                connection.recv(1)

        await in_thread(cut)
        self.assertEqual(await seen.take(), whole(HELLO))


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
        return agent.change(server=server, change=then(EVERY_BUNDLE, PARTNERS))
