"""Peers that verify and are not wanted, and proxies that have nothing to show: refused over a real wire."""

from __future__ import annotations

from OpenSSL import SSL

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.preface import ALPN, Preface, PrefaceReader
from tcpmesh.values import IdentityState
from tests.integration.applications import END, RESET, receive
from tests.integration.mesh import Proxy, in_thread, unused_port
from tests.integration.refusals import ORDERS, WEB, RefusalTestCase
from tests.integration.strangers import Seen
from tests.unit.crafted import dns, uri
from tests.unit.tls_pairs import foreign_context

INTRUDER = "spiffe://mesh.test/intruder"


def preface_of(seen: Seen) -> Preface:
    """The preface that a peer got; nothing must follow it."""
    complete = PrefaceReader().feed(seen.data)
    assert complete is not None, seen
    preface, rest = complete
    assert rest == b"", rest
    return preface


class ExpectationTests(RefusalTestCase):
    """Outbound: somebody else answers."""

    async def refused_server(self, expect: str, code: Code, *words: str) -> None:
        """The server is good and not the one: it hears so, and both are in reason, record and line."""
        await self.refuse_server(
            self.leaf(uri(ORDERS)), code, f"expected {expect}; the peer is {ORDERS}", *words,
            alert="internal error", expect=expect,
        )  # fmt: skip

    async def test_another_identity(self) -> None:
        """The reason says which segment differs."""
        await self.refused_server("spiffe://mesh.test/billing", codes.ID_DIFFERS, "segment 1 is 'orders'")

    async def test_the_same_identity_of_another_trust_domain(self) -> None:
        """Same path, other domain: a code of its own."""
        await self.refused_server("spiffe://prod.test/orders", codes.TRUST_DOMAIN_DIFFERS)

    async def test_another_identity_behind_a_proxy(self) -> None:
        """Both hops are ours: the inbound one is told by an alert and never dials."""
        inner = self.start_inbound(self.target.port)
        outer = self.start_outbound(inner.port("orders-in"), expect="spiffe://mesh.test/billing")
        await self.assert_reset(outer)
        there, here = await outer.closed(), await inner.closed()
        self.assert_record(
            there, codes.ID_DIFFERS, "proxy", ORDERS,
            expected="spiffe://mesh.test/billing", presented=ORDERS, dst_identity="",
        )  # fmt: skip
        self.assert_record(here, codes.PEER_ALERT, "src", "'internal error'", presented="", src_identity="")
        self.assert_line("to-orders", there)
        self.assert_line("orders-in", here)
        self.assertFalse(self.target.was_dialled)
        self.assert_documented("outbound", "alert, FIN", outbound=codes.ID_DIFFERS, inbound=codes.PEER_ALERT)

    async def test_another_dns_name(self) -> None:
        """A plain TLS server that is known by its name."""
        port, seen = self.strange_server(self.leaf(uri(ORDERS), dns("db.example.org")))
        outer = self.start_outbound(port, expect="dns:www.example.org")
        await self.assert_reset(outer)
        self.assertEqual(await seen.take(), Seen(error="internal error", ending=END))
        there = await outer.closed()
        self.assert_record(
            there, codes.DNS_DIFFERS, "proxy", "expected dns:www.example.org; the certificate is for",
            expected="dns:www.example.org", presented=ORDERS,
        )  # fmt: skip
        self.assert_line("to-orders", there)
        self.assert_documented("outbound", "alert, FIN", outbound=codes.DNS_DIFFERS)

    async def test_the_next_attempt_starts_afresh(self) -> None:
        """What one endpoint presented is not said of the next one."""
        wrong, seen = self.strange_server(self.leaf(uri("spiffe://mesh.test/billing")))
        nobody = unused_port()
        outer = self.start_outbound(
            wrong, nobody, service=", retry: {plugin: exponential, attempts: 2, base: 1ms, max: 1ms}"
        )
        await self.assert_reset(outer)
        self.assertEqual((await seen.take()).ending, END)
        there = await outer.closed()
        self.assert_record(there, codes.CONNECT_REFUSED, "proxy", expected="", presented="", attempts=2)
        [(_, code, reason)] = outer.tap.attempts
        self.assertEqual(code, codes.ID_DIFFERS)
        self.assertIn("spiffe://mesh.test/billing", reason)
        [(_, attempt), (_, end)] = self.lines.take("to-orders")
        self.assertEqual((attempt["code"], attempt["presented"]), ("TM-I701", "spiffe://mesh.test/billing"))
        self.assertEqual((end["code"], end["dst"]), ("TM-U101", f"127.0.0.1:{nobody}"))
        self.assertNotIn("presented", end)


class CertificateTests(RefusalTestCase):
    """Inbound: clients with nothing to show, and one with everything."""

    async def test_a_client_without_certificate(self) -> None:
        """TLS 1.3 has an alert for that."""
        await self.refuse_client(None, codes.NO_CERTIFICATE, "presented no certificate", alert="certificate required")
        self.assert_documented("inbound", "alert, FIN", application="-", inbound=codes.NO_CERTIFICATE)

    async def test_a_good_client_gets_through(self) -> None:
        """The apparatus can tell: with a good certificate the target is dialled and nothing is complained of."""
        inner = self.start_inbound(self.target.port)
        stranger = self.stranger(inner.port("orders-in"), self.leaf(uri(WEB)))
        await in_thread(stranger.handshake)
        record = await inner.opened()
        self.assertEqual((record.src_identity, record.presented, record.expected), (WEB, "", ""))
        self.assertTrue(self.target.was_dialled)
        self.assertEqual(self.lines.take("orders-in"), [])


class PolicyTests(RefusalTestCase):
    """Inbound: verified and not allowed."""

    async def denied(self, inner: Proxy, code: Code, reason: str) -> None:
        """Ours learns code and reason from the preface, a stranger sees a reset; nobody dials, nobody is greeted."""
        port = inner.port("orders-in")
        for number, alpn in enumerate(([ALPN], []), 1):
            stranger = self.stranger(port, self.leaf(uri(INTRUDER)), alpn=alpn)
            seen = await in_thread(stranger.watch)
            here = await inner.closed(number)
            self.assert_record(here, code, "proxy", reason, src_identity=INTRUDER, presented="", decision="deny")
            if alpn:
                self.assertEqual((seen.secured, seen.notified, seen.ending), (True, True, END))
                self.assertEqual(preface_of(seen), Preface(ok=False, code=code.id, text=here.reason))
                self.assert_line("orders-in", here)
            else:
                self.assertEqual(seen, Seen(secured=True, ending=RESET))
        outer = self.start_outbound(port, workload="intruder")
        await self.assert_reset(outer)
        there = await outer.closed()
        self.assert_record(there, code, "proxy", f"refused by the peer: {here.reason}", dst_identity=ORDERS)
        self.assert_line("to-orders", there)
        await inner.closed(3)
        self.assert_documented("inbound", "preface, close_notify, FIN", outbound=code, inbound=code)
        self.assert_documented("inbound", "RST", inbound=code)
        self.assertFalse(self.target.was_dialled)

    async def test_no_rule_allows(self) -> None:
        """The default."""
        await self.denied(self.start_inbound(self.target.port), codes.NO_RULE_ALLOWS, f"no policy allows {INTRUDER}")

    async def test_a_rule_denies(self) -> None:
        """Though another allows."""
        rules = f'{{name: not-them, action: deny, from: [{{ids: ["{INTRUDER}"]}}]}}'
        allow = f'{{name: all, action: allow, from: [{{ids: ["{INTRUDER}"]}}]}}'
        inner = self.start_inbound(
            self.target.port, allow=(), top=f"authorization: [{{plugin: rules, policies: [{allow}, {rules}]}}]\n"
        )
        await self.denied(inner, codes.DENIED_BY_RULE, INTRUDER)

    async def test_the_application_cannot_be_reached(self) -> None:
        """Allowed, and nobody there: ours learns it from the preface, a stranger sees a reset."""
        inner = self.start_inbound(unused_port())
        port = inner.port("orders-in")
        outer = self.start_outbound(port)
        await self.assert_reset(outer)
        there, here = await outer.closed(), await inner.closed()
        self.assert_record(here, codes.TARGET_FAILED, "proxy", "TM-U101", src_identity=WEB, decision="allow")
        self.assert_record(there, codes.TARGET_FAILED, "proxy", f"refused by the peer: {here.reason}")
        self.assert_line("to-orders", there)
        self.assert_line("orders-in", here)
        code = codes.TARGET_FAILED
        self.assert_documented("inbound", "preface, close_notify, FIN", outbound=code, inbound=code)
        self.assert_documented("inbound", "RST", inbound=code)
        seen = await in_thread(self.stranger(port, self.leaf(uri(WEB))).watch)
        self.assertEqual(seen, Seen(secured=True, ending=RESET))


WITHOUT_IDENTITY = (
    (IdentityState.INIT, codes.NO_IDENTITY),
    (IdentityState.EXPIRED, codes.OWN_EXPIRED),
    (IdentityState.REVOKED, codes.OWN_REVOKED),
)


class OwnIdentityTests(RefusalTestCase):
    """A proxy that has nothing to show sends nothing."""

    def withdraw(self, proxy: Proxy, workload: str, state: IdentityState) -> None:
        cell = proxy.service.composition.state
        cell.swap(svids={}, identity_states={workload: state})

    async def test_an_outbound_listener_without_identity(self) -> None:
        """Nobody is dialled; the code says whether there was never one, it ran out, or was withdrawn."""
        for state, code in WITHOUT_IDENTITY:
            outer = self.start_outbound(self.target.port)
            self.withdraw(outer, "web", state)
            await self.assert_reset(outer)
            there = await outer.closed()
            self.assert_record(there, code, "proxy", "workload 'web'", f"state {state.name}", attempts=0, dst_addr="")
            self.assert_line("to-orders", there)
            self.assert_documented("outbound", "nothing", outbound=code, inbound="-")
        self.assertFalse(self.target.was_dialled)

    async def test_an_inbound_listener_without_identity(self) -> None:
        """Whoever connects is reset before a byte is exchanged; a proxy of ours may try another endpoint."""
        for state, code in WITHOUT_IDENTITY:
            inner = self.start_inbound(self.target.port)
            self.withdraw(inner, "orders", state)
            silent = self.connect(inner.port("orders-in"))
            self.assertEqual(tuple(await in_thread(receive, silent))[::2], (0, RESET))
            here = await inner.closed()
            self.assert_record(here, code, "proxy", "workload 'orders'", f"state {state.name}")
            self.assert_line("orders-in", here)
            outer = self.start_outbound(inner.port("orders-in"))
            await self.assert_reset(outer)
            there = await outer.closed()
            self.assert_record(there, codes.HANDSHAKE_TRUNCATED, "proxy", "reset by", errno="ECONNRESET")
            self.assert_documented("inbound", "RST", outbound=codes.HANDSHAKE_TRUNCATED, inbound=code)
            self.assert_line("to-orders", there)
        self.assertFalse(self.target.was_dialled)


class VersionTests(RefusalTestCase):
    """No version in common."""

    async def test_an_old_client(self) -> None:
        """A stranger with TLS 1.2 hears what is wrong."""
        inner = self.start_inbound(self.target.port)
        context = foreign_context(self.leaf(uri(WEB)))
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        stranger = self.stranger(inner.port("orders-in"), context)
        self.assertEqual(await in_thread(stranger.watch), Seen(error="protocol version", ending=END))
        here = await inner.closed()
        self.assert_record(here, codes.TLS_FAILED, "proxy", "unsupported protocol", presented="")
        self.assert_line("orders-in", here)
        self.assertFalse(self.target.was_dialled)

    async def test_two_proxies(self) -> None:
        """A service of TLS 1.2 only, and a listener of TLS 1.3: both logs say so."""
        inner = self.start_inbound(self.target.port)
        outer = self.start_outbound(inner.port("orders-in"), service=', tls: {min_version: "1.2", max_version: "1.2"}')
        await self.assert_reset(outer)
        there, here = await outer.closed(), await inner.closed()
        self.assert_record(here, codes.TLS_FAILED, "proxy", "unsupported protocol")
        self.assert_record(there, codes.PEER_ALERT, "proxy", "'protocol version'", expected=ORDERS, presented="")
        self.assert_line("orders-in", here)
        self.assert_line("to-orders", there)
        self.assertFalse(self.target.was_dialled)
        self.assert_documented("inbound", "alert, FIN", outbound=codes.PEER_ALERT, inbound=codes.TLS_FAILED)
