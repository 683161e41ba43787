"""Explanations of what OpenSSL refused, from real verifications by OpenSSL at a time that the test owns."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import subject_key_identifier
from tcpmesh.identity.failures import explain_chain_failure
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import TrustBundle
from tests.unit.crafted import (
    DAY,
    NOW,
    Extension,
    Issuer,
    authority,
    bundles,
    craft_der,
    extension,
    key_usage,
    leaf,
    name,
    uri,
)

Bundles = dict[TrustDomain, TrustBundle]


def verify(presented: Sequence[x509.Certificate], held: Bundles, now: float) -> tuple[int, int, str]:
    """Let OpenSSL verify; error number, depth and text, all 0 and empty when it is content."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(datetime.datetime.fromtimestamp(now, datetime.UTC).replace(tzinfo=None))
    for bundle in held.values():
        for anchor in bundle.authorities:
            store.add_cert(crypto.X509.from_cryptography(anchor))
    rest = [crypto.X509.from_cryptography(certificate) for certificate in presented[1:]]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(presented[0]), rest)
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        number, depth, text = error.errors
        return number, depth, text
    return 0, 0, ""


class ExplanationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = authority("root of a.test")
        self.other = authority("root of b.test")

    def explained(
        self,
        presented: Sequence[x509.Certificate],
        held: Bundles,
        code: Code,
        *words: str,
        now: float = NOW,
        errors: Sequence[int] = (),
    ) -> str:
        """OpenSSL refuses, and the explanation has this code and these words."""
        number, depth, text = verify(presented, held, now)
        self.assertNotEqual(number, 0, "OpenSSL accepted the chain")
        if errors:
            self.assertIn(number, errors, text)
        refusal = explain_chain_failure(number, text, depth, dict(enumerate(presented)), held, now)
        self.assertEqual(refusal.code, code, refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)
        self.assertTrue(refusal.reason.isprintable() and refusal.reason.isascii())
        return refusal.reason

    def test_says_how_long_ago_a_leaf_expired(self) -> None:
        """One second is enough, and both times are there."""
        made = leaf(self.root, not_after=NOW - 1)
        reason = self.explained(made.chain[:1], bundles(a=self.root), codes.EXPIRED, errors=[10])
        self.assertEqual(
            reason,
            "the certificate of spiffe://a.test/web expired 1 s ago, at 2027-01-15T07:59:59Z; "
            "it is 2027-01-15T08:00:00Z by this clock",
        )

    def test_openssl_accepts_the_last_second(self) -> None:
        """The tolerance on notAfter is nothing, but the last second counts."""
        made = leaf(self.root, not_after=NOW)
        self.assertEqual(verify(made.chain[:1], bundles(a=self.root), NOW), (0, 0, ""))

    def test_says_how_far_the_clocks_are_apart(self) -> None:
        """A certificate of the future is a clock that is wrong."""
        made = leaf(self.root, not_before=NOW + 45)
        self.explained(
            made.chain[:1],
            bundles(a=self.root),
            codes.NOT_YET_VALID,
            "valid only from 2027-01-15T08:00:45Z, 45 s from now",
            "2027-01-15T08:00:00Z by this clock",
            errors=[9],
        )

    def test_names_an_expired_intermediate(self) -> None:
        """It is not the leaf that has to be renewed."""
        intermediate = authority("issuing", self.root, not_after=NOW - 7200)
        made = leaf(intermediate)
        self.explained(
            made.chain[:2],
            bundles(a=self.root),
            codes.CHAIN_INVALID,
            "the intermediate CN=issuing in the chain of spiffe://a.test/web expired 2 h ago",
            errors=[10],
        )

    def test_names_an_expired_authority_of_the_bundle(self) -> None:
        """An anchor that ran out is our bundle's defect, and the reason says whose."""
        root = authority("old root", not_after=NOW - 3 * DAY)
        self.explained(
            leaf(root).chain,
            bundles(a=root),
            codes.CHAIN_INVALID,
            "the authority (in the bundle of a.test) 'CN=old root'",
            "expired 3 d ago",
            errors=[10],
        )

    def test_names_an_authority_that_is_not_yet_valid(self) -> None:
        """So with one of the future."""
        root = authority("new root", not_before=NOW + 60)
        self.explained(
            leaf(root).chain,
            bundles(a=root),
            codes.CHAIN_INVALID,
            "(in the bundle of a.test)",
            "60 s from now",
            errors=[9],
        )

    def test_names_the_unknown_issuer(self) -> None:
        """With its key identifier, so that it can be looked up."""
        stranger = authority("stranger")
        made = leaf(stranger)
        self.explained(
            made.chain[:1],
            bundles(a=self.root),
            codes.UNKNOWN_AUTHORITY,
            "nobody in any trust bundle signed the chain of spiffe://a.test/web",
            "its issuer is CN=stranger, key " + subject_key_identifier(stranger.certificate),
            errors=[20, 21, 2],
        )

    def test_says_that_a_presented_root_does_not_help(self) -> None:
        """A peer that sends its own root is as unknown as before."""
        stranger = authority("stranger")
        self.explained(
            leaf(stranger).chain, bundles(a=self.root), codes.UNKNOWN_AUTHORITY, "it is signed by itself", errors=[19]
        )

    def test_refuses_a_self_signed_leaf_by_name(self) -> None:
        """The commonest test certificate of all."""
        key = ec.generate_private_key(ec.SECP256R1())
        own = Issuer(authority("leaf", key=key).certificate, key)
        made = leaf(own, key=key)
        self.explained(made.chain[:1], bundles(a=self.root), codes.UNKNOWN_AUTHORITY, "signed by itself", errors=[18])

    def test_suspects_a_rotation_or_an_impostor(self) -> None:
        """An authority of the same name with another key is named with both keys."""
        rotated = authority("root of a.test")
        self.explained(
            leaf(rotated).chain[:1],
            bundles(a=self.root),
            codes.UNKNOWN_AUTHORITY,
            "the bundle of a.test has an authority of that name with another key, "
            + subject_key_identifier(self.root.certificate),
            "rotated, made twice (two states of one trust domain?), or somebody imitates it",
            subject_key_identifier(rotated.certificate),
        )

    def test_suspects_it_without_key_identifiers(self) -> None:
        """An authority may have none; then OpenSSL cannot tell them apart, and neither can we."""
        root = authority("root of a.test", drop=("2.5.29.14",))
        made = leaf(authority("root of a.test"))
        self.explained(made.chain[:1], bundles(a=root), codes.CHAIN_INVALID, "not by its issuer's key", errors=[7])
        refusal = explain_chain_failure(20, "text", 0, {0: made.certificate}, bundles(a=root), NOW)
        self.assertIn("with another key, not named", refusal.reason)

    def test_suspects_it_above_an_intermediate_too(self) -> None:
        """Two embedded authorities of one trust domain are told apart at the issuing authority."""
        rotated = authority("root of a.test")
        self.explained(
            leaf(authority("issuing", rotated)).chain[:2],
            bundles(a=self.root),
            codes.UNKNOWN_AUTHORITY,
            "the chain of spiffe://a.test/web",
            "two states of one trust domain?",
            errors=[7],
        )

    def test_says_that_the_trust_domain_has_no_bundle(self) -> None:
        """That is the configuration's defect, not the peer's."""
        made = leaf(authority("root of c.test"), uri("spiffe://c.test/web"))
        self.explained(
            made.chain[:1],
            bundles(a=self.root, b=self.other),
            codes.NO_BUNDLE,
            "presents spiffe://c.test/web",
            "no trust bundle for c.test (bundles held: a.test, b.test)",
            "its issuer is 'CN=root of c.test'",
        )

    def test_says_where_it_would_verify(self) -> None:
        """Where the store holds one trust domain only, the others are tried for the explanation."""
        made = leaf(self.other)
        number, depth, text = verify(made.chain[:1], bundles(a=self.root), NOW)
        held = bundles(a=self.root, b=self.other)
        refusal = explain_chain_failure(number, text, depth, {0: made.certificate}, held, NOW)
        self.assertEqual(refusal.code, codes.WRONG_ANCHOR)
        self.assertIn("would verify under b.test", refusal.reason)

    def test_explains_without_the_leaf(self) -> None:
        """OpenSSL reports from the top and may not have come to the leaf."""
        stranger = authority("stranger")
        refusal = explain_chain_failure(19, "self-signed", 1, {1: stranger.certificate}, bundles(a=self.root), NOW)
        self.assertEqual(refusal.code, codes.UNKNOWN_AUTHORITY)
        self.assertIn("the chain of the peer", refusal.reason)
        for number in (7, 10, 9, 20, 22, 24, 999):
            refusal = explain_chain_failure(number, "text", 3, {}, bundles(a=self.root), NOW)
            self.assertIsInstance(refusal, Refusal)

    def test_names_a_forged_signature(self) -> None:
        """Right name, right key identifier, wrong key."""
        forged = leaf(
            Issuer(self.root.certificate, ec.generate_private_key(ec.SECP256R1())), changes={"authority_key": None}
        )
        self.explained(
            forged.chain[:1],
            bundles(a=self.root),
            codes.CHAIN_INVALID,
            "the certificate of spiffe://a.test/web has a signature that is not by its issuer's key (OpenSSL error 7",
            errors=[7],
        )

    def test_names_profile_violations(self) -> None:
        """Authorities that are none, path lengths and purposes are the profile's."""
        no_ca = authority("no ca", self.root, ca=False)
        self.explained(leaf(no_ca).chain[:2], bundles(a=self.root), codes.PROFILE, "CN=no ca", errors=[79, 24])
        no_sign = authority("no sign", self.root, usage=key_usage("crl_sign"))
        self.explained(leaf(no_sign).chain[:2], bundles(a=self.root), codes.PROFILE, "CN=no sign", errors=[79, 32])
        short = authority("short", self.root, path_length=0)
        below = authority("below", short)
        self.explained(leaf(below).chain[:3], bundles(a=self.root), codes.PROFILE, "path length", errors=[25])

    def test_names_unknown_critical_extensions(self) -> None:
        """OpenSSL refuses what it cannot honour."""
        made = leaf(self.root, more=[Extension("1.2.3.4.5", True, b"\x05\x00")])
        self.explained(made.chain[:1], bundles(a=self.root), codes.PROFILE, "critical extension", errors=[34])

    def test_names_name_constraints(self) -> None:
        """An authority confined to other names cannot sign this one."""
        constraints = x509.NameConstraints([x509.UniformResourceIdentifier("elsewhere.test")], None)
        confined = _confined(self.root, constraints)
        self.explained(
            leaf(confined).chain[:2], bundles(a=self.root), codes.CHAIN_INVALID, "name constraints", errors=[47]
        )

    def test_names_a_chain_that_is_too_long(self) -> None:
        """Fifty levels are refused as too many."""
        above = self.root
        for number in range(49):
            above = authority(f"level {number}", above)
        made = leaf(above)
        refusal = explain_chain_failure(22, "too long", 9, {0: made.certificate}, bundles(a=self.root), NOW)
        self.assertEqual(refusal.code, codes.CERTIFICATE_TOO_LARGE)
        self.assertIn("spiffe://a.test/web", refusal.reason)

    def test_survives_unreadable_certificates(self) -> None:
        """What cannot be read is explained as just that, or as the unknown authority that it also is."""
        made = leaf(self.root, changes={"names": Extension("2.5.29.17", False, b"junk")})
        for number in range(100):
            refusal = explain_chain_failure(number, "a\ntext", 0, {0: made.certificate}, bundles(b=self.other), NOW)
            self.assertIsInstance(refusal, Refusal)
            self.assertTrue(refusal.reason.isprintable(), refusal.reason)

    def test_knows_every_error_of_openssl(self) -> None:
        """Each number gives one of the codes for peers' certificates."""
        made = leaf(self.root)
        allowed = {
            codes.EXPIRED,
            codes.NOT_YET_VALID,
            codes.UNKNOWN_AUTHORITY,
            codes.WRONG_ANCHOR,
            codes.CHAIN_INVALID,
            codes.PROFILE,
            codes.MALFORMED_CERTIFICATE,
            codes.CERTIFICATE_TOO_LARGE,
        }
        for number in range(1, 120):
            refusal = explain_chain_failure(number, "text", 0, {0: made.certificate}, bundles(a=self.root), NOW)
            self.assertIn(refusal.code, allowed)


def _confined(parent: Issuer, constraints: x509.NameConstraints) -> Issuer:
    key: Any = ec.generate_private_key(ec.SECP256R1())
    der = craft_der(
        public_key=key.public_key(),
        signing_key=parent.key,
        subject=name("confined"),
        issuer=parent.certificate.subject,
        extensions=[
            extension(x509.BasicConstraints(ca=True, path_length=None), critical=True),
            extension(key_usage("key_cert_sign"), critical=True),
            extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
            extension(constraints, critical=True),
        ],
    )
    return Issuer(x509.load_der_x509_certificate(der), key, parent.chain)
