"""Any bytes at all in a handshake: the core goes on waiting, or refuses with a code; nothing else escapes from it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.errors import Refusal
from tests.unit.mutations import MUTATIONS, SIZES, Mutation, mutated
from tests.unit.tls_pairs import TLS12, World, foreign_client, foreign_context, pieces, take

HANDSHAKE_CODES = {
    codes.PLAINTEXT_PEER,
    codes.TLS_FAILED,
    codes.PEER_ALERT,
    codes.NO_CERTIFICATE,
    codes.TLS_BROKEN,
    *(code for code in codes.all_codes() if code.id.startswith(("TM-I5", "TM-I6"))),
}
COMPATIBILITY = b"\x14\x03\x03\x00\x01\x01"  # a change_cipher_spec
FUZZ = settings(max_examples=200, deadline=None)


class FuzzTests(SynchronousTestCase):
    """Trial fails a test in which anything was logged as an error."""

    def setUp(self) -> None:
        self.world = World()

    def feed(self, core: TLSCore, data: bytes, size: int) -> bool:
        """Feed the bytes; whether the handshake came to its end."""
        complete = False
        try:
            for piece in pieces(data, size):
                if complete:
                    core.decrypt(piece)
                else:
                    complete = core.handshake(piece)
        except Refusal as refusal:
            self.assertIn(refusal.code, HANDSHAKE_CODES, refusal)
            self.assertTrue(refusal.reason.isascii() and refusal.reason.isprintable(), refusal.reason)
            self.assertTrue(len(refusal.reason) < 1000, refusal.reason)
            self.assertFalse(complete)
        self.assertTrue(len(core.take_output()) < 65536)
        if complete:
            self.assertIsNotNone(core.verification.peer)
        return complete

    @FUZZ
    @given(st.binary(max_size=300), SIZES)
    def test_a_server_takes_no_random_bytes(self, data: bytes, size: int) -> None:
        """No bytes that a client makes up are a handshake."""
        self.assertFalse(self.feed(self.world.server(), data, size))

    @FUZZ
    @given(st.sampled_from((b"\x16\x03\x01", b"\x16\x03\x03", b"\x15\x03\x03")), st.binary(max_size=300), SIZES)
    def test_a_server_takes_no_random_records(self, head: bytes, body: bytes, size: int) -> None:
        """The same in records of the right form."""
        data = head + len(body).to_bytes(2, "big") + body
        self.assertFalse(self.feed(self.world.server(), data, size))

    @FUZZ
    @given(MUTATIONS, SIZES)
    def test_a_server_survives_a_damaged_hello(self, mutations: list[Mutation], size: int) -> None:
        """A ClientHello alone completes nothing, however it looks."""
        self.assertFalse(self.feed(self.world.server(), mutated(self.hello(), mutations), size))

    def hello(self) -> bytes:
        client = foreign_client(self.world.web)
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        return take(client)

    @FUZZ
    @given(MUTATIONS, SIZES)
    def test_a_server_survives_a_damaged_second_flight(self, mutations: list[Mutation], size: int) -> None:
        """
        Certificate and Finished, damaged: every byte counts.

        Except for a change_cipher_spec, which means nothing in TLS 1.3 and may be absent (RFC 8446 appendix D.4).
        """
        client, server = foreign_client(self.world.web), self.world.server()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.handshake(take(client))
        client.bio_write(server.take_output())
        client.do_handshake()
        flight = take(client)
        damaged = mutated(flight, mutations)
        if self.feed(server, damaged, size):
            self.assertTrue(damaged.replace(COMPATIBILITY, b"").startswith(flight.replace(COMPATIBILITY, b"")))
        else:
            self.assertFalse(damaged.startswith(flight))

    @FUZZ
    @given(MUTATIONS, SIZES)
    def test_a_server_survives_a_damaged_certificate(self, mutations: list[Mutation], size: int) -> None:
        """In TLS 1.2 certificates travel in the clear: whatever is changed in one, it is refused."""
        client, server = foreign_client(self.world.web), self.world.server(TLS12)
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.handshake(take(client))
        client.bio_write(server.take_output())
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        flight = take(client)
        damaged = mutated(flight, mutations)
        self.assertEqual(self.feed(server, damaged, size), damaged.startswith(flight))

    @FUZZ
    @given(MUTATIONS, SIZES)
    def test_a_client_survives_a_damaged_server(self, mutations: list[Mutation], size: int) -> None:
        """ServerHello, certificate and Finished, damaged, in both versions."""
        for tls in (None, TLS12):
            client = self.world.client(tls)
            server = SSL.Connection(foreign_context(self.world.orders), None)
            server.set_accept_state()
            client.handshake(b"")
            server.bio_write(client.take_output())
            self.assertRaises(SSL.WantReadError, server.do_handshake)
            self.feed(client, mutated(take(server), mutations), size)
