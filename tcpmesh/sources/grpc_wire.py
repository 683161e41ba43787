"""
What gRPC puts on top of HTTP/2: messages with a length before them, and a status at the end.

Ring 3 beside its only user, without I/O. (grpc.io, PROTOCOL-HTTP2)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from urllib.parse import unquote_to_bytes

from tcpmesh.errors import TcpmeshError
from tcpmesh.identity.certificates import shown

__all__ = ["EMPTY_REQUEST", "MAX_MESSAGE", "FramingError", "MessageBuffer", "Status", "read_status", "status_text"]

MAX_MESSAGE = 4 << 20  # bytes: what gRPC's own libraries accept by default
EMPTY_REQUEST = bytes(5)  # a message without a field: not compressed, length 0

_PREFIX = 5
_SHOWN = 300  # characters of a server's own words


class Status(IntEnum):
    """The codes of gRPC (grpc.io, Status codes)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class FramingError(TcpmeshError):
    """Bytes that are not a gRPC message."""


class MessageBuffer:
    """Collects bytes until messages are complete; holds one message at most, and :data:`MAX_MESSAGE` bytes of it."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a message has begun and is not complete."""
        return bool(self._data)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """
        Add bytes, and give each message that they complete.

        :raises FramingError: for a compressed message, which was not asked for, and for one that is too long: at its
            first bytes, before anything of it is kept.
        """
        self._data += data
        while len(self._data) >= _PREFIX:
            compressed, length = self._data[0], int.from_bytes(self._data[1:_PREFIX], "big")
            if compressed:
                raise FramingError(f"a message is compressed (flag {compressed}), although nothing was offered for it")
            if length > MAX_MESSAGE:
                raise FramingError(f"a message of {length} bytes, more than {MAX_MESSAGE}")
            if len(self._data) < _PREFIX + length:
                return
            message = bytes(self._data[_PREFIX : _PREFIX + length])
            del self._data[: _PREFIX + length]
            yield message


def read_status(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Status, str] | None:
    """
    The status among these headers or trailers, with the server's own words, escaped; None if there is none.

    A status that is no number, or one that nobody knows, is UNKNOWN.
    """
    found = dict(headers)
    code = found.get(b"grpc-status")
    if code is None:
        return None
    text = unquote_to_bytes(found.get(b"grpc-message", b"")[: 3 * _SHOWN]).decode("utf-8", "replace")
    words = shown(text, _SHOWN) if text else ""
    if not code.isdigit() or len(code) > 2 or int(code) > max(Status):
        unknown = f"the unknown status {shown(code.decode('latin-1'), 20)}"
        return Status.UNKNOWN, f"{unknown}, {words}" if words else unknown
    return Status(int(code)), words


def status_text(status: Status, words: str = "") -> str:
    """A status as people know it: ``PermissionDenied: 'no identity issued'``."""
    name = "OK" if status is Status.OK else "".join(part.capitalize() for part in status.name.split("_"))
    return f"{name}: {words}" if words else name
