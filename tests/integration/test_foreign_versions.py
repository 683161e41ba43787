"""Foreign peers that speak nothing newer than TLS 1.2, and what foreign peers make of our ALPN."""

from __future__ import annotations

import re
import socket

from tcpmesh.codes import PEER_ALERT, TLS_FAILED
from tests.integration.applications import RESET, Received, push, receive, until, whole
from tests.integration.foreign_case import REPLY, REQUEST, ForeignMixin, ForeignProgramTestCase, Hop
from tests.integration.foreign_programs import Change, changed
from tests.integration.mesh import in_thread


def answer(connection: socket.socket) -> None:
    """Take the request and reply."""
    if receive(connection, len(REQUEST)) == whole(REQUEST):
        push(connection, REPLY)
        receive(connection)


class ExchangeMixin(ForeignMixin):
    """Sends a request and takes the reply."""

    async def ask(self, hop: Hop) -> Received:
        """What comes back; the client closes."""

        def ask() -> Received:
            try:
                with hop.connect() as client:
                    push(client, REQUEST)
                    return receive(client, len(REPLY))
            except ConnectionResetError:  # before connect had even returned
                return Received(0, "", RESET)

        return await in_thread(ask)

    async def assert_carries(self, hop: Hop, version: str = "TLSv1.3") -> None:
        self.assertEqual(await self.ask(hop), whole(REPLY))
        record = await hop.proxy.closed()
        self.assertEqual((record.tls_version, record.alpn), (version, ""))
        self.assertEqual((record.bytes_sent, record.bytes_recv), (len(REQUEST), len(REPLY)))

    async def assert_refused_by_alert(self, hop: Hop, alert: str) -> None:
        self.assertEqual((await self.ask(hop)).length, 0)
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.reason), (PEER_ALERT, f"the peer sent the TLS alert '{alert}'"))
        self.assertFalse(record.established)


class OldPeerTests(ExchangeMixin):
    """A peer that ends at TLS 1.2."""

    kind: str
    as_client: Change
    as_server: Change
    of_version = r"alert protocol version"

    async def test_client_is_refused(self) -> None:
        """An inbound listener wants TLS 1.3: TM-I404, and the peer gets the alert protocol_version."""
        hop = await self.client_hop(self.kind, "inbound", answer, change=type(self).as_client)
        self.assertEqual((await self.ask(hop)).length, 0)
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.reason), (TLS_FAILED, "OpenSSL says: unsupported protocol"))
        await until(lambda: re.search(self.of_version, hop.peer.said), f"it said {hop.peer.said}")

    async def test_client_is_served_where_the_listener_allows_it(self) -> None:
        """With ``tls: {min_version: "1.2"}``."""
        hop = await self.client_hop(self.kind, "inbound-tls12", answer, change=type(self).as_client)
        await self.assert_carries(hop, "TLSv1.2")

    async def test_server_is_refused(self) -> None:
        """A service wants TLS 1.3: the server answers our ClientHello with an alert, which is TM-I403."""
        hop = await self.server_hop(self.kind, "service", answer, change=type(self).as_server)
        await self.assert_refused_by_alert(hop, "protocol version")

    async def test_server_is_used_where_the_service_allows_it(self) -> None:
        """With ``tls: {min_version: "1.2"}``."""
        hop = await self.server_hop(self.kind, "service-tls12", answer, change=type(self).as_server)
        await self.assert_carries(hop, "TLSv1.2")


class OldOpenSSLTests(OldPeerTests, ForeignProgramTestCase):
    """openssl s_client and s_server."""

    kind = "openssl"
    as_client = staticmethod(changed("s_client", "s_client -tls1_2"))
    as_server = staticmethod(changed("s_server", "s_server -tls1_2"))


class OldSocatTests(OldPeerTests, ForeignProgramTestCase):
    """socat."""

    kind = "socat"
    as_client = staticmethod(changed("commonname", "openssl-max-proto-version=TLS1.2,commonname"))
    as_server = staticmethod(changed("verify=1", "verify=1,openssl-max-proto-version=TLS1.2"))


class OldStunnelTests(OldPeerTests, ForeignProgramTestCase):
    """stunnel."""

    kind = "stunnel"
    as_client = as_server = staticmethod(changed("verifyChain", "sslVersionMax = TLSv1.2\nverifyChain"))


class OldNginxTests(OldPeerTests, ForeignProgramTestCase):
    """nginx."""

    kind = "nginx"
    as_client = as_server = staticmethod(changed("TLSv1.2 TLSv1.3", "TLSv1.2"))


class OldGhostunnelTests(OldPeerTests, ForeignProgramTestCase):
    """ghostunnel, whose flag for it is not among those that it shows."""

    kind = "ghostunnel"
    as_client = as_server = staticmethod(changed("--cert ", "--max-tls-version TLS1.2 --cert "))
    of_version = r"tls: protocol version not supported"


class OldHAProxyTests(OldPeerTests, ForeignProgramTestCase):
    """haproxy, which tries four times and then reports a connection error."""

    kind = "haproxy"
    as_client = as_server = staticmethod(changed("verify required", "ssl-max-ver TLSv1.2 verify required"))
    of_version = r" orders/orders \d+/-1/\d+ 0 SC "

    async def test_client_is_refused(self) -> None:
        """Each try is a connection of its own, with a record of its own."""
        hop = await self.client_hop(self.kind, "inbound", answer, change=type(self).as_client)
        self.assertEqual((await self.ask(hop)).length, 0)
        await until(lambda: re.search(self.of_version, hop.peer.said), f"it said {hop.peer.said}")
        await hop.proxy.closed(4)
        self.assertEqual([record.code for record in hop.proxy.tap.close], [TLS_FAILED] * 4)


class ALPNTests(ExchangeMixin, ForeignProgramTestCase):
    """Our client offers ``tcpmesh/1``, our server takes nothing else; ``h2`` stands for whatever a peer wants."""

    as_server = {
        "openssl": changed("s_server", "s_server -alpn h2"),
        "nginx": changed(r"ssl_verify_depth 2;", "ssl_verify_depth 2; ssl_alpn h2;"),
        "haproxy": changed("verify required", "verify required alpn h2"),
    }

    async def test_servers_that_refuse_an_unknown_protocol(self) -> None:
        """s_server and nginx with an ALPN list of their own send no_application_protocol: TM-I403."""
        for kind in ("openssl", "nginx"):
            hop = await self.server_hop(kind, "service", answer, change=self.as_server[kind])
            await self.assert_refused_by_alert(hop, "no application protocol")

    async def test_servers_that_refuse_an_unknown_protocol_are_not_offered_one(self) -> None:
        """With ``preface: never`` we offer nothing, and they serve."""
        for kind in ("openssl", "nginx"):
            hop = await self.server_hop(kind, "service-without-preface", answer, change=self.as_server[kind])
            await self.assert_carries(hop)

    async def test_a_server_that_ignores_an_unknown_protocol(self) -> None:
        """haproxy goes on without one."""
        await self.assert_carries(await self.server_hop("haproxy", "service", answer, change=self.as_server["haproxy"]))

    async def test_clients_that_offer_another_protocol(self) -> None:
        """Our server goes on without one, and sends no preface."""
        for kind, change in (
            ("openssl", changed("s_client", "s_client -alpn h2")),
            ("haproxy", changed("verify required", "verify required alpn h2")),
        ):
            await self.assert_carries(await self.client_hop(kind, "inbound", answer, change=change))
