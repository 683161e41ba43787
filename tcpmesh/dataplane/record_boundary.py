"""
Tells whether a TLS stream stands between two records.

Ring 2, no I/O. With ``truncation: eof`` a peer may leave out its close_notify, but a stream that stops inside a record
(RFC 8446 section 5.1: five bytes of header with the length in the last two) was cut, and is no end.
"""

from __future__ import annotations

_HEADER_BYTES = 5


class RecordBoundary:
    """Follows the ciphertext of one direction from its first byte."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0  # bytes of the present record's body that are still to come

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next ciphertext, in whatever pieces it comes."""
        position, end = 0, len(data)
        while position < end:
            if self._left:
                step = min(self._left, end - position)
                self._left -= step
            else:
                step = min(_HEADER_BYTES - len(self._header), end - position)
                self._header += bytes(data[position : position + step])
                if len(self._header) == _HEADER_BYTES:
                    self._left = int.from_bytes(self._header[3:], "big")
                    self._header = b""
            position += step

    @property
    def inside(self) -> bool:
        """Whether a record has begun and is not complete."""
        return bool(self._left or self._header)
