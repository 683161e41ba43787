"""Servers and listeners that are known by a DNS name, and whether docs/foreign-peers.md is what was tested."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CLEAN, DNS_DIFFERS, PEER_ALERT, UNKNOWN_AUTHORITY, Code
from tcpmesh.observe.records import ConnectionRecord
from tests.integration import program
from tests.integration.applications import RESET as RESET_SEEN
from tests.integration.applications import Received, push, receive, until, whole
from tests.integration.field import TRUST_DOMAIN, authority
from tests.integration.foreign_case import REPLY, ForeignProgramTestCase, Hop
from tests.integration.foreign_programs import Change, ForeignClient, changed, issued_files, unchanged
from tests.integration.mesh import in_thread
from tests.integration.servers import run, temporary_directory
from tests.integration.snippets import DOCUMENT, names

NAME = "orders.example.org"
KINDS = ("envoy", "ghostunnel", "haproxy", "nginx", "openssl", "socat", "stunnel")


def greet(connection: socket.socket) -> None:
    """Speak first, and wait for the end."""
    push(connection, REPLY)
    receive(connection)


class OrdinaryAuthority:
    """An authority that knows nothing of SPIFFE, as openssl(1) makes one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._openssl = program("openssl", "openssl")
        self.bundle = directory / "bundle.pem"
        self._request("ca", "/CN=ordinary authority", "-x509", "-days", "1", "-out", str(self.bundle))

    def _request(self, name: str, subject: str, *options: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")
        run(self._openssl, "req", "-new", *key, "-subj", subject, *options, directory=self._directory)

    def issue_to(self, files: Path, subject: str, alternative: str = "") -> None:
        """Replace certificate and key in a directory of issued files."""
        extensions = self._directory / "extensions"
        extensions.write_text(f"subjectAltName = {alternative}\n" if alternative else "basicConstraints = CA:FALSE\n")
        self._request("leaf", subject, "-out", "leaf.csr")
        run(
            self._openssl, "x509", "-req", "-in", "leaf.csr", "-CA", self.bundle, "-CAkey", "ca.key", "-days", "1",
            "-extfile", extensions, "-out", files / "certificate.pem", directory=self._directory,
        )  # fmt: skip
        shutil.copy(self._directory / "leaf.key", files / "key.pem")


class Expectation(NamedTuple):
    """What our record must say of a server that shows some certificate."""

    code: Code
    reason: str = ""
    presented: str = ""


class ServerByNameTests(ForeignProgramTestCase):
    """``expect: ["dns:orders.example.org"]`` with ``trust: FILE``, against s_server and nginx."""

    async def check(self, files: Path, trust: Path, expectation: Expectation) -> None:
        """Both servers, with the same files."""
        for kind in ("openssl", "nginx"):
            hop = await self.server_hop(kind, "service-by-dns-name", greet, files=files, trust=trust)

            def ask(hop: Hop = hop) -> Received:
                with hop.connect() as client:
                    return receive(client, len(REPLY))

            answer = await in_thread(ask)
            record = await hop.proxy.closed()
            if expectation.code is CLEAN:
                self.assertEqual(answer, whole(REPLY))
                self.assertTrue(record.established)
                self.assertEqual((record.dst_identity, record.sni), (f"dns:{NAME}", NAME))
            else:
                self.assertEqual((answer.length, answer.ending), (0, RESET_SEEN))
                self.assertEqual((record.code, record.dst_identity), (expectation.code, ""), record)
                self.assertIn(expectation.reason, record.reason)
                self.assertEqual(record.presented, expectation.presented)

    def ordinary(self, subject: str, alternative: str = "") -> tuple[Path, Path]:
        """A server's files and those that we trust, from an ordinary authority; the server trusts the mesh's."""
        trust = temporary_directory(self)
        issuer = OrdinaryAuthority(trust)
        files = issued_files(self, "orders")
        issuer.issue_to(files, subject, alternative)
        return files, trust

    async def test_name_in_a_certificate_of_the_mesh(self) -> None:
        """``tcpmesh ca issue --dns`` gives a certificate that is good for both kinds of expectation."""
        files = issued_files(self, "orders", NAME)
        await self.check(files, files, Expectation(CLEAN))

    async def test_name_in_an_ordinary_certificate(self) -> None:
        """A server without a SPIFFE ID, of another authority."""
        await self.check(*self.ordinary("/O=somebody", f"DNS:{NAME}"), Expectation(CLEAN))

    async def test_another_name(self) -> None:
        """TM-I703 with both names."""
        files = issued_files(self, "orders", "other.example.org")
        presented = f"spiffe://{TRUST_DOMAIN}/orders"
        reason = f"expected dns:{NAME}; the certificate is for "
        await self.check(files, files, Expectation(DNS_DIFFERS, reason, presented))

    async def test_name_in_the_common_name_only(self) -> None:
        """TM-I703: a common name does not count (RFC 9525 section 2)."""
        reason = "it has no DNS name, and a common name does not count"
        files, trust = self.ordinary(f"/CN={NAME}")
        await self.check(files, trust, Expectation(DNS_DIFFERS, reason, f"subject CN={NAME}"))

    async def test_right_name_of_an_unknown_authority(self) -> None:
        """TM-I604: the file is all that is believed, and the mesh's own bundle is not."""
        files = issued_files(self, "orders", NAME)
        _files, trust = self.ordinary("/O=somebody")
        reason = "nobody in any trust bundle signed the chain of"
        await self.check(files, trust, Expectation(UNKNOWN_AUTHORITY, reason, f"spiffe://{TRUST_DOMAIN}/orders"))


class ListenerByNameTests(ForeignProgramTestCase):
    """Foreign clients that look for orders.example.org in our certificate and do not find it."""

    async def wrong_name(self, kind: str, said: str) -> ConnectionRecord:
        """Let the client try: no payload moves. Give our record."""
        inner = self.start_block_inbound("inbound", self.application(greet), "other.example.org")
        files = issued_files(self, "web")
        peer = await in_thread(lambda: ForeignClient(self, kind, files, inner.port("orders-in")))

        def ask() -> Received:
            with peer.connect() as client:
                push(client, b"hello")
                return receive(client)

        self.assertEqual((await in_thread(ask)).length, 0)
        await until(lambda: re.search(said, peer.said), f"it said {peer.said}")
        record = await inner.closed()
        self.assertEqual(record.bytes_sent, 0)
        return record

    async def test_clients_that_look_during_the_handshake(self) -> None:
        """s_client, stunnel and haproxy answer our certificate with an alert: TM-I403, and nobody is dialled."""
        for kind, alert, said in (
            ("openssl", "bad certificate", "hostname mismatch"),
            ("stunnel", "internal error", "CERT: Subject checks failed"),
            ("haproxy", "internal error", r" orders/orders \S+ 0 SC "),
        ):
            record = await self.wrong_name(kind, said)
            self.assertEqual((record.code, record.reason), (PEER_ALERT, f"the peer sent the TLS alert '{alert}'"))
            self.assertEqual(record.decision, "")

    async def test_clients_that_look_after_the_handshake(self) -> None:
        """socat and nginx complete it, so that we authorize and may dial; then they hang up."""
        for kind, said in (
            ("socat", f'commonName does not match hostname "{NAME}"'),
            ("nginx", f'upstream SSL certificate does not match "{NAME}"'),
        ):
            record = await self.wrong_name(kind, said)
            self.assertEqual((record.decision, record.closed_by), ("allow", "src"))
            self.assertEqual(record.src_identity, f"spiffe://{TRUST_DOMAIN}/web")


class IdentityCheckedTests(ForeignProgramTestCase):
    """ghostunnel, which looks for the SPIFFE ID of whoever it talks to."""

    async def refusing_client(self, change: Change, *dns: str) -> str:
        """Let a client of ghostunnel's try that does not want us; give the alert. No payload moves."""
        inner = self.start_block_inbound("inbound", self.application(greet), *dns)
        peer = await in_thread(
            lambda: ForeignClient(self, "ghostunnel", issued_files(self, "web"), inner.port("orders-in"), change)
        )
        with peer.connect() as client:
            self.assertEqual((await in_thread(receive, client)).length, 0)
        record = await inner.closed()
        self.assertEqual((record.code, record.bytes_sent, record.decision), (PEER_ALERT, 0, ""))
        return record.reason

    async def test_another_server(self) -> None:
        """Its name is right and its ID is not, or the other way round: TM-I403, and nobody is dialled."""
        said = "the peer sent the TLS alert 'bad certificate'"
        self.assertEqual(await self.refusing_client(changed("/orders", "/ledger")), said)
        self.assertEqual(await self.refusing_client(unchanged, "other.example.org"), said)

    async def test_another_client(self) -> None:
        """A server of ghostunnel's that does not let us in."""
        hop = await self.server_hop("ghostunnel", "service", greet, change=changed("/web", "/billing"))
        answer = await in_thread(receive, hop.connect())
        self.assertEqual((answer.length, answer.ending), (0, RESET_SEEN))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.reason), (PEER_ALERT, "the peer sent the TLS alert 'bad certificate'"))

    async def test_keys_are_exchanged_post_quantum(self) -> None:
        """Both sides prefer the same group."""
        hop = await self.server_hop("ghostunnel", "service", greet)
        with hop.connect() as client:
            self.assertEqual(await in_thread(receive, client, len(REPLY)), whole(REPLY))
        self.assertEqual((await hop.proxy.closed()).tls_group, "X25519MLKEM768")


class DocumentTests(SynchronousTestCase):
    """docs/foreign-peers.md."""

    def test_shows_what_is_tested_and_nothing_else(self) -> None:
        """Each peer has a block for each role, and each block of ours is used by a test."""
        peers = {f"{kind}-{role}" for kind in KINDS for role in ("client", "server")}
        ours = {"inbound", "inbound-eof", "inbound-tls12", "service", "service-eof", "service-tls12"}
        ours |= {"inbound-groups", "service-groups", "service-without-preface", "service-by-dns-name"}
        envoys = {"spiffe-validator", "federation", "files", "files-identity", "files-bundle", "sds", "sds-cluster"}
        self.assertEqual(names(), peers | ours | {f"envoy-{name}" for name in envoys})

    def test_names_the_files_that_ca_issue_writes(self) -> None:
        """Whatever lies in /etc/peer/ is written by ``tcpmesh ca issue``, or made of that in the document."""
        written = {path.name for path in authority().issue("web").iterdir()}
        shown = set(re.findall(r"/etc/peer/([\w.]+)", DOCUMENT.read_text()))
        self.assertEqual(shown - written, {"combined.pem"})
        self.assertIn("cat certificate.pem key.pem > combined.pem", DOCUMENT.read_text())
