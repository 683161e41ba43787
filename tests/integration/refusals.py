"""Test cases of refusals: from all four sides, and what is asserted of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from OpenSSL import SSL

from tcpmesh.codes import PEER_ALERT, Code
from tcpmesh.observe.records import ConnectionRecord
from tests import refusal_matrix
from tests.integration.applications import END, RESET, Outbox, receive, until
from tests.integration.mesh import MeshTestCase, Proxy, in_thread
from tests.integration.pki import Pki
from tests.integration.strangers import FailureLines, Seen, Stranger, Target
from tests.unit.crafted import Issuer, Leaf, svid, uri
from tests.unit.tls_pairs import foreign_context, now_leaf

_DOCUMENTED = {
    (row.refused_by, row.application, row.wire, row.outbound_log, row.inbound_log) for row in refusal_matrix.rows()
}
WEB, ORDERS = "spiffe://mesh.test/web", "spiffe://mesh.test/orders"


class RefusalTestCase(MeshTestCase):
    """
    Proxies with good identities, a target that must not be called, and strangers.

    ``presented`` is what a refused certificate is said to be for, None for the identity that it was made for.
    """

    partners: tuple[Pki, ...] = ()
    presented: str | None = None

    def setUp(self) -> None:
        super().setUp()
        issuing, root = self.pki.issuing, self.pki.root
        self.issuer = Issuer(issuing.certificate, issuing.private_key, (root.certificate,))
        self.target = Target(self)
        self.lines = FailureLines(self)

    def identity(self, *workloads: str, pki: Pki | None = None, bundles: tuple[Pki, ...] = ()) -> str:
        """As ever, with the trust domains of ``partners`` trusted besides."""
        return super().identity(*workloads, pki=pki, bundles=bundles or (self.pki, *self.partners))

    def leaf(self, *names: bytes, issuer: Issuer | None = None, **fields: Any) -> Leaf:
        """A certificate of this mesh, good unless told otherwise."""
        return now_leaf(issuer or self.issuer, *(names or (uri(WEB),)), **fields)

    def welcome(self) -> str:
        """Whom an inbound listener expects."""
        return "any identity of " + ", ".join(sorted(str(pki.trust_domain) for pki in (self.pki, *self.partners)))

    # --- the wire

    def stranger(
        self, port: int, made: Leaf | SSL.Context | None, *, alpn: Sequence[bytes] = (), sni: bytes = b""
    ) -> Stranger:
        """A client that has connected to an inbound listener, with this certificate or this context."""
        context = made if isinstance(made, SSL.Context) else foreign_context(made)
        peer = Stranger(self.connect(port), context, server=False)
        if alpn:
            peer.tls.set_alpn_protos(list(alpn))
        if sni:
            peer.tls.set_tlsext_host_name(sni)
        return peer

    def strange_server(
        self, made: Leaf, *, alpn: bytes = b"", then: Callable[[Stranger], Any] | None = None
    ) -> tuple[int, Outbox[Seen]]:
        """A server with this certificate; its port, and what it saw of each connection."""
        context = foreign_context(made)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if alpn:
            context.set_alpn_select_callback(lambda _connection, _offered: alpn)
        seen: Outbox[Seen] = Outbox()
        return self.application(
            lambda connection: seen.put(Stranger(connection, context, server=True).watch(then))
        ), seen

    @staticmethod
    def present(proxy: Proxy, workload: str, made: Leaf, identity: str) -> None:
        """From now on the proxy shows this certificate, which no identity source would have got past its checks."""
        state = proxy.service.composition.state
        state.swap(svids={**state.current.svids, workload: svid(made, identity)})

    # --- assertions

    async def assert_reset(self, proxy: Proxy) -> None:
        """An application that connects and speaks at once sees nothing but a reset."""
        application = self.connect(proxy.port("to-orders"))
        application.sendall(b"secret")
        received = await in_thread(receive, application)
        self.assertEqual((received.length, received.ending), (0, RESET))

    @staticmethod
    async def accepted(proxy: Proxy) -> None:
        """Wait until a connection lives."""
        await until(lambda: proxy.live, "a connection is accepted")

    @staticmethod
    async def until_connected(proxy: Proxy) -> None:
        """Wait until an outbound connection has reached its endpoint: the handshake begins."""
        await until(lambda: [each for each in proxy.live if each.record.connect_ms is not None], "connected")

    @staticmethod
    async def until_secured(proxy: Proxy) -> None:
        """Wait until a handshake is complete."""
        await until(lambda: [each for each in proxy.live if each.record.tls_version], "secured")

    def assert_record(self, record: ConnectionRecord, code: Code, closed_by: str, *words: str, **values: Any) -> None:
        """Code, side, reason and whatever else is given; no payload, never established, nothing allowed."""
        self.assertEqual((record.code, record.closed_by), (code, closed_by), record.reason)
        for word in words:
            self.assertIn(word, record.reason)
        found = {name: getattr(record, name) for name in values}
        self.assertEqual(found, values)
        self.assertEqual((record.bytes_sent, record.bytes_recv, record.established), (0, 0, False))

    def assert_line(self, listener: str, record: ConnectionRecord) -> None:
        """Exactly one line, which says all that the record knows, and what to do next."""
        [(text, fields)] = self.lines.take(listener)
        code = record.code
        assert code is not None
        inbound = record.direction == "inbound"
        wanted = {
            "code": code.id,
            "direction": record.direction,
            "listener": listener,
            "src": record.src_addr,
            "local": record.local_addr,
            "service": record.dst_service,
            "dst": record.dst_addr,
            "expected": record.expected,
            "presented": record.presented or (record.src_identity if inbound else record.dst_identity),
            "reason": record.reason,
            "next": code.next_step,
        }
        self.assertEqual({name: fields.get(name, "") for name in wanted}, wanted)
        self.assertTrue(record.src_addr.startswith("127.0.0.1:") and record.local_addr.startswith("127.0.0.1:"))
        self.assertTrue(text.isascii() and text.isprintable(), text)
        self.assertIn(f"code={code.id} ", text)

    def assert_documented(
        self,
        refused_by: str,
        wire: str,
        *,
        application: str = "RST",
        outbound: Code | str = "foreign",
        inbound: Code | str = "foreign",
    ) -> None:
        """docs/codes.md has a row of this in its refusal matrix."""
        row = (refused_by, application, wire, str(outbound), str(inbound))
        self.assertIn(row, _DOCUMENTED)

    # --- the four ways in which a certificate can be refused

    async def refused_everywhere(
        self,
        make: Callable[[str], Leaf],
        code: Code,
        *words: str,
        alert: str = "internal error",
        client_alert: str = "",
        by_proxies: bool = True,
    ) -> None:
        """
        The certificate is refused from a stranger and from a proxy, as a client's and as a server's.

        :param make: makes it for an identity.
        :param alert: what the refused side hears; ``client_alert`` what a client hears, if that differs.
        :param by_proxies: whether OpenSSL lets a proxy of ours use such a certificate.
        """
        client_alert = client_alert or alert
        await self.refuse_client(make(WEB), code, *words, alert=client_alert)
        await self.refuse_server(make(ORDERS), code, *words, alert=alert)
        if by_proxies:
            await self.refuse_outbound(make(WEB), code, *words, alert=client_alert)
            await self.refuse_inbound(make(ORDERS), code, *words, alert=alert)

    async def refuse_client(self, made: Leaf | None, code: Code, *words: str, alert: str) -> None:
        """A stranger at an inbound listener hears the alert, then FIN; nobody is dialled."""
        inner = self.start_inbound(self.target.port)
        stranger = self.stranger(inner.port("orders-in"), made)
        host, number = stranger.socket.getsockname()
        seen = await in_thread(stranger.watch)
        self.assertEqual(seen, Seen(secured=True, error=alert, ending=END))
        here = await inner.closed()
        shown = WEB if self.presented is None else self.presented
        self.assert_record(
            here, code, "proxy", *words,
            presented=shown if made else "", expected=self.welcome(), src_identity="", decision="",
            src_addr=f"{host}:{number}", local_addr=f"127.0.0.1:{inner.port('orders-in')}",
        )  # fmt: skip
        self.assert_line("orders-in", here)
        self.assertFalse(self.target.was_dialled)

    async def refuse_server(self, made: Leaf, code: Code, *words: str, alert: str, expect: str = "") -> None:
        """A stranger that an outbound listener dials hears the alert, then FIN, and gets no payload."""
        port, seen = self.strange_server(made)
        outer = self.start_outbound(port, expect=expect)
        await self.assert_reset(outer)
        self.assertEqual(await seen.take(), Seen(error=alert, ending=END))
        there = await outer.closed()
        self.assert_record(
            there, code, "proxy", *words,
            presented=ORDERS if self.presented is None else self.presented, expected=expect or ORDERS,
            src_identity=WEB, dst_identity="", dst_addr=f"127.0.0.1:{port}", attempts=1,
        )  # fmt: skip
        self.assert_line("to-orders", there)

    async def refuse_outbound(self, made: Leaf, code: Code, *words: str, alert: str) -> None:
        """A proxy of ours is refused by another: both records and both logs say why, in their own terms."""
        inner = self.start_inbound(self.target.port)
        outer = self.start_outbound(inner.port("orders-in"))
        self.present(outer, "web", made, WEB)
        await self.assert_reset(outer)
        there, here = await outer.closed(), await inner.closed()
        self.assert_record(here, code, "proxy", *words, presented=WEB if self.presented is None else self.presented)
        self.assert_record(there, PEER_ALERT, "proxy", f"the TLS alert {alert!r}", dst_identity=ORDERS)
        self.assert_line("orders-in", here)
        self.assert_line("to-orders", there)
        self.assertFalse(self.target.was_dialled)
        self.assert_documented("inbound", "alert, FIN", outbound=PEER_ALERT, inbound=code)

    async def refuse_inbound(self, made: Leaf, code: Code, *words: str, alert: str) -> None:
        """A proxy of ours refuses the one that it dials; that one never dials its application."""
        inner = self.start_inbound(self.target.port)
        self.present(inner, "orders", made, ORDERS)
        outer = self.start_outbound(inner.port("orders-in"))
        await self.assert_reset(outer)
        there, here = await outer.closed(), await inner.closed()
        shown = ORDERS if self.presented is None else self.presented
        self.assert_record(there, code, "proxy", *words, presented=shown, expected=ORDERS, dst_identity="")
        self.assert_record(here, PEER_ALERT, "src", f"the TLS alert {alert!r}", presented="", src_identity="")
        self.assert_line("to-orders", there)
        self.assert_line("orders-in", here)
        self.assertFalse(self.target.was_dialled)
        self.assert_documented("outbound", "alert, FIN", outbound=code, inbound=PEER_ALERT)
