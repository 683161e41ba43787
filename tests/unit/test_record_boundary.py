"""Where a TLS stream stands: between two records, or inside one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dataplane.record_boundary import RecordBoundary
from tests.unit.tls_pairs import World, joined, pieces

BODIES = st.lists(st.integers(0, 600), min_size=1, max_size=8)
SIZES = st.lists(st.integers(1, 700), min_size=1, max_size=20)


def records(bodies: list[int]) -> tuple[bytes, set[int]]:
    """A stream of records with bodies of these lengths, and the positions at which one ends and none has begun."""
    stream, ends = b"", {0}
    for length in bodies:
        stream += b"\x17\x03\x03" + length.to_bytes(2, "big") + b"\x17" * length
        ends.add(len(stream))
    return stream, ends


class RecordBoundaryTests(SynchronousTestCase):
    def test_stands_between_records_before_the_first_byte(self) -> None:
        """Nothing has begun, and nothing of nothing changes that."""
        boundary = RecordBoundary()
        self.assertFalse(boundary.inside)
        boundary.feed(b"")
        self.assertFalse(boundary.inside)

    @given(BODIES)
    def test_is_inside_at_every_byte_but_the_last_of_a_record(self, bodies: list[int]) -> None:
        """One byte at a time: in the header, in the body, and at neither end of either."""
        stream, ends = records(bodies)
        boundary = RecordBoundary()
        for position in range(len(stream)):
            boundary.feed(stream[position : position + 1])
            self.assertEqual(boundary.inside, position + 1 not in ends, position)

    @given(BODIES, SIZES)
    def test_does_not_care_for_the_pieces(self, bodies: list[int], sizes: list[int]) -> None:
        """However reads cut the stream, also as views of a shared buffer, only its position counts."""
        stream, ends = records(bodies)
        view, position, turn = memoryview(stream), 0, 0
        boundary = RecordBoundary()
        while position < len(stream):
            size = sizes[turn % len(sizes)]
            boundary.feed(view[position : position + size])
            position, turn = min(len(stream), position + size), turn + 1
            self.assertEqual(boundary.inside, position not in ends, position)

    def test_follows_the_longest_record_that_a_length_can_say(self) -> None:
        """Two bytes of length, the first of them the higher one (RFC 8446 section 5.1)."""
        stream, _ends = records([0xFFFF])
        boundary = RecordBoundary()
        boundary.feed(stream[:-1])
        self.assertTrue(boundary.inside)
        boundary.feed(stream[-1:])
        self.assertFalse(boundary.inside)

    def test_follows_a_real_stream(self) -> None:
        """Everything that a TLS end sends of itself ends with a record: payload, and the end; no cut inside does."""
        client = joined(World()).client
        sent = client.encrypt(bytes(40_000)) + client.close_notify()
        for piece in (1, 1000, len(sent)):
            boundary = RecordBoundary()
            for part in pieces(sent, piece):
                boundary.feed(part)
            self.assertFalse(boundary.inside, piece)
        for cut in (1, 4, 5, 6, 16_000, len(sent) - 1):
            boundary = RecordBoundary()
            boundary.feed(sent[:cut])
            self.assertTrue(boundary.inside, cut)
