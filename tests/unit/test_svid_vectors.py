"""Every vector of X.509-SVIDs, presented to OpenSSL and to our rules by a client and by a server, at a time of ours."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import uri_names
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.identity.verify import check_profiles, match_expected, verify_dns_name
from tcpmesh.values import DNSName
from tests.unit.crafted import NOW, dns, leaf, uri
from tests.unit.crafted_handshakes import handshake
from tests.unit.svid_vectors import VECTORS, Vector, World
from tests.unit.test_spiffe import INVALID, VALID


class VectorTests(SynchronousTestCase):
    """The tables."""

    def setUp(self) -> None:
        self.world = World()

    def judge(self, vector: Vector, peer_is: str) -> None:
        made = vector.make(self.world)
        presented = made.chain[:-1]
        held = vector.held(self.world)
        verification = handshake(presented, made.key, held, self.world.server, now=vector.now, peer_is=peer_is)
        refusal, where = verification.refusal, f"{vector.name}, presented by a {peer_is}"
        if vector.code is None:
            self.assertIsNone(refusal, where)
            self.assertEqual([str(verification.peer)], uri_names(made.certificate), where)
            return
        self.assertIsNone(verification.peer, where)
        assert refusal is not None, f"{where}: no verdict"
        self.assertEqual(refusal.code, vector.code, f"{where}: {refusal.reason}")
        for word in vector.words:
            self.assertIn(word, refusal.reason, where)
        self.assertTrue(refusal.reason.isascii() and refusal.reason.isprintable(), where)
        self.assertLess(len(refusal.reason), 700, where)

    def test_of_clients(self) -> None:
        """What an inbound listener says."""
        for vector in VECTORS:
            self.judge(vector, "client")

    def test_of_servers(self) -> None:
        """What an outbound one says: the same."""
        for vector in VECTORS:
            self.judge(vector, "server")

    def test_have_a_name_each(self) -> None:
        """By which a failure is found."""
        self.assertEqual(len({vector.name for vector in VECTORS}), len(VECTORS))

    def test_every_spiffe_id_in_a_certificate(self) -> None:
        """The grammar's vectors: what is no ID by itself is none in a name, and an ID without path is no workload's."""
        for text in VALID:
            made = leaf(self.world.a, uri(text))
            if SpiffeId.parse(text).path:
                self.assertEqual(str(check_profiles(made.chain)), text)
            else:
                refusal = self.assertRaises(Refusal, check_profiles, made.chain)
                self.assertIs(refusal.code, codes.PROFILE, text)
        for text, words in INVALID.items():
            refusal = self.assertRaises(Refusal, check_profiles, leaf(self.world.a, uri(text)).chain)
            ours = text.lower().startswith("spiffe:")
            self.assertIs(refusal.code, codes.INVALID_ID if ours else codes.NO_SPIFFE_ID, text)
            self.assertIn(words if ours else "is not a SPIFFE ID", refusal.reason, text)

    def test_an_empty_chain(self) -> None:
        """A client that presents none is let through by nobody, and the judge is not even asked."""
        verification = handshake((), None, self.world.held(), self.world.server, now=NOW)
        self.assertEqual((verification.peer, verification.refusal), (None, None))
        self.assertIs(self.assertRaises(Refusal, check_profiles, ()).code, codes.NO_CERTIFICATE)


class TypedTests(SynchronousTestCase):
    """An expectation of one kind is met by a name of that kind only, however the other is spelled."""

    def setUp(self) -> None:
        self.world = World()

    def test_a_spiffe_id_is_matched_by_the_uri_alone(self) -> None:
        """Not by a DNS name, and not by a common name, that spells it."""
        wanted = [SpiffeId.parse("spiffe://a.test/db")]
        made = leaf(self.world.a, uri("spiffe://a.test/web"), dns("spiffe://a.test/db"), subject="spiffe://a.test/db")
        refusal = self.assertRaises(Refusal, match_expected, check_profiles(made.chain), wanted)
        self.assertIs(refusal.code, codes.ID_DIFFERS)

    def test_a_dns_name_is_matched_by_a_dns_name_alone(self) -> None:
        """Not by a URI with that host, and not by a common name."""
        for made in (
            leaf(self.world.a, uri("spiffe://db.test/web"), subject="db.test"),
            leaf(self.world.a, uri("https://db.test"), dns("www.test"), subject="db.test"),
        ):
            refusal = self.assertRaises(Refusal, verify_dns_name, made.chain, [DNSName("db.test")])
            self.assertIs(refusal.code, codes.DNS_DIFFERS)
