"""What the benchmark reads between two hops: it must not take a resumed handshake for a full one, or miss a group."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.peers.wire import Negotiated, server_hello
from tcpmesh.testing import TestAuthority


class Handshake:
    """A TLS 1.3 client and server in memory; ``heard`` is all that the server sent."""

    def __init__(self, client: SSL.Context, server: SSL.Context, session: SSL.Session | None = None) -> None:
        self.client, self.server = SSL.Connection(client, None), SSL.Connection(server, None)
        self.client.set_connect_state()
        self.server.set_accept_state()
        if session is not None:
            self.client.set_session(session)
        self.heard = b""
        for _flight in range(4):
            self._step(self.client, self.server)
            self.heard += self._step(self.server, self.client)

    def _step(self, sender: SSL.Connection, receiver: SSL.Connection) -> bytes:
        try:
            sender.do_handshake()
            sender.recv(1)  # tickets come after the handshake
        except SSL.WantReadError:
            pass
        try:
            sent = sender.bio_read(1 << 16)
        except SSL.WantReadError:
            return b""
        receiver.bio_write(sent)
        return sent


class ServerHelloTests(SynchronousTestCase):
    """Reading the first bytes of a server."""

    def setUp(self) -> None:
        svid = TestAuthority().svid("/server")
        self.server = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.server.set_session_id(b"test")
        self.server.use_certificate(svid.leaf)
        self.server.use_privatekey(svid.private_key)  # type: ignore[arg-type]
        self.client = SSL.Context(SSL.TLS_CLIENT_METHOD)

    def read(self, heard: bytes) -> Negotiated:
        found = server_hello(heard)
        assert found is not None
        return found

    def test_reads_a_full_handshake(self) -> None:
        """Version, group and cipher are those that OpenSSL reports."""
        handshake = Handshake(self.client, self.server)
        found = self.read(handshake.heard)
        self.assertEqual(found.version, "TLS 1.3")
        self.assertEqual(found.group, handshake.client.get_group_name())
        self.assertEqual(found.cipher, handshake.client.get_cipher_name())
        self.assertFalse(found.resumed)
        self.assertFalse(found.retried)

    def test_tells_a_resumed_session(self) -> None:
        """A session that the server takes again is seen."""
        first = Handshake(self.client, self.server)  # a session is forgotten with a connection that is not shut down
        second = Handshake(self.client, self.server, first.client.get_session())
        self.assertTrue(self.read(second.heard).resumed)

    def test_tells_a_second_key_share(self) -> None:
        """A server that asks for another group than the client guessed is seen, and the group is the later one."""
        self.server.set_tmp_ecdh(ec.SECP256R1())
        found = self.read(Handshake(self.client, self.server).heard)
        self.assertTrue(found.retried)
        self.assertEqual(found.group, "P-256")

    def test_reads_an_older_version(self) -> None:
        """TLS 1.2 has neither extension, and is not taken for TLS 1.3."""
        self.server.set_max_proto_version(SSL.TLS1_2_VERSION)
        self.assertEqual(self.read(Handshake(self.client, self.server).heard).version, "TLS 1.2")

    def test_waits_for_the_whole_message(self) -> None:
        """No beginning of a ServerHello says anything."""
        heard = Handshake(self.client, self.server).heard
        whole = 5 + int.from_bytes(heard[3:5])
        self.assertEqual([server_hello(heard[:end]) for end in range(whole)], [None] * whole)
        self.assertIsNotNone(server_hello(heard[:whole]))

    def test_reads_nothing_from_something_else(self) -> None:
        """An alert, or what is no TLS at all, is no ServerHello."""
        self.assertIsNone(server_hello(bytes.fromhex("15030300020228")))
        self.assertIsNone(server_hello(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
