"""What two hops negotiate, read where nobody can lie about it: from the bytes between them (RFC 8446 section 4.1)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attrs import frozen

from benchmarks.peers.hops import HOST

_HANDSHAKE, _SERVER_HELLO = 22, 2
_SUPPORTED_VERSIONS, _KEY_SHARE, _PRE_SHARED_KEY = 43, 51, 41
# A ServerHello with this random asks for another key share, which costs a round trip.
_RETRY_REQUEST: Final = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")
_VERSIONS = {0x0304: "TLS 1.3", 0x0303: "TLS 1.2"}
_GROUPS = {0x001D: "X25519", 0x11EC: "X25519MLKEM768", 0x0017: "P-256", 0x0018: "P-384"}
_CIPHERS = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
}
_CHUNK: Final = 65536
_HELLO_LIMIT: Final = 65536  # bytes of a server in which its hello must have come


@frozen
class Negotiated:
    """The choice of one ServerHello; unknown numbers are shown as such."""

    version: str
    group: str
    cipher: str
    resumed: bool  # by a ticket or session of an earlier connection
    retried: bool  # after a HelloRetryRequest


class Tap:
    """Copies bytes between two ports, and keeps what each connection negotiated."""

    def __init__(self) -> None:
        self.negotiated: list[Negotiated] = []
        self._listener = socket.create_server((HOST, 0))
        self._target = 0

    def towards(self, port: int) -> int:
        """Begin to copy connections to ``port``, and give the port to connect to instead of it."""
        self._target = port
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _address = self._listener.accept()
                try:
                    far = socket.create_connection((HOST, self._target), timeout=10)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                threading.Thread(target=_copy, args=(near, far), daemon=True).start()
                threading.Thread(target=self._copy_and_read, args=(far, near), daemon=True).start()

    def _copy_and_read(self, server: socket.socket, client: socket.socket) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while len(seen) < _HELLO_LIMIT and (data := server.recv(_CHUNK)):
                seen += data
                found = server_hello(seen)
                if found:
                    self.negotiated.append(found)
                client.sendall(data)
                if found:
                    break
        _copy(server, client)


@contextmanager
def tap() -> Iterator[Tap]:
    """A tap that is closed on exit."""
    made = Tap()
    try:
        yield made
    finally:
        made.close()


def server_hello(data: bytes) -> Negotiated | None:
    """What a server's first bytes say; None while its hello is not complete among them."""
    retried = False
    for body in _handshake_records(data):
        if body[0] != _SERVER_HELLO or len(body) < 4 + int.from_bytes(body[1:4]):
            return None
        random, session_length = body[6:38], body[38]
        at = 39 + session_length
        cipher = int.from_bytes(body[at : at + 2])
        if random == _RETRY_REQUEST:
            retried = True
            continue
        extensions = dict(_extensions(body[at + 3 :]))
        version = int.from_bytes(extensions.get(_SUPPORTED_VERSIONS, body[4:6]))
        group = int.from_bytes(extensions.get(_KEY_SHARE, b"")[:2])
        return Negotiated(
            _VERSIONS.get(version, f"version {version:#06x}"),
            _GROUPS.get(group, f"group {group:#06x}"),
            _CIPHERS.get(cipher, f"cipher {cipher:#06x}"),
            _PRE_SHARED_KEY in extensions,
            retried,
        )
    return None


def _handshake_records(data: bytes) -> Iterator[bytes]:
    at = 0
    while len(data) >= at + 5:
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5])
        if len(data) < end:
            return
        if data[at] == _HANDSHAKE:
            yield data[at + 5 : end]
        at = end


def _extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 2, 2 + int.from_bytes(data[:2])
    while at < end:
        length = int.from_bytes(data[at + 2 : at + 4])
        yield int.from_bytes(data[at : at + 2]), data[at + 4 : at + 4 + length]
        at += 4 + length


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
