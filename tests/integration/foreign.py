"""Peers that are no tcpmesh: plain pyOpenSSL on a blocking socket, which can end a connection in every wrong way."""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EPROTO
from typing import Any

from OpenSSL import SSL

from tests.integration.mesh import MeshTestCase, Pki


class TruncatedError(OSError):
    """FIN came without close_notify; its errno (EPROTO) is what ``receive`` reports."""

    def __init__(self) -> None:
        super().__init__(EPROTO, "FIN without close_notify")


TRUNCATED = "EPROTO"


class ForeignTLS:
    """A blocking TLS connection: ``recv`` gives b"" at close_notify and raises TruncatedError at a bare FIN."""

    def __init__(self, connection: socket.socket, context: SSL.Context, *, server: bool) -> None:
        self.socket = connection
        # Else a small write waits in the kernel, and a reset behind it destroys it.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.piece = 65536  # the most that one write carries
        self.tls = SSL.Connection(context, None)
        if server:
            self.tls.set_accept_state()
        else:
            self.tls.set_connect_state()

    def handshake(self) -> None:
        """:raises SSL.Error: at an alert. :raises TruncatedError: at FIN."""
        self._until_done(self.tls.do_handshake)
        self._flush()

    def recv(self, size: int) -> bytes:
        """Receive payload; an alert is an SSL.Error."""
        try:
            return bytes(self._until_done(self.tls.recv, size))
        except SSL.ZeroReturnError:
            return b""

    def sendall(self, data: bytes) -> None:
        """Send payload."""
        view = memoryview(data)
        while view:
            view = view[self.tls.send(view[:16384]) :]
            self._flush()

    def close_notify(self) -> None:
        """End our direction as TLS wants it, without FIN."""
        self.tls.shutdown()
        self._flush()

    def fin(self) -> None:
        """End the TCP stream, whatever TLS thinks."""
        self.socket.shutdown(socket.SHUT_WR)

    def _until_done(self, step: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            try:
                return step(*arguments)
            except SSL.WantReadError:
                self._flush()
                data = self.socket.recv(65536)
                if not data:
                    raise TruncatedError from None
                self.tls.bio_write(data)
            except SSL.ZeroReturnError:
                raise
            except SSL.Error:
                self._flush()  # the alert that says why
                raise

    def _flush(self) -> None:
        try:
            while True:
                self.socket.sendall(self.tls.bio_read(self.piece))
        except SSL.WantReadError:
            return


def foreign_context(pki: Pki, name: str, *, trust: Pki | None = None) -> SSL.Context:
    """Certificate and key of a workload; the peer's certificate is demanded and verified."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate_chain_file(str(pki.directory / f"{name}.pem"))
    context.use_privatekey_file(str(pki.directory / f"{name}.key"))
    context.load_verify_locations(str((trust or pki).bundle))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def hello(client: ForeignTLS) -> bytes:
    """The handshake, a word and its echo, then the end."""
    client.handshake()
    client.sendall(b"hello")
    received = client.recv(100)
    client.close_notify()
    while client.recv(100):
        pass
    client.fin()
    return received


class ForeignTestCase(MeshTestCase):
    """Has foreign peers on either side."""

    def foreign_client(self, port: int, name: str = "web") -> ForeignTLS:
        """Connect to an inbound listener; the handshake is the test's."""
        return ForeignTLS(self.connect(port), foreign_context(self.pki, name), server=False)

    def foreign_server(
        self, serve: Callable[[ForeignTLS], Any], name: str = "orders", *, trust: Pki | None = None, alpn: bytes = b""
    ) -> int:
        """
        Listen and run ``serve`` in a thread for each connection, after the handshake; give the port.

        :param alpn: what the server chooses, whatever it is offered.
        """
        context = foreign_context(self.pki, name, trust=trust)
        if alpn:
            context.set_alpn_select_callback(lambda _connection, _offered: alpn)

        def run(connection: socket.socket) -> None:
            peer = ForeignTLS(connection, context, server=True)
            try:
                peer.handshake()
            except SSL.Error:
                return  # a failed handshake is seen in the proxy's record
            serve(peer)

        return self.application(run)
