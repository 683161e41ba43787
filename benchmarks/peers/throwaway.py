"""What a trial needs around a peer: certificates that are forgotten afterwards, and an application that echoes."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.base import CLIENT_ID, SERVER_ID, SERVER_NAME, Credentials
from benchmarks.peers.hops import HOST
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.testing import TestAuthority

_TTL = 12 * 3600.0  # seconds; longer than anybody measures


class ThrowawayCertificates:
    """`benchmarks.peers.base.Certificates` of an authority of its own, and certificates that nobody should accept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = TestAuthority(SpiffeId.parse(SERVER_ID).trust_domain)
        self.bundle = self._authority.write_bundle(directory / "bundle.pem")
        self.client = self._credentials("client")
        self.server = self._credentials("server")
        self.reissue()
        # The right names, from somebody whom nobody trusts; and a trusted certificate of somebody else.
        self.stranger = self._credentials("stranger")
        _write(self.stranger, TestAuthority(self._authority.trust_domain), SERVER_ID, SERVER_NAME)
        self.other = self._credentials("other")
        _write(self.other, self._authority, str(self._authority.trust_domain.id) + "/other", "other.test")

    def reissue(self) -> None:
        """Replace both certificates and keys."""
        _write(self.client, self._authority, CLIENT_ID, SERVER_NAME)
        _write(self.server, self._authority, SERVER_ID, SERVER_NAME)

    def _credentials(self, name: str) -> Credentials:
        return Credentials(*(self._directory / f"{name}.{suffix}" for suffix in ("pem", "key", "both.pem")))


def _write(credentials: Credentials, authority: TestAuthority, spiffe_id: str, dns: str) -> None:
    directory = credentials.certificate.parent
    certificate, key = authority.write_svid(authority.svid(spiffe_id, ttl=_TTL, dns=[dns]), directory, "new")
    combined = directory / "new.both.pem"
    combined.touch(mode=0o600)
    combined.write_bytes(certificate.read_bytes() + key.read_bytes())
    for source, target in (
        (certificate, credentials.certificate),
        (key, credentials.key),
        (combined, credentials.combined),
    ):
        source.replace(target)


@contextmanager
def echo() -> Iterator[int]:
    """The port of an application that sends back what it is sent."""
    with _application(_echo) as port:
        yield port


@contextmanager
def counting() -> Iterator[int]:
    """The port of an application that reads to the end, and then answers how many bytes there were."""
    with _application(_count) as port:
        yield port


def round_trip(port: int, timeout: float = 10.0) -> None:
    """Send some bytes to an echoing application behind the port, and get them back.

    :raises OSError: when the connection breaks or ends before, or takes longer than ``timeout`` seconds.
    """
    message = os.urandom(64)
    with socket.create_connection((HOST, port), timeout=timeout) as connection:
        connection.sendall(message)
        answer = b""
        while len(answer) < len(message):
            data = connection.recv(len(message))
            if not data:
                raise ConnectionError(f"ended after {len(answer)} of {len(message)} bytes")
            answer += data
    if answer != message:
        raise ConnectionError("other bytes came back than were sent")


def answer_after_end(port: int, timeout: float = 10.0) -> bytes:
    """Send 64 bytes to a counting application behind the port, end, and give its answer.

    :raises OSError: when the connection breaks, or takes longer than ``timeout`` seconds.
    """
    with socket.create_connection((HOST, port), timeout=timeout) as connection:
        connection.sendall(bytes(64))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(64), b""))


@contextmanager
def _application(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _address = listener.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:  # what became of it is seen at the other end
            serve(connection)

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def _count(connection: socket.socket) -> None:
    total = 0
    while data := connection.recv(65536):
        total += len(data)
    connection.sendall(str(total).encode())
