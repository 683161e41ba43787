"""Foreign TLS servers with certificates of ``tcpmesh ca issue``, which demand ours, behind our outbound listener."""

from __future__ import annotations

import socket

from cryptography import x509

from tcpmesh.codes import CLEAN, TRUNCATED, TRUNCATED_AS_EOF
from tcpmesh.identity.certificates import serial_text
from tcpmesh.observe.records import ConnectionRecord, Side
from tests.integration.applications import RESET as RESET_SEEN
from tests.integration.applications import Outbox, Received, is_prefix, push, receive, whole
from tests.integration.field import TRUST_DOMAIN
from tests.integration.foreign_case import REPLY, REQUEST, ExchangeTests, ForeignProgramTestCase, Hop, Serve
from tests.integration.foreign_programs import Change, ForeignClient, ForeignServer, changed, unchanged
from tests.integration.mesh import in_thread


class ForeignServerTestCase(ForeignProgramTestCase):
    """A foreign server behind our outbound proxy."""

    kind: str
    block = "service"
    peer_side: Side = "dst"
    change: Change = staticmethod(unchanged)

    async def hop(self, serve: Serve) -> Hop:
        return await self.server_hop(self.kind, self.block, serve, change=self.change)

    def assert_identified(self, record: ConnectionRecord, peer: ForeignClient | ForeignServer) -> None:
        leaf = x509.load_pem_x509_certificate((peer.files / "certificate.pem").read_bytes())
        self.assertEqual(record.dst_identity, f"spiffe://{TRUST_DOMAIN}/orders")
        self.assertEqual(record.dst_serial, serial_text(leaf))
        self.assertEqual((record.src_identity, record.attempts), (f"spiffe://{TRUST_DOMAIN}/web", 1))


class SocatServerTests(ForeignServerTestCase, ExchangeTests):
    """socat sends close_notify for each end and waits for the other (-t)."""

    kind = "socat"


class StunnelServerTests(ForeignServerTestCase, ExchangeTests):
    """stunnel sends close_notify for each end and waits for the other."""

    kind = "stunnel"


class HAProxyServerTests(ForeignServerTestCase, ExchangeTests):
    """haproxy sends close_notify for each end and waits for the other."""

    kind = "haproxy"


class GhostunnelServerTests(ForeignServerTestCase, ExchangeTests):
    """ghostunnel sends close_notify for each end and waits for the other."""

    kind = "ghostunnel"


class NginxServerTests(ForeignServerTestCase, ExchangeTests):
    """nginx with proxy_half_close ends every direction with a bare FIN: it needs ``truncation: eof``."""

    kind = "nginx"
    block = "service-eof"
    clean = TRUNCATED_AS_EOF


class StrictNginxServerTests(NginxServerTests):
    """The same nginx for a service without ``truncation: eof``."""

    block = "service"
    clean = TRUNCATED

    async def test_server_ends_first(self) -> None:
        """nginx's bare FIN behind the reply is a truncation: the client sees a reset, which may overtake the reply."""
        seen: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            seen.put(receive(connection, len(REQUEST)))
            push(connection, REPLY)

        hop = await self.hop(serve)

        def ask() -> Received:
            with hop.connect() as client:
                push(client, REQUEST)
                return receive(client)

        await self.assert_truncated(hop, await in_thread(ask), seen)

    async def test_half_close(self) -> None:
        """The same when the client had ended before."""
        await self.assert_truncated(*await self.half_close())

    async def assert_truncated(self, hop: Hop, reply: Received, seen: Outbox[Received]) -> None:
        self.assertEqual(await seen.take(), whole(REQUEST))
        self.assertTrue(is_prefix(reply, REPLY))
        self.assertEqual(reply.ending, RESET_SEEN)
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by, record.bytes_sent), (TRUNCATED, "dst", len(REQUEST)))
        self.assert_identified(record, hop.peer)


class DefaultNginxServerTests(NginxServerTests):
    """nginx without proxy_half_close: only the end of its own application becomes a close_notify."""

    change = staticmethod(changed(r"^ *proxy_half_close on;\n", ""))

    async def test_server_ends_first(self) -> None:
        """This is the one end that it announces."""
        self.clean = CLEAN
        await super().test_server_ends_first()

    async def test_half_close(self) -> None:
        """nginx closes both sides at the client's end: the application sees the whole request, the reply is lost."""
        hop, reply, seen = await self.half_close()
        self.assertEqual(await seen.take(), whole(REQUEST))
        self.assertEqual(reply, whole(b""))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by, record.bytes_recv), (TRUNCATED_AS_EOF, "src", 0))


class OpenSSLServerTests(ForeignServerTestCase, ExchangeTests):
    """openssl s_server sends close_notify; between connections its standard input and output stay as they are."""

    kind = "openssl"

    async def assert_application_saw_the_end(self, seen: Outbox[Received]) -> None:
        """Its application is whoever sits on them, and sees no end of a connection."""
        self.assertEqual(len(seen), 0)

    async def test_half_close(self) -> None:
        """It closes at the client's end: the client sees an end without a reply."""
        hop, reply, _seen = await self.half_close()
        self.assertEqual(reply, whole(b""))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by, record.bytes_sent), (CLEAN, "src", len(REQUEST)))
