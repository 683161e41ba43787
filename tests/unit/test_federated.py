"""What is held of another trust domain, and how a new document changes it."""

from __future__ import annotations

from cryptography.x509.oid import ExtensionOID
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.bundle_document import BundleDocument, BundleError
from tcpmesh.identity.federated import (
    Change,
    FederatedBundle,
    merged_bundles,
    refresh_after,
    shared_authority,
)
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import TrustBundle
from tests.unit import crafted

A, B, C = (TrustDomain(f"{name}.test") for name in "abc")
ONE = crafted.authority("one").certificate
TWO = crafted.authority("two").certificate
AGES = (("90 s", 404), ("2 min", 404), ("30 h", 404), ("30 h", 500))
OWN = crafted.authority("own")


def bundle(domain: TrustDomain, *authorities: object) -> TrustBundle:
    return TrustBundle(domain, authorities)  # type: ignore[arg-type]


class AcceptingTests(SynchronousTestCase):
    """One document after the other."""

    def setUp(self) -> None:
        self.held = FederatedBundle(B)
        self.own = bundle(A, OWN.certificate)

    def accept(self, *authorities: object, sequence: int | None = None, now: float = 100.0) -> Change:
        document = BundleDocument(authorities, sequence, 300)  # type: ignore[arg-type]
        return self.held.accept(document, self.own, now)

    def test_the_first_one_is_no_alarm(self) -> None:
        """It is told, with what it holds."""
        self.assertEqual(self.accept(ONE, sequence=1), Change("authorities: 1, sequence 1"))
        self.assertEqual(self.held.bundle and self.held.bundle.authorities, (ONE,))
        self.assertEqual((self.held.sequence, self.held.refresh_hint, self.held.received), (1, 300, 100.0))

    def test_the_same_again_changes_nothing(self) -> None:
        """Not even the object, in whatever order: else everything made of it were made anew."""
        self.accept(ONE, TWO, sequence=1)
        before = self.held.bundle
        self.assertEqual(self.accept(TWO, ONE, sequence=2, now=200.0), Change())
        self.assertIs(self.held.bundle, before)
        self.assertEqual((self.held.sequence, self.held.received), (2, 200.0))

    def test_an_addition_is_told(self) -> None:
        """By name and key."""
        self.accept(ONE)
        change = self.accept(ONE, TWO)
        self.assertIn("authorities: 2, added: CN=two (key ", change.text)
        self.assertFalse(change.alarming)

    def test_a_withdrawal_is_an_alarm(self) -> None:
        """It may be what was meant; somebody should know."""
        self.accept(ONE, TWO)
        change = self.accept(TWO)
        self.assertIn("gone: CN=one (key ", change.text)
        self.assertTrue(change.alarming)

    def test_without_an_authority_everything_is_revoked(self) -> None:
        """Nothing of the old bundle is left, at the first document as well."""
        self.assertTrue(self.accept().alarming)
        self.accept(ONE)
        change = self.accept()
        self.assertIn("everything of that trust domain is revoked", change.text)
        self.assertTrue(change.alarming)
        self.assertEqual(self.held.bundle and self.held.bundle.authorities, ())

    def test_a_sequence_that_goes_back_is_an_alarm(self) -> None:
        """Used all the same: a restored server would else be refused for ever."""
        self.accept(ONE, sequence=9)
        change = self.accept(ONE, sequence=8)
        self.assertEqual(change, Change("authorities: 1, sequence 8, which went back from 9", alarming=True))
        self.assertEqual(self.held.sequence, 8)
        self.assertFalse(self.accept(ONE).text)

    def test_another_trust_domains_authority_is_refused(self) -> None:
        """Also under another certificate with the same key; what was held stays."""
        self.accept(ONE, sequence=1)
        again = crafted.authority("renamed", key=OWN.key).certificate
        for foreign in (OWN.certificate, again):
            error = self.assertRaises(BundleError, self.accept, TWO, foreign, sequence=2)
            self.assertIn("in the bundle of a.test too", str(error))
        self.assertEqual((self.held.bundle and self.held.bundle.authorities, self.held.sequence), ((ONE,), 1))

    def test_failures_are_news_once(self) -> None:
        """Until the reason is another one, or it worked in between."""
        self.assertEqual([self.held.failed(reason, 60.0) for reason in "aabba"], [True, False, True, False, True])
        grown = [self.held.failed(f"it expired {span} ago, status {code}", 90.0) for span, code in AGES]
        self.assertEqual(grown, [True, False, False, True])
        self.assertEqual(self.held.failing_since, 60.0)
        self.accept(ONE)
        self.assertEqual((self.held.failure, self.held.failures, self.held.failing_since), ("", 9, None))
        self.assertTrue(self.held.failed("a", 120.0))
        self.assertEqual(self.held.failing_since, 120.0)


class MergingTests(SynchronousTestCase):
    """The bundles of sources and of federated trust domains together."""

    def test_a_federated_trust_domain_has_its_own_document_only(self) -> None:
        """What a source delivers for it would keep alive what the document withdrew."""
        pooled = {A: bundle(A, OWN.certificate), B: bundle(B, ONE)}
        merged, refused = merged_bundles(pooled, [FederatedBundle(B, bundle(B)), FederatedBundle(C)], A)
        self.assertEqual({domain: each.authorities for domain, each in merged.items()}, {A: (OWN.certificate,), B: ()})
        self.assertEqual(refused, {})
        self.assertEqual(set(merged_bundles(pooled, [FederatedBundle(B)], A)[0]), {A})

    def test_leaves_out_what_shares_an_authority_with_ours(self) -> None:
        """Whoever delivers it; ours is in use all the same, or a partner could put an end to us."""
        mixed, good = bundle(B, ONE, OWN.certificate), {C: bundle(C, TWO)}
        for pooled, federated in (
            ({A: bundle(A, OWN.certificate), **good}, [FederatedBundle(B, mixed)]),
            ({B: mixed, A: bundle(A, OWN.certificate), **good}, []),
        ):
            merged, refused = merged_bundles(pooled, federated, A)
            self.assertEqual(set(merged), {A, C})
            self.assertIn("in the bundle of a.test too", refused[B])

    def test_leaves_out_what_names_another_trust_domain(self) -> None:
        """Also in what a source delivers; our own was judged when it was delivered."""
        names = crafted.san(crafted.uri("spiffe://c.test"))
        more = crafted.Extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, False, names)
        named = crafted.authority("named", more=[more]).certificate
        merged, refused = merged_bundles({A: bundle(A, ONE), B: bundle(B, named), C: bundle(C, named)}, [], A)
        self.assertEqual(set(merged), {A, C})
        self.assertIn("of c.test, not of b.test", refused[B])

    def test_partners_cannot_shut_each_other_out(self) -> None:
        """By listing the other's authority they only admit that one's certificates for their own trust domain."""
        federated = [FederatedBundle(B, bundle(B, ONE, TWO)), FederatedBundle(C, bundle(C, TWO))]
        merged, refused = merged_bundles({A: bundle(A, OWN.certificate)}, federated, A)
        self.assertEqual((set(merged), refused), ({A, B, C}, {}))

    def test_only_our_bundle_counts(self) -> None:
        """Which shares every authority with itself."""
        self.assertEqual(shared_authority(bundle(A, ONE), bundle(A, ONE)), "")
        self.assertEqual(shared_authority(bundle(B, ONE), None), "")


class RefreshTests(SynchronousTestCase):
    """When to ask again."""

    def test_follows_the_hint_within_bounds(self) -> None:
        """A minute at least, an hour at most; five minutes without one; spread by a tenth."""
        for hint, chance, seconds in (
            (None, 0.5, 300.0),
            (600, 0.5, 600.0),
            (600, 0.0, 540.0),
            (600, 1.0, 660.0),
            (1, 0.0, 60.0),
            (60, 0.0, 60.0),
            (10**9, 1.0, 3600.0),
            (3600, 1.0, 3600.0),
        ):
            self.assertAlmostEqual(refresh_after(hint, None, chance), seconds, msg=f"{hint} {chance}")

    def test_the_configuration_wins(self) -> None:
        """Over the hint and the bounds."""
        self.assertAlmostEqual(refresh_after(600, 10.0, 0.5), 10.0)
        self.assertAlmostEqual(refresh_after(None, 86400.0, 1.0), 95040.0)
