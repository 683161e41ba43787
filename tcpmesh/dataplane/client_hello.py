"""
Reads the first message of a TLS connection, as far as anybody here asks.

Ring 2, no I/O.
"""

from __future__ import annotations

__all__ = ["InvalidClientHelloError", "supported_groups"]

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SUPPORTED_GROUPS = 10


class InvalidClientHelloError(ValueError):
    """Bytes that are not one whole ClientHello in one record."""


class _Bytes:
    """Takes bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise InvalidClientHelloError(f"{count} bytes are announced, {len(self._data)} are there")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Bytes:
        """A length of ``size`` bytes, and as many bytes as it says (RFC 8446 section 3.4)."""
        return _Bytes(self.take(self.number(size)))

    def __bool__(self) -> bool:
        return bool(self._data)


def supported_groups(record: bytes) -> tuple[int, ...]:
    """
    The key exchange groups that a client offers, by their numbers (RFC 8446 section 4.2.7), in its order.

    :param record: the TLS record with the whole ClientHello (RFC 8446 section 4.1.2), as OpenSSL sends it.
    :raises InvalidClientHelloError: when it is something else.
    """
    outer = _Bytes(record)
    if outer.number(1) != _HANDSHAKE:
        raise InvalidClientHelloError("this is no handshake record")
    outer.take(2)
    message = outer.vector(2)
    if message.number(1) != _CLIENT_HELLO:
        raise InvalidClientHelloError("this is no ClientHello")
    hello = message.vector(3)
    hello.take(2 + 32)  # version and random
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    extensions = hello.vector(2) if hello else hello
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SUPPORTED_GROUPS:
            listed = content.vector(2)
            found = []
            while listed:
                found.append(listed.number(2))
            return tuple(found)
    return ()
