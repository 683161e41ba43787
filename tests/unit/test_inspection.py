"""Inspection of chains: what is shown, and every reason that is found to refuse one."""

from __future__ import annotations

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.inspection import Inspection, describe, inspect_chain
from tests.unit.crafted import DAY, NOW, authority, dns, key_usage, leaf, rsa_key, uri
from tests.unit.crafted import extension as make_extension


class InspectionTests(SynchronousTestCase):
    """inspect_chain."""

    def setUp(self) -> None:
        self.root = authority("root")
        self.issuing = authority("issuing", self.root)

    def codes(self, found: Inspection) -> list[str]:
        return [finding.code.id for finding in found.findings]

    def test_finds_nothing_in_a_good_chain(self) -> None:
        """With and without its root."""
        made = leaf(self.issuing, uri("spiffe://a.test/web"), dns("web.a.test"))
        for chain in (made.chain[:1], made.chain[:2], made.chain):
            found = inspect_chain(chain, NOW)
            self.assertEqual((str(found.identity), found.findings), ("spiffe://a.test/web", ()))
        first, _, last = found.certificates
        self.assertEqual(
            (first.subject, first.issuer, first.serial, first.uris, first.dns, first.key),
            ("CN=leaf", "CN=issuing", "1234", ("spiffe://a.test/web",), ("web.a.test",), "EC secp256r1"),
        )
        self.assertEqual((first.not_before, first.not_after), (NOW - 60, NOW + 3600))
        self.assertEqual((first.issuer_key_id, first.self_signed), (found.certificates[1].key_id, False))
        self.assertEqual((last.subject, last.self_signed), ("CN=root", True))

    def test_finds_several_defects_at_once(self) -> None:
        """Each once, the leaf's first."""
        made = leaf(
            self.issuing,
            key=rsa_key(1024),
            not_before=NOW - 3 * DAY,
            not_after=NOW - DAY,
            changes={"usage": make_extension(key_usage("key_agreement"), critical=True)},
        )
        found = inspect_chain(made.chain, NOW)
        self.assertEqual(
            [(finding.code.id, finding.reason) for finding in found.findings],
            [
                ("TM-I506", "the key usage in the certificate of spiffe://a.test/web lacks digitalSignature"),
                (
                    "TM-I506",
                    "the certificate of spiffe://a.test/web has an RSA key of 1024 bits; use 2048 to 8192, or EC P-256",
                ),
                ("TM-I503", "the certificate expired 24 h ago, at 2027-01-14T08:00:00Z"),
            ],
        )

    def test_finds_what_is_no_identity(self) -> None:
        """The same codes as on the wire."""
        for names, code in [
            ([dns("a.test")], "TM-I501"),
            ([uri("spiffe://a.test/a"), uri("spiffe://a.test/b")], "TM-I502"),
            ([uri("spiffe://A.test/a")], "TM-I507"),
            ([uri("spiffe://a.test")], "TM-I506"),
        ]:
            found = inspect_chain(leaf(self.issuing, *names).chain, NOW)
            self.assertEqual((found.identity, self.codes(found)), (None, [code]))

    def test_finds_what_is_wrong_above(self) -> None:
        """An authority that is none, is late or did not sign."""
        made = leaf(self.issuing)
        stranger = authority("stranger")
        found = inspect_chain([made.certificate, stranger.certificate], NOW)
        self.assertEqual(
            [(finding.code.id, finding.reason) for finding in found.findings],
            [("TM-I605", "CN=stranger did not sign the certificate CN=leaf before it, which names CN=issuing")],
        )
        for fields, code, words in [
            ({"not_after": NOW - 90}, "TM-I605", "the authority CN=issuing expired 90 s ago"),
            ({"not_before": NOW + 600}, "TM-I605", "the authority CN=issuing is valid only from"),
            ({"usage": key_usage("crl_sign")}, "TM-I506", "the key usage of the intermediate CN=issuing lacks"),
        ]:
            (finding,) = inspect_chain(leaf(authority("issuing", self.root, **fields)).chain, NOW).findings
            self.assertEqual(finding.code.id, code)
            self.assertIn(words, finding.reason)

    def test_finds_what_is_not_yet_valid(self) -> None:
        """With how long it will take."""
        (finding,) = inspect_chain(leaf(self.issuing, not_before=NOW + 600).chain, NOW).findings
        self.assertEqual(
            (finding.code.id, finding.reason),
            ("TM-I504", "the certificate is valid only from 2027-01-15T08:10:00Z, in 10 min: is the clock right?"),
        )

    def test_finds_too_many(self) -> None:
        """As many as a peer may not show."""
        made = leaf(self.issuing)
        found = inspect_chain([made.certificate, *[self.issuing.certificate] * 8], NOW)
        self.assertIn("TM-I508", self.codes(found))

    def test_shows_no_control_characters(self) -> None:
        """Whoever wrote the certificate may want to write on the terminal, too."""
        made = leaf(self.issuing, dns(b"a\x1b[2Jb"), uri("spiffe://a.test/web"), subject="evil\x1b[2J\n")
        facts = describe(made.certificate)
        for text in (facts.subject, *facts.dns):
            self.assertTrue(text.isprintable(), ascii(text))
        many = describe(leaf(self.issuing, *[dns(f"{n}.test") for n in range(12)]).certificate)
        self.assertEqual((len(many.dns), many.dns[-1]), (11, "(and 2 more)"))

    @settings(max_examples=60)
    @given(st.data())
    def test_never_raises_for_what_is_in_a_certificate(self, data: st.DataObject) -> None:
        """One with any bytes as names and any critical extension is shown all the same."""
        names = [data.draw(st.sampled_from([uri, dns]))(data.draw(st.binary(max_size=8))) for _ in range(2)]
        made = leaf(self.issuing, *names, serial=data.draw(st.integers(1, 2**70)))
        found = inspect_chain(made.chain, NOW)
        self.assertIsInstance(made.certificate, x509.Certificate)
        self.assertEqual(len(found.certificates), 3)
        if found.identity is None:
            self.assertNotEqual(found.findings, ())
