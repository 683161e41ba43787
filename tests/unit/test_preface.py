"""The hop preface: what is written is read, in any pieces, and nothing else is."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.preface import MAX_PREFACE_BYTES, OK, InvalidPreface, Preface, PrefaceReader

CODES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=16)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=2000)


def read_byte_by_byte(data: bytes) -> tuple[Preface, bytes]:
    """Feed one byte at a time; what is left over when it completes is the rest."""
    reader = PrefaceReader()
    for position in range(len(data)):
        outcome = reader.feed(data[position : position + 1])
        if outcome is not None:
            preface, rest = outcome
            return preface, rest + data[position + 1 :]
    raise AssertionError("incomplete")


class PrefaceTests(SynchronousTestCase):
    """Writing and reading."""

    def test_ok_is_four_bytes(self) -> None:
        """The common case costs next to nothing, and its form never changes."""
        self.assertEqual(OK, b"\x00\x02\x01\x00")

    def test_a_refusal_has_a_stable_form(self) -> None:
        """Other implementations and later versions depend on every byte."""
        self.assertEqual(
            Preface(ok=False, code="TM-P102", text="no").encode(),
            b"\x00\x11\x01\x01\x01\x00\x07TM-P102\x02\x00\x02no",
        )

    @given(CODES, TEXTS, st.binary(max_size=64))
    def test_a_refusal_survives_the_way_byte_by_byte_and_leaves_the_rest(
        self, code: str, text: str, rest: bytes
    ) -> None:
        """What follows the preface is payload and must not be lost."""
        encoded = Preface(ok=False, code=code, text=text).encode()
        self.assertLessEqual(len(encoded), MAX_PREFACE_BYTES)
        preface, left = read_byte_by_byte(encoded + rest)
        self.assertEqual((preface.ok, preface.code, left), (False, code, rest))
        self.assertTrue(text.startswith(preface.text))
        if len(text.encode()) < 400:
            self.assertEqual(preface.text, text)

    def test_skips_fields_of_later_versions(self) -> None:
        """A field of unknown type says nothing to us and does no harm."""
        body = b"\x01\x01" + b"\x63\x00\x03xyz" + b"\x01\x00\x07TM-P101"
        outcome = PrefaceReader().feed(len(body).to_bytes(2, "big") + body)
        assert outcome is not None
        self.assertEqual(outcome[0], Preface(ok=False, code="TM-P101", text=""))

    def assert_invalid(self, data: bytes, words: str) -> None:
        """The reader refuses these bytes with these words."""
        error = self.assertRaises(InvalidPreface, PrefaceReader().feed, data)
        self.assertIn(words, str(error))

    def test_refuses_a_length_beyond_the_limit_before_the_rest_arrives(self) -> None:
        """A peer cannot make us wait for, or hold, more than 512 bytes."""
        self.assert_invalid(b"\x01\xff", "claims 511 bytes")
        self.assertIsNone(PrefaceReader().feed(b"\x01\xfe"))

    def test_refuses_what_is_not_a_preface(self) -> None:
        """Each way to be malformed is named."""
        self.assert_invalid(b"\x00\x01\x01", "at least 2 are needed")
        self.assert_invalid(b"\x00\x02\x02\x00", "version 2")
        self.assert_invalid(b"\x00\x02\x01\x07", "unknown status 7")
        self.assert_invalid(b"\x00\x04\x01\x01\x01\x00", "ends inside a field")
        self.assert_invalid(b"\x00\x05\x01\x01\x01\x00\x05", "longer than the preface")

    @given(st.binary(max_size=600))
    def test_never_raises_anything_else(self, data: bytes) -> None:
        """Whatever a peer sends, the outcome is a preface, a wait or InvalidPreface."""
        try:
            outcome = PrefaceReader().feed(data)
        except InvalidPreface:
            return
        if outcome is not None:
            preface, rest = outcome
            self.assertTrue(data.endswith(rest))
            self.assertIsInstance(preface.text, str)
