"""Our own identities, checked before anybody sees them."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.material import new_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.values import Svid, TrustBundle
from tests.unit.crafted import NOW, SHA1_HASH, Extension, Issuer, authority, bundles, key_usage, leaf, svid, uri


class OwnTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = authority("root")
        self.issuing = authority("issuing", self.root, path_length=0)

    def refused(self, code: Code, *words: str, own: Svid, held: Any = None, now: float = NOW) -> None:
        trusted = bundles(a=self.root) if held is None else held
        refusal = self.assertRaises(Refusal, verify_own, own, trusted, now)
        self.assertEqual(refusal.code, code, refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)

    def test_takes_good_ones(self) -> None:
        """With and without an intermediate, with the root sent along, and under an intermediate as anchor."""
        made = leaf(self.issuing)
        verify_own(svid(made), bundles(a=self.root), NOW)
        verify_own(svid(leaf(self.root)), bundles(a=self.root), NOW)
        verify_own(Svid(SpiffeId.parse("spiffe://a.test/web"), made.chain, made.key), bundles(a=self.root), NOW)
        verify_own(svid(made), bundles(a=self.issuing), NOW)

    def test_takes_the_right_one_of_two_roots_of_one_name(self) -> None:
        """During a rotation the bundle holds both."""
        domain = TrustDomain("a.test")
        rotated = authority("root")
        held = {domain: TrustBundle(domain, (rotated.certificate, self.root.certificate))}
        verify_own(svid(leaf(self.issuing)), held, NOW)

    def test_refuses_a_foreign_key(self) -> None:
        """Key and certificate must be of one issue."""
        self.refused(codes.KEY_MISMATCH, "spiffe://a.test/web", own=svid(leaf(self.root), key=new_key()))

    def test_refuses_another_identity(self) -> None:
        """The certificate must be the workload's."""
        own = svid(leaf(self.root), "spiffe://a.test/db")
        self.refused(codes.OWN_PROFILE, "is for spiffe://a.test/web, not for spiffe://a.test/db", own=own)

    def test_refuses_expiry(self) -> None:
        """By one second, and with the time."""
        made = leaf(self.root, not_after=NOW - 1)
        self.refused(codes.OWN_EXPIRED, "expired 1 s ago, at 2027-01-15T07:59:59Z", own=svid(made))

    def test_refuses_the_future(self) -> None:
        """A clock is wrong, and the reason asks whose."""
        made = leaf(self.root, not_before=NOW + 90)
        self.refused(codes.OWN_CHAIN_BROKEN, "in 90 s: is the clock right?", own=svid(made))

    def test_refuses_expired_authorities(self) -> None:
        """An intermediate or a root that ran out is named."""
        late = authority("late", self.root, not_after=NOW - 120)
        self.refused(codes.OWN_CHAIN_BROKEN, "CN=late", "expired 2 min ago", own=svid(leaf(late)))
        old = authority("old", not_after=NOW - 120)
        self.refused(codes.OWN_CHAIN_BROKEN, "CN=old", "expired", own=svid(leaf(old)), held=bundles(a=old))

    def test_refuses_a_broken_chain(self) -> None:
        """Each signature is verified."""
        made = leaf(self.issuing)
        unrelated = authority("unrelated", self.root)
        own = Svid(SpiffeId.parse("spiffe://a.test/web"), (made.certificate, unrelated.certificate), made.key)
        self.refused(codes.OWN_CHAIN_BROKEN, "CN=unrelated did not sign", "CN=issuing", own=own)

    def test_refuses_another_bundle(self) -> None:
        """The reason has the issuer, and suspects a rotation where the name fits."""
        self.refused(
            codes.OWN_CHAIN_BROKEN, "CN=root", own=svid(leaf(self.issuing)), held=bundles(a=authority("other"))
        )
        rotated = bundles(a=authority("root"))
        self.refused(codes.OWN_CHAIN_BROKEN, "was it rotated?", own=svid(leaf(self.issuing)), held=rotated)

    def test_refuses_without_a_bundle(self) -> None:
        """Of another domain, or none."""
        self.refused(
            codes.OWN_CHAIN_BROKEN, "no trust bundle for a.test", own=svid(leaf(self.root)), held=bundles(b=self.root)
        )

    def test_refuses_profile_violations(self) -> None:
        """Whatever a peer would refuse is refused here, under the code for ourselves."""
        for made, words in (
            (leaf(self.root, changes={"usage": None}), "has no key usage"),
            (leaf(self.root, uri("spiffe://a.test/web"), uri("spiffe://a.test/x")), "2 URI names"),
            (leaf(self.root, changes={"names": None}), "no URI name"),
            (leaf(self.root, hash_algorithm=SHA1_HASH), "sha1"),
            (leaf(self.root, changes={"names": Extension("2.5.29.17", False, b"junk")}), "cannot be read"),
            (leaf(authority("no sign", self.root, usage=key_usage("crl_sign"))), "lacks keyCertSign"),
        ):
            self.refused(codes.OWN_PROFILE, words, own=svid(made))

    def test_refuses_too_long_a_path(self) -> None:
        """RFC 5280 section 4.2.1.9."""
        below = authority("below", self.issuing)
        self.refused(codes.OWN_CHAIN_BROKEN, "CN=issuing allows 0 authorities", own=svid(leaf(below)))

    def test_refuses_an_empty_chain(self) -> None:
        """A source may deliver nonsense."""
        nothing = Svid(SpiffeId.parse("spiffe://a.test/web"), (), new_key())
        self.refused(codes.OWN_CHAIN_BROKEN, "no certificate", own=nothing)

    def test_refuses_a_leaf_listed_as_authority(self) -> None:
        """A bundle with the leaf in it does not verify the leaf."""
        made = leaf(self.root)
        held = bundles(a=Issuer(made.certificate, made.key))
        self.refused(codes.OWN_CHAIN_BROKEN, own=svid(made), held=held)
