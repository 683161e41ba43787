"""Servers that are known by DNS name: whose authority may vouch for them, and certificates that nobody can read."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import MALFORMED_CERTIFICATE, NO_BUNDLE, UNKNOWN_AUTHORITY
from tcpmesh.dataplane.contexts import Trust
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification, expects_dns
from tcpmesh.errors import Refusal
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.settings import TLSSettings
from tcpmesh.values import DNSName, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.unit.crafted import dns
from tests.unit.tls_pairs import ORDERS, Pair, World, now_leaf

NAME = DNSName("db.example.com")


class DNSTrustTests(SynchronousTestCase):
    """Two trust domains are known, a.test (ours) and b.test."""

    def setUp(self) -> None:
        self.world = World()

    def refusal(self, issuer: str, trust: Trust) -> Refusal | None:
        """What a client says to a server whose certificate for NAME this authority signed."""
        world = self.world
        issued = now_leaf(getattr(world, issuer), dns(NAME.name))
        state = world.state()
        context = world.contexts.client(state, "web", TLSSettings(), trust)
        client = TLSCore(context, PeerVerification(world.bundles, [NAME], wall_clock), server=False, sni=NAME.name)
        server = world.server(state=world.state(2, orders=issued))
        try:
            Pair(client, server).handshake()
        except Refusal as refusal:
            return client.verification.refusal or refusal
        self.assertEqual(str(client.verification.peer), "dns:db.example.com")
        return None

    def test_its_own_trust_domain_may_vouch(self) -> None:
        """The authority that issues for us also knows our plain TLS servers."""
        self.assertIsNone(self.refusal("issuing", TrustDomain("a.test")))

    def test_a_foreign_trust_domain_may_not(self) -> None:
        """Its bundle is there to verify its own SPIFFE IDs, not to name anybody's servers."""
        refusal = self.refusal("other", TrustDomain("a.test"))
        assert refusal is not None
        self.assertIs(refusal.code, UNKNOWN_AUTHORITY)

    def test_without_a_bundle_nobody_may(self) -> None:
        """An unknown trust domain gives an empty store."""
        refusal = self.refusal("issuing", TrustDomain("c.test"))
        assert refusal is not None
        self.assertIs(refusal.code, UNKNOWN_AUTHORITY)

    def verified(self, voucher: TrustDomain | None) -> PeerVerification:
        """A server of ours whose name was verified."""
        world = self.world
        issued = now_leaf(world.issuing, dns(NAME.name))
        context = world.contexts.client(world.state(), "web", TLSSettings(), TrustDomain("a.test"))
        verification = PeerVerification(world.bundles, [NAME], wall_clock, voucher)
        server = world.server(state=world.state(2, orders=issued))
        Pair(TLSCore(context, verification, server=False), server).handshake()
        return verification

    def test_what_was_withdrawn_since_vouches_for_nobody(self) -> None:
        """Its bundle is gone, is empty, or holds another authority; one that holds it among others is as good."""
        world, ours = self.world, TrustDomain("a.test")
        again = TrustBundle(ours, (*world.bundles[ours].authorities, *world.bundles[TrustDomain("b.test")].authorities))
        self.assertEqual(self.verified(ours).rejudge({ours: again}).dns_name, NAME.name)
        swapped = TrustBundle(ours, world.bundles[TrustDomain("b.test")].authorities)
        for bundles, code in (
            ({}, NO_BUNDLE),
            ({ours: TrustBundle(ours, ())}, NO_BUNDLE),
            ({ours: swapped}, UNKNOWN_AUTHORITY),
        ):
            refusal = self.assertRaises(Refusal, self.verified(ours).rejudge, bundles)
            self.assertIs(refusal.code, code, refusal.reason)
            self.assertIn(NAME.name, refusal.reason)

    def test_a_store_of_its_own_does_not_ask_the_bundles(self) -> None:
        """``trust: system`` or a file."""
        self.assertEqual(self.verified(None).rejudge({}).dns_name, NAME.name)

    def test_names_of_both_kinds_are_judged_as_spiffe(self) -> None:
        """The stricter of the two: a DNS name beside an ID opens no second way in."""
        spiffe = SpiffeId.parse(ORDERS)
        self.assertTrue(expects_dns([NAME]))
        self.assertFalse(expects_dns([NAME, spiffe]) or expects_dns([spiffe]) or expects_dns([]))


class UnreadableCertificateTests(SynchronousTestCase):
    """What cryptography refuses to read."""

    def test_is_refused_as_malformed_and_is_no_bug(self) -> None:
        """OpenSSL parses a certificate of version 2, cryptography does not: no stranger fills our log with it."""

        world = World()
        good = world.orders.certificate.public_bytes(Encoding.DER)
        version2 = good.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1)
        self.assertNotEqual(version2, good)
        verification = world.verification(ORDERS)
        shown = crypto.load_certificate(crypto.FILETYPE_ASN1, version2)
        self.assertFalse(verification.certificate(shown, 0, 0, True))
        assert verification.refusal is not None
        self.assertIs(verification.refusal.code, MALFORMED_CERTIFICATE)
        self.assertIn("1 is not a valid X509 version", verification.refusal.reason)
        self.assertEqual(self.flushLoggedErrors(), [])
