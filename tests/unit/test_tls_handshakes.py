"""Handshakes that fail, in the core: each with its code, its reason and its alert; and sessions never resumed."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.errors import Refusal
from tests.unit.crafted import dns, uri
from tests.unit.tls_pairs import (
    ORDERS,
    PIECES,
    TLS12,
    WEB,
    WHOLE,
    Pair,
    World,
    foreign_client,
    foreign_context,
    joined,
    meet,
    names_of,
    now_leaf,
    pieces,
    take,
)

NOT_TLS = (
    b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n",
    b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(37),  # an SSLv2 ClientHello
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",  # PostgreSQL's SSLRequest
    b"SSH-2.0-OpenSSH_10.0\r\n",
    b"\x17\x03\x03\x00\x05hello",  # application data before anything else
)
GARBAGE = (
    b"\x16\x03\x01\x00\x05hello",  # a handshake record with nonsense in it
    b"\x16\x03\x01\x00\x04\x0e\x00\x00\x00",  # ServerHelloDone, out of turn
    b"\x16\x03\x01\x48\x01" + bytes(100),  # a record longer than any may be
    b"\x15\x03\x01\x00\x02\x02\x63",  # an alert nobody knows
)


class RefusalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def refused(self, core: TLSCore, sent: bytes, code: Code, *words: str, piece: int = WHOLE) -> None:
        """The core refuses these bytes with this code, nothing before."""

        def feed() -> None:
            for part in pieces(sent, piece):
                self.assertFalse(core.handshake(part))

        refusal = self.assertRaises(Refusal, feed)
        self.assertEqual(refusal.code, code, refusal.reason)
        self.assertTrue(refusal.reason.isascii() and refusal.reason.isprintable(), refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)


class PlaintextTests(RefusalCase):
    def test_a_server_tells_plaintext_from_tls(self) -> None:
        """Whatever does not begin like TLS is named and shown; nothing is answered."""
        for sent in NOT_TLS:
            for piece in PIECES:
                server = self.world.server()
                self.refused(server, sent, codes.PLAINTEXT_PEER, "expected a TLS handshake record, got", piece=piece)
                self.assertEqual(server.take_output(), b"")
        self.refused(self.world.server(), NOT_TLS[0], codes.PLAINTEXT_PEER, "got 'GET /'")

    def test_a_server_shows_no_password(self) -> None:
        """A client of Redis that was not told to use TLS begins with it."""
        with self.assertRaises(Refusal) as raised:
            self.world.server().feed_handshake(b"AUTH hunter2\r\n")
        self.assertEqual(raised.exception.reason, "expected a TLS handshake record, got 'AUTH '")

    def test_a_client_tells_plaintext_from_tls(self) -> None:
        """A server that greets at once does not speak TLS, and its greeting is shown, escaped."""
        for piece in PIECES:
            client = self.world.client()
            client.handshake(b"")
            self.refused(client, b'220 mail "\x1b[2J\xff\r\n', codes.PLAINTEXT_PEER, piece=piece)
        client = self.world.client()
        client.handshake(b"")
        self.refused(client, b"\xff\x1b[2J\n'\"", codes.PLAINTEXT_PEER, r"\xff\x1b[2J\n")

    def test_refuses_garbage_in_records(self) -> None:
        """What begins like TLS and is none is a failed handshake; the reason is OpenSSL's."""
        for sent in GARBAGE:
            for piece in PIECES:
                self.refused(self.world.server(), sent, codes.TLS_FAILED, "OpenSSL says: ", piece=piece)


class VersionTests(RefusalCase):
    def test_refuses_an_old_client(self) -> None:
        """A client that knows TLS 1.2 at most is refused by a server of TLS 1.3, with the version as the reason."""
        for piece in PIECES:
            context = foreign_context(self.world.web)
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            client = foreign_client(context)
            self.assertRaises(SSL.WantReadError, client.do_handshake)
            server = self.world.server()
            self.refused(server, take(client), codes.TLS_FAILED, "unsupported protocol", piece=piece)
            client.bio_write(server.take_output())
            self.assertEqual(names_of(self.assertRaises(SSL.Error, client.do_handshake)), "protocol version")

    def test_refuses_an_old_server(self) -> None:
        """A server without TLS 1.3 cannot serve our client: its alert says so."""
        pair = Pair(self.world.client(), self.world.server(TLS12))
        self.assertFalse(pair.client.handshake(b""))
        self.refused(pair.server, pair.client.take_output(), codes.TLS_FAILED, "unsupported protocol")
        self.refused(pair.client, pair.server.take_output(), codes.PEER_ALERT, "'protocol version'")


class AlertTests(RefusalCase):
    def test_names_the_alert_of_a_client(self) -> None:
        """A client that does not like the server's certificate says why, and the server repeats it."""
        for piece in PIECES:
            server = self.world.server()
            context = foreign_context(self.world.web)
            context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
            client = foreign_client(context)
            error = self.assertRaises(SSL.Error, meet, client, server, piece)
            self.assertIn("certificate verify failed", names_of(error))
            self.refused(server, take(client), codes.PEER_ALERT, "the peer sent the TLS alert 'unknown ca'")

    def test_names_the_alert_of_a_server_that_comes_after_the_handshake(self) -> None:
        """In TLS 1.3 a client is through before the server has judged it: the alert comes where payload would."""
        stranger = now_leaf(
            self.world.issuing, uri(WEB), not_after=self.world.web.certificate.not_valid_before_utc.timestamp()
        )
        for piece in PIECES:
            client = self.world.client(state=self.world.state(web=stranger))
            server = self.world.server()
            client.handshake(b"")
            server.handshake(client.take_output())
            self.assertTrue(client.handshake(server.take_output()))
            self.refused(server, client.take_output(), codes.EXPIRED)
            Pair(client, server, piece).carry(server.take_output(), client)
            broken = client.broken
            assert broken is not None
            self.assertEqual((broken.code, client.peer_ended), (codes.PEER_ALERT, False))
            self.assertIn("'certificate expired'", broken.reason)

    def test_tells_a_client_without_certificate(self) -> None:
        """TLS 1.3 has an alert of its own for that, TLS 1.2 has not."""
        for tls, alert in ((None, "certificate required"), (TLS12, "handshake failure")):
            client, server = foreign_client(None), self.world.server(tls)
            refusal = self.assertRaises(Refusal, meet, client, server)
            self.assertEqual(
                (refusal.code, refusal.reason), (codes.NO_CERTIFICATE, "the client presented no certificate")
            )
            client.bio_write(server.take_output())
            self.assertEqual(names_of(self.assertRaises(SSL.Error, client.recv, 1)), alert)
            self.assertEqual(server.verification.presented, "")


class OversizeTests(RefusalCase):
    def test_refuses_a_certificate_beyond_what_openssl_takes(self) -> None:
        """Over 100 KiB OpenSSL does not even look: the code is that of every certificate that is too large."""
        names = [uri(WEB), *(dns(f"name-{number:05}.test") for number in range(9_999))]
        huge = now_leaf(self.world.issuing, *names)
        refusal = self.assertRaises(Refusal, meet, foreign_client(huge), self.world.server())
        self.assertEqual(refusal.code, codes.CERTIFICATE_TOO_LARGE, refusal.reason)
        self.assertIn("100 KiB", refusal.reason)

    def test_a_client_refuses_it_too(self) -> None:
        """The limit holds for servers as well."""
        names = [uri(ORDERS), *(dns(f"name-{number:05}.test") for number in range(9_999))]
        huge = now_leaf(self.world.issuing, *names)
        pair = Pair(self.world.client(), self.world.server(state=self.world.state(orders=huge)))
        refusal = self.assertRaises(Refusal, pair.handshake)
        self.assertEqual(refusal.code, codes.CERTIFICATE_TOO_LARGE, refusal.reason)

    def test_an_endless_hello_is_no_certificate(self) -> None:
        """A ClientHello that claims 16 MiB is refused before it comes, and not as a certificate."""
        self.refused(
            self.world.server(), b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x3FFC), codes.TLS_FAILED, "excessive"
        )


class ResumptionTests(RefusalCase):
    def test_a_session_is_never_resumed(self) -> None:
        """
        A client that brings a session back, with its ticket or session ID, is verified as on the first day.

        A resumed session shows no certificate: its peer would go unverified.
        """
        for tls in (None, TLS12):
            context = foreign_context(self.world.web)
            context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
            session = None
            hellos = []
            for _ in range(3):
                client, server = foreign_client(context), self.world.server(tls)
                if session is not None:
                    client.set_session(session)
                self.assertRaises(SSL.WantReadError, client.do_handshake)
                hello = take(client)
                hellos.append(len(hello))
                server.handshake(hello)
                client.bio_write(server.take_output())
                self.assertTrue(meet(client, server))
                self.assertEqual(str(server.verification.peer), WEB)
                client.bio_write(server.encrypt(b"hello"))
                self.assertEqual(client.recv(10), b"hello")  # reads the tickets as well
                session = client.get_session()
                self.assertIsNotNone(session)
                client.shutdown()  # one that is dropped without is not offered again
            # TLS 1.3 offered its ticket; in TLS 1.2 there was none to offer.
            self.assertEqual(hellos[1] > hellos[0], tls is None, hellos)

    def test_a_client_of_ours_resumes_nothing(self) -> None:
        """Nor do we ask for it: the ClientHello of a later connection is as long as the first and offers no session."""
        lengths = set()
        for _ in range(3):
            client = self.world.client()
            client.handshake(b"")
            lengths.add(len(client.take_output()))
            self.assertEqual(str(joined(self.world).client.verification.peer), ORDERS)
        self.assertEqual(len(lengths), 1)
