"""
The one place that reaches below pyOpenSSL's public API, into the OpenSSL functions underneath.

Ring 2: no I/O. pyOpenSSL's own methods allocate, copy and check for every record; through the functions a message costs
half as much, and a connection can give back the memory that its BIOs grew to. Whatever is here has an equal on the
public API, which takes its place where the internals of another pyOpenSSL differ (:data:`AVAILABLE` is false then) and
passes the same tests.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from tcpmesh.dataplane.record_layer import MAX_PAYLOAD_BYTES, PAYLOAD, READ_BYTES, RECORD_BYTES, RecordLayer

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib
except ImportError:
    _ffi = _lib = None

_FUNCTIONS = ("BIO_new", "BIO_read", "BIO_s_mem", "BIO_write", "SSL_read", "SSL_set_bio", "SSL_write")
_MEMBERS = ("_from_ssl", "_into_ssl", "_raise_ssl_error", "_ssl")


def _available() -> bool:
    """Whether pyOpenSSL looks inside as this module expects."""
    if _lib is None or not all(hasattr(_lib, name) for name in _FUNCTIONS):
        return False
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    return all(hasattr(connection, name) for name in _MEMBERS)


AVAILABLE = _available()

# A BIO that has grown keeps its size; a connection that has moved more than this in one batch gets new ones.
_SMALL_BYTES = 4096
# Records grow by 22 bytes; beside them there must be room for what TLS has to say for itself.
_CIPHERTEXT = memoryview(bytearray(MAX_PAYLOAD_BYTES + 32 * 1024))

if AVAILABLE:
    _from_buffer = _ffi.from_buffer
    _payload = _from_buffer(PAYLOAD)
    _ciphertext = _from_buffer(_CIPHERTEXT)


class DirectRecordLayer(RecordLayer):
    """The same, with OpenSSL's own functions and buffers that are never allocated anew."""

    __slots__ = ("_incoming", "_outgoing", "_ssl")

    def __init__(self, connection: SSL.Connection) -> None:
        super().__init__(connection)
        internals: Any = connection
        self._ssl = internals._ssl
        self._incoming = internals._into_ssl
        self._outgoing = internals._from_ssl

    def decrypt(self, ciphertext: bytes | memoryview) -> memoryview:
        """As the base class says; what the BIO grew to is given back when a large batch is over."""
        # While every read fills the buffer, the next batch is on its way.
        grown = _SMALL_BYTES < len(ciphertext) < READ_BYTES or not self._aligned
        payload = super().decrypt(ciphertext)
        if grown and not self.inside:
            self._renew(incoming=True)
        return payload

    def encrypt(self, payload: bytes | memoryview) -> memoryview:
        """As the base class says."""
        source = _from_buffer(payload)
        written = filled = 0
        size = len(payload)
        while written < size:
            taken = _lib.SSL_write(self._ssl, source + written, min(size - written, RECORD_BYTES))
            if taken <= 0:
                self.connection._raise_ssl_error(self._ssl, taken)
            written += taken
            # One record at a time: the BIO stays small, and the record is still in the processor's cache.
            filled += _lib.BIO_read(self._outgoing, _ciphertext + filled, len(_CIPHERTEXT) - filled)
        if _SMALL_BYTES < size < READ_BYTES:
            self._renew(incoming=False)
        return _CIPHERTEXT[:filled]

    def take_output(self) -> bytes:
        """As the base class says."""
        filled = _lib.BIO_read(self._outgoing, _ciphertext, len(_CIPHERTEXT))
        return bytes(_CIPHERTEXT[:filled]) if filled > 0 else b""

    def handshake_sent(self) -> None:
        """As the base class says."""
        self._renew(incoming=False)

    def _feed(self, ciphertext: bytes | memoryview, start: int, stop: int) -> None:
        _lib.BIO_write(self._incoming, _from_buffer(ciphertext) + start, stop - start)

    def _open(self, filled: int) -> int:
        opened: int = _lib.SSL_read(self._ssl, _payload + filled, RECORD_BYTES)
        if opened > 0:
            return opened
        try:
            self.connection._raise_ssl_error(self._ssl, opened)
        except SSL.Error as error:
            self._no_payload(error)
        return 0

    def _renew(self, *, incoming: bool) -> None:
        """Replace an empty BIO by one that has not grown."""
        new = _lib.BIO_new(_lib.BIO_s_mem())
        if new == _ffi.NULL:
            return  # no memory: the large one will do
        internals: Any = self.connection
        if incoming:
            self._incoming = internals._into_ssl = new
        else:
            self._outgoing = internals._from_ssl = new
        # Takes over, and frees, only the one that is another than before (SSL_set_bio(3)).
        _lib.SSL_set_bio(self._ssl, self._incoming, self._outgoing)


def record_layer(connection: SSL.Connection) -> RecordLayer:
    """The fastest that there is for this pyOpenSSL."""
    return DirectRecordLayer(connection) if AVAILABLE else RecordLayer(connection)
