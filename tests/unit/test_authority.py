"""The embedded authority: what it makes, and what it refuses to make."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import Refusal
from tcpmesh.identity.authority import (
    ISSUING_LIFETIME,
    ROOT_LIFETIME,
    Authority,
    AuthorityError,
    check_issuing,
    check_root,
    issue,
    load_authority,
    new_issuing,
    new_root,
)
from tcpmesh.identity.certificates import dns_names, not_after, not_before, pem_of, uri_names
from tcpmesh.identity.material import MaterialError, pem_of_key
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.verify import verify_svid_chain
from tcpmesh.values import DNSName, Svid, TrustBundle
from tests.unit.crafted import DAY, NOW, Extension, Issuer, authority, leaf, uri

DOMAIN = TrustDomain("a.test")
WEB = SpiffeId.parse("spiffe://a.test/web")


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


class RootTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = new_root(DOMAIN, NOW)

    def test_is_an_authority_of_one_trust_domain(self) -> None:
        """Self-signed, P-256, named by its trust domain, for signing only, for a year."""
        certificate = self.root.certificate
        certificate.verify_directly_issued_by(certificate)
        self.assertIsInstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        self.assertEqual(uri_names(certificate), ["spiffe://a.test"])
        constraints = extension(certificate, x509.BasicConstraints)
        self.assertEqual((constraints.critical, constraints.value), (True, x509.BasicConstraints(True, None)))
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        self.assertTrue(usage.critical and usage.value.key_cert_sign and usage.value.crl_sign)
        self.assertFalse(usage.value.digital_signature)
        self.assertEqual(not_after(certificate) - NOW, ROOT_LIFETIME)
        self.assertTrue(not_before(certificate) <= NOW - 60)
        self.assertEqual(self.root.trust_domain, DOMAIN)

    def test_has_a_name_for_the_longest_trust_domain(self) -> None:
        """A common name holds 64 characters, a trust domain 255."""
        root = new_root(TrustDomain("d" * 255), NOW)
        self.assertEqual(root.trust_domain.name, "d" * 255)

    def test_never_shows_its_key(self) -> None:
        """A representation ends up in logs."""
        self.assertNotIn("private_key", repr(self.root))

    def test_is_checked_before_use(self) -> None:
        """Expired, of the future, or not self-signed: each is said."""
        check_root(self.root, NOW)
        for now, words in ((NOW + ROOT_LIFETIME + 1, "the root expired"), (NOW - DAY, "is the clock right?")):
            error = self.assertRaises(AuthorityError, check_root, self.root, now)
            self.assertIn(words, str(error))
            self.assertRaises(AuthorityError, new_issuing, self.root, now)
        error = self.assertRaises(AuthorityError, check_root, new_issuing(self.root, NOW), NOW)
        self.assertIn("not signed by itself", str(error))


class IssuingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = new_root(DOMAIN, NOW)
        self.issuing = new_issuing(self.root, NOW)

    def test_hangs_below_the_root_and_nothing_below_it(self) -> None:
        """Signed by the root, path length 0, two weeks."""
        certificate = self.issuing.certificate
        certificate.verify_directly_issued_by(self.root.certificate)
        self.assertEqual(extension(certificate, x509.BasicConstraints).value, x509.BasicConstraints(True, 0))
        self.assertEqual(not_after(certificate) - NOW, ISSUING_LIFETIME)
        key_of_root = self.root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        self.assertEqual(named.value.key_identifier, key_of_root.value.digest)
        check_issuing(self.issuing, self.root, NOW)

    def test_never_outlives_the_root(self) -> None:
        """The end of the root is the end of everything."""
        late = NOW + ROOT_LIFETIME - DAY
        self.assertEqual(not_after(new_issuing(self.root, late).certificate), NOW + ROOT_LIFETIME)

    def test_is_refused_under_another_root(self) -> None:
        """A mixed-up state is noticed."""
        error = self.assertRaises(AuthorityError, check_issuing, self.issuing, new_root(DOMAIN, NOW), NOW)
        self.assertIn("not signed by the root", str(error))


class IssueTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = new_root(DOMAIN, NOW)
        self.issuing = new_issuing(self.root, NOW)

    def issue(
        self, identity: SpiffeId = WEB, *, ttl: float = 3600.0, now: float = NOW, dns: tuple[str, ...] = ()
    ) -> Svid:
        names = [DNSName(name) for name in dns]
        return issue(self.issuing, self.root.certificate, identity, ttl=ttl, now=now, dns=names)

    def test_has_the_profile_of_an_svid(self) -> None:
        """Every field is what X509-SVID.md and the issuing profile say."""
        leaf_certificate = self.issue().leaf
        self.assertEqual(leaf_certificate.version, x509.Version.v3)
        self.assertEqual(uri_names(leaf_certificate), ["spiffe://a.test/web"])
        self.assertEqual(leaf_certificate.subject.rfc4514_string(), "O=tcpmesh")
        constraints = extension(leaf_certificate, x509.BasicConstraints)
        self.assertEqual((constraints.critical, constraints.value), (True, x509.BasicConstraints(False, None)))
        usage = leaf_certificate.extensions.get_extension_for_class(x509.KeyUsage)
        self.assertTrue(usage.critical and usage.value.digital_signature)
        self.assertFalse(usage.value.key_cert_sign or usage.value.crl_sign or usage.value.key_encipherment)
        self.assertEqual(
            list(leaf_certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value),
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        )
        extension(leaf_certificate, x509.SubjectKeyIdentifier)
        extension(leaf_certificate, x509.AuthorityKeyIdentifier)

    def test_is_valid_from_a_minute_ago_for_its_ttl(self) -> None:
        """The issuer backdates; the verifier does not stretch."""
        leaf_certificate = self.issue(ttl=10.0).leaf
        self.assertEqual((not_before(leaf_certificate), not_after(leaf_certificate)), (NOW - 60, NOW + 10))

    def test_carries_dns_names_when_asked(self) -> None:
        """They stand beside the one URI."""
        leaf_certificate = self.issue(dns=("db.a.test", "db")).leaf
        self.assertEqual(dns_names(leaf_certificate), ["db.a.test", "db"])
        self.assertEqual(uri_names(leaf_certificate), ["spiffe://a.test/web"])

    def test_has_a_fresh_key_and_serial_each_time(self) -> None:
        """Serials are random 128-bit numbers."""
        made = [self.issue() for _ in range(20)]
        self.assertEqual(len({svid.leaf.serial_number for svid in made}), 20)
        self.assertEqual(len({svid.private_key.private_numbers().private_value for svid in made}), 20)  # type: ignore[union-attr]
        self.assertTrue(any(svid.leaf.serial_number.bit_length() > 120 for svid in made))
        self.assertTrue(all(0 < svid.leaf.serial_number < 2**128 for svid in made))

    def test_is_accepted_as_a_peer(self) -> None:
        """By our own rules, and by an independent verifier in both roles."""
        svid = self.issue(dns=("db.a.test",))
        chain = (*svid.chain, self.root.certificate)
        peer = verify_svid_chain(chain, {DOMAIN: TrustBundle(DOMAIN, (self.root.certificate,))})
        self.assertEqual(peer.spiffe_id, WEB)
        at = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
        builder = PolicyBuilder().store(Store([self.root.certificate])).time(at)
        self.assertEqual(len(builder.build_client_verifier().verify(svid.leaf, list(svid.chain[1:])).chain), 3)
        server = builder.build_server_verifier(x509.DNSName("db.a.test"))
        self.assertEqual(len(server.verify(svid.leaf, list(svid.chain[1:]))), 3)

    def test_ends_with_the_issuing_authority(self) -> None:
        """A certificate that outlived its issuer would verify nowhere."""
        late = NOW + ISSUING_LIFETIME - 3600
        self.assertEqual(not_after(self.issue(ttl=7000.0, now=late).leaf), NOW + ISSUING_LIFETIME)

    def test_refuses_when_too_little_life_is_left(self) -> None:
        """Less than half of the ttl is not worth a certificate; the reason says when the issuer ends."""
        late = NOW + ISSUING_LIFETIME - 3600
        error = self.assertRaises(AuthorityError, self.issue, ttl=7201.0, now=late)
        self.assertIn("ends in 60 min, too soon for certificates of 7201s", str(error))
        error = self.assertRaises(AuthorityError, self.issue, now=NOW + ISSUING_LIFETIME + 1)
        self.assertIn("expired at", str(error))

    def test_refuses_other_trust_domains(self) -> None:
        """It signs for its own."""
        error = self.assertRaises(AuthorityError, self.issue, SpiffeId.parse("spiffe://b.test/web"))
        self.assertIn("spiffe://b.test/web is not of a.test", str(error))

    def test_gives_nothing_away_that_does_not_verify(self) -> None:
        """The self-test finds an ID without a path, a foreign root and a clock before the authority."""
        for arguments, code in (
            ({"identity": DOMAIN.id}, codes.OWN_PROFILE),
            ({"now": NOW - 2 * 3600}, codes.OWN_CHAIN_BROKEN),
        ):
            refusal = self.assertRaises(Refusal, self.issue, **arguments)
            self.assertEqual(refusal.code, code)
        stranger = new_root(DOMAIN, NOW).certificate
        refusal = self.assertRaises(Refusal, issue, self.issuing, stranger, WEB, ttl=60.0, now=NOW)
        self.assertEqual(refusal.code, codes.OWN_CHAIN_BROKEN)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(10, 86400), st.integers(0, int(ISSUING_LIFETIME) - 86400))
    def test_issues_whatever_is_in_range(self, ttl: float, later: float) -> None:
        """Any ttl at any time of the issuer's life gives a certificate that verifies then."""
        svid = self.issue(ttl=ttl, now=NOW + later)
        self.assertTrue(ttl - 1 <= not_after(svid.leaf) - (NOW + later) <= ttl)


class LoadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = new_root(DOMAIN, NOW)

    def refused(self, data: bytes) -> str:
        return str(self.assertRaises(MaterialError, load_authority, data))

    def test_reads_what_was_written(self) -> None:
        """One piece of PEM holds both halves."""
        read = load_authority(self.root.to_pem())
        self.assertEqual(read.certificate, self.root.certificate)
        self.assertEqual(read.private_key.private_numbers(), self.root.private_key.private_numbers())

    def test_refuses_every_truncation(self) -> None:
        """Wherever a file was cut, it is noticed."""
        pem = self.root.to_pem().rstrip()
        for length in range(0, len(pem), 7):
            self.refused(pem[:length])

    def test_says_what_is_wrong(self) -> None:
        """Mixed pairs, leaves, chains and authorities without a name are told apart."""
        other = new_root(DOMAIN, NOW)
        self.assertIn("does not belong", self.refused(Authority(self.root.certificate, other.private_key).to_pem()))
        crafted = authority("crafted")
        made = leaf(crafted)
        self.assertIn("not an authority's", self.refused(pem_of_key(made.key) + pem_of([made.certificate])))
        self.assertIn("2 certificates", self.refused(self.root.to_pem() + pem_of([other.certificate])))
        self.assertIn("exactly one trust domain", self.refused(_pem(crafted)))
        self.assertIn("readable basic constraints", self.refused(_pem(authority("x", drop=("2.5.29.19",)))))

    def test_refuses_a_workloads_certificate_that_is_an_authority(self) -> None:
        """An authority's ID has no path."""
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        changes = {"constraints": Extension("2.5.29.19", True, constraints.public_bytes())}
        made = leaf(authority("crafted"), uri("spiffe://a.test/web"), changes=changes)
        self.assertEqual(
            self.refused(pem_of_key(made.key) + pem_of([made.certificate])),
            "holds the certificate of a workload, spiffe://a.test/web",
        )


def _pem(issuer: Issuer) -> bytes:
    return pem_of_key(issuer.key) + pem_of([issuer.certificate])
