"""Whoever shows a certificate must hold its key: certificates are public, and so are pins."""

from __future__ import annotations

import contextlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.settings import TLSSettings
from tcpmesh.values import ExpectedIdentity
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import Leaf, integer, oid, sequence, tlv, uri
from tests.unit.tls_pairs import ORDERS, WEB, World, foreign_context, meet, now_authority, now_leaf, take

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
P256 = "1.2.840.10045.3.1.7"


def stolen(made: Leaf) -> Leaf:
    """The certificate with a private key that only claims to belong to it, which OpenSSL does not notice (RFC 5915)."""
    secret = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value.to_bytes(32, "big")
    point = made.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    der = sequence(integer(1), tlv(0x04, secret), tlv(0xA0, oid(P256)), tlv(0xA1, tlv(0x03, b"\0" + point)))
    return Leaf(made.certificate, crypto.load_privatekey(crypto.FILETYPE_ASN1, der), made.chain)


class KeyProofTests(SynchronousTestCase):
    """In both roles, with both versions of TLS."""

    def setUp(self) -> None:
        self.world = World()

    def dial(self, made: Leaf, version: str, *expected: ExpectedIdentity | str) -> PeerVerification:
        """
        Let our client do its handshake with a foreign server.

        :raises Refusal: when the client refuses.
        """
        tls = TLSSettings(min_version="1.2")
        context = self.world.contexts.client(self.world.state(), "web", tls, "mesh")
        client = TLSCore(context, self.world.verification(*expected), server=False)
        theirs = foreign_context(made)
        theirs.set_max_proto_version(VERSIONS[version])
        server = SSL.Connection(theirs, None)
        server.set_accept_state()
        complete = client.handshake(b"")
        for _ in range(10):
            output = client.take_output()
            if complete and not output:
                return client.verification
            server.bio_write(output)
            with contextlib.suppress(SSL.WantReadError):
                server.do_handshake()
            if answer := take(server):
                complete = client.handshake(answer)
        raise AssertionError("the handshake does not come to an end")

    def test_of_clients(self) -> None:
        """A workload's certificate that somebody copied."""
        for version, number in VERSIONS.items():
            for made, good in ((self.world.web, True), (stolen(self.world.web), False)):
                server = self.world.server(TLSSettings(min_version="1.2"))
                context = foreign_context(made)
                context.set_max_proto_version(number)
                client = SSL.Connection(context, None)
                client.set_connect_state()
                if good:
                    self.assertTrue(meet(client, server), version)
                    self.assertEqual(str(server.verification.peer), WEB)
                else:
                    refusal = self.assertRaises(Refusal, meet, client, server)
                    self.assertIs(refusal.code, codes.TLS_FAILED, refusal.reason)

    def test_of_servers(self) -> None:
        """By SPIFFE ID and by pin: what the certificate says is right each time, and proves nothing."""
        appliance = now_leaf(now_authority("stranger"), uri("https://appliance.test"))
        pin = key_pin(appliance.certificate)
        for version in VERSIONS:
            for made, expected in ((self.world.orders, ORDERS), (appliance, pin)):
                self.assertEqual(str(self.dial(made, version, expected).peer), str(expected))
                refusal = self.assertRaises(Refusal, self.dial, stolen(made), version, expected)
                self.assertIs(refusal.code, codes.TLS_FAILED, refusal.reason)

    def test_a_pin_is_held_to_the_validity_by_the_clock_of_the_wall(self) -> None:
        """As the proxy has it: a pinned certificate that ran out is refused by a real context."""
        now = wall_clock()
        late = now_leaf(now_authority("stranger"), not_before=now - 7200, not_after=now - 3600)
        refusal = self.assertRaises(Refusal, self.dial, late, "1.3", key_pin(late.certificate))
        self.assertIs(refusal.code, codes.EXPIRED, refusal.reason)
