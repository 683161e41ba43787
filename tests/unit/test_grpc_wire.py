"""gRPC's framing and statuses, and the look at HTTP/2's frames before they are read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.sources.grpc_wire import (
    MAX_MESSAGE,
    FramingError,
    MessageBuffer,
    Status,
    read_status,
    status_text,
)
from tcpmesh.sources.http2_frames import MAX_FRAME, FrameGauge, FrameTooLongError


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def frame(kind: int, length: int) -> bytes:
    return length.to_bytes(3, "big") + bytes([kind]) + bytes(5) + bytes(length)


class MessageBufferTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 20))
    def test_messages_may_be_cut_anywhere(self, messages: list[bytes], size: int) -> None:
        """Every message comes once, whole and in order, however the bytes come."""
        buffer = MessageBuffer()
        data = b"".join(map(framed, messages))
        found = [each for start in range(0, len(data), size) for each in buffer.feed(data[start : start + size])]
        self.assertEqual((found, buffer.partial), (messages, False))

    def test_knows_that_a_message_has_begun(self) -> None:
        """From its first byte to its last."""
        buffer = MessageBuffer()
        for byte in framed(b"x")[:-1]:
            self.assertEqual(list(buffer.feed(bytes([byte]))), [])
            self.assertTrue(buffer.partial)
        self.assertEqual(list(buffer.feed(b"x")), [b"x"])
        self.assertFalse(buffer.partial)

    def test_refuses_at_the_prefix(self) -> None:
        """What is too long, and what is compressed, before any of it is there."""
        for prefix in (b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"), b"\1\0\0\0\1", b"\xff\0\0\0\0"):
            buffer = MessageBuffer()
            self.assertEqual(list(buffer.feed(prefix[:4])), [])
            self.assertRaises(FramingError, list, buffer.feed(prefix[4:]))


class StatusTests(SynchronousTestCase):
    def test_reads_every_code(self) -> None:
        """0 to 16."""
        for status in Status:
            self.assertEqual(read_status([(b"grpc-status", str(int(status)).encode())]), (status, ""))

    def test_none(self) -> None:
        """Headers that begin a stream of messages have none."""
        self.assertIs(read_status([(b":status", b"200"), (b"grpc-message", b"x")]), None)

    def test_words_are_decoded_cut_and_escaped(self) -> None:
        """They come from somebody else, and go into a log."""
        for message, words in (
            (b"no%20identity issued", "'no identity issued'"),
            (b"a%0ab%1b[31m", r"'a\nb\x1b[31m'"),
            (b"%ff%", r"'\ufffd%'"),
        ):
            self.assertEqual(read_status([(b"grpc-status", b"7"), (b"grpc-message", message)]), (7, words))
        found = read_status([(b"grpc-status", b"7"), (b"grpc-message", b"x" * 100_000)])
        assert found is not None
        self.assertLess(len(found[1]), 310)

    def test_nonsense_is_unknown(self) -> None:
        """A status that is none is a failure, never an OK."""
        for code in (b"", b"17", b"000", b"+0", b"0x0", b"\xb2", b"9" * 5000):
            found = read_status([(b"grpc-status", code)])
            assert found is not None
            self.assertIs(found[0], Status.UNKNOWN, code)
            self.assertLess(len(found[1]), 60)

    def test_text(self) -> None:
        """As gRPC's documentation writes them."""
        self.assertEqual(status_text(Status.PERMISSION_DENIED, "'why'"), "PermissionDenied: 'why'")
        self.assertEqual(status_text(Status.OK), "OK")


class FrameGaugeTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 60)), max_size=10), st.integers(1, 40))
    def test_cuts_at_the_ends_of_frames(self, frames: list[tuple[int, int]], size: int) -> None:
        """However the bytes come: nothing is lost, no piece has bytes of two frames, and each frame counts once."""
        gauge = FrameGauge()
        data = b"".join(frame(*each) for each in frames)
        pieces = [each for start in range(0, len(data), size) for each in gauge.split(data[start : start + size])]
        self.assertEqual(b"".join(piece for piece, _ in pieces), data)
        ends = {sum(9 + length for _, length in frames[: count + 1]) for count in range(len(frames))}
        position = 0
        for piece, _ in pieces:
            self.assertFalse(ends & set(range(position + 1, position + len(piece))))
            position += len(piece)
        self.assertEqual(sum(idle for _, idle in pieces), sum(1 for kind, length in frames if kind or not length))
        self.assertFalse(gauge.partial)

    def test_knows_that_a_frame_has_begun(self) -> None:
        """In its header, and in what follows."""
        gauge = FrameGauge()
        for byte in frame(6, 8)[:-1]:
            self.assertEqual(len(list(gauge.split(bytes([byte])))), 1)
            self.assertTrue(gauge.partial)
        self.assertEqual(list(gauge.split(b"x")), [(b"x", False)])
        self.assertFalse(gauge.partial)

    def test_refuses_long_frames_at_their_header(self) -> None:
        """The longest that is allowed passes; what came before one that is not is given first."""
        self.assertEqual(len(list(FrameGauge().split(frame(0, MAX_FRAME)))), 1)
        pieces = FrameGauge().split(frame(6, 8) + frame(0, MAX_FRAME + 1)[:9])
        self.assertEqual(next(pieces), (frame(6, 8), True))
        error = self.assertRaises(FrameTooLongError, next, pieces)
        self.assertEqual(str(error), "a frame of type 0 with 16385 bytes, more than 16384")
