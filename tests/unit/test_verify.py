"""Verification of peers: the X.509-SVID rules, trust domains, expectations and DNS names."""

from __future__ import annotations

import warnings
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import presented_name, serial_text, shown, span
from tcpmesh.identity.profile import MAX_NAMES
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.verify import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN_LENGTH,
    check_sizes,
    match_expected,
    verify_dns_name,
    verify_svid_chain,
)
from tcpmesh.values import DNSName, ExpectedIdentity, PeerIdentity, TrustBundle
from tests.unit.crafted import (
    NOW,
    SHA1_HASH,
    Extension,
    Issuer,
    Leaf,
    authority,
    bundles,
    craft_der,
    dns,
    extension,
    key_usage,
    leaf,
    name,
    rsa_key,
    uri,
)

SAN_OID = "2.5.29.17"


class CraftedCase(SynchronousTestCase):
    """Two trust domains with a root each, and one intermediate."""

    def setUp(self) -> None:
        self.root = authority("root of a.test")
        self.other = authority("root of b.test")
        self.intermediate = authority("issuing of a.test", self.root, path_length=0)

    def refused(self, code: Code, *words: str, chain: Any, held: Any = None) -> None:
        """The chain is refused with this code, and the reason has these words."""
        trusted = bundles(a=self.root, b=self.other) if held is None else held
        refusal = self.assertRaises(Refusal, verify_svid_chain, chain, trusted)
        self.assertEqual(refusal.code, code, refusal.reason)
        for word in words:
            self.assertIn(word, refusal.reason)
        self.assertTrue(refusal.reason.isprintable(), refusal.reason)
        self.assertTrue(len(refusal.reason) < 1000, len(refusal.reason))

    def leaf_refused(self, code: Code, *words: str, names: tuple[bytes, ...] = (), **fields: Any) -> None:
        self.refused(code, *words, chain=leaf(self.root, *names, **fields).chain)


class SvidChainTests(CraftedCase):
    def test_says_who_the_peer_is(self) -> None:
        """A good chain gives identity, serial and validity."""
        made = leaf(self.intermediate, serial=0xABC)
        peer = verify_svid_chain(made.chain, bundles(a=self.root))
        self.assertEqual(peer, PeerIdentity(SpiffeId.parse("spiffe://a.test/web"), "0abc", NOW - 60, NOW + 3600))

    def test_takes_further_names_of_other_types(self) -> None:
        """DNS names beside the URI are no defect."""
        made = leaf(self.root, dns("web.a.test"), uri("spiffe://a.test/web"))
        self.assertEqual(str(verify_svid_chain(made.chain, bundles(a=self.root))), "spiffe://a.test/web")

    def test_takes_every_kind_of_key_that_it_names(self) -> None:
        """P-256, P-384, Ed25519 and RSA of 2048 bits are good."""
        for key in (
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP384R1()),
            ed25519.Ed25519PrivateKey.generate(),
            rsa_key(2048),
        ):
            verify_svid_chain(leaf(self.root, key=key).chain, bundles(a=self.root))

    def test_takes_signatures_of_ed25519_and_rsa_authorities(self) -> None:
        """The kind of the authority's key is as free as the leaf's."""
        for key in (ed25519.Ed25519PrivateKey.generate(), rsa_key(2048)):
            root = authority("another root", key=key)
            verify_svid_chain(leaf(root).chain, bundles(a=root))

    def test_takes_a_leaf_without_basic_constraints(self) -> None:
        """Absent, cA is false (RFC 5280 section 4.2.1.9)."""
        verify_svid_chain(leaf(self.root, changes={"constraints": None}).chain, bundles(a=self.root))

    def test_takes_a_leaf_without_extended_key_usage(self) -> None:
        """X509-SVID.md section 4.4 makes it optional."""
        verify_svid_chain(leaf(self.root, changes={"extended": None}).chain, bundles(a=self.root))

    def test_takes_an_empty_subject_with_critical_names(self) -> None:
        """X509-SVID.md section 3.1."""
        names = Extension(SAN_OID, True, x509.SubjectAlternativeName([_spiffe("web")]).public_bytes())
        verify_svid_chain(leaf(self.root, subject="", changes={"names": names}).chain, bundles(a=self.root))

    def test_takes_an_intermediate_as_anchor(self) -> None:
        """Whatever a bundle lists is an anchor, self-signed or not."""
        made = leaf(self.intermediate)
        verify_svid_chain(made.chain[:2], bundles(a=self.intermediate))

    def test_takes_an_authority_of_the_own_bundle_below_a_foreign_anchor(self) -> None:
        """A listed authority on the way proves as much as one at the end."""
        made = leaf(self.intermediate)
        held = {**bundles(b=self.root), **bundles(a=self.intermediate)}
        verify_svid_chain(made.chain, held)

    def test_takes_an_anchor_without_key_usage(self) -> None:
        """``openssl req -x509`` makes such roots, and the operator chose to trust it."""
        root = authority("bare root", drop=("2.5.29.15",))
        verify_svid_chain(leaf(root).chain, bundles(a=root))

    def test_refuses_an_empty_chain(self) -> None:
        """Nobody is nobody."""
        self.refused(codes.NO_CERTIFICATE, chain=())


class TrustDomainRuleTests(CraftedCase):
    def test_refuses_the_authority_of_another_trust_domain(self) -> None:
        """B's authority cannot sign for A, and the reason says whose it is."""
        self.refused(
            codes.WRONG_ANCHOR,
            "spiffe://a.test/web",
            "would verify under trust domain b.test",
            "CN=root of b.test",
            chain=leaf(self.other).chain,
        )

    def test_refuses_other_roots_filed_under_the_domain_of_the_leaf(self) -> None:
        """A bundle that holds other authorities does not help."""
        self.refused(
            codes.WRONG_ANCHOR, "is in no trust bundle", chain=leaf(self.root).chain, held=bundles(a=self.other)
        )

    def test_refuses_a_trust_domain_without_bundle(self) -> None:
        """The reason names the bundles that are held, and whose authority it was."""
        made = leaf(self.other, uri("spiffe://c.test/web"))
        self.refused(
            codes.NO_BUNDLE, "no trust bundle for c.test", "a.test, b.test", "belongs to b.test", chain=made.chain
        )
        self.refused(codes.NO_BUNDLE, "bundles held: none", chain=leaf(self.root).chain, held={})

    def test_refuses_a_trust_domain_whose_bundle_is_empty(self) -> None:
        """Without an authority everything of the domain is revoked."""
        domain = TrustDomain("a.test")
        held = {domain: TrustBundle(domain, ())}
        self.refused(
            codes.NO_BUNDLE, "everything of that trust domain is revoked", chain=leaf(self.root).chain, held=held
        )

    def test_refuses_a_leaf_that_is_its_own_anchor(self) -> None:
        """A workload's certificate in the bundle makes nobody an authority."""
        made = leaf(self.root)
        held = bundles(a=Issuer(made.certificate, made.key))
        self.refused(codes.CHAIN_INVALID, "itself listed as an authority", chain=made.chain[:1], held=held)


class ProfileTests(CraftedCase):
    def test_refuses_no_names(self) -> None:
        """Without subject alternative names there is no identity; a common name does not count."""
        self.leaf_refused(
            codes.NO_SPIFFE_ID, "no URI name", "subject", changes={"names": None}, subject="spiffe://a.test/web"
        )

    def test_refuses_only_other_names(self) -> None:
        """A DNS name is no SPIFFE ID."""
        self.leaf_refused(codes.NO_SPIFFE_ID, "dns:web.a.test", names=(dns("web.a.test"),))

    def test_refuses_a_uri_of_another_scheme(self) -> None:
        """Only spiffe: is one."""
        for text in ("https://a.test/web", "sparfe://a.test/web"):
            self.leaf_refused(codes.NO_SPIFFE_ID, text, names=(uri(text),))

    def test_refuses_several_uris(self) -> None:
        """Two URI names are refused, also when only one is a SPIFFE ID."""
        for second in ("spiffe://a.test/admin", "https://a.test/", "spiffe://a.test/web"):
            self.leaf_refused(codes.SEVERAL_IDS, "2 URI names", second, names=(uri("spiffe://a.test/web"), uri(second)))

    def test_refuses_malformed_ids(self) -> None:
        """The strict grammar holds in certificates, a NUL in the name included."""
        for text in (
            "spiffe://a.test/web\0.b.test",
            "spiffe://a.test\0/web",
            "SPIFFE://a.test/web",
            "spiffe://A.test/web",
            "spiffe://a.test/web/",
            "spiffe://a.test/../web",
            "spiffe://a.test:443/web",
            "spiffe://a.test/w%65b",
            "spiffe:a.test/web",
            "spiffe://a.test/web\n",
            "spiffe://a.test/" + "x" * 2048,
        ):
            self.leaf_refused(codes.INVALID_ID, names=(uri(text),))

    def test_refuses_the_id_of_a_trust_domain(self) -> None:
        """A leaf's ID has a path."""
        self.leaf_refused(codes.PROFILE, "has no path", names=(uri("spiffe://a.test"),))

    def test_refuses_a_nul_in_a_dns_name(self) -> None:
        """Whoever reads such a name reads it differently."""
        names = (uri("spiffe://a.test/web"), dns("good.test\0.evil.test"))
        self.leaf_refused(codes.MALFORMED_CERTIFICATE, "NUL", names=names)

    def test_refuses_an_authority_as_leaf(self) -> None:
        """Signing certificates do not authenticate."""
        changes = {"constraints": extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)}
        self.leaf_refused(codes.PROFILE, "cA is true", changes=changes)
        self.refused(codes.NO_SPIFFE_ID, chain=self.intermediate.chain)

    def test_refuses_wrong_key_usage(self) -> None:
        """It must be there, critical, for signatures, and not an authority's."""
        for usage, words in (
            (None, "has no key usage"),
            (extension(key_usage("digital_signature"), critical=False), "is not critical"),
            (extension(key_usage("key_agreement"), critical=True), "lacks digitalSignature"),
            (extension(key_usage("digital_signature", "key_cert_sign"), critical=True), "has keyCertSign"),
            (extension(key_usage("digital_signature", "crl_sign"), critical=True), "has cRLSign"),
        ):
            self.leaf_refused(codes.PROFILE, words, changes={"usage": usage})

    def test_refuses_half_an_extended_key_usage(self) -> None:
        """Both purposes or none at all; any purpose is not both."""
        for purpose, words in (
            (ExtendedKeyUsageOID.CLIENT_AUTH, "lacks serverAuth"),
            (ExtendedKeyUsageOID.SERVER_AUTH, "lacks clientAuth"),
            (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, "lacks serverAuth"),
        ):
            changes = {"extended": extension(x509.ExtendedKeyUsage([purpose]))}
            self.leaf_refused(codes.PROFILE, words, changes=changes)

    def test_refuses_an_empty_subject_without_critical_names(self) -> None:
        """X509-SVID.md section 3.1, RFC 5280 section 4.1.2.6."""
        self.leaf_refused(codes.PROFILE, "neither a subject nor critical", subject="")

    def test_refuses_other_versions(self) -> None:
        """Version 1 has no extensions to carry an identity."""
        self.leaf_refused(codes.PROFILE, "version 1, not 3", version=1)

    def test_refuses_a_serial_number_that_is_not_positive(self) -> None:
        """RFC 5280 section 4.1.2.2; the serial identifies the certificate in records."""
        for serial in (0, -5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.leaf_refused(codes.PROFILE, "not above 0", serial=serial)

    def test_refuses_weak_and_exotic_keys(self) -> None:
        """Short RSA, overlong RSA and other curves are refused, wherever in the chain."""
        self.leaf_refused(codes.PROFILE, "RSA key of 1024 bits", key=rsa_key(1024))
        self.leaf_refused(codes.PROFILE, "secp521r1", key=ec.generate_private_key(ec.SECP521R1()))
        self.leaf_refused(codes.PROFILE, "unsupported kind", key=ed448.Ed448PrivateKey.generate())
        weak = authority("weak root", key=rsa_key(1024))
        self.refused(codes.PROFILE, "weak root", "1024 bits", chain=leaf(weak).chain, held=bundles(a=weak))

    def test_refuses_weak_signatures(self) -> None:
        """SHA-1 on the leaf or an intermediate is refused; an anchor's own signature proves nothing."""
        self.leaf_refused(codes.PROFILE, "signed with sha1", hash_algorithm=SHA1_HASH)
        weak = authority("weakly signed", self.root, hash_algorithm=SHA1_HASH)
        self.refused(codes.PROFILE, "signed with sha1", chain=leaf(weak).chain)
        old = authority("old root", hash_algorithm=SHA1_HASH)
        verify_svid_chain(leaf(old).chain, bundles(a=old))

    def test_refuses_intermediates_that_are_no_authorities(self) -> None:
        """cA and keyCertSign are checked again, whatever OpenSSL thought of them."""
        no_ca = authority("no ca", self.root, ca=False)
        self.refused(codes.PROFILE, "no ca", "cA is not true", chain=leaf(no_ca).chain)
        no_sign = authority("no sign", self.root, usage=key_usage("crl_sign"))
        self.refused(codes.PROFILE, "no sign", "lacks keyCertSign", chain=leaf(no_sign).chain)
        bare = authority("bare", self.root, drop=("2.5.29.15",))
        self.refused(codes.PROFILE, "bare", "no key usage", chain=leaf(bare).chain)
        unconstrained = authority("unconstrained", self.root, drop=("2.5.29.19",))
        self.refused(codes.PROFILE, "unconstrained", "cA is not true", chain=leaf(unconstrained).chain)

    def test_refuses_an_intermediate_with_a_workloads_id(self) -> None:
        """The ID of a signing certificate has no path."""
        key = ec.generate_private_key(ec.SECP256R1())
        der = craft_der(
            public_key=key.public_key(),
            signing_key=self.root.key,
            subject=name("named"),
            issuer=self.root.certificate.subject,
            extensions=[
                extension(x509.BasicConstraints(ca=True, path_length=None), critical=True),
                extension(key_usage("key_cert_sign"), critical=True),
                extension(x509.SubjectAlternativeName([_spiffe("web")])),
            ],
        )
        named = Issuer(x509.load_der_x509_certificate(der), key, self.root.chain)
        self.refused(codes.PROFILE, "makes it a workload's", chain=leaf(named).chain)


class MalformedTests(CraftedCase):
    def test_refuses_unreadable_names(self) -> None:
        """Whatever the parser says of the names, the certificate is refused."""
        for value in (
            b"",
            b"junk",
            b"\x30\x05\x86\x10spif",
            b"\x30\x03\x86\x01\xff",  # not IA5
            b"\x30\x00",  # no name at all
            b"\x30\x04\xa3\x02\x30\x00",  # x400Address
            b"\x04\x02hi",
        ):
            made = leaf(self.root, changes={"names": Extension(SAN_OID, False, value)})
            refusal = self.assertRaises(Refusal, verify_svid_chain, made.chain, bundles(a=self.root))
            self.assertIn(refusal.code, (codes.MALFORMED_CERTIFICATE, codes.NO_SPIFFE_ID), value)
            self.assertTrue(presented_name(made.certificate).isprintable())

    def test_refuses_duplicate_extensions(self) -> None:
        """Two readers could take different ones."""
        second = Extension(SAN_OID, False, x509.SubjectAlternativeName([_spiffe("admin")]).public_bytes())
        made = leaf(self.root, more=[second])
        self.refused(codes.MALFORMED_CERTIFICATE, "Duplicate", chain=made.chain)
        self.assertTrue(presented_name(made.certificate).startswith("(unreadable names)"))

    def test_refuses_a_malformed_key_usage(self) -> None:
        """So with every other extension that is looked at."""
        changes = {"usage": Extension("2.5.29.15", True, b"\x02\x01\x05")}
        self.leaf_refused(codes.MALFORMED_CERTIFICATE, "cannot be read", changes=changes)

    def test_refuses_too_many_names(self) -> None:
        """10,000 names are too many below 64 KiB as well as above; the reason does not list them."""
        small = [uri("spiffe://a.test/web"), *(dns("a") for _ in range(9_999))]
        made = leaf(self.root, *small)
        self.assertTrue(len(made.certificate.public_bytes(_DER)) < MAX_CERTIFICATE_BYTES)
        self.refused(codes.CERTIFICATE_TOO_LARGE, "10000 subject alternative names", chain=made.chain)
        large = leaf(self.root, *(uri(f"spiffe://a.test/web{number}") for number in range(10_000)))
        self.refused(codes.CERTIFICATE_TOO_LARGE, "bytes, more than 65536", chain=large.chain)

    def test_takes_as_many_names_as_the_limit(self) -> None:
        """The limit is exact."""
        names = [uri("spiffe://a.test/web"), *(dns(f"n{number}.test") for number in range(MAX_NAMES - 1))]
        verify_svid_chain(leaf(self.root, *names).chain, bundles(a=self.root))
        self.refused(codes.CERTIFICATE_TOO_LARGE, chain=leaf(self.root, *names, dns("one.more")).chain)

    def test_refuses_a_long_chain(self) -> None:
        """Fifty certificates are refused, and so are nine."""
        above = self.root
        for number in range(49):
            above = authority(f"level {number}", above)
        self.refused(codes.CERTIFICATE_TOO_LARGE, "51 certificates", chain=leaf(above).chain)
        self.refused(codes.CERTIFICATE_TOO_LARGE, "9 certificates", chain=leaf(above).chain[:9])
        check_sizes([100] * MAX_CHAIN_LENGTH)

    def test_bounds_the_bytes_of_a_chain(self) -> None:
        """64 KiB are taken, one byte more is not."""
        check_sizes([MAX_CERTIFICATE_BYTES - 1, 1])
        refusal = self.assertRaises(Refusal, check_sizes, [MAX_CERTIFICATE_BYTES, 1])
        self.assertEqual(refusal.code, codes.CERTIFICATE_TOO_LARGE)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=3))
    def test_refuses_or_reads_any_damaged_certificate(self, changes: list[tuple[int, int]]) -> None:
        """With any byte changed it is read as the same identity, refused, or not parsed: nothing else escapes."""
        made = leaf(self.root)
        der = bytearray(made.certificate.public_bytes(_DER))
        for position, value in changes:
            der[position % len(der)] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                damaged = x509.load_der_x509_certificate(bytes(der))
            except Exception:
                return
            self.assertTrue(presented_name(damaged).isprintable())
            try:
                verify_svid_chain((damaged, self.root.certificate), bundles(a=self.root))
            except Refusal as refusal:
                self.assertTrue(refusal.reason.isprintable())


class ExpectedTests(SynchronousTestCase):
    peer = PeerIdentity(SpiffeId.parse("spiffe://a.test/ns/shop/web"), "01", 0.0, 1.0)

    def refused(self, code: Code, *expected: ExpectedIdentity, peer: PeerIdentity | None = None) -> str:
        refusal = self.assertRaises(Refusal, match_expected, peer or self.peer, expected)
        self.assertEqual(refusal.code, code)
        return str(refusal.reason)

    def test_takes_any_of_those_expected(self) -> None:
        """One equal ID is enough."""
        match_expected(self.peer, [_id("a.test/other"), _id("a.test/ns/shop/web")])

    def test_matches_nobody_when_nobody_is_expected(self) -> None:
        """An empty list is not "anybody"."""
        self.assertIn("expected nobody", self.refused(codes.ID_DIFFERS))

    def test_spells_out_both_sides_and_the_difference(self) -> None:
        """The reader sees at once which segment is wrong."""
        self.assertEqual(
            self.refused(codes.ID_DIFFERS, _id("a.test/ns/shop/db")),
            "expected spiffe://a.test/ns/shop/db; the peer is spiffe://a.test/ns/shop/web; "
            "segment 3 is 'web' instead of 'db'",
        )
        self.assertIn("only upper and lower case", self.refused(codes.ID_DIFFERS, _id("a.test/ns/Shop/web")))
        self.assertIn("3 path segments instead of 2", self.refused(codes.ID_DIFFERS, _id("a.test/ns/shop")))

    def test_tells_another_trust_domain_apart(self) -> None:
        """The same path in another domain is another kind of mistake."""
        reason = self.refused(codes.TRUST_DOMAIN_DIFFERS, _id("b.test/ns/shop/web"))
        self.assertIn("expected spiffe://b.test/ns/shop/web; the peer is spiffe://a.test/ns/shop/web", reason)

    def test_never_matches_a_prefix_or_a_parent(self) -> None:
        """Only the whole ID counts."""
        for text in ("a.test/ns", "a.test/ns/shop/we", "a.test/ns/shop/web/x"):
            self.refused(codes.ID_DIFFERS, _id(text))

    def test_never_matches_across_types(self) -> None:
        """A DNS entry is not a SPIFFE ID, whatever it spells, and the other way round."""
        self.refused(codes.ID_DIFFERS, DNSName("spiffe://a.test/ns/shop/web"))
        by_name = PeerIdentity(None, "01", 0.0, 1.0, "db.test")
        self.refused(codes.ID_DIFFERS, DNSName("db.test"), peer=by_name)
        self.refused(codes.ID_DIFFERS, _id("a.test/x"), peer=by_name)

    def test_shows_a_few_of_many(self) -> None:
        """A long list does not make a long line."""
        reason = self.refused(codes.ID_DIFFERS, *(_id(f"a.test/x{number}") for number in range(100)))
        self.assertIn("and 95 more", reason)
        self.assertTrue(len(reason) < 300)


class DNSNameTests(CraftedCase):
    def server(self, *names: bytes, **fields: Any) -> Leaf:
        return leaf(self.root, *names, **fields)

    def refused_server(self, code: Code, made: Leaf, *expected: str) -> str:
        names = [DNSName(text) for text in expected or ("db.test",)]
        refusal = self.assertRaises(Refusal, verify_dns_name, made.chain, names)
        self.assertEqual(refusal.code, code, refusal.reason)
        self.assertTrue(refusal.reason.isprintable())
        return str(refusal.reason)

    def test_takes_any_of_the_expected_names(self) -> None:
        """The name that matched is the peer's identity."""
        made = self.server(dns("www.test"), dns("db.test"), serial=0x99)
        peer = verify_dns_name(made.chain, [DNSName("other.test"), DNSName("db.test")])
        self.assertEqual((peer.spiffe_id, peer.dns_name, peer.serial), (None, "db.test", "99"))

    def test_takes_names_in_any_case_and_leftmost_wildcards(self) -> None:
        """As RFC 9525 section 6.3 has it."""
        verify_dns_name(self.server(dns("DB.Test")).chain, [DNSName("db.test")])
        verify_dns_name(self.server(dns("*.db.test")).chain, [DNSName("one.db.test")])

    def test_takes_a_name_beside_a_spiffe_id(self) -> None:
        """``tcpmesh ca issue --dns`` makes such certificates."""
        verify_dns_name(self.server(uri("spiffe://a.test/db"), dns("db.test")).chain, [DNSName("db.test")])

    def test_refuses_another_name(self) -> None:
        """The reason has both."""
        reason = self.refused_server(codes.DNS_DIFFERS, self.server(dns("www.test")))
        self.assertEqual(reason, "expected dns:db.test; the certificate is for dns:www.test")

    def test_never_takes_a_common_name(self) -> None:
        """With or without other names."""
        for made in (
            self.server(changes={"names": None}, subject="db.test"),
            self.server(uri("spiffe://a.test/db"), subject="db.test"),
            self.server(version=1, subject="db.test"),
        ):
            self.assertIn("a common name does not count", self.refused_server(codes.DNS_DIFFERS, made))
        self.refused_server(codes.DNS_DIFFERS, self.server(dns("www.test"), subject="db.test"))

    def test_never_takes_a_uri_for_a_name(self) -> None:
        """A URI that spells the name is not the name."""
        self.refused_server(codes.DNS_DIFFERS, self.server(uri("https://db.test"), dns("www.test")))

    def test_refuses_a_nul_in_a_name(self) -> None:
        """The classic: db.test, then a NUL, then the attacker's domain."""
        self.refused_server(codes.MALFORMED_CERTIFICATE, self.server(dns("db.test\0.evil.test")))

    def test_refuses_what_cannot_be_matched(self) -> None:
        """Odd names in the certificate or in the expectation refuse, they do not raise."""
        self.refused_server(codes.MALFORMED_CERTIFICATE, self.server(dns("*.*.test")))
        self.refused_server(codes.MALFORMED_CERTIFICATE, self.server(dns("192.0.2.1")))
        self.refused_server(codes.MALFORMED_CERTIFICATE, self.server(dns("db.test"), uri("a:b:c")))
        self.refused_server(codes.DNS_DIFFERS, self.server(dns("db.test")), "192.0.2.1")
        self.refused_server(codes.DNS_DIFFERS, self.server(dns("db.test")), "db test")

    def test_refuses_oversize_and_weak_certificates(self) -> None:
        """The limits of SVIDs hold here as well."""
        self.refused_server(codes.CERTIFICATE_TOO_LARGE, self.server(*(dns("a") for _ in range(MAX_NAMES + 1))))
        self.refused_server(codes.PROFILE, self.server(dns("db.test"), hash_algorithm=SHA1_HASH))
        refusal = self.assertRaises(Refusal, verify_dns_name, (), [DNSName("db.test")])
        self.assertEqual(refusal.code, codes.NO_CERTIFICATE)

    def test_refuses_when_no_name_is_expected(self) -> None:
        """An empty list matches nobody."""
        refusal = self.assertRaises(Refusal, verify_dns_name, self.server(dns("db.test")).chain, [])
        self.assertEqual(refusal.code, codes.DNS_DIFFERS)


class ShownTests(CraftedCase):
    def test_names_a_certificate_by_what_it_carries(self) -> None:
        """URIs first, then DNS names, then the subject."""
        for made, text in (
            (leaf(self.root), "spiffe://a.test/web"),
            (leaf(self.root, dns("x.test"), uri("spiffe://a.test/web")), "spiffe://a.test/web"),
            (leaf(self.root, dns("x.test"), dns("y.test")), "dns:x.test dns:y.test"),
            (leaf(self.root, changes={"names": None}, subject="legacy"), "subject CN=legacy"),
            (leaf(self.root, changes={"names": None}, subject=""), "subject (empty name)"),
        ):
            self.assertEqual(presented_name(made.certificate), text)

    def test_is_short_and_cannot_forge_a_line(self) -> None:
        """What an attacker wrote stays inside quotes, on one line, and is cut."""
        for text in ("spiffe://a.test/x code=TM-D100", 'spiffe://a.test/"\n{"event":"open"}', "\x1b[2J" + "x" * 5000):
            shown_text = presented_name(leaf(self.root, uri(text)).certificate)
            self.assertTrue(shown_text.isprintable() and shown_text.isascii(), shown_text)
            self.assertTrue(shown_text[0] in "'\"", shown_text)
            self.assertTrue(len(shown_text) <= 220, len(shown_text))
        many = presented_name(
            leaf(self.root, *(uri(f"spiffe://a.test/{'y' * 100}{n}") for n in range(500))).certificate
        )
        self.assertIn("(and 495 more)", many)
        self.assertTrue(len(many) < 300, len(many))

    def test_escapes_a_subject(self) -> None:
        """Subjects are UTF-8, and quoted for it."""
        made = leaf(self.root, changes={"names": None}, subject="a\nb\u202e\U0001f600" * 5)
        shown_text = presented_name(made.certificate)
        self.assertTrue(shown_text.isascii() and shown_text.isprintable(), shown_text)

    def test_cuts_escapes_too(self) -> None:
        """One character can become ten."""
        self.assertTrue(len(shown("\U0001f600" * 300)) <= 210)

    def test_says_times_as_people_do(self) -> None:
        """The unit fits the length."""
        self.assertEqual(
            [span(seconds) for seconds in (0, 1, 90, 900, 7200, 86400, 864000)],
            ["0 s", "1 s", "90 s", "15 min", "2 h", "24 h", "10 d"],
        )

    def test_writes_serials_as_openssl_does(self) -> None:
        """Whole bytes in hex."""
        self.assertEqual(serial_text(leaf(self.root, serial=0x1).certificate), "01")
        self.assertEqual(serial_text(leaf(self.root, serial=0xABCDE).certificate), "0abcde")


_DER = Encoding.DER


def _spiffe(path: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(f"spiffe://a.test/{path}")


def _id(text: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://{text}")
