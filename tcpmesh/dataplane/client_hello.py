"""
Reads the first message of a TLS connection (RFC 8446 section 4.1.2), as far as anybody here asks.

Ring 2, no I/O. What is read is a stranger's: the server name in it is a wish, which proves nothing.
"""

from __future__ import annotations

import attrs

from tcpmesh.addresses import shown
from tcpmesh.codes import CLIENT_HELLO_TIMEOUT, NO_BYTE, NOT_TLS
from tcpmesh.errors import Refusal
from tcpmesh.values import Duration, format_duration

__all__ = [
    "MAX_CLIENT_HELLO",
    "ClientHello",
    "ClientHelloReader",
    "InvalidClientHelloError",
    "parse_client_hello",
    "supported_groups",
]

MAX_CLIENT_HELLO = 64 * 1024  # bytes with the records around it; a post-quantum one with ECH has some 2 KiB

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_HOST_NAME = 0
_MAX_RECORD = 2**14  # RFC 8446 section 5.1
_MAX_EXTENSIONS = 256  # clients have some twenty
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_SERVER_NAME = 0
_MAX_SERVER_NAME = (
    255  # bytes, RFC 1035 section 2.3.4; OpenSSL takes no more. What is here goes into records and caches
)
_SUPPORTED_GROUPS = 10
_ENCRYPTED_CLIENT_HELLO = 0xFE0D  # RFC 9849; also what a browser without a key sends as grease

# How protocols begin that are mistaken for TLS here, and what to do about each.
_PLAINTEXT: tuple[tuple[bytes, str], ...] = (
    (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "PostgreSQL asks for TLS in its own way first: set sslnegotiation=direct"),
    (b"\x00\x00\x00", "PostgreSQL without TLS begins like that: set sslmode=require and sslnegotiation=direct"),
    (b"GET ", "this is plain HTTP: use https"),
    (b"POST ", "this is plain HTTP: use https"),
    (b"PRI * HTTP/2", "this is HTTP/2 without TLS, such as gRPC on an insecure channel: use a secure one"),
    (b"*", "this is the Redis protocol without TLS: let the client use TLS"),
    (b"EHLO", "this is SMTP, which starts TLS later"),
)


class InvalidClientHelloError(ValueError):
    """Bytes that are not one whole ClientHello."""


@attrs.frozen
class ClientHello:
    """
    What a client asks for before anything is encrypted.

    :ivar server_name: the SNI (RFC 6066 section 3) as it came; empty for none. May hold anything that is ASCII.
    :ivar encrypted: the real message may be another, that only the server can read (RFC 9849); or this is grease.
    """

    server_name: str = ""
    encrypted: bool = False


class _Bytes:
    """Takes bytes from the front, and copies none: a stranger may send thousands of tiny parts."""

    __slots__ = ("_data", "_end", "_place")

    def __init__(self, data: bytes, place: int = 0, end: int | None = None) -> None:
        self._data = data
        self._place = place
        self._end = len(data) if end is None else end

    def take(self, count: int) -> int:
        """Skip so many; gives where they begin."""
        begin = self._place
        if count > self._end - begin:
            raise InvalidClientHelloError(f"{count} bytes are announced, {self._end - begin} are there")
        self._place = begin + count
        return begin

    def number(self, size: int) -> int:
        begin = self.take(size)
        return int.from_bytes(self._data[begin : begin + size], "big")

    def vector(self, size: int) -> _Bytes:
        """A length of ``size`` bytes, and as many bytes as it says (RFC 8446 section 3.4)."""
        count = self.number(size)
        begin = self.take(count)
        return _Bytes(self._data, begin, begin + count)

    def rest(self) -> bytes:
        return self._data[self._place : self._end]

    def __bool__(self) -> bool:
        return self._place < self._end


def parse_client_hello(message: bytes) -> ClientHello:
    """
    Read a whole message, with its header of four bytes.

    :raises InvalidClientHelloError: when it is something else, or says one thing twice: what reads it later could
        take the other one.
    """
    found = _extensions(message)
    name = _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else ""
    return ClientHello(name, _ENCRYPTED_CLIENT_HELLO in found)


def _extensions(message: bytes) -> dict[int, _Bytes]:
    whole = _Bytes(message)
    if whole.number(1) != _CLIENT_HELLO:
        raise InvalidClientHelloError("this is no ClientHello")
    hello = whole.vector(3)
    hello.take(2 + 32)  # version and random
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    extensions = hello.vector(2) if hello else hello
    if hello or whole:
        raise InvalidClientHelloError("there are bytes behind it")
    found: dict[int, _Bytes] = {}
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind in found:
            raise InvalidClientHelloError(f"extension {kind} comes twice")
        if len(found) == _MAX_EXTENSIONS:
            raise InvalidClientHelloError(f"it has more than {_MAX_EXTENSIONS} extensions")
        found[kind] = content
    return found


def _server_name(content: _Bytes) -> str:
    names = content.vector(2)
    kind, name = names.number(1), names.vector(2).rest()
    if names or content:
        raise InvalidClientHelloError("it asks for several server names")
    if kind != _HOST_NAME:
        raise InvalidClientHelloError(f"it asks for a server name of the unknown kind {kind}")
    if len(name) > _MAX_SERVER_NAME:
        raise InvalidClientHelloError(f"the server name has {len(name)} bytes, and {_MAX_SERVER_NAME} are the most")
    if not name or not name.isascii() or b"\0" in name:
        raise InvalidClientHelloError(f"the server name {shown(name.decode('latin-1'))} is none")
    return name.decode("ascii")


def supported_groups(record: bytes) -> tuple[int, ...]:
    """
    The key exchange groups that a client offers, by their numbers (RFC 8446 section 4.2.7), in its order.

    :param record: the TLS record with the whole ClientHello, as OpenSSL sends it.
    :raises InvalidClientHelloError: when it is something else.
    """
    outer = _Bytes(record)
    if outer.number(1) != _HANDSHAKE:
        raise InvalidClientHelloError("this is no handshake record")
    outer.take(2)
    content = _extensions(outer.vector(2).rest()).get(_SUPPORTED_GROUPS)
    listed = content.vector(2) if content is not None else _Bytes(b"")
    found = []
    while listed:
        found.append(listed.number(2))
    return tuple(found)


class ClientHelloReader:
    """
    Looks at a ClientHello that may come in any number of records and reads, and keeps every byte for who is next.

    :param way_out: what whoever does not speak TLS can do instead, for the refusal.
    """

    __slots__ = ("_message", "_place", "_raw", "_way_out")

    def __init__(self, way_out: str = "") -> None:
        self._raw = bytearray()
        self._place = 0  # of the first record that is not complete
        self._message = bytearray()
        self._way_out = f"; {way_out}" if way_out else ""

    @property
    def rest(self) -> bytes:
        """Everything that was fed: nothing is consumed."""
        return bytes(self._raw)

    def feed(self, data: bytes | memoryview) -> ClientHello | None:
        """
        Take bytes; None as long as more are needed.

        :raises Refusal: NOT_TLS for bytes that can be no ClientHello, or more than 64 KiB of one.
        """
        raw = self._raw
        raw += data
        while (content := self._record()) is not None:
            self._message += content
            message = self._message
            if message[0] != _CLIENT_HELLO:
                raise self._refusal(f"the first TLS message is of kind {message[0]}, and no ClientHello")
            if len(message) >= _MESSAGE_HEADER:
                length = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
                if length > MAX_CLIENT_HELLO:
                    raise self._too_large()
                if len(message) >= length:
                    return self._parse(bytes(message))
        if len(raw) > MAX_CLIENT_HELLO:
            raise self._too_large()
        return None

    def _record(self) -> memoryview | None:
        """The content of the next record, when it is complete."""
        raw, place = self._raw, self._place
        if (len(raw) > place and raw[place] != _HANDSHAKE) or (len(raw) > place + 1 and raw[place + 1] != 3):
            raise self._no_tls()
        start = place + _RECORD_HEADER
        if len(raw) < start:
            return None
        length = int.from_bytes(raw[start - 2 : start], "big")
        if not 0 < length <= _MAX_RECORD:
            raise self._refusal(f"a TLS record of {length} bytes is none")
        if len(raw) < start + length:
            return None
        self._place = start + length
        return memoryview(bytes(raw[start : start + length]))

    def _parse(self, message: bytes) -> ClientHello:
        try:
            return parse_client_hello(message)
        except InvalidClientHelloError as problem:
            raise self._refusal(f"the ClientHello cannot be read: {problem}") from None

    def _no_tls(self) -> Refusal:
        first = bytes(self._raw[self._place : self._place + 16])
        if self._place:
            return self._refusal(f"within a ClientHello came a record that begins with {first[:5].hex(' ')}")
        hint = next((f" ({hint})" for begin, hint in _PLAINTEXT if first.startswith(begin)), "")
        # No more than that: what comes in plaintext may be a password.
        return self._refusal(f"the first bytes are not TLS: {first[:_RECORD_HEADER]!a}{hint}")

    def _too_large(self) -> Refusal:
        return self._refusal(f"there is no whole ClientHello in {MAX_CLIENT_HELLO} bytes")

    def _refusal(self, reason: str) -> Refusal:
        return Refusal(NOT_TLS, reason + self._way_out)

    def ended(self) -> Refusal:
        """Say what it means that the peer sent FIN now."""
        if not self._raw:
            return Refusal(NO_BYTE, "it ended before it sent a byte")
        return self._refusal(f"it ended after {len(self._raw)} bytes of a ClientHello")

    def late(self, seconds: float) -> Refusal:
        """Say what it means that it takes so long."""
        came = f"{len(self._raw)} bytes of it" if self._raw else "nothing"
        reason = f"no whole ClientHello within {format_duration(Duration(seconds))}, {came} came"
        return Refusal(CLIENT_HELLO_TIMEOUT, reason + self._way_out)
