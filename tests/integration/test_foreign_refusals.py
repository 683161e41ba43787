"""Foreign peers that must not get in, or that do not want us: the code in our record, and what they see themselves."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tcpmesh.codes import CLEAN, ID_DIFFERS, NO_CERTIFICATE, NO_RULE_ALLOWS, PEER_ALERT, UNKNOWN_AUTHORITY, Code
from tcpmesh.observe.records import ConnectionRecord
from tests.integration.applications import END, Received, push, receive, until
from tests.integration.applications import RESET as RESET_SEEN
from tests.integration.field import TRUST_DOMAIN, stranger
from tests.integration.foreign_case import ForeignMixin, ForeignProgramTestCase, Hop
from tests.integration.foreign_programs import WITHOUT_CERTIFICATE, Change, issued_files, unchanged
from tests.integration.mesh import in_thread

WEB, ORDERS, INTRUDER = (f"spiffe://{TRUST_DOMAIN}/{name}" for name in ("web", "orders", "intruder"))


class RefusalTests(ForeignMixin):
    """What all refusals have in common."""

    kind: str

    async def refused(self, hop: Hop, dialled: list[bytes], code: Code, said: str | None) -> ConnectionRecord:
        """
        Try to use the connection: nothing comes back, the application is not disturbed, the record has the code.

        :param said: what the foreign peer then has in its log, as a pattern; None where it is silent.
        """

        def ask() -> Received:
            try:
                with hop.connect() as client:
                    push(client, b"hello")
                    return receive(client)
            except ConnectionResetError:  # before connect had even returned
                return Received(0, "", RESET_SEEN)

        answer = await in_thread(ask)
        self.assertEqual(answer.length, 0)
        self.assertIn(answer.ending, (END, RESET_SEEN))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.bytes_recv, dialled), (code, 0, []), record)
        if said is not None:
            await until(lambda: re.search(said, hop.peer.said), f"{self.kind} says {said}; it said {hop.peer.said}")
        return record


class RefusedClientTests(RefusalTests):
    """
    A foreign client that our inbound proxy refuses.

    What it then says: of a reset behind a complete handshake, of the alert internal_error (80), which pyOpenSSL sends
    for a chain that was refused above the leaf, and of certificate_required (116).
    """

    of_reset: str | None
    of_internal_error: str | None
    of_certificate_required: str | None

    async def a_hop(self, files: Path, change: Change = unchanged) -> tuple[Hop, list[bytes]]:
        dialled: list[bytes] = []
        return await self.client_hop(
            self.kind, "inbound", lambda c: dialled.append(c.recv(1)), files=files, change=change
        ), dialled

    async def test_identity_that_no_rule_names(self) -> None:
        """The handshake is complete, then the connection is reset: TM-P102 with the verified identity."""
        hop, dialled = await self.a_hop(issued_files(self, "intruder"))
        record = await self.refused(hop, dialled, NO_RULE_ALLOWS, self.of_reset)
        self.assertEqual((record.src_identity, record.decision, record.closed_by), (INTRUDER, "deny", "proxy"))

    async def test_certificate_of_an_unknown_authority(self) -> None:
        """TM-I604 with the name that was shown and not believed."""
        hop, dialled = await self.a_hop(issued_files(self, "web", issuer=stranger()))
        record = await self.refused(hop, dialled, UNKNOWN_AUTHORITY, self.of_internal_error)
        self.assertEqual((record.src_identity, record.presented, record.decision), ("", WEB, ""))
        self.assertIn(f"nobody in any trust bundle signed the chain of {WEB}", record.reason)

    async def test_no_certificate(self) -> None:
        """TM-I505, and the peer is told that one is required."""
        hop, dialled = await self.a_hop(issued_files(self, "web"), WITHOUT_CERTIFICATE[self.kind])
        record = await self.refused(hop, dialled, NO_CERTIFICATE, self.of_certificate_required)
        self.assertEqual((record.src_identity, record.presented, record.decision), ("", "", ""))


class RefusedOpenSSLClientTests(RefusedClientTests, ForeignProgramTestCase):
    """openssl s_client names the system error or the alert."""

    kind = "openssl"
    of_reset = r"(read|write):errno=(104|32)"
    of_internal_error = r"tlsv1 alert internal error:.*SSL alert number 80"
    of_certificate_required = r"tlsv13 alert certificate required:.*SSL alert number 116"


class RefusedSocatClientTests(RefusedClientTests, ForeignProgramTestCase):
    """socat names the system error and is silent about alerts behind its own handshake."""

    kind = "socat"
    of_reset = r"SSL_\w+\(\): (Connection reset by peer|Broken pipe)"
    of_internal_error = None
    of_certificate_required = None


class RefusedStunnelClientTests(RefusedClientTests, ForeignProgramTestCase):
    """stunnel takes a reset for an end, and names the alert."""

    kind = "stunnel"
    of_reset = r"Connection \S+: \d byte\(s\) sent to TLS, 0 byte\(s\) sent to socket"
    of_internal_error = r"SSL_read: .*tlsv1 alert internal error"
    of_certificate_required = r"SSL_read: .*tlsv13 alert certificate required"


class RefusedNginxClientTests(RefusedClientTests, ForeignProgramTestCase):
    """nginx says nothing of a reset, and names the alert."""

    kind = "nginx"
    of_reset = None
    of_internal_error = r"tlsv1 alert internal error:SSL alert number 80\) while proxying and reading from upstream"
    of_certificate_required = r"certificate required:SSL alert number 116\) while proxying and reading from upstream"


class RefusedGhostunnelClientTests(RefusedClientTests, ForeignProgramTestCase):
    """ghostunnel takes a reset for an end, and names the alert."""

    kind = "ghostunnel"
    of_reset = r"closed pipe: .* returned 0 bytes"
    of_internal_error = r"remote error: tls: internal error"
    of_certificate_required = r"remote error: tls: certificate required"


class RefusedHAProxyClientTests(RefusedClientTests, ForeignProgramTestCase):
    """
    haproxy's log line says SD or CD, whatever the reason.

    SC where the refusal was there before haproxy had counted its handshake as done; it tries again then.
    """

    kind = "haproxy"
    of_reset = of_internal_error = of_certificate_required = r" orders/orders \S+ 0 [SC][CD] "


class RefusedServerTests(RefusalTests):
    """
    A foreign server that our outbound proxy refuses, and one that refuses us.

    What it then says: of the alert internal_error, and that it does not believe our certificate.
    """

    of_internal_error: str
    of_our_certificate: str

    async def a_hop(self, files: Path) -> tuple[Hop, list[bytes]]:
        dialled: list[bytes] = []
        return await self.server_hop(self.kind, "service", lambda c: dialled.append(c.recv(1)), files=files), dialled

    async def test_another_identity_than_expected(self) -> None:
        """TM-I701 with both identities; no byte of the client's leaves."""
        hop, dialled = await self.a_hop(issued_files(self, "intruder"))
        record = await self.refused(hop, dialled, ID_DIFFERS, self.of_internal_error)
        self.assertEqual((record.dst_identity, record.presented, record.bytes_sent), ("", INTRUDER, 0))
        self.assertIn(f"expected {ORDERS}; the peer is {INTRUDER}", record.reason)

    async def test_certificate_of_an_unknown_authority(self) -> None:
        """TM-I604 with the name that was shown and not believed; no byte of the client's leaves."""
        hop, dialled = await self.a_hop(issued_files(self, "orders", issuer=stranger()))
        record = await self.refused(hop, dialled, UNKNOWN_AUTHORITY, self.of_internal_error)
        self.assertEqual((record.dst_identity, record.presented, record.bytes_sent), ("", ORDERS, 0))

    async def test_server_that_does_not_believe_our_certificate(self) -> None:
        """TM-I403 with the alert's name; TLS 1.3 lets us hear of it only after our side of the handshake."""
        files = issued_files(self, "orders")
        shutil.copy(stranger().bundle, files / "bundle.pem")
        hop, dialled = await self.a_hop(files)
        await self.assert_refused_by_peer(hop, dialled)

    async def assert_refused_by_peer(self, hop: Hop, dialled: list[bytes]) -> None:
        # Nothing is sent: a server that closes with unread payload resets, which may come before the alert is read.
        client = hop.connect()
        answer = await in_thread(receive, client)
        self.assertEqual((answer.length, answer.ending), (0, RESET_SEEN))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, dialled), (PEER_ALERT, []), record)
        self.assertEqual(record.reason, "the peer sent the TLS alert 'unknown ca'")
        await until(lambda: re.search(self.of_our_certificate, hop.peer.said), f"it said {hop.peer.said}")


class RefusedOpenSSLServerTests(RefusedServerTests, ForeignProgramTestCase):
    """openssl s_server names the alert."""

    kind = "openssl"
    of_internal_error = r"tlsv1 alert internal error:.*SSL alert number 80"
    of_our_certificate = r"verify error:unable to get local issuer certificate"


class RefusedSocatServerTests(RefusedServerTests, ForeignProgramTestCase):
    """socat names the alert."""

    kind = "socat"
    of_internal_error = r"SSL_accept\(\): .*tlsv1 alert internal error"
    of_our_certificate = r"SSL_accept\(\): .*certificate verify failed"


class RefusedStunnelServerTests(RefusedServerTests, ForeignProgramTestCase):
    """stunnel names the alert, and the certificate that it rejects."""

    kind = "stunnel"
    of_internal_error = r"SSL_accept: .*tlsv1 alert internal error"
    of_our_certificate = r"Rejected by CERT at depth=1: O=tcpmesh, CN=issuing authority of example.org"


class RefusedNginxServerTests(RefusedServerTests, ForeignProgramTestCase):
    """nginx names the alert; its own refusal comes as an orderly end after a complete handshake."""

    kind = "nginx"
    of_internal_error = r"tlsv1 alert internal error:SSL alert number 80\) while SSL handshaking"
    of_our_certificate = r"client SSL certificate verify error: \(20:unable to get local issuer certificate\)"

    async def assert_refused_by_peer(self, hop: Hop, dialled: list[bytes]) -> None:
        """It cannot be told from a server that closes at once: only nginx's own log has the reason."""
        client = hop.connect()
        answer = await in_thread(receive, client)
        client.close()
        self.assertEqual((answer.length, answer.ending), (0, END))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by, record.bytes_recv, dialled), (CLEAN, "dst", 0, []))
        await until(lambda: re.search(self.of_our_certificate, hop.peer.said), f"it said {hop.peer.said}")


class RefusedGhostunnelServerTests(RefusedServerTests, ForeignProgramTestCase):
    """
    ghostunnel says what is wrong with our certificate.

    It cannot read the alert: OpenSSL's clients send it unencrypted, and Go expects it to be encrypted by then.
    """

    kind = "ghostunnel"
    of_internal_error = r"error on TLS handshake from \S+: local error: tls: bad record MAC"
    of_our_certificate = r"certificate signed by unknown authority"


class RefusedHAProxyServerTests(RefusedServerTests, ForeignProgramTestCase):
    """haproxy says that the handshake failed, and of our certificate that it cannot be verified."""

    kind = "haproxy"
    of_internal_error = r"orders/1: SSL handshake failure"
    of_our_certificate = r"orders/1: SSL client CA chain cannot be verified"
