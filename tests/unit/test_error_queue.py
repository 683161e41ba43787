"""OpenSSL's error queue belongs to the thread: what one connection leaves there, another one finds."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import DAY, Extension, craft_der
from tests.unit.tls_pairs import World, foreign_client, foreign_context, joined, meet

BASIC_CONSTRAINTS = Extension("2.5.29.19", True, b"\x30\x05\x01")  # cut off


def queued() -> list[tuple[str, str, str]]:
    """What is in the queue behind a failure of our own: it is emptied by this."""
    try:
        crypto.load_certificate(crypto.FILETYPE_ASN1, b"")
    except crypto.Error as error:
        return list(error.args[0])
    raise AssertionError("nothing is a certificate")


class ErrorQueueTests(SynchronousTestCase):
    """A peer who is verified, and whose chain holds a certificate that is of no use and cannot be read."""

    def setUp(self) -> None:
        self.world = World()

    def junk(self) -> x509.Certificate:
        """Named like the issuing authority, so that OpenSSL looks at it."""
        issuing, key, now = self.world.issuing.certificate, ec.generate_private_key(ec.SECP256R1()), wall_clock()
        der = craft_der(
            public_key=key.public_key(),
            signing_key=key,
            subject=issuing.subject,
            issuer=issuing.issuer,
            extensions=[BASIC_CONSTRAINTS],
            not_before=now - DAY,
            not_after=now + DAY,
        )
        return x509.load_der_x509_certificate(der)

    def odd_peer(self) -> SSL.Context:
        """The context of ``web`` with junk in front of the issuing authority."""
        context = foreign_context(self.world.web, chain=[])
        context.add_extra_chain_cert(self.junk())
        context.add_extra_chain_cert(self.world.issuing.certificate)
        return context

    def test_a_handshake_leaves_nothing_in_the_queue(self) -> None:
        """Else the next call on any connection, before OpenSSL 4, takes it for its own failure."""
        own = queued()
        self.assertEqual(queued(), own)
        # In one piece only: before OpenSSL 4 a handshake that has to wait behind such a chain is refused.
        self.assertTrue(meet(foreign_client(self.odd_peer()), self.world.server()))
        self.assertEqual(queued(), own)

    def test_an_established_connection_does_not_suffer_from_another_s_handshake(self) -> None:
        """Both its ends still read and write."""
        pair = joined(self.world)
        for sender, receiver in pair.both_ways():
            self.assertTrue(meet(foreign_client(self.odd_peer()), self.world.server()))
            self.assertEqual((receiver.decrypt(b""), receiver.broken), (b"", None))
            self.assertTrue(meet(foreign_client(self.odd_peer()), self.world.server()))
            self.assertEqual(pair.carry(sender.encrypt(b"innocent"), receiver), b"innocent")
            self.assertIsNone(receiver.broken)
