"""
One TLS handshake, to see what a server presents: nothing is verified, and no byte of payload is sent.

Ring 4. Blocking, for commands. Never to be used for a connection that carries anything.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto

from tcpmesh.codes import (
    CONNECT_FAILED,
    CONNECT_REFUSED,
    CONNECT_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    MALFORMED_CERTIFICATE,
    NO_CERTIFICATE,
    PEER_ALERT,
    PLAINTEXT_PEER,
    TLS_FAILED,
)
from tcpmesh.dataplane.negotiation import negotiate, nothing_in_common
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import shown
from tcpmesh.settings import TLSSettings
from tcpmesh.values import Svid

__all__ = ["Presented", "Target", "connect", "look_at", "parse_target", "receive"]

AFTERWARDS = 0.5  # seconds for a server to refuse after the handshake, as TLS 1.3 has it
_READ = 65536
# The cipher suites of the data path, and certificates of any strength: to be shown, not trusted.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=0"


@attrs.frozen
class Target:
    """Where to connect: a host and a port, or the path of a unix socket."""

    host: str
    port: int = 0
    path: str = ""

    @property
    def sni(self) -> str:
        """The server name to ask for: none for addresses and unix sockets (RFC 6066 section 3)."""
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return self.host
        return ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target | None:
    """Read ``HOST:PORT``, ``[::1]:PORT`` or ``unix:PATH``; None for what is neither."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Target("", path=text[len("unix:") :])
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        return None
    return Target(host, int(port))


@attrs.frozen
class Presented:
    """
    What was seen. ``refusal`` is what the server said after the handshake, empty if it said nothing.
    """

    chain: tuple[x509.Certificate, ...]
    version: str
    cipher: str
    group: str
    sni: str
    refusal: str


def look_at(target: Target, svid: Svid | None, sni: str | None, seconds: float) -> Presented:
    """
    Connect, shake hands, and close.

    :param svid: whom to present, nobody if None.
    :param sni: the server name to ask for; None for the host's own.
    :param seconds: for everything together.
    :raises Refusal: when there was no handshake, or no certificate.
    """
    deadline = time.monotonic() + seconds
    name = target.sni if sni is None else sni
    try:
        connection = SSL.Connection(_context(svid), None)
        connection.set_connect_state()
        if name:
            connection.set_tlsext_host_name(name.encode("idna"))
    except SSL.Error as error:
        raise Refusal(TLS_FAILED, f"the handshake cannot be begun: {_reasons(error)}") from None
    except UnicodeError:
        raise Refusal(CONNECT_FAILED, f"{shown(name)} is not the name of a server") from None
    with connect(target, seconds) as stream:
        _shake_hands(connection, stream, deadline)
        found = Presented(
            _chain(connection),
            connection.get_protocol_version_name(),
            connection.get_cipher_name() or "",
            connection.get_group_name() or "",
            name,
            _refusal_afterwards(connection, stream, min(deadline, time.monotonic() + AFTERWARDS)),
        )
        _say_goodbye(connection, stream)
    return found


def _context(svid: Svid | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    negotiate(context, TLSSettings("1.2", "1.3"), server=False)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify(SSL.VERIFY_NONE)
    if svid is not None:
        context.use_certificate(svid.leaf)
        for intermediate in svid.chain[1:]:
            context.add_extra_chain_cert(intermediate)
        context.use_privatekey(svid.private_key)  # type: ignore[arg-type]  # kinds are checked where keys are read
    return context


def connect(target: Target, seconds: float) -> socket.socket:
    """
    Open a connection to carry a handshake.

    :raises Refusal: CONNECT_TIMEOUT, CONNECT_REFUSED or CONNECT_FAILED.
    """
    try:
        return _dial(target, seconds)
    except TimeoutError:
        raise Refusal(CONNECT_TIMEOUT, f"connecting to {target} took longer than {seconds:g} s") from None
    except ConnectionRefusedError:
        raise Refusal(CONNECT_REFUSED, f"{target} refused the connection") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that can be no name
        raise Refusal(CONNECT_FAILED, f"{target}: {getattr(error, 'strerror', None) or error}") from None


def _dial(target: Target, seconds: float) -> socket.socket:
    if not target.path:
        return socket.create_connection((target.host, target.port), seconds)
    stream = socket.socket(socket.AF_UNIX)
    try:
        stream.settimeout(seconds)
        stream.connect(target.path)
    except OSError:
        stream.close()
        raise
    return stream


def _shake_hands(connection: SSL.Connection, stream: socket.socket, deadline: float) -> None:
    first = True
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            _send(connection, stream)
            raise _explain(connection, error) from None
        else:
            _send(connection, stream)
            return
        _send(connection, stream)
        data = receive(stream, deadline)
        if data is None:
            raise Refusal(HANDSHAKE_TIMEOUT, "the server did not finish the TLS handshake in time")
        if not data:
            raise Refusal(HANDSHAKE_TRUNCATED, "the server closed the connection during the TLS handshake")
        if first and data[:1] not in (b"\x16", b"\x15"):
            begin = ascii(data[:16].decode("latin-1"))
            raise Refusal(PLAINTEXT_PEER, f"expected a TLS handshake record, got {begin}")
        first = False
        connection.bio_write(data)


def receive(stream: socket.socket, deadline: float) -> bytes | None:
    """What came; nothing at the end, None when the time is over. ``deadline`` is one of ``time.monotonic``."""
    left = deadline - time.monotonic()
    if left <= 0:
        return None
    stream.settimeout(left)
    try:
        return stream.recv(_READ)
    except TimeoutError:
        return None
    except OSError:
        return b""  # a reset says no more than an end


def _send(connection: SSL.Connection, stream: socket.socket) -> None:
    """Pass on what waits. That the server is gone will show when it is read from."""
    while True:
        try:
            data = connection.bio_read(_READ)
        except SSL.WantReadError:  # there is nothing more
            return
        try:
            stream.sendall(data)
        except OSError:
            return


def _explain(connection: SSL.Connection, error: SSL.Error) -> Refusal:
    reasons = _entries(error)
    text = _reasons(error)
    why = nothing_in_common(connection, reasons)
    if any("alert" in reason for reason in reasons):
        return Refusal(PEER_ALERT, f"the server sent the TLS alert {_alert(text)!r}{why}")
    return Refusal(TLS_FAILED, f"the TLS handshake failed: {text}{why}")


def _entries(error: SSL.Error) -> list[str]:
    return [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []


def _reasons(error: SSL.Error) -> str:
    return "; ".join(filter(None, _entries(error))) or str(error) or type(error).__name__


def _alert(text: str) -> str:
    return text.partition("alert ")[2] or text


def _chain(connection: SSL.Connection) -> tuple[x509.Certificate, ...]:
    presented = connection.get_peer_cert_chain()
    if not presented:
        raise Refusal(NO_CERTIFICATE, "the server presented no certificate")
    encoded = [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in presented]
    try:
        return tuple(map(x509.load_der_x509_certificate, encoded))
    except Exception as error:  # noqa: BLE001 - a stranger wrote it, and a library reads it
        reason = f"the server's certificate cannot be read: {type(error).__name__}: {shown(str(error))}"
        raise Refusal(MALFORMED_CERTIFICATE, reason) from None


def _refusal_afterwards(connection: SSL.Connection, stream: socket.socket, deadline: float) -> str:
    """In TLS 1.3 a client is through before the server has judged it: wait a moment for an alert."""
    if connection.get_protocol_version() != SSL.TLS1_3_VERSION:
        return ""
    while True:
        data = receive(stream, deadline)
        if data is None:
            return ""
        if not data:
            return "it closed the connection after the handshake without a word"
        connection.bio_write(data)
        refusal = _drain(connection.recv)
        if refusal is not None:
            return refusal


def _drain(receive: Callable[[int], bytes]) -> str | None:
    """Read and forget; the alert if there is one, nothing after a proper end, None if more may come."""
    try:
        while True:
            receive(_READ)
    except SSL.WantReadError:
        return None
    except SSL.ZeroReturnError:
        return ""
    except SSL.Error as error:
        return f"it sent the TLS alert {_alert(_reasons(error))!r} after the handshake"


def _say_goodbye(connection: SSL.Connection, stream: socket.socket) -> None:
    try:
        connection.shutdown()
    except SSL.Error:  # it is over already
        return
    _send(connection, stream)
