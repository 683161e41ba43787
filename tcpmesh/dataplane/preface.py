"""
The hop preface: how an inbound tcpmesh says "go ahead" or "no, because", once per connection.

Ring 2, no I/O. Why it exists: in TLS 1.3 a client is connected before the server has judged its certificate (RFC
8446 section 4.4.4), let alone policy or target. Peers that negotiated ALPN ``tcpmesh/1`` therefore wait for one
message, the first bytes of the inbound proxy's stream, before they let payload go:

    length   2 bytes, big-endian: the number of bytes that follow, at most 510
    version  1 byte: 1
    status   1 byte: 0 ok, 1 refused
    fields   any number of: type (1 byte), length (2 bytes, big-endian), value

Fields: 1 = code (ASCII), 2 = text (UTF-8). Fields of unknown type are skipped, so that later versions can say more
to those who understand it; a version other than 1 is refused.
"""

from __future__ import annotations

import attrs

ALPN = b"tcpmesh/1"
CHECK_ALPN = b"tcpmesh-check/1"  # a health check: answered with a preface by a listener that lives, and nothing else
MAX_PREFACE_BYTES = 512

_VERSION = 1
_OK = 0
_REFUSED = 1
_FIELD_CODE = 1
_FIELD_TEXT = 2


class InvalidPreface(ValueError):
    """The bytes are not a preface that this version understands."""


@attrs.frozen
class Preface:
    """What the inbound proxy decided; ``code`` and ``text`` are empty for ok."""

    ok: bool
    code: str = ""
    text: str = ""

    def encode(self) -> bytes:
        """Write the message; a text that does not fit is cut at a character."""
        body = bytearray((_VERSION, _OK if self.ok else _REFUSED))
        if self.code:
            body += _field(_FIELD_CODE, self.code.encode("ascii"))
        if self.text:
            room = MAX_PREFACE_BYTES - 2 - len(body) - 3
            body += _field(_FIELD_TEXT, self.text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").encode())
        return len(body).to_bytes(2, "big") + bytes(body)


OK = Preface(ok=True).encode()


def _field(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def _decode(body: bytes) -> Preface:
    if len(body) < 2:
        raise InvalidPreface(f"the preface has {len(body)} bytes, at least 2 are needed")
    version, status = body[0], body[1]
    if version != _VERSION:
        raise InvalidPreface(f"the preface has version {version}, this proxy understands {_VERSION}")
    if status not in (_OK, _REFUSED):
        raise InvalidPreface(f"the preface has the unknown status {status}")
    fields: dict[int, bytes] = {}
    position = 2
    while position < len(body):
        end_of_head = position + 3
        if end_of_head > len(body):
            raise InvalidPreface("the preface ends inside a field")
        kind = body[position]
        end = end_of_head + int.from_bytes(body[position + 1 : end_of_head], "big")
        if end > len(body):
            raise InvalidPreface("a field of the preface is longer than the preface")
        fields[kind] = body[end_of_head:end]
        position = end
    return Preface(
        ok=status == _OK,
        code=fields.get(_FIELD_CODE, b"").decode("ascii", "replace"),
        text=fields.get(_FIELD_TEXT, b"").decode("utf-8", "replace"),
    )


class PrefaceReader:
    """Collects a preface from however many pieces it arrives in."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> tuple[Preface, bytes] | None:
        """
        Take the next bytes; give the preface and what follows it once it is complete.

        :raises InvalidPreface: as soon as the bytes cannot become one.
        """
        self._buffer += data
        if len(self._buffer) < 2:
            return None
        length = int.from_bytes(self._buffer[:2], "big")
        if length > MAX_PREFACE_BYTES - 2:
            raise InvalidPreface(f"the preface claims {length} bytes, at most {MAX_PREFACE_BYTES - 2} are allowed")
        if len(self._buffer) < 2 + length:
            return None
        return _decode(bytes(self._buffer[2 : 2 + length])), bytes(self._buffer[2 + length :])
