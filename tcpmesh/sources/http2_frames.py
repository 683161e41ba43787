"""
Looks at the frames of HTTP/2 before they are read.

Ring 3 beside its only user, without I/O. The library reads a frame when all of it is there, and sees only then that it
is too long; here its header is enough. (RFC 9113 section 4.1)
"""

from __future__ import annotations

from tcpmesh.errors import TcpmeshError

__all__ = ["MAX_FRAME", "FrameGauge", "FrameTooLongError"]

MAX_FRAME = 16384  # bytes, without the header: what we announce by announcing nothing (RFC 9113 section 6.5.2)

_HEADER = 9
_DATA = 0


class FrameTooLongError(TcpmeshError):
    """A frame that is longer than we announced to take, or something that is not HTTP/2 at all."""


class FrameGauge:
    """Measures the frames of one direction of one connection."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0  # bytes of the frame that has begun

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._header or self._left)

    def feed(self, data: bytes) -> int:
        """
        Take bytes as they come.

        :return: how many frames began that are no DATA, or DATA without a byte.
        :raises FrameTooLongError: at the header of the frame.
        """
        count = 0
        position = 0
        while position < len(data):
            if self._left:
                taken = min(self._left, len(data) - position)
                self._left -= taken
                position += taken
                continue
            taken = min(_HEADER - len(self._header), len(data) - position)
            self._header += data[position : position + taken]
            position += taken
            if len(self._header) < _HEADER:
                break
            length, kind = int.from_bytes(self._header[:3], "big"), self._header[3]
            self._header.clear()
            if length > MAX_FRAME:
                raise FrameTooLongError(f"a frame of type {kind} with {length} bytes, more than {MAX_FRAME}")
            self._left = length
            count += kind != _DATA or not length
        return count
