"""
The only place that reaches below pyOpenSSL's public interface, to the functions of OpenSSL that it binds.

Ring 2, no I/O. Nothing here is promised by pyOpenSSL, so nothing here is relied on: what is missing is found out on
import, and then the public interface serves, or the configuration is refused at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from tcpmesh.dataplane.record_layer import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    PAYLOAD,
    READ_BYTES,
    RECORD_BYTES,
    RecordLayer,
)
from tcpmesh.errors import TcpmeshError
from tcpmesh.tls_names import GROUPS, TLSGroup

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib
except ImportError:
    _ffi = _lib = None

__all__ = ["GROUP_SETTER", "DirectRecordLayer", "GroupSetter", "UnsupportedError", "record_layer", "set_groups"]

# Sets the groups of a context from a list in OpenSSL's notation; false when OpenSSL does not take it.
GroupSetter = Callable[[SSL.Context, bytes], bool]

# What the public interface can set: one curve of these, alone.
_PUBLIC_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


class UnsupportedError(TcpmeshError):
    """What is configured is beyond the TLS library, or beyond what pyOpenSSL lets us ask of it."""


def _find_group_setter() -> GroupSetter | None:
    try:
        set_list, clear_errors = _lib.SSL_CTX_set1_curves_list, _lib.ERR_clear_error  # since cryptography 47
        SSL.Context(SSL.TLS_METHOD)._context  # noqa: B018  is it there?
    except AttributeError:
        return None

    def set_groups_list(context: SSL.Context, names: bytes) -> bool:
        taken: bool = set_list(context._context, names) == 1
        if not taken:
            clear_errors()  # else the next call on any connection would take them for its own failure
        return taken

    return set_groups_list


GROUP_SETTER = _find_group_setter()


def set_groups(context: SSL.Context, groups: Sequence[TLSGroup], setter: GroupSetter | None = GROUP_SETTER) -> None:
    """
    Restrict the key exchange to these groups, in this order of preference.

    :param setter: how; None for what the public interface can do, which is what happens where the other is missing.
    :raises UnsupportedError: when that cannot be done. No other group is ever set instead.
    """
    if setter is None:
        _set_publicly(context, groups)
    elif not setter(context, _notation(groups)):
        unknown = [group for group in groups if not setter(SSL.Context(SSL.TLS_METHOD), group.encode("ascii"))]
        since = ", which came with OpenSSL 3.5" if any(GROUPS[group].post_quantum for group in unknown) else ""
        raise UnsupportedError(f"{_library()} does not know {', '.join(unknown or groups)}{since}")


def _set_publicly(context: SSL.Context, groups: Sequence[TLSGroup]) -> None:
    curve = _PUBLIC_CURVES.get(groups[0]) if len(groups) == 1 else None
    if curve is None:
        installed = " and ".join(f"{name} {metadata.version(name)}" for name in ("pyopenssl", "cryptography"))
        raise UnsupportedError(
            f"tcpmesh cannot set {', '.join(groups)} with {installed}, only one of {', '.join(_PUBLIC_CURVES)} alone; "
            "leave the key out, or use cryptography 47 or newer"
        )
    context.set_tmp_ecdh(curve)


def _notation(groups: Sequence[TLSGroup]) -> bytes:
    """
    Write the list for OpenSSL.

    Where post-quantum and classical groups meet stands ``/`` (since OpenSSL 3.5, as those groups): a server then rather
    asks a client for another share, for one round trip, than take the lesser kind. Within one kind it takes what came.
    """
    text = str(groups[0])
    for before, group in pairwise(groups):
        text += ("/" if GROUPS[before].post_quantum != GROUPS[group].post_quantum else ":") + group
    return text.encode("ascii")


def _library() -> str:
    return " ".join(SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace").split()[:2])


# --- records

_FUNCTIONS = ("BIO_new", "BIO_read", "BIO_s_mem", "BIO_write", "SSL_get_error", "SSL_read", "SSL_set_bio", "SSL_write")
_MEMBERS = ("_from_ssl", "_into_ssl", "_raise_ssl_error", "_ssl")


def _records_available() -> bool:
    """Whether pyOpenSSL looks inside as this module expects."""
    if _lib is None or not all(hasattr(_lib, name) for name in _FUNCTIONS):
        return False
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    return all(hasattr(connection, name) for name in _MEMBERS)


_RECORDS_AVAILABLE = _records_available()

_APPLICATION_DATA = 23  # the content type (RFC 8446 section 5.1)
# A BIO that has grown keeps its size; a connection that has moved more than this in one batch gets new ones.
_SMALL_BYTES = 4096
# Records grow by 22 bytes; beside them there must be room for what TLS has to say for itself.
_CIPHERTEXT = memoryview(bytearray(MAX_PAYLOAD_BYTES + 32 * 1024))

if _RECORDS_AVAILABLE:
    _from_buffer = _ffi.from_buffer
    _payload = _from_buffer(PAYLOAD)
    _PAYLOAD = memoryview(PAYLOAD)
    _ciphertext = _from_buffer(_CIPHERTEXT)
    _WANT_READ = _lib.SSL_ERROR_WANT_READ


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
        size = len(ciphertext)
        if (
            HEADER_BYTES < size <= _SMALL_BYTES
            and ciphertext[0] == _APPLICATION_DATA
            and ciphertext[3] << 8 | ciphertext[4] == size - HEADER_BYTES
            and self._aligned
            and not (self._left or self._header or self.control)
        ):
            # A message is nearly always one record that arrives whole: what the batch below comes to then, but shorter.
            _lib.BIO_write(self._incoming, _from_buffer(ciphertext), size)
            return _PAYLOAD[: self._open(0)]
        # While every read fills the buffer, the next batch is on its way.
        grown = _SMALL_BYTES < size < READ_BYTES or not self._aligned
        payload = super().decrypt(ciphertext)
        if grown and not self.inside:
            self._renew(incoming=True)
        return payload

    def encrypt(self, payload: bytes | memoryview) -> bytes | memoryview:
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
        if filled == len(_CIPHERTEXT):
            # Answers that nobody has taken went before, and there may be more than the buffer holds.
            return bytes(_CIPHERTEXT) + self.take_output()
        if _SMALL_BYTES < size < READ_BYTES:
            self._renew(incoming=False)
        return _CIPHERTEXT[:filled]

    def take_output(self) -> bytes:
        """As the base class says."""
        taken = b""
        while (filled := _lib.BIO_read(self._outgoing, _ciphertext, len(_CIPHERTEXT))) > 0:
            taken += bytes(_CIPHERTEXT[:filled])
            if filled < len(_CIPHERTEXT):
                break
        return taken

    def handshake_sent(self) -> None:
        """As the base class says."""
        self._renew(incoming=False)

    def _feed(self, ciphertext: bytes | memoryview, start: int, stop: int) -> None:
        _lib.BIO_write(self._incoming, _from_buffer(ciphertext) + start, stop - start)

    def _open(self, filled: int) -> int:
        # Never beyond the buffer, whatever was fed: where no room is left OpenSSL fails, which ends the connection.
        room = RECORD_BYTES if filled <= READ_BYTES else MAX_PAYLOAD_BYTES - filled
        opened: int = _lib.SSL_read(self._ssl, _payload + filled, room)
        if opened > 0:
            return opened
        if _lib.SSL_get_error(self._ssl, opened) == _WANT_READ:
            self.control = True  # without an exception: a peer may send thousands of these
            return 0
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
    return DirectRecordLayer(connection) if _RECORDS_AVAILABLE else RecordLayer(connection)
