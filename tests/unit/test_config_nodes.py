"""Tests for YAML as text: what is refused before anything is known about its meaning."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmesh.config.nodes import MAX_DEPTH, ListNode, MapNode, Node, Scalar, compose
from tcpmesh.config.problems import Problems
from tcpmesh.config.syntax import decode
from tcpmesh.errors import ConfigurationError, Mark, Problem
from tests.unit.config_samples import FILE, ConfigTestCase, located


def read(data: bytes) -> Node | None:
    problems = Problems(str(FILE))
    node = compose(decode(data, problems), problems)
    problems.raise_if_any()
    return node


def plain(node: Node | None) -> object:
    """A node without its places."""
    if isinstance(node, MapNode):
        return {text: plain(entry.value) for text, entry in node.entries.items()}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return None if node is None else node.text


class SyntaxTests(ConfigTestCase):
    """Files that cannot be read as YAML."""

    def check_syntax(self, text: str, *messages: str) -> None:
        clean, marks = located(text)
        error = self.assertRaises(ConfigurationError, read, clean.encode())
        expected = [Problem(message, mark) for message, mark in zip(messages, marks, strict=True)]
        self.assertEqual(list(error.problems), expected, clean)

    def test_says_what_is_wrong_with_the_text(self) -> None:
        """Each usual accident has words of its own, at the place to look at."""
        quote = "put it in quotes"
        for text, message in {
            "a: 1\n‸\tb: 2": "a tab cannot indent a line or start a value; use spaces",
            "a:\n‸\tb: 2": "a tab cannot indent a line or start a value; use spaces",
            "a: ‸@b": f"a value cannot start with @; {quote}",
            "a: ‸`b`": f"a value cannot start with `; {quote}",
            "a: ‸%b": f"a value cannot start with %; {quote}",
            "a: ‸*": f"a value that begins with '*' refers to an anchor; for text, {quote}",
            "a: [‸*]": f"a value that begins with '*' refers to an anchor; for text, {quote}",
            "a: ‸*b": f"'*b' refers to an anchor '&b', which is nowhere above; for text, {quote}",
            "a: ‸& b": f"a value that begins with '&' is an anchor; for text, {quote}",
            "a: &x 1\nb: ‸&x 2": "the anchor '&x' is given twice; first in line 1",
            "a: ‸> b": f"a value that begins with '|' or '>' is a block of text; for one line, {quote}",
            "a: ‸!x!y b": f"a value cannot start with '!'; {quote}",
            "a: b‸: c": "a second ': ' in one value, a ':' that is missing above, or a line that is indented too "
            "far; put a value that holds ': ' in quotes",
            "version 1\na‸: b": "a second ': ' in one value, a ':' that is missing above, or a line that is indented "
            "too far; put a value that holds ': ' in quotes",
            "a: b\n  c‸: d": "a second ': ' in one value, a ':' that is missing above, or a line that is indented too "
            "far; put a value that holds ': ' in quotes",
            "a: ‸- b": "a list cannot begin here; write it on lines of its own, or put a value that begins with '-' "
            "in quotes",
            "a: ‸? b": "a key cannot begin here; put a value that begins with '?' in quotes",
            "{a: [‸::1]:80}": "a value is missing in front of ':'; "
            "put an address that begins with '[' or ':' in quotes",
            "{a: ‸:80}": "a value is missing in front of ':'; put an address that begins with '[' or ':' in quotes",
            "a: [‸, b]": "a value is missing in front of ','",
            "a: 1\n‸b\nc: 2": "this is neither 'key: value' nor a part of what is above it; is a ':' missing?",
            "a: ‸'b\nc: d": "this quote is never closed",
            'a: ‸"b\\': "this quote is never closed",
            "a: ‸'b\n---\nc: d'": "this quote is not closed before the document ends",
            'a: "\\‸q"': "a backslash before q means nothing in double quotes; write two of them, or use single quotes",
            'a: "\\x‸4"': "this escape needs 2 hexadecimal digits",
            "a: 'it'‸s'": "the value before this had already ended; does a quote close too early?",
            "a: [b\nc‸: d": "the '[' of line 1 is not closed: expected ',' or ']' before this",
            "a: {b: 1 c‸: 2}": "the '{' of line 1 is not closed: expected ',' or '}' before this",
            "a: 1\n‸- b": "a list entry ('-') among the keys that begin in line 1; indent it, or the key above has no "
            "value",
            "- a\n‸b: c": "a key among the list entries that begin in line 1",
            "a:\n  b: 1\n ‸c: 2": "the indentation of this line fits nothing above; what it seems to belong to begins "
            "in line 1",
            "‸: a": "a key is missing in front of ':'",
            "‸%YAML 2.0\n---\na: 1": "%YAML asks for a version other than 1; remove the line",
            "a: 1\n‸---\nb: 2": "a second document begins here; one file holds one configuration, so remove the '---'",
            "a: 1\n...\n‸b: 2": "nothing can follow here: the document ended above",
            'a: "\\U‸FFFFFFFF"': "a number in an escape or a directive is too large",
            "a: 1\n‸<<<<<<< HEAD\nb: 2": "a merge conflict was left in the file",
            "a: 1\nb: ‸\x07": "the file holds the control character U+0007; remove it",
            "a: ‸\x85": "the file holds the control character U+0085; remove it",
            "a: 1\r\n‸\x00": "the file holds a NUL byte: is it a text file, saved as UTF-8?",
        }.items():
            self.check_syntax(text, message)

    def test_notes_what_does_not_stop_the_reading(self) -> None:
        """Duplicate keys, tags, odd keys and unseen characters are all reported together."""
        self.check_syntax(
            "a: 1\n‸a: 2\nb: ‸!!str 3\nc: ‸!x 4\n? ‸[d]\n: 5\n?‸ \n: 6\n"
            'e: ‸"\\0"\nf: ‸g\u00a0h\n<<: ‸7\ni: ‸"\\ud800"\n',
            "key 'a' is given twice; first in line 1",
            "YAML tags are not supported: remove '!!str', or for text put it in quotes",
            "YAML tags are not supported: remove '!x', or for text put it in quotes",
            "a key must be a word, not a list or a mapping",
            "a key is missing in front of ':'",
            "this holds the invisible character U+0000; remove or retype it",
            "this holds the invisible character U+00A0; remove or retype it",
            "'<<' merges a mapping or a list of mappings into this one",
            "this holds the invisible character U+D800; remove or retype it",
        )

    def test_duplicates_are_found_in_every_mapping(self) -> None:
        """Also in one line, and under a quoted spelling of the same key."""
        self.check_syntax("a: {b: 1, ‸'b': 2}", "key 'b' is given twice; first in line 1")

    def test_refuses_other_encodings(self) -> None:
        """The place is that of the first byte that is not UTF-8."""
        for data, message, line, column in [
            (b"\xff\xfea\x00", "the file is UTF-16; save it as UTF-8", 1, 1),
            (b"\xfe\xff\x00a", "the file is UTF-16; save it as UTF-8", 1, 1),
            (b"a: 1\nb: \xe4x", "the file is not UTF-8 from here on (byte 0xe4); save it as UTF-8", 2, 4),
            ("ä: ".encode() + b"\xff", "the file is not UTF-8 from here on (byte 0xff); save it as UTF-8", 1, 4),
        ]:
            error = self.assertRaises(ConfigurationError, read, data)
            self.assertEqual(list(error.problems), [Problem(message, Mark(str(FILE), line, column))])

    def test_takes_a_byte_order_mark_and_any_line_end(self) -> None:
        """What editors on other systems write is read, and places count as if it were not there."""
        for data in (b"\xef\xbb\xbfa: 1\nb: 2\n", b"a: 1\r\nb: 2\r\n", b"a: 1\rb: 2\r"):
            node = read(data)
            assert isinstance(node, MapNode)
            self.assertEqual(plain(node), {"a": "1", "b": "2"})
            self.assertEqual(node.entries["b"].key.mark, Mark(str(FILE), 2, 1))

    def test_nothing_is_none(self) -> None:
        """A file of comments holds no node."""
        self.assertIdentical(read(b""), None)
        self.assertIdentical(read(b"# nothing\n"), None)


class BoundsTests(ConfigTestCase):
    """What a hostile file cannot make large."""

    def check_refused(self, text: str, message: str) -> None:
        error = self.assertRaises(ConfigurationError, read, text.encode())
        self.assertIn(message, error.problems[-1].message)

    def test_depth(self) -> None:
        """Nesting ends long before Python's recursion does, in every way of nesting."""
        message = f"this is nested deeper than {MAX_DEPTH} levels"
        for text in ("[" * 100_000, "{a: " * 40, "- " * 1000, "? " * 1000, "[" * 33 + "]" * 33):
            self.check_refused(text, message)
        self.assertNotEqual(read(("[" * 32 + "]" * 32).encode()), None)

    def test_aliases_that_multiply(self) -> None:
        """Ten levels of ten aliases would be ten thousand million values."""
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
        self.check_refused("\n".join(lines), "this holds more than 100000 values once its aliases are followed")

    def test_merges_that_multiply(self) -> None:
        """A mapping that is merged again and again counts every time."""
        keys = ", ".join(f"k{n}: 1" for n in range(500))
        merges = "\n".join(f"m{n}: {{<<: *base}}" for n in range(500))
        self.check_refused(f"base: &base {{{keys}}}\n{merges}", "more than 100000 values")
        self.check_refused(f"base: &base {{{keys}}}\nm: {{<<: [{'*base, ' * 500}]}}", "more than 100000 values")

    def test_values(self) -> None:
        """A file within its size may still hold too many of them to be worth the time."""
        problems = Problems(str(FILE))
        error = self.assertRaises(ConfigurationError, compose, "[" + "a," * 200, problems, 50)
        self.assertEqual(
            list(error.problems), [Problem("the file holds more than 50 values", Mark(str(FILE), 1, 2 + 2 * 99))]
        )
        self.assertNotEqual(compose("[" + "a," * 49 + "]", Problems(str(FILE)), 50), None)

    def test_aliases_that_never_end(self) -> None:
        """A node cannot be inside of itself."""
        for text in ("a: &x [*x]", "a: &x {b: *x}", "&x a: {<<: &y {c: *y}}", "a: &x {<<: *x}"):
            self.check_refused(text, "an alias inside of what it stands for: this would never end")

    def test_problems(self) -> None:
        """The list ends, and says so."""
        error = self.assertRaises(ConfigurationError, read, b"a: 1\n" * 1000)
        self.assertEqual(len(error.problems), 51)
        self.assertEqual(
            str(error.problems[-1]), f"{FILE}: there are more problems; these are the first 50 that were found"
        )


class NodeTests(ConfigTestCase):
    """What is kept of each scalar and mapping."""

    def test_keeps_how_yaml_reads_a_scalar(self) -> None:
        """The text as written, the tag that YAML 1.1 gives it, and whether it had quotes."""
        for text, tag in {
            "22:22": "int",
            "0600": "int",
            "1_000": "int",
            "off": "bool",
            "~": "null",
            "2020-01-01": "timestamp",
            "1.5": "float",
            "=": "other",
            "1e3": "str",
            "127.0.0.1:80": "str",
        }.items():
            for style in (text, f"'{text}'"):
                node = read(f"- {style}".encode())
                assert isinstance(node, ListNode)
                [scalar] = node.items
                assert isinstance(scalar, Scalar)
                quoted = style != text
                self.assertEqual((scalar.text, scalar.tag, scalar.quoted), (text, "str" if quoted else tag, quoted))

    def test_follows_aliases_and_merges(self) -> None:
        """Own keys win over merged ones, earlier merged mappings over later ones; places stay those of the original."""
        node = read(b"a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 5}\nd: *a\n")
        assert isinstance(node, MapNode)
        self.assertEqual(
            plain(node),
            {
                "a": {"x": "1", "y": "2"},
                "b": {"y": "3", "z": "4"},
                "c": {"x": "5", "y": "2", "z": "4"},
                "d": {"x": "1", "y": "2"},
            },
        )
        merged = node.entries["c"].value
        assert isinstance(merged, MapNode)
        self.assertEqual(merged.entries["y"].key.mark, Mark(str(FILE), 1, 14))

    def test_a_quoted_merge_key_is_a_key(self) -> None:
        """Only the bare word merges."""
        self.assertEqual(plain(read(b"'<<': 1")), {"<<": "1"})

    @settings(deadline=None, max_examples=200)
    @given(
        st.one_of(st.binary(), st.text().map(str.encode), st.text("[]{}:,-?&*#|>!%'\"\\ \t\nab<=~01").map(str.encode))
    )
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """Nothing but a ConfigurationError comes out, and each problem has a place within the file."""
        try:
            read(data)
        except ConfigurationError as error:
            lines = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
            for problem in error.problems:
                assert problem.mark is not None
                self.assertTrue(1 <= problem.mark.line <= len(lines), problem)
                self.assertTrue(1 <= problem.mark.column <= len(lines[problem.mark.line - 1]) + 2, problem)
