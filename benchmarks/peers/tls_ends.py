"""Stand-ins for one hop, to see what the other one lets pass: a TLS client and a TLS server of choice."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from OpenSSL import SSL

from benchmarks.peers.base import Credentials
from benchmarks.peers.hops import HOST

_PATIENCE: Final = 10  # seconds
# pyOpenSSL wants a blocking socket, so that the kernel has to keep the time.
_TIMEOUT: Final = struct.pack("@ll", _PATIENCE, 0)


class Refused(Exception):
    """The other side broke off."""


def tls_round_trip(port: int, own: Credentials | None, bundle: Path) -> int:
    """Send bytes to an echoing application behind a TLS server, get them back, and give the server's serial number.

    :param own: the client's certificate; None to show none.
    :raises Refused: when the server breaks off.
    """
    message = os.urandom(64)
    with socket.create_connection((HOST, port), timeout=_PATIENCE) as plain:
        _keep_time(plain)
        connection = SSL.Connection(_context(own, bundle), plain)
        connection.set_connect_state()
        try:
            connection.do_handshake()
            connection.sendall(message)
            answer = b""
            while len(answer) < len(message):
                answer += connection.recv(len(message))
        except SSL.WantReadError:
            raise TimeoutError(f"no answer within {_PATIENCE} s") from None
        except (SSL.Error, ConnectionError) as error:
            # With TLS 1.3 the judgement about the client arrives only after its handshake is done.
            raise Refused(str(error) or type(error).__name__) from None
        certificate = connection.get_peer_certificate(as_cryptography=True)
    if answer != message or certificate is None:
        raise ConnectionError("other bytes came back than were sent")
    return certificate.serial_number


class StandIn:
    """An echoing TLS server that demands a certificate and keeps what clients showed and sent."""

    def __init__(self, own: Credentials, bundle: Path) -> None:
        self.clients: list[int] = []  # the serial numbers of their certificates, in order
        self.received = 0  # bytes
        self._context = _context(own, bundle)
        self._listener = socket.create_server((HOST, 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def instead_of(self, _port: int) -> int:
        """Where to connect instead of that port."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                plain, _address = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        _keep_time(plain)
        connection = SSL.Connection(self._context, plain)
        connection.set_accept_state()
        # Every end is an end here; what came of it is seen at the first hop.
        with contextlib.suppress(SSL.Error, OSError), plain:
            connection.do_handshake()
            certificate = connection.get_peer_certificate(as_cryptography=True)
            if certificate is None:
                return
            self.clients.append(certificate.serial_number)
            while data := connection.recv(65536):
                self.received += len(data)
                connection.sendall(data)


@contextmanager
def stand_in(own: Credentials, bundle: Path) -> Iterator[StandIn]:
    """A stand-in for the second hop that is closed on exit."""
    made = StandIn(own, bundle)
    try:
        yield made
    finally:
        made.close()


def _context(own: Credentials | None, bundle: Path) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.load_verify_locations(str(bundle))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    if own is not None:
        context.use_certificate_chain_file(str(own.certificate))
        context.use_privatekey_file(str(own.key))
    return context


def _keep_time(plain: socket.socket) -> None:
    plain.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        plain.setsockopt(socket.SOL_SOCKET, option, _TIMEOUT)
