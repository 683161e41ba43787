"""SPIFFE bundle documents and PEM bundles: what is read, what is skipped, what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import ExtensionOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.bundle_document import (
    MAX_BUNDLE_BYTES,
    BundleDocument,
    BundleError,
    parse_bundle,
    read_bundle,
)
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.spiffe import TrustDomain
from tests.unit import crafted
from tests.unit.bundles import document, entry

A = TrustDomain("a.test")
ROOT = crafted.authority("root of a.test")
OTHER = crafted.authority("second root of a.test", key=crafted.rsa_key(2048))
GOOD = document(ROOT.certificate, OTHER.certificate, spiffe_sequence=7, spiffe_refresh_hint=300)


def named(*uris: str) -> x509.Certificate:
    """An authority with these URI names."""
    names = crafted.Extension(
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, False, crafted.san(*map(crafted.uri, uris))
    )
    return crafted.authority("named", more=[names]).certificate


class BundleTestCase(SynchronousTestCase):
    def refused(self, data: bytes, *words: str) -> None:
        """Refused with a message that has these words."""
        message = str(self.assertRaises(BundleError, parse_bundle, data, A))
        for word in words:
            self.assertIn(word, message)

    def keys_refused(self, entries: Any, *words: str) -> None:
        """As :meth:`refused`, for a document whose ``keys`` are these beside a good one, if they are a list."""
        keys = [entry(ROOT.certificate), *entries] if isinstance(entries, list) else entries
        self.refused(json.dumps({"keys": keys}).encode(), *words)

    def skipped(self, *entries: Any) -> BundleDocument:
        """Read a document with these entries beside a good one, which alone is left."""
        keys = [*entries, entry(ROOT.certificate)]
        found = parse_bundle(json.dumps({"keys": keys}).encode(), A)
        self.assertEqual(found.authorities, (ROOT.certificate,))
        return found


class ReadingTests(BundleTestCase):
    """What a good document says."""

    def test_gives_the_authorities_and_both_numbers(self) -> None:
        """In the document's order."""
        found = parse_bundle(GOOD, A)
        self.assertEqual(found.authorities, (ROOT.certificate, OTHER.certificate))
        self.assertEqual((found.sequence, found.refresh_hint, found.notes), (7, 300, ()))

    def test_numbers_may_be_absent_and_large(self) -> None:
        """64 bits are kept exactly, which a reader of JavaScript numbers would not."""
        self.assertEqual(parse_bundle(document(), A).sequence, None)
        self.assertEqual(parse_bundle(document(spiffe_sequence=2**64 - 1), A).sequence, 2**64 - 1)
        self.assertEqual(parse_bundle(document(spiffe_sequence=0), A).sequence, 0)

    def test_a_refresh_hint_of_zero_is_none(self) -> None:
        """Nobody can ask all the time."""
        self.assertIsNone(parse_bundle(document(spiffe_refresh_hint=0), A).refresh_hint)

    def test_no_keys_are_a_good_document(self) -> None:
        """It revokes."""
        self.assertEqual(parse_bundle(b'{"keys": []}', A).authorities, ())

    def test_members_that_nobody_knows_are_left_alone(self) -> None:
        """The standard may grow."""
        self.assertEqual(len(parse_bundle(document(ROOT.certificate, more={"x": 1}), A).authorities), 1)

    def test_every_kind_of_key_is_read(self) -> None:
        """Ed25519 has its own kty."""
        edwards = crafted.authority("ed", key=ed25519.Ed25519PrivateKey.generate()).certificate
        self.assertEqual(parse_bundle(document(edwards), A).authorities, (edwards,))

    def test_an_authority_may_name_its_trust_domain(self) -> None:
        """Or nothing of SPIFFE."""
        for uri in ("spiffe://a.test", "https://a.test/ca"):
            self.assertEqual(len(parse_bundle(document(named(uri)), A).authorities), 1)


class SkippingTests(BundleTestCase):
    """What the standard wants skipped."""

    def test_other_uses(self) -> None:
        """Those of JWT-SVIDs without a word, unknown ones and none at all with one."""
        self.assertEqual(self.skipped({"kty": "EC", "use": "jwt-svid", "kid": "x"}).notes, ())
        self.assertEqual(self.skipped({"kty": "EC", "use": "wit-svid"}).notes, ("keys[0] is for wit-svid",))
        self.assertEqual(self.skipped({"kty": "EC"}).notes, ("keys[0] says no use",))
        self.assertEqual(self.skipped(entry(OTHER.certificate, use="X509-SVID")).notes, ("keys[0] is for X509-SVID",))

    def test_other_types_of_key(self) -> None:
        """An algorithm of the future withdraws nothing."""
        for change in ({"kty": "AKP"}, {"kty": None}, {"kty": 5}, {"kty": "ec"}):
            self.assertEqual(len(self.skipped(entry(OTHER.certificate, **change)).notes), 1, change)

    def test_duplicates_and_further_certificates(self) -> None:
        """Once is enough; of several in one entry the first counts."""
        self.assertIn("repeats 'CN=root of a.test'", self.skipped(entry(ROOT.certificate)).notes[0])
        both = entry(ROOT.certificate)["x5c"] + entry(OTHER.certificate)["x5c"]
        found = parse_bundle(json.dumps({"keys": [entry(ROOT.certificate, x5c=both)]}).encode(), A)
        self.assertEqual(found.authorities, (ROOT.certificate,))
        self.assertIn("the first counts", found.notes[0])

    def test_few_notes_of_many(self) -> None:
        """A log line is no place for a thousand."""
        notes = self.skipped(*({"use": f"u{number}"} for number in range(900))).notes
        self.assertEqual((len(notes), notes[-1]), (6, "and 895 more"))

    def test_notes_are_escaped(self) -> None:
        """Whoever serves the document writes into our log."""
        (note,) = self.skipped({"use": "a\n\x1b[2J" + "x" * 500}).notes
        self.assertTrue(note.isprintable())
        self.assertLess(len(note), 100)


class RefusalTests(BundleTestCase):
    """What makes a whole document unusable, so that the last one goes on to serve."""

    def test_what_is_no_json_object(self) -> None:
        """Each kind of damage in its own words."""
        self.refused(b"", "is empty")
        self.refused(b" \n", "is empty")
        self.refused(GOOD[:-1], "not JSON", "line 1, column")
        self.refused(b"\xff\xfe", "not UTF-8 (at byte 0)")
        self.refused(b"\xef\xbb\xbf" + GOOD, "not JSON")
        self.refused(b"[]", "an empty list, not a JSON object")
        self.refused(b'"keys"', "text, not a JSON object")
        self.refused(b'{"keys": [], "n": NaN}', "NaN")
        self.refused(b'{"keys": [], "n": ' + b"1" * 5000 + b"}", "not usable JSON")
        self.refused(b"[" * 100_000, "nested too deeply")
        self.refused(GOOD + GOOD, "not JSON")

    def test_members_that_are_given_twice(self) -> None:
        """Two readers might take different ones; also inside of an entry."""
        self.refused(b'{"keys": [], "keys": []}', "member keys twice")
        self.refused(b'{"keys": [{"use": "a", "use": "x509-svid"}]}', "member use twice")

    def test_no_keys_at_all(self) -> None:
        """That is not the same as an empty list."""
        self.refused(b"{}", "no member 'keys'")
        for keys, kind in (
            (None, "nothing"),
            ({}, "an object"),
            ("", "text"),
            (0, "a whole number"),
            (False, "true or"),
        ):
            self.keys_refused(keys, f"has {kind}")

    def test_numbers_that_are_none(self) -> None:
        """Nor are negative ones, fractions, or more than 64 bits."""
        for name in ("spiffe_sequence", "spiffe_refresh_hint"):
            for value in (-1, 1.0, "1", None, True, [], 2**64):
                self.refused(document(**{name: value}), name)

    def test_entries_that_are_no_objects(self) -> None:
        """A list of certificates is no bundle document."""
        for value in ("x", 1, None, []):
            self.keys_refused([value], "at keys[1], not an object")

    def test_certificates_that_cannot_be_read(self) -> None:
        """Also beside one that can: the authority would seem to be withdrawn."""
        good = entry(OTHER.certificate)["x5c"][0]
        for chain in (None, [], "", good, {}):
            self.keys_refused([entry(OTHER.certificate, x5c=chain)], "no certificate at keys[1]")
        self.keys_refused([entry(OTHER.certificate, x5c=[5])], "a whole number as the certificate at keys[1]")
        for text in (good[:-1], good + "\n", good.replace("A", "-", 1), "é", "=" + good):
            self.keys_refused([entry(OTHER.certificate, x5c=[text])], "keys[1]", "not base64")
        der = base64.b64decode(good)
        for data in (b"", der[:-1], der + b"\0", b"\x30\x00"):
            self.keys_refused(
                [entry(OTHER.certificate, x5c=[base64.b64encode(data).decode()])], "keys[1]", "cannot be read"
            )

    def test_a_type_that_is_not_the_certificates(self) -> None:
        """The entry contradicts itself."""
        self.keys_refused([entry(OTHER.certificate, kty="EC")], "says EC at keys[1]")

    def test_certificates_that_may_not_sign(self) -> None:
        """A workload's, one whose usage forbids it, a weak one."""
        leaf = crafted.leaf(ROOT).certificate
        self.refused(document(ROOT.certificate, leaf), "not an authority's certificate")
        idle = crafted.authority("idle", usage=crafted.key_usage("digital_signature")).certificate
        self.refused(document(ROOT.certificate, idle), "lacks keyCertSign")
        weak = crafted.authority("weak", key=crafted.rsa_key(1024)).certificate
        self.refused(document(ROOT.certificate, weak), "1024 bits")

    def test_authorities_of_somebody_else(self) -> None:
        """The document does not name its trust domain, but its authorities may."""
        self.refused(document(named("spiffe://b.test")), "another trust domain", "b.test", "not of a.test")
        self.refused(document(named("spiffe://a.test", "spiffe://b.test")), "another trust domain")
        self.refused(document(named("spiffe://a.test/web")), "certificate of a workload")
        self.refused(document(named("SPIFFE://a.test")), "whose SPIFFE ID is none")

    def test_too_much(self) -> None:
        """Bounded in bytes, in entries and in authorities."""
        self.refused(b'{"keys": []}' + b" " * MAX_BUNDLE_BYTES, "larger than")
        self.refused(json.dumps({"keys": [{}] * 1025}).encode(), "1025 keys")
        many = [crafted.authority(f"root {number}", key=ROOT.key).certificate for number in range(129)]
        self.refused(document(*many), "129 authorities")


class FileTests(BundleTestCase):
    """Either kind of file is told by what is in it."""

    def test_reads_both(self) -> None:
        """PEM has no numbers; an authority in it twice counts once."""
        for data in (b"\n" + GOOD, pem_of([ROOT.certificate, OTHER.certificate, ROOT.certificate])):
            self.assertEqual(read_bundle(data, A).authorities, (ROOT.certificate, OTHER.certificate))
        self.assertEqual(read_bundle(GOOD, A).sequence, 7)

    def test_an_empty_or_damaged_file_revokes_nothing(self) -> None:
        """It is a bad file, whichever kind it was."""
        pem = pem_of([ROOT.certificate, OTHER.certificate])
        for data, word in (
            (b"", "is empty"),
            (b"hello", "begins with '{'"),
            (GOOD[:100], "not JSON"),
            (pem[:-40], "truncated"),
            (pem_of([named("spiffe://b.test")]), "another trust domain"),
            (pem_of([crafted.leaf(ROOT).certificate]), "not an authority's"),
            (b"#" * (MAX_BUNDLE_BYTES + 1), "larger than"),
        ):
            self.assertIn(word, str(self.assertRaises(BundleError, read_bundle, data, A)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "kty": st.sampled_from(["EC", "RSA", "OKP", "oct"]) | _JSON,
        "use": st.sampled_from(["x509-svid", "jwt-svid"]) | _JSON,
        "x5c": st.lists(st.sampled_from(entry(ROOT.certificate)["x5c"]) | st.text(max_size=20) | _JSON, max_size=3)
        | _JSON,
    },
)
_DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "keys": st.lists(_MEMBERS | _JSON, max_size=5) | _JSON,
        "spiffe_sequence": _JSON,
        "spiffe_refresh_hint": _JSON,
    },
)


class FuzzTests(SynchronousTestCase):
    """Whatever comes, there is a document or one kind of error, in printable words."""

    def read(self, data: bytes) -> None:
        """Read without any other exception."""
        try:
            found = read_bundle(data, A)
        except BundleError as error:
            self.assertTrue(str(error).isprintable(), str(error))
            self.assertLess(len(str(error)), 1000)
        else:
            self.assertTrue(set(found.authorities) <= {ROOT.certificate, OTHER.certificate})

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Alone and after the brace that makes a document of them."""
        self.read(data)
        self.read(b"{" + data)

    @settings(max_examples=200, deadline=None)
    @given(_DOCUMENTS)
    def test_any_document(self, made: Any) -> None:
        """Of the right shape more often than not."""
        with contextlib.suppress(UnicodeEncodeError):
            self.read(json.dumps(made, ensure_ascii=True).encode())

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
    def test_any_damage(self, at: int, data: bytes) -> None:
        """A few bytes of a good document replaced: an authority is whole or the document is refused."""
        damaged = GOOD[:at] + data + GOOD[at + len(data) :]
        try:
            found = read_bundle(damaged, A)
        except BundleError as error:
            self.assertTrue(str(error).isprintable(), str(error))
        else:
            self.assertLessEqual(len(found.authorities), 2)
