"""Patterns of SPIFFE IDs and DNS names: whole segments, whole labels, and nothing that only looks like a match."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.policy.identities import IdPattern, parse_dns_pattern, parse_id_pattern, parse_id_prefix

_SEGMENT = st.sampled_from(["a", "ab", "b", "A"])
_PATTERN = st.lists(st.one_of(_SEGMENT, st.just("*")), max_size=3).flatmap(
    lambda kept: st.sampled_from([kept, [*kept, "**"]] if kept else [["**"]])
)


class IdPatternTests(SynchronousTestCase):
    """``ids``."""

    def check(self, pattern: str, matching: list[str], others: list[str]) -> None:
        parsed = parse_id_pattern(pattern)
        self.assertEqual(str(parsed), pattern)
        for text in matching:
            self.assertTrue(parsed.matches(SpiffeId.parse(text)), f"{pattern} {text}")
        for text in others:
            self.assertFalse(parsed.matches(SpiffeId.parse(text)), f"{pattern} {text}")

    def test_an_id_is_only_itself(self) -> None:
        """Not its beginning, its end, another case, another domain that begins or ends with its own."""
        self.check(
            "spiffe://a.test/ns/web",
            ["spiffe://a.test/ns/web"],
            [
                *("spiffe://a.test/ns/we", "spiffe://a.test/ns/web2", "spiffe://a.test/ns/web/x", "spiffe://a.test/ns"),
                *("spiffe://a.test/ns/Web", "spiffe://a.test/NS/web", "spiffe://a.test/web/ns", "spiffe://a.test"),
                *("spiffe://a.test.evil/ns/web", "spiffe://evil.a.test/ns/web", "spiffe://a.tes/ns/web"),
            ],
        )

    def test_a_star_is_exactly_one_segment(self) -> None:
        """Neither none nor two, wherever it stands."""
        self.check(
            "spiffe://a.test/ns/*/sa/web",
            ["spiffe://a.test/ns/x/sa/web", "spiffe://a.test/ns/sa/sa/web"],
            ["spiffe://a.test/ns/sa/web", "spiffe://a.test/ns/x/y/sa/web", "spiffe://a.test/ns/x/sa/web2"],
        )
        self.check(
            "spiffe://a.test/*",
            ["spiffe://a.test/x"],
            ["spiffe://a.test", "spiffe://a.test/x/y", "spiffe://b.test/x", "spiffe://a.test.evil/x"],
        )

    def test_two_stars_are_one_or_more_segments(self) -> None:
        """Everything below, and not the ID itself."""
        self.check(
            "spiffe://a.test/ns/**",
            ["spiffe://a.test/ns/x", "spiffe://a.test/ns/x/y/z"],
            ["spiffe://a.test/ns", "spiffe://a.test/nsx/y", "spiffe://a.test/n/x", "spiffe://b.test/ns/x"],
        )
        self.check("spiffe://a.test/*/b/**", ["spiffe://a.test/x/b/c"], ["spiffe://a.test/x/b", "spiffe://a.test/b/c"])

    def test_refuses_what_would_match_by_accident(self) -> None:
        """Each refusal says what to write."""
        for text, message in {
            "spiffe://a.test": "for all of its IDs write trust_domains: [a.test]",
            "spiffe://a.test/ns/web-*": "'*' stands for a whole segment and not for a part of 'web-*'",
            "spiffe://a.test/ns/***": "'*' stands for a whole segment and not for a part of '***'",
            "spiffe://a.test/**/web": "'**' can only be the last segment",
            "spiffe://*/web": "has a wildcard in its trust domain; list trust_domains, or write any: authenticated",
            "spiffe://*.test/web": "has a wildcard in its trust domain",
            "spiffe://A.test/*": "trust domain 'A.test' is not lower case: did you mean 'a.test'?",
            "spiffe://A.test/web": "trust domain 'A.test' is not lower case: did you mean 'a.test'?",
            "SPIFFE://a.test/web": "has an upper-case scheme",
            "spiffe://a.test/*/": "has an empty path segment",
            "spiffe://a.test//*": "has an empty path segment",
            "spiffe://a.test/*/..": "'..' is not a path segment",
            "spiffe://a.test/*/%2e%2e": "is not a path segment",
            "spiffe://a.test/*/a\0b": "'a\\x00b' is not a path segment",
            "spiffe://user@a.test/*": "may only hold a-z, 0-9, '.', '_' and '-'",
            "spiffe://a.test:443/web": "has user information or a port",
            "dns:web": "does not start with 'spiffe://'",
            "*": "does not start with 'spiffe://'",
            "spiffe://a.test/" + "a" * 2048 + "/*": "the pattern has 2066 characters, more than 2048",
        }.items():
            self.assertIn(message, str(self.assertRaises(ValueError, parse_id_pattern, text)))

    def test_a_trust_domain_is_everything_below_it(self) -> None:
        """And nothing of a domain whose name begins so."""
        pattern = IdPattern.below(TrustDomain("a.test"))
        self.assertTrue(pattern.matches(SpiffeId.parse("spiffe://a.test/x/y")))
        self.assertFalse(pattern.matches(SpiffeId.parse("spiffe://a.test.evil/x")))
        self.assertEqual(pattern, parse_id_pattern("spiffe://a.test/**"))

    @given(_PATTERN, st.lists(_SEGMENT, min_size=1, max_size=4))
    def test_agrees_with_matching_letter_by_letter(self, pattern: list[str], path: list[str]) -> None:
        """The definition, written as a recursion on segments."""

        def holds(wanted: list[str], given: list[str]) -> bool:
            if not wanted or not given:
                return not wanted and not given
            if wanted == ["**"]:
                return True
            return wanted[0] in ("*", given[0]) and holds(wanted[1:], given[1:])

        parsed = parse_id_pattern("spiffe://a.test/" + "/".join(pattern))
        self.assertEqual(parsed.matches(SpiffeId.parse("spiffe://a.test/" + "/".join(path))), holds(pattern, path))

    @given(_PATTERN, _PATTERN, st.lists(_SEGMENT, min_size=1, max_size=4))
    def test_a_pattern_that_covers_another_matches_what_it_matches(
        self, one: list[str], other: list[str], path: list[str]
    ) -> None:
        """For the warnings about rules that can never decide."""
        wider, narrower = (parse_id_pattern("spiffe://a.test/" + "/".join(segments)) for segments in (one, other))
        identity = SpiffeId.parse("spiffe://a.test/" + "/".join(path))
        if wider.covers(narrower.segments, narrower.deep) and narrower.matches(identity):
            self.assertTrue(wider.matches(identity))


class IdPrefixTests(SynchronousTestCase):
    """``prefixes``."""

    def test_ends_at_a_segment(self) -> None:
        """/ns/a/ begins neither /ns/ab/x nor /ns/a itself."""
        prefix = parse_id_prefix("spiffe://a.test/ns/a/")
        for text, expected in {
            "spiffe://a.test/ns/a/x": True,
            "spiffe://a.test/ns/a/x/y": True,
            "spiffe://a.test/ns/a": False,
            "spiffe://a.test/ns/ab": False,
            "spiffe://a.test/ns/ab/x": False,
            "spiffe://a.test.evil/ns/a/x": False,
        }.items():
            self.assertEqual(prefix.matches(SpiffeId.parse(text)), expected, text)

    def test_refuses_what_ends_elsewhere(self) -> None:
        """Each refusal says what to write."""
        for text, message in {
            "spiffe://a.test/ns/a": "does not end at a segment: write 'spiffe://a.test/ns/a/' for every ID below it",
            "spiffe://a.test/ns//": "has an empty path segment",
            "spiffe://a.test/*/": "has a wildcard, which a prefix has not",
            "/ns/a/": "does not start with 'spiffe://'",
            "spiffe://A.test/": "is not lower case",
            "": "a SPIFFE ID is missing",
        }.items():
            self.assertIn(message, str(self.assertRaises(ValueError, parse_id_prefix, text)))


class DnsPatternTests(SynchronousTestCase):
    """``dns`` and ``sni``."""

    def test_matches_whole_labels(self) -> None:
        """A star is one label, two stars are one or more, and no text is an end of another."""
        for pattern, matching, others in [
            ("db.example.com", ["db.example.com", "DB.Example.COM"], ["xdb.example.com", "a.db.example.com"]),
            ("*.example.com", ["db.example.com"], ["example.com", "a.db.example.com", "db.evilexample.com"]),
            (
                "**.example.com",
                ["db.example.com", "a.db.example.com"],
                ["example.com", "dbexample.com", ".example.com"],
            ),
            ("*.example.com", [], ["db.example.com.evil", "db.example.com.", "", ".", "a..example.com"]),
            ("*.example.com", [], ["a\0b.example.com", "db.example.com\0", "\u212a.example.com", "a\n.example.com"]),
        ]:
            parsed = parse_dns_pattern(pattern)
            self.assertEqual(str(parsed), pattern)
            for name in matching:
                self.assertTrue(parsed.matches(name), f"{pattern} {name!r}")
            for name in others:
                self.assertFalse(parsed.matches(name), f"{pattern} {name!r}")

    def test_refuses_what_is_no_name(self) -> None:
        """Each refusal says what to write."""
        for text, message in {
            "*": "a wildcard can only be the whole first label, as in *.example.com",
            "w*.example.com": "a wildcard can only be the whole first label",
            "db.*.com": "a wildcard can only be the whole first label",
            "*.*.com": "has two wildcards",
            "*.10.0.0.1": "looks like an IP address",
            "example.com.": "ends with a dot",
            "a\0.example.com": "may only hold letters, digits",
            "": "a DNS name is missing",
        }.items():
            self.assertIn(message, str(self.assertRaises(ValueError, parse_dns_pattern, text)))
