"""The messages of the Workload API: every defect is named, and none gets through."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.workload_choice import choose
from tcpmesh.identity.workload_messages import (
    MessageError,
    OfferedSvid,
    read_bundles,
    read_svids,
    split_certificates,
)
from tcpmesh.sources.workload_api import WorkloadAPIWorkload
from tcpmesh.testing import TestAuthority
from tcpmesh.testing.workload_messages import (
    der_of,
    protobuf_field,
    x509_bundles_response,
    x509_svid,
    x509_svid_response,
)
from tcpmesh.values import IdentitySnapshot, TrustBundle, Workload

AUTHORITY = TestAuthority()
PARTNER = TestAuthority("partner.test")
SVID = AUTHORITY.svid("/web")
ROOTS = der_of(AUTHORITY.bundle.authorities)


def svid(**changes: bytes | None) -> bytes:
    """An X509SVIDResponse with one SVID, some of whose fields are others or, with None, not there."""
    numbers = {"spiffe_id": 1, "x509_svid": 2, "x509_svid_key": 3, "bundle": 4, "hint": 5}
    values: dict[str, bytes | None] = {
        "spiffe_id": str(SVID.id).encode(),
        "x509_svid": der_of(SVID.chain),
        "x509_svid_key": b"key",
        "bundle": ROOTS,
        **changes,
    }
    fields = [protobuf_field(numbers[name], value) for name, value in values.items() if value is not None]
    return protobuf_field(1, b"".join(fields))


def entry(key: str, value: bytes) -> bytes:
    """An entry of a map."""
    return protobuf_field(1, key) + protobuf_field(2, value)


class SvidTests(SynchronousTestCase):
    def check_refuses(self, message: bytes, reason: str) -> None:
        self.assertEqual(str(self.assertRaises(MessageError, read_svids, message)), reason)

    def test_reads_what_was_written(self) -> None:
        """SVIDs with their hints, own and federated bundles."""
        snapshot = IdentitySnapshot(
            (SVID, AUTHORITY.svid("/db")),
            {AUTHORITY.trust_domain: AUTHORITY.bundle, PARTNER.trust_domain: PARTNER.bundle},
        )
        answer = read_svids(x509_svid_response(snapshot, ["external"]))
        self.assertEqual([(str(each.id), each.hint) for each in answer.svids], [
            ("spiffe://example.test/web", "external"), ("spiffe://example.test/db", "")
        ])  # fmt: skip
        read = answer.svids[0].read()
        self.assertEqual(read.chain, SVID.chain)
        self.assertEqual(read.private_key.public_key(), SVID.private_key.public_key())
        self.assertEqual(
            {domain: bundle.authorities for domain, bundle in answer.bundles.items()},
            {domain: bundle.authorities for domain, bundle in snapshot.bundles.items()},
        )

    def test_mandatory_fields(self) -> None:
        """Absent or empty is the same."""
        for name in ("spiffe_id", "x509_svid", "x509_svid_key", "bundle"):
            self.check_refuses(svid(**{name: None}), f"svids[0] has no {name}")
            self.check_refuses(svid(**{name: b""}), f"svids[0] has no {name}")

    def test_fields_that_come_twice(self) -> None:
        """Which of two keys would count is nobody's guess."""
        twice = x509_svid(SVID, AUTHORITY.bundle) + protobuf_field(3, b"other")
        self.check_refuses(protobuf_field(1, twice), "svids[0] has x509_svid_key twice")

    def test_ids(self) -> None:
        """SPIFFE IDs of workloads, in UTF-8."""
        for value, reason in (
            (b"spiffe://EXAMPLE.test/web", "svids[0].spiffe_id: trust domain 'EXAMPLE.test' is not lower case: "
             "did you mean 'example.test'?"),
            (b"spiffe://example.test", "svids[0] is spiffe://example.test, which is a trust domain, not a workload"),
            (b"spiffe://example.test/\xff", "svids[0].spiffe_id is not UTF-8"),
        ):  # fmt: skip
            self.check_refuses(svid(spiffe_id=value), reason)

    def test_limits(self) -> None:
        """On hints, keys, and how many there are."""
        self.assertEqual(read_svids(svid(hint=b"x" * 1024)).svids[0].hint, "x" * 1024)
        self.check_refuses(svid(hint=b"x" * 1025), "the hint in svids[0] has 1025 bytes, more than 1024")
        self.check_refuses(svid(x509_svid_key=bytes(8193)), "the key in svids[0] has 8193 bytes, more than 8192")
        self.check_refuses(svid() * 257, "there are more than 256 SVIDs")

    def test_wrong_types(self) -> None:
        """A number where a message should be."""
        self.check_refuses(b"\x08\x01", "svids is a number")
        self.check_refuses(protobuf_field(1, b"\x08\x01"), "svids[0].spiffe_id is a number")

    def test_two_bundles_for_one_trust_domain(self) -> None:
        """Two SVIDs of a trust domain come with one bundle; the order in it does not matter."""
        other = TestAuthority()
        roots = other.bundle.authorities
        self.check_refuses(svid() + svid(bundle=der_of(roots)), "there are two different bundles for example.test")
        both = der_of((*AUTHORITY.bundle.authorities, *roots))
        turned = der_of((*roots, *AUTHORITY.bundle.authorities))
        self.assertEqual(len(read_svids(svid(bundle=both) + svid(bundle=turned)).svids), 2)

    def test_the_bundle_beside_the_svid_wins(self) -> None:
        """A federated bundle for our own trust domain changes nothing, and is not added either."""
        message = svid() + protobuf_field(3, entry("spiffe://example.test", der_of(PARTNER.bundle.authorities)))
        bundle = read_svids(message).bundles[AUTHORITY.trust_domain]
        self.assertEqual(bundle.authorities, AUTHORITY.bundle.authorities)

    def test_our_own_bundle_must_be_good(self) -> None:
        """All of it: a workload's certificate among its authorities, or one that names another trust domain."""
        self.check_refuses(
            svid(bundle=ROOTS + der_of(PARTNER.bundle.authorities)),
            "the bundle of example.test has an authority of another trust domain: 'CN=root of partner.test,O=tcpmesh' "
            "is of partner.test, not of example.test",
        )
        error = self.assertRaises(MessageError, read_svids, svid(bundle=der_of([SVID.leaf])))
        self.assertIn("the bundle of example.test cannot be used: the authority ", str(error))

    def test_a_federated_bundle_for_our_own_trust_domain_is_no_defect(self) -> None:
        """It is not used, so what is wrong with it does not matter."""
        answer = read_svids(svid() + protobuf_field(3, entry("spiffe://example.test", b"x")))
        self.assertEqual(answer.defects, {})

    def test_keys_are_read_when_they_are_wanted(self) -> None:
        """Then one that is none is refused, without a word of it."""
        (offered,) = read_svids(svid(x509_svid_key=b"secret")).svids
        error = self.assertRaises(MessageError, offered.read)
        self.assertEqual(
            str(error), "the private key of spiffe://example.test/web cannot be read; it must be PKCS #8 in DER"
        )
        self.assertNotIn("secret", repr(offered))

    def test_unknown_fields_are_read_over(self) -> None:
        """Revocation lists, and whatever comes with the next version."""
        message = protobuf_field(2, b"crl") + svid() + protobuf_field(77, b"new")
        self.assertEqual(len(read_svids(message).svids), 1)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(min_size=1, max_size=40), st.integers(min_value=0))
    def test_no_damage_crashes_it(self, damage: bytes, where: int) -> None:
        """Whatever is overwritten: an answer or a MessageError."""
        message = x509_svid_response(AUTHORITY.snapshot(SVID.id))
        where %= len(message)
        try:
            for offered in read_svids(message[:where] + damage + message[where + len(damage) :]).svids:
                offered.read()
        except MessageError as error:
            self.assertTrue(str(error).isprintable(), str(error))


class BundleTests(SynchronousTestCase):
    def check_refuses(self, message: bytes, reason: str) -> None:
        self.assertEqual(str(self.assertRaises(MessageError, read_bundles, message)), reason)

    def test_reads_what_was_written(self) -> None:
        """By trust domain."""
        answer = read_bundles(x509_bundles_response([AUTHORITY.bundle, PARTNER.bundle]))
        self.assertEqual((answer.svids, answer.defects), ((), {}))
        self.assertEqual(
            {domain: bundle.authorities for domain, bundle in answer.bundles.items()},
            {each.trust_domain: each.bundle.authorities for each in (AUTHORITY, PARTNER)},
        )

    def test_an_empty_bundle_stays(self) -> None:
        """It says that everything of its trust domain is revoked."""
        gone = TrustDomain("gone.test")
        self.assertEqual(read_bundles(x509_bundles_response([TrustBundle(gone, ())])).bundles[gone].authorities, ())

    def test_a_bundle_that_cannot_be_used(self) -> None:
        """It says so of its trust domain, and the others are there."""
        leaf = PARTNER.svid("/web").leaf
        for value, reason in (
            (b"x", "the bundle of a.test: byte 0 does not begin a certificate in DER"),
            (der_of([leaf]), "the bundle of a.test cannot be used: the authority "),
            (ROOTS, "the bundle of a.test has an authority of another trust domain: "),
        ):
            bad = protobuf_field(2, entry("spiffe://a.test", value))
            answer = read_bundles(x509_bundles_response([PARTNER.bundle]) + bad)
            self.assertEqual(list(answer.bundles), [PARTNER.trust_domain])
            self.assertIn(reason, answer.defects[TrustDomain("a.test")])
            self.check_refuses(bad + bad, "bundles has two bundles for a.test")

    def test_refuses(self) -> None:
        """No bundle, two for one, names that are none, too many."""
        self.check_refuses(b"", "there is no bundle in it")
        one = protobuf_field(2, entry("spiffe://example.test", ROOTS))
        self.check_refuses(one + one, "bundles has two bundles for example.test")
        self.check_refuses(protobuf_field(2, entry("", ROOTS)), "a key of bundles: a SPIFFE ID is missing")
        self.check_refuses(
            protobuf_field(2, entry("a.test", ROOTS)), "a key of bundles: 'a.test' does not start with 'spiffe://'"
        )
        self.check_refuses(
            protobuf_field(2, entry("spiffe://a.test/x", ROOTS)),
            "bundles has a bundle for spiffe://a.test/x, which is a workload, not a trust domain",
        )
        self.check_refuses(one * 1025, "bundles has 1025 entries, more than 1024")
        self.check_refuses(b"\x10\x01", "bundles is a number")


class CertificateTests(SynchronousTestCase):
    def check_refuses(self, data: bytes, reason: str) -> None:
        self.assertEqual(str(self.assertRaises(MessageError, split_certificates, data, "it")), f"it: {reason}")

    def test_splits(self) -> None:
        """One after the other, none at all too."""
        self.assertEqual(split_certificates(der_of(SVID.chain), "it"), SVID.chain)
        self.assertEqual(split_certificates(b"", "it"), ())

    def test_what_is_left_over(self) -> None:
        """Behind the last there is nothing, not even zeros."""
        self.check_refuses(ROOTS + b"\0", f"byte {len(ROOTS)} does not begin a certificate in DER")
        self.check_refuses(ROOTS + b"\x30", f"the certificate at byte {len(ROOTS)} is cut off")

    def test_cut(self) -> None:
        """Every beginning of a certificate is refused."""
        for end in range(1, len(ROOTS)):
            self.check_refuses(ROOTS[:end], "the certificate at byte 0 is cut off")

    def test_pem(self) -> None:
        """A mistake that people make."""
        self.check_refuses(
            pem_of(AUTHORITY.bundle.authorities), "byte 0 does not begin a certificate in DER, it is PEM"
        )

    def test_lengths(self) -> None:
        """Indefinite, of a size that no length has, of more bytes than there are."""
        self.check_refuses(b"\x30\x80\0\0", "the certificate at byte 0 has no definite length, so it is not DER")
        self.check_refuses(b"\x30\xff" + bytes(200), "the certificate at byte 0 is cut off")
        self.check_refuses(b"\x30\x84\xff\xff\xff\xff", "the certificate at byte 0 is cut off")

    def test_another_sequence(self) -> None:
        """DER that is no certificate."""
        error = self.assertRaises(MessageError, split_certificates, ROOTS + b"\x30\x02\x05\x00", "it")
        self.assertIn("it: certificate 2 cannot be read: ", str(error))

    def test_too_many(self) -> None:
        """Each costs time."""
        self.check_refuses(ROOTS * 1025, "more than 1024 certificates")


class ChoiceTests(SynchronousTestCase):
    def offered(self, path: str, hint: str = "") -> OfferedSvid:
        return OfferedSvid(SpiffeId(TrustDomain("example.test"), path), hint, b"", b"")

    def workload(self, name: str, hint: str | None = None) -> dict[str, Workload]:
        return {name: AUTHORITY.workload(name, WorkloadAPIWorkload(hint))}

    def test_by_id_the_first_counts(self) -> None:
        """Whatever its hint."""
        offered = (self.offered("/db"), self.offered("/web", "a"), self.offered("/web"))
        self.assertEqual(choose(offered, self.workload("web")).offered, (offered[1],))

    def test_by_hint_the_first_counts(self) -> None:
        """Also where its ID is the wrong one: a hint that two have is the first's."""
        offered = (self.offered("/web"), self.offered("/web", "b"), self.offered("/web", "b"))
        self.assertEqual(choose(offered, self.workload("web", "b")).offered, (offered[1],))

    def test_a_hint_does_not_excuse_the_id(self) -> None:
        """Nobody becomes somebody else by a hint."""
        choice = choose((self.offered("/db", "b"), self.offered("/web", "b")), self.workload("web", "b"))
        self.assertEqual((choice.offered, choice.unserved), ((), (
            "the SVID with the hint b is spiffe://example.test/db; workload 'web' is spiffe://example.test/web in "
            "the configuration",
        )))  # fmt: skip

    def test_says_what_there_is(self) -> None:
        """Five of them, and how many more."""
        choice = choose([self.offered(f"/{n}", "h\n") for n in range(7)], self.workload("web", "b"))
        (text,) = choice.unserved
        self.assertTrue(text.startswith("no SVID for workload 'web' with the hint b; there are spiffe://"), text)
        self.assertTrue(text.endswith("spiffe://example.test/4 (hint 'h\\n') and 2 more"), text)
