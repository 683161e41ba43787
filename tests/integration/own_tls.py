"""Applications with TLS of their own, behind and before the proxies, and listeners that look at their ClientHello."""

from __future__ import annotations

import socket
import ssl  # noqa: TID251  an application's own TLS, not ours
from typing import Any

from tests.integration.applications import END, Received, name_of, receive
from tests.integration.mesh import PATIENCE, Proxy
from tests.integration.refusals import RefusalTestCase

OPEN = "authorization: [{plugin: rules, policies: [{name: open, action: allow, from: [{any: unauthenticated}]}]}]\n"


class OwnTLSTestCase(RefusalTestCase):
    """``a.test`` and ``b.test`` are applications whose certificates their clients verify themselves."""

    def setUp(self) -> None:
        super().setUp()
        self.pki.issue("a", dns=("a.test", "x.a.test"))
        self.pki.issue("b", dns=("b.test",))

    def tls_application(self, name: str, answer: bytes = b"", listener: socket.socket | None = None) -> int:
        """A server with TLS: says its ``answer`` (its name) and whatever comes, up to the end; gives its port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pki.directory / f"{name}.pem", self.pki.directory / f"{name}.key")
        context.set_alpn_protocols(["own/1"])

        def serve(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(answer or name.encode())
                while data := tls.recv(65536):
                    tls.sendall(data)
                tls.unwrap()

        if listener is not None:
            self.serve(listener, serve)
            return int(listener.getsockname()[1])
        return self.application(serve)

    def client_context(self) -> ssl.SSLContext:
        """Trusts the test's authority and nobody else; the name is verified."""
        context = ssl.create_default_context(cafile=str(self.pki.bundle))
        context.set_alpn_protocols(["own/1"])
        return context

    def ask(self, port: int, name: str, say: bytes = b"hello", context: ssl.SSLContext | None = None) -> str:
        """
        Connect as a client of the application: what it said first, after an exchange. A thread's function.

        :raises ssl.SSLError: when it is not the one that is asked for.
        """
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        with connection, (context or self.client_context()).wrap_socket(connection, server_hostname=name) as tls:
            said = tls.recv(100)
            tls.sendall(say)
            received = b""
            while len(received) < len(say):
                received += tls.recv(65536)
            assert received == say, received
            assert tls.selected_alpn_protocol() == "own/1"
            assert tls.getpeercert(), "nobody was verified"
            tls.unwrap()
            return said.decode()

    def plain(self, port: int, data: bytes, *, fin: bool = False) -> Received:
        """Send bytes as they are; what comes back, up to the end. A thread's function."""
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            try:
                connection.sendall(data)
                if fin:
                    connection.shutdown(socket.SHUT_WR)
            except OSError as problem:
                return Received(0, "", name_of(problem))
            return receive(connection)

    # --- proxies

    def static(self, *ports: int) -> str:
        listed = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        return f"discovery: {{plugin: static, endpoints: [{listed}]}}"

    def start_routes(self, services: str, routes: str, *, more: str = "", top: str = "") -> Proxy:
        """
        An outbound proxy ``out`` with routes.

        :param services: the lines of the services, each in YAML's flow form.
        """
        return self.start(
            self.identity("web")
            + "services:\n"
            + "".join(f"  {line}\n" for line in services.splitlines())
            + f'outbound: [{{name: out, listen: "127.0.0.1:0", workload: web, routes: [{routes}]{more}}}]\n'
            + top
        )

    def start_passing(self, target: int, *, more: str = "", top: str = OPEN) -> Proxy:
        """An inbound proxy ``in`` that passes TLS through to a port."""
        return self.start(
            self.identity("orders")
            + f'inbound: [{{name: in, listen: "127.0.0.1:0", target: "127.0.0.1:{target}", passthrough: true{more}}}]\n'
            + top
        )


def is_end(received: Received) -> bool:
    """Whether nothing came but an orderly end."""
    return received.length == 0 and received.ending == END


def first_bytes(context: ssl.SSLContext, name: str | None) -> bytes:
    """The ClientHello that Python's TLS sends."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls: Any = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a peer")
