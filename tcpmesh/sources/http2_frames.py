"""
Looks at the frames of HTTP/2 before the library reads them.

Ring 3 beside its only user, without I/O. The library sees that a frame is too long when all of it is there; here its
header is enough. And it forgets what it read when a later frame is refused, so it gets one at a time: a server that is
going away says so, and then goes on with a PING. (RFC 9113 sections 4.1 and 6.8)
"""

from __future__ import annotations

from collections.abc import Iterator

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

    def split(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """
        Cut what came into pieces, none of which reaches beyond the end of a frame.

        :return: each piece, and whether a frame began in it that is no DATA, or DATA without a byte.
        :raises FrameTooLongError: at the header of the frame, instead of the piece with it.
        """
        start = 0
        while start < len(data):
            position, idle = start, False
            if not self._left:
                position += min(_HEADER - len(self._header), len(data) - start)
                self._header += data[start:position]
                if len(self._header) == _HEADER:
                    self._left, idle = self._read_header()
            taken = min(self._left, len(data) - position)
            self._left -= taken
            position += taken
            yield data[start:position], idle
            start = position

    def _read_header(self) -> tuple[int, bool]:
        """The frame's length, and whether it carries nothing."""
        length, kind = int.from_bytes(self._header[:3], "big"), self._header[3]
        self._header.clear()
        if length > MAX_FRAME:
            raise FrameTooLongError(f"a frame of type {kind} with {length} bytes, more than {MAX_FRAME}")
        return length, kind != _DATA or not length
