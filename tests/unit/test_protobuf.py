"""The reader of Protocol Buffers: what it takes, and that nothing else gets through, crashes or hangs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.protobuf import MAX_FIELDS, ProtobufError, read_fields
from tcpmesh.testing.workload_messages import protobuf_field


class ReadingTests(SynchronousTestCase):
    def check_refuses(self, data: bytes, message: str) -> None:
        self.assertEqual(str(self.assertRaises(ProtobufError, read_fields, data)), message)

    def test_reads_what_the_documentation_shows(self) -> None:
        """The examples of protobuf.dev: a number, a string, a message."""
        self.assertEqual(read_fields(b"\x08\x96\x01"), [(1, None)])
        self.assertEqual(read_fields(b"\x12\x07testing"), [(2, b"testing")])
        self.assertEqual(read_fields(b"\x1a\x03\x08\x96\x01"), [(3, b"\x08\x96\x01")])

    def test_reads_over_numbers_of_every_kind(self) -> None:
        """Fields that a later version adds may have any type."""
        data = b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18\x00" + protobuf_field(4, b"x")
        self.assertEqual(read_fields(data), [(1, None), (2, None), (3, None), (4, b"x")])

    def test_an_empty_message_has_no_field(self) -> None:
        """It is a message like others."""
        self.assertEqual(read_fields(b""), [])

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.binary(max_size=300)), max_size=20))
    def test_reads_what_was_written(self, fields: list[tuple[int, bytes]]) -> None:
        """All fields, in their order, with every byte."""
        self.assertEqual(read_fields(b"".join(protobuf_field(*field) for field in fields)), fields)

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_no_bytes_crash_it(self, data: bytes) -> None:
        """Bytes are a message or a ProtobufError."""
        try:
            fields = read_fields(data)
        except ProtobufError:
            return
        self.assertTrue(all(0 < number < 2**29 for number, _ in fields))
        self.assertLessEqual(sum(len(value or b"") + 2 for _, value in fields), len(data))

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 99), st.binary(max_size=200)), min_size=1, max_size=5), st.data())
    def test_no_cut_goes_unnoticed(self, fields: list[tuple[int, bytes]], data: st.DataObject) -> None:
        """A message that was cut within a field is refused."""
        pieces = [protobuf_field(*field) for field in fields]
        message, last = b"".join(pieces), len(pieces[-1])
        cut = data.draw(st.integers(1, last - 1))
        self.assertRaises(ProtobufError, read_fields, message[:-cut])

    def test_lengths_must_fit(self) -> None:
        """One byte more than there is, and far more than any machine has."""
        self.check_refuses(b"\x0a\x05four", "field 1 at byte 0 is 5 bytes long, and 4 follow")
        huge = b"\xff" * 9 + b"\x01"
        self.check_refuses(b"\x0a" + huge, f"field 1 at byte 0 is {2**64 - 1} bytes long, and 0 follow")

    def test_numbers_must_end(self) -> None:
        """Within the message, and within ten bytes."""
        self.check_refuses(b"\x80", "the number at byte 0 is cut off")
        self.check_refuses(b"\x08", "the number at byte 1 is cut off")
        self.check_refuses(b"\x09\x00", "the number in field 1 at byte 0 is cut off")
        self.check_refuses(b"\x08" + b"\xff" * 10, "the number at byte 1 does not fit into 64 bits")
        self.check_refuses(b"\x08" + b"\xff" * 9 + b"\x02", "the number at byte 1 does not fit into 64 bits")
        self.check_refuses(b"\x08" + b"\x80" * 11, "the number at byte 1 does not fit into 64 bits")

    def test_field_numbers_have_a_range(self) -> None:
        """0 is none, and the largest has 29 bits."""
        self.check_refuses(b"\x02\x00", "field number 0 at byte 0, not from 1 to 536870911")
        largest = b"\xfa\xff\xff\xff\x0f\x00"
        self.assertEqual(read_fields(largest), [(2**29 - 1, b"")])
        self.check_refuses(b"\x82\x80\x80\x80\x10\x00", f"field number {2**29} at byte 0, not from 1 to 536870911")

    def test_groups_are_refused(self) -> None:
        """Wire types 3 and 4 are history, 6 and 7 nothing."""
        for wire_type in (3, 4, 6, 7):
            self.check_refuses(
                bytes([8 | wire_type]), f"field 1 at byte 0 has the wire type {wire_type}, which nothing uses"
            )

    def test_fields_are_counted(self) -> None:
        """Two bytes each would make a large message expensive."""
        self.assertEqual(len(read_fields(b"\x08\x00" * MAX_FIELDS)), MAX_FIELDS)
        self.check_refuses(b"\x08\x00" * (MAX_FIELDS + 1), f"more than {MAX_FIELDS} fields in one message")
