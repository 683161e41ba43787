"""Templates of identity.mapping: what they may be, and that one segment comes of one value only."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.templates import Template, Variable, encode_segment, parse_prefix, parse_template

DOMAIN = TrustDomain("a.test")
# Texts near the edges: what escapes look like, dots, separators, other scripts, next to anything.
TEXTS = st.one_of(st.text(alphabet="_x2E5F.aA/ ~%\u0130\u00e9", max_size=8), st.text(max_size=12))


def decode(segment: str) -> str:
    """The value of an escaped segment: that there is such a function is what makes escaping injective."""
    data = re.sub(
        rb"_(_|x([0-9A-F]{2}))",
        lambda match: b"_" if match[1] == b"_" else bytes([int(match[2], 16)]),
        segment.encode("ascii"),
    )
    return data.decode()


class TemplateTests(SynchronousTestCase):
    """parse_template."""

    def refused(self, text: str) -> str:
        return str(self.assertRaises(ValueError, parse_template, text))

    def test_reads_literals_and_variables(self) -> None:
        """Each a whole segment; a JSON pointer's slashes are inside of its braces."""
        template = parse_template("ns/{namespace}/{/kubernetes.io/pod/name}/_-.a")
        self.assertEqual(template, Template(("ns", Variable("namespace"), Variable("/kubernetes.io/pod/name"), "_-.a")))
        self.assertEqual(template.variables, {"namespace", "/kubernetes.io/pod/name"})
        self.assertEqual(str(template), "ns/{namespace}/{/kubernetes.io/pod/name}/_-.a")

    def test_refuses_variables_beside_something(self) -> None:
        """Else {a}{b} would be one text for "x", "yz" and for "xy", "z"."""
        for piece in ("{a}{b}", "{a}-{b}", "sa-{a}", "{a}x", "{a", "a}", "{{a}}", "}{"):
            self.assertEqual(
                self.refused(f"{piece}/ns"),
                f"'{piece}' in '{piece}/ns' is neither a literal nor one variable; a variable fills a whole segment, "
                "else two values could run together",
            )

    def test_refuses_what_no_path_may_hold(self) -> None:
        """At load, since it would be refused for every name."""
        for text, message in [
            ("", "the template is empty; write segments and variables, such as ns/{namespace}"),
            ("/ns", "'/ns' begins with a slash; it continues the prefix: write 'ns'"),
            ("ns/", "'ns/' has an empty segment (a double or a trailing slash)"),
            ("ns//{a}", "'ns//{a}' has an empty segment (a double or a trailing slash)"),
            ("ns/../{a}", "'ns/../{a}' has the dot segment '..'"),
            ("n s", "segment 'n s' may only hold letters, digits, '.', '_' and '-'"),
            ("ns/a\n", "segment 'a\\n' may only hold letters, digits, '.', '_' and '-'"),
            ("ns/{}", "'ns/{}' has a variable without a name"),
            ("a/" * 1025, "the template has 2050 characters, more than the 2048 of a SPIFFE ID"),
        ]:
            self.assertEqual(self.refused(text), message)


class PrefixTests(SynchronousTestCase):
    """parse_prefix."""

    def test_reads_segments(self) -> None:
        """One or more."""
        self.assertEqual(parse_prefix("/k8s"), ("k8s",))
        self.assertEqual(parse_prefix("/k8s/Prod"), ("k8s", "Prod"))

    def test_refuses_everything_else(self) -> None:
        """With what to write instead."""
        for text, message in [
            ("", "'' is not a path; write '/'"),
            ("k8s", "'k8s' is not a path; write '/k8s'"),
            ("/", "'/' leaves no path to any other name; write a prefix of its own, such as /k8s/prod"),
            ("/k8s/", "'/k8s/' ends with a slash; write '/k8s'"),
            ("//k8s", "'//k8s' has an empty segment (a double or a trailing slash)"),
            ("/k8s/.", "'/k8s/.' has the dot segment '.'"),
            ("/{a}", "segment '{a}' may only hold letters, digits, '.', '_' and '-'"),
            ("/" + "a" * 2048, "the prefix has 2049 characters, more than the 2048 of a SPIFFE ID"),
        ]:
            self.assertEqual(str(self.assertRaises(ValueError, parse_prefix, text)), message)


class SegmentTests(SynchronousTestCase):
    """encode_segment."""

    def test_escapes(self) -> None:
        """Every byte that a path may not hold, the escape character, and what would be a dot segment."""
        for value, segment in [
            ("web", "web"),
            ("Web.A-1", "Web.A-1"),
            ("a_b", "a__b"),
            ("_x2E", "__x2E"),
            ("a/b", "a_x2Fb"),
            (".", "_x2E"),
            ("..", "_x2E."),
            ("...", "..."),
            (" a\n", "_x20a_x0A"),
            ("\u00e9", "_xC3_xA9"),
            ("\0", "_x00"),
        ]:
            self.assertEqual(encode_segment(value, escape=True), segment)

    def test_rejects(self) -> None:
        """Unless escaping was chosen."""
        for value in ("a/b", ".", "..", "a b", "a\n", "\u00e9", "\uff41", "a%2Fb"):
            message = str(self.assertRaises(ValueError, encode_segment, value, escape=False))
            self.assertEqual(
                message,
                f"is {value!a}, and a SPIFFE path segment may only hold letters, digits, '.', '_' and '-' and not "
                "be '.' or '..'; to allow it, set characters: escape",
            )

    def test_never_takes_nothing_or_half_a_character(self) -> None:
        """Escaping or not."""
        for escape in (False, True):
            message = str(self.assertRaises(ValueError, encode_segment, "", escape=escape))
            self.assertEqual(message, "is empty, and a path has no empty segment")
            message = str(self.assertRaises(ValueError, encode_segment, "a\ud800", escape=escape))
            self.assertEqual(message, "is not text: it holds half of a surrogate pair")

    @given(TEXTS.filter(bool).filter(lambda text: not re.search("[\ud800-\udfff]", text)))
    def test_escaping_can_be_undone(self, value: str) -> None:
        """So no two values have one segment, and each is one that SPIFFE allows."""
        segment = encode_segment(value, escape=True)
        self.assertEqual(decode(segment), value)
        self.assertEqual(SpiffeId.from_segments(DOMAIN, segment).segments, (segment,))

    @given(TEXTS)
    def test_what_is_not_escaped_is_as_it_was(self, value: str) -> None:
        """Or refused: never trimmed, never in another case."""
        try:
            segment = encode_segment(value, escape=False)
        except ValueError:
            self.assertRaises(ValueError, SpiffeId.from_segments, DOMAIN, value)
        else:
            self.assertEqual(segment, value)
            self.assertEqual(SpiffeId.from_segments(DOMAIN, segment).segments, (value,))
