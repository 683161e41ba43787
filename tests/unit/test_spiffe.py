"""SPIFFE IDs and trust domains, with the vectors of the Go, Python and Java libraries' suites."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.spiffe import (
    MAX_ID_BYTES,
    MAX_TRUST_DOMAIN_BYTES,
    InvalidSpiffeId,
    SpiffeId,
    TrustDomain,
)

VALID = [
    "spiffe://trustdomain",
    "spiffe://trustdomain/path",
    "spiffe://trustdomain/path1/path2",
    "spiffe://trustdomain/PATH1/PATH2",
    "spiffe://trustdomain/.path",
    "spiffe://trustdomain/..path",
    "spiffe://trustdomain/...",
    "spiffe://trustdomain/.../svc",
    "spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453",
    "spiffe://domain.test/a/b/c/d/e/f/g",
    "spiffe://a",
    "spiffe://1.2.3.4/service",
    "spiffe://a_b.example/foo",
    "spiffe://_dmarc.example.org",
    "spiffe://example_.org",
    "spiffe://trust_domain_1.example.org",
    "spiffe://example.org/foo-bar",
    "spiffe://example.org/foo_bar",
    "spiffe://example.org/foo.bar",
    "spiffe://example..org/path",
    "spiffe://.example.org/path",
    "spiffe://example.org./path",
    "spiffe://-example.org/path",
    "spiffe://example-.org/path",
]

_NO_SCHEME = "does not start with 'spiffe://'"
_EMPTY_SEGMENT = "has an empty path segment"
_DOT = "has the dot segment"
_PERCENT = "is percent-encoded"
_QUERY = "has a query or a fragment"
_AUTHORITY = "has user information or a port"
_SEGMENT = "may only hold letters, digits"
_CASE = "did you mean"

# Each with a part of its explanation, so that a text is refused for the reason that it was written for.
INVALID = {
    "": "a SPIFFE ID is missing",
    "s": _NO_SCHEME,
    "spiffe:/": _NO_SCHEME,
    "spiffe:path/element": _NO_SCHEME,
    "spiffe:/path/element": _NO_SCHEME,
    "Spiffe://": _CASE,
    "xspiffe://trustdomain/path": _NO_SCHEME,
    "notspiffe://example.org": _NO_SCHEME,
    "http://domain.test/path/element": _NO_SCHEME,
    "192.168.2.2:6688": _NO_SCHEME,
    "spiffe://": "a trust domain name is missing",
    "spiffe:///": "a trust domain name is missing",
    "spiffe:///path/element": "a trust domain name is missing",
    "spiffe://trustdomain/": _EMPTY_SEGMENT,
    "spiffe://trustdomain//": _EMPTY_SEGMENT,
    "spiffe://trustdomain//path": _EMPTY_SEGMENT,
    "spiffe://trustdomain/path/": _EMPTY_SEGMENT,
    "spiffe://trustdomain/path//": _EMPTY_SEGMENT,
    "spiffe://example.org/foo//bar": _EMPTY_SEGMENT,
    "spiffe://trustdomain/.": _DOT,
    "spiffe://trustdomain/./path": _DOT,
    "spiffe://trustdomain/path/./other": _DOT,
    "spiffe://trustdomain/path/..": _DOT,
    "spiffe://trustdomain/..": _DOT,
    "spiffe://trustdomain/../path": _DOT,
    "spiffe://trustdomain/path/../other": _DOT,
    "spiffe://%F0%9F%A4%AF/path": _PERCENT,
    "spiffe://trustdomain/%F0%9F%A4%AF": _PERCENT,
    "spiffe://%62%61%64/path": _PERCENT,
    "spiffe://trustdomain/%62%61%64": _PERCENT,
    "spiffe://example%2eorg/service": _PERCENT,
    "spiffe://example.org/foo%2Fbar": _PERCENT,
    "spiffe://example.org/%61pi": _PERCENT,
    "spiffe://domain.test/path/elem%5uent": _PERCENT,
    "spiffe://example.org?query=123": _QUERY,
    "spiffe://example.org#fragment": _QUERY,
    "spiffe://example.org/service?x=1": _QUERY,
    "spiffe://example.org/service#frag": _QUERY,
    "spiffe://domain.test/path/element?#fragment-1": _QUERY,
    "spiffe://user@example.org/service": _AUTHORITY,
    "spiffe://user:pass@example.org/service": _AUTHORITY,
    "spiffe://example.org:8080/service": _AUTHORITY,
    "spiffe://1.2.3.4:8443/service": _AUTHORITY,
    "spiffe://[::1]/service": _AUTHORITY,
    "spiffe://[2001:db8::1]/service": _AUTHORITY,
    "spiffe://trust$domain": "may only hold a-z",
    "spiffe://trustdomain/path$": _SEGMENT,
    "spiffe://example.org/foo;bar": _SEGMENT,
    "spiffe://example.org/foo:bar": _SEGMENT,
    "spiffe://example.org/foo@bar": _SEGMENT,
    "spiffe://example.org/foo bar": _SEGMENT,
    "SPIFFE://example.org/service": "did you mean 'spiffe://example.org/service'",
    "spiffe://EXAMPLE.ORG/service": "did you mean 'example.org'",
    "spiffe://BAD/path": "did you mean 'bad'",
}

TRUST_DOMAIN_CHARACTERS = string.ascii_lowercase + string.digits + "._-"
PATH_CHARACTERS = string.ascii_letters + string.digits + "._-"


class SpiffeIdTests(SynchronousTestCase):
    def refused(self, text: str) -> str:
        return str(self.assertRaises(InvalidSpiffeId, SpiffeId.parse, text))

    def test_has_all_vectors(self) -> None:
        """The tables hold 24 valid and 54 invalid texts."""
        self.assertEqual((len(set(VALID)), len(INVALID)), (24, 54))

    def test_reads_every_valid_vector(self) -> None:
        """A valid ID is read, and written back as it was."""
        for text in VALID:
            self.assertEqual(str(SpiffeId.parse(text)), text)

    def test_refuses_every_invalid_vector_for_its_reason(self) -> None:
        """An invalid ID is refused, and the message says which rule it breaks."""
        for text, reason in INVALID.items():
            self.assertIn(reason, self.refused(text), text)

    def test_splits_trust_domain_and_path(self) -> None:
        """The parts are what stands between the slashes."""
        identity = SpiffeId.parse("spiffe://domain.test/a/b")
        self.assertEqual(
            (identity.trust_domain.name, identity.path, identity.segments), ("domain.test", "/a/b", ("a", "b"))
        )
        self.assertEqual(SpiffeId.parse("spiffe://a").segments, ())

    def test_takes_only_the_trust_domain_charset(self) -> None:
        """Of all code points to 255 a trust domain takes a-z, digits, dot, underscore and hyphen."""
        for point in range(256):
            character = chr(point)
            if character == "/":
                continue
            for text in (f"spiffe://trustdomain{character}", f"spiffe://trustdomain{character}/path"):
                if character in TRUST_DOMAIN_CHARACTERS:
                    self.assertEqual(str(SpiffeId.parse(text)), text)
                else:
                    self.refused(text)

    def test_takes_only_the_path_charset(self) -> None:
        """Of all code points to 255 a path takes letters, digits, dot, underscore and hyphen."""
        for point in range(256):
            character = chr(point)
            if character == "/":
                continue
            text = f"spiffe://trustdomain/path{character}"
            if character in PATH_CHARACTERS:
                self.assertEqual(str(SpiffeId.parse(text)), text)
            else:
                self.refused(text)

    def test_takes_2048_bytes_and_no_more(self) -> None:
        """The limit of the specification is kept to the byte."""
        prefix = "spiffe://trustdomain/"
        longest = prefix + "a" * (MAX_ID_BYTES - len(prefix))
        self.assertEqual((len(longest), str(SpiffeId.parse(longest))), (2048, longest))
        self.assertIn("2049 characters, more than 2048", self.refused(longest + "a"))

    def test_takes_a_trust_domain_of_255_bytes_and_no_more(self) -> None:
        """The limit of a trust domain is kept to the byte."""
        name = "a" * MAX_TRUST_DOMAIN_BYTES
        self.assertEqual(SpiffeId.parse(f"spiffe://{name}/x").trust_domain.name, name)
        self.assertIn("256 characters, more than 255", self.refused(f"spiffe://{name}a/x"))

    def test_refuses_look_alikes_and_invisible_tails(self) -> None:
        """A newline, a NUL, a Kelvin sign and Arabic digits are not what they seem."""
        for text in (
            "spiffe://a/b\n",
            "spiffe://a\n",
            "spiffe://a/b\0",
            "spiffe://a\0/b",
            "spiffe://\u212aelvin/b",
            "spiffe://a/\u212aelvin",
            "spiffe://a/\u0661\u0662",
            "spiffe://\u0661/b",
            "\ufeffspiffe://a/b",
            " spiffe://a/b",
        ):
            self.refused(text)

    def test_escapes_what_it_shows(self) -> None:
        """A message never carries a control character or an unbounded text of the peer's."""
        message = self.refused("spiffe://a/\x1b[31m\n" + "x" * 1000)
        self.assertNotIn("\x1b", message)
        self.assertNotIn("\n", message)
        self.assertTrue(len(message) < 300, len(message))

    def test_is_equal_only_to_the_same_text(self) -> None:
        """Paths are compared with their case."""
        self.assertEqual(SpiffeId.parse("spiffe://a/B"), SpiffeId.parse("spiffe://a/B"))
        self.assertNotEqual(SpiffeId.parse("spiffe://a/B"), SpiffeId.parse("spiffe://a/b"))
        self.assertNotEqual(SpiffeId.parse("spiffe://a/b"), SpiffeId.parse("spiffe://a"))
        self.assertNotEqual(SpiffeId.parse("spiffe://a/b"), SpiffeId.parse("spiffe://b/b"))

    @given(st.text(max_size=60))
    def test_accepts_nothing_that_it_does_not_write_back(self, text: str) -> None:
        """Whatever is read comes back unchanged, and nothing else than InvalidSpiffeId is raised."""
        for candidate in (text, "spiffe://" + text, "spiffe://a/" + text):
            try:
                self.assertEqual(str(SpiffeId.parse(candidate)), candidate)
            except InvalidSpiffeId as error:
                self.assertTrue(str(error).isprintable(), error)


class SegmentsTests(SynchronousTestCase):
    domain = TrustDomain("example.org")

    def test_joins_segments(self) -> None:
        """No segment is the trust domain's ID; several become a path."""
        self.assertEqual(str(SpiffeId.from_segments(self.domain)), "spiffe://example.org")
        self.assertEqual(str(SpiffeId.from_segments(self.domain, "foo", "bar")), "spiffe://example.org/foo/bar")

    def test_refuses_what_is_not_one_segment(self) -> None:
        """Nothing can smuggle a slash or a dot segment in."""
        for segment in ("", "/", "/foo", "foo/", "foo/bar", "$", ".", "..", " ", "ele%5ment", "foo\n"):
            error = self.assertRaises(InvalidSpiffeId, SpiffeId.from_segments, self.domain, "ok", segment)
            self.assertIn("is not a path segment", str(error))

    def test_keeps_the_length_limit(self) -> None:
        """An ID that is built is no longer than one that is read."""
        self.assertRaises(InvalidSpiffeId, SpiffeId.from_segments, self.domain, "a" * 2048)


class TrustDomainTests(SynchronousTestCase):
    def test_reads_a_name_or_a_whole_id(self) -> None:
        """A bare name is taken, and of an ID its trust domain."""
        for text in ("example.org", "spiffe://example.org", "spiffe://example.org/path/element"):
            self.assertEqual(TrustDomain.parse(text), TrustDomain("example.org"))

    def test_refuses_everything_else(self) -> None:
        """What is neither is refused."""
        for text in (
            "",
            "spiffe:/trustdomain/path",
            "http://example.org",
            "example$org",
            "Example.org",
            "example.org\n",
            "a" * 256,
        ):
            self.assertRaises(InvalidSpiffeId, TrustDomain.parse, text)

    def test_cannot_be_made_invalid(self) -> None:
        """The constructor checks as well, so that no invalid object exists."""
        error = self.assertRaises(InvalidSpiffeId, TrustDomain, "EXAMPLE.org")
        self.assertIn("did you mean 'example.org'", str(error))

    def test_has_an_id_without_a_path(self) -> None:
        """Its own ID is what its authorities carry."""
        self.assertEqual(str(TrustDomain("example.org").id), "spiffe://example.org")
