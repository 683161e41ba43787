"""Foreign TLS clients with certificates of ``tcpmesh ca issue``, towards our inbound listener."""

from __future__ import annotations

from cryptography import x509

from tcpmesh.codes import CLEAN, RESET, TRUNCATED, TRUNCATED_AS_EOF
from tcpmesh.identity.certificates import serial_text
from tcpmesh.observe.records import ConnectionRecord, Side
from tests.integration.applications import RESET as RESET_SEEN
from tests.integration.applications import Outbox, Received, whole
from tests.integration.field import TRUST_DOMAIN
from tests.integration.foreign_case import REQUEST, ExchangeTests, ForeignProgramTestCase, Hop, Serve
from tests.integration.foreign_programs import Change, ForeignClient, ForeignServer, changed, unchanged


class ForeignClientTestCase(ForeignProgramTestCase):
    """A foreign client before our inbound proxy."""

    kind: str
    block = "inbound"
    peer_side: Side = "src"
    change: Change = staticmethod(unchanged)

    async def hop(self, serve: Serve) -> Hop:
        return await self.client_hop(self.kind, self.block, serve, change=self.change)

    def assert_identified(self, record: ConnectionRecord, peer: ForeignClient | ForeignServer) -> None:
        leaf = x509.load_pem_x509_certificate((peer.files / "certificate.pem").read_bytes())
        self.assertEqual(record.src_identity, f"spiffe://{TRUST_DOMAIN}/web")
        self.assertEqual(record.src_serial, serial_text(leaf))
        self.assertEqual((record.decision, record.policy), ("allow", "web-may"))


class SocatClientTests(ForeignClientTestCase, ExchangeTests):
    """socat sends close_notify for each end and waits for the other (-t)."""

    kind = "socat"


class StunnelClientTests(ForeignClientTestCase, ExchangeTests):
    """stunnel sends close_notify for each end and waits for the other."""

    kind = "stunnel"


class HAProxyClientTests(ForeignClientTestCase, ExchangeTests):
    """haproxy sends close_notify for each end and waits for the other."""

    kind = "haproxy"


class GhostunnelClientTests(ForeignClientTestCase, ExchangeTests):
    """ghostunnel sends close_notify for each end and waits for the other."""

    kind = "ghostunnel"


class NginxClientTests(ForeignClientTestCase, ExchangeTests):
    """nginx with proxy_half_close ends every direction with a bare FIN: it needs ``truncation: eof``."""

    kind = "nginx"
    block = "inbound-eof"
    clean = TRUNCATED_AS_EOF


class StrictNginxClientTests(NginxClientTests):
    """The same nginx on a listener without ``truncation: eof``."""

    block = "inbound"
    clean = TRUNCATED

    async def test_server_ends_first(self) -> None:
        """The reply is whole, but nginx's bare FIN behind it is a truncation, and the application sees a reset."""
        await super().test_server_ends_first()

    async def assert_application_saw_the_end(self, seen: Outbox[Received]) -> None:
        self.assertEqual((await seen.take()).ending, RESET_SEEN)

    async def test_half_close(self) -> None:
        """The bare FIN behind the request is a truncation: the application sees a reset and nobody gets a reply."""
        hop, reply, seen = await self.half_close()
        self.assertEqual(reply.length, 0)
        self.assertEqual((await seen.take()).ending, RESET_SEEN)
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by, record.bytes_recv), (TRUNCATED, "src", 0))


class DefaultNginxClientTests(StrictNginxClientTests):
    """nginx without proxy_half_close: only the end of its own client becomes a close_notify."""

    change = staticmethod(changed(r"^ *proxy_half_close on;\n", ""))

    async def test_client_ends_first(self) -> None:
        """This is the one end that it announces."""
        self.clean = CLEAN
        await super().test_client_ends_first()

    async def test_server_ends_first(self) -> None:
        """The reply is whole, but nginx's answer to our close_notify is a bare FIN."""
        await super().test_server_ends_first()

    async def assert_application_saw_the_end(self, seen: Outbox[Received]) -> None:
        expected = whole(b"") if self.clean is CLEAN else whole(b"")._replace(ending=RESET_SEEN)
        self.assertEqual(await seen.take(), expected)

    async def test_half_close(self) -> None:
        """nginx closes both sides at the client's end: no reply, and what was on the way may be lost."""
        hop, reply, _seen = await self.half_close()
        self.assertEqual(reply.length, 0)
        self.assertEqual((await hop.proxy.closed()).closed_by, "src")


class OpenSSLClientTests(ForeignClientTestCase, ExchangeTests):
    """openssl s_client sends close_notify and leaves."""

    kind = "openssl"

    async def test_half_close(self) -> None:
        """At the end of its input it sends close_notify and closes: the application sees an end, the reply is lost."""
        hop, reply, seen = await self.half_close()
        self.assertEqual(reply.length, 0)
        self.assertEqual(await seen.take(), whole(REQUEST))
        record = await hop.proxy.closed()
        # The reply meets a closed socket, or arrives just before it closes.
        self.assertIn(record.code, (CLEAN, RESET))
        self.assertEqual((record.closed_by, record.bytes_sent), ("src", len(REQUEST)))
