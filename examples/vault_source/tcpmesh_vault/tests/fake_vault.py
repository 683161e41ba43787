"""
A server that answers as the documentation of Vault's HTTP API says: AppRole logins, and a PKI secrets engine.

It speaks TLS on loopback, checks tokens, namespaces and the role, and signs what a CSR asks for with a real authority.
A test may make it misbehave.
"""

from __future__ import annotations

import datetime
import http.server
import json
import ssl  # noqa: TID251
import sys
import threading
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from tcpmesh.identity.certificates import pem_of
from tcpmesh.testing import TestAuthority

TOKEN = "hvs.the-token-of-the-file"
ROLE_ID = "5f0a"
SECRET_ID = "the-secret-id"


@attrs.define
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeVault:
    """
    :ivar authority: signs; a test may put another one here, or among ``issuers``.
    :ivar tokens: those that are good.
    :ivar answer: when set, every request is answered with this status and body.
    :ivar drip: when set, an answer comes one byte at a time and never ends.
    """

    def __init__(self, directory: Path, namespace: str = "") -> None:
        self.authority = TestAuthority("example.test")
        self.chains: dict[str, list[x509.Certificate]] = {"default": self.chain()}
        self.namespace = namespace
        self.tokens = {TOKEN}
        self.lease = 3600
        self.logins = 0
        self.requests: list[Request] = []
        self.answer: tuple[int, bytes] | None = None
        self.drip = threading.Event()
        self.stopped = threading.Event()
        servers = TestAuthority("servers.test")
        certificate, key = servers.write_svid(servers.svid("/vault", dns=["localhost"]), directory, "vault")
        self.ca = servers.write_bundle(directory / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = _Server(("127.0.0.1", 0), _handling(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"https://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def chain(self) -> list[x509.Certificate]:
        return [self.authority.issuing.certificate, self.authority.root.certificate]

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def answer_to(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        if self.namespace and request.headers.get("x-vault-namespace", "").strip("/") != self.namespace:
            return 404, {"errors": [f"no handler for route {request.path!r}. route entry not found."]}
        if request.method == "POST" and request.path == "/v1/auth/approle/login":
            return self._log_in(request.body)
        if request.method == "GET" and request.path.startswith("/v1/pki/issuer/"):
            chain = self.chains.get(request.path.split("/")[4])
            if chain is None or not request.path.endswith("/json"):
                return 500, {"errors": [f"unable to find PKI issuer for reference: {request.path.split('/')[4]}"]}
            pem = [pem_of([each]).decode() for each in chain]
            return 200, {"data": {"certificate": pem[0], "ca_chain": pem, "issuer_name": ""}}
        # Without a good token Vault does not even say that it knows no such path.
        if request.headers.get("x-vault-token") not in self.tokens:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if request.method != "POST" or request.path != "/v1/pki/sign/mesh":
            return 404, {"errors": [f"no handler for route {request.path!r}. route entry not found."]}
        return self._sign(request.body)

    def _log_in(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body != {"role_id": ROLE_ID, "secret_id": SECRET_ID}:
            return 400, {"errors": ["invalid role or secret ID"]}
        self.logins += 1
        token = f"hvs.login-{self.logins}"
        self.tokens.add(token)
        return 200, {"auth": {"client_token": token, "lease_duration": self.lease, "renewable": True}}

    def _sign(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        csr = x509.load_pem_x509_csr(body["csr"].encode())
        assert csr.is_signature_valid, "a CSR proves that its sender has the key"
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        for uri in names.value.get_values_for_type(x509.UniformResourceIdentifier):
            if not uri.startswith("spiffe://example.test/") or uri.endswith("/forbidden"):
                return 400, {"errors": [f"URI Subject Alternative Names {uri} not allowed by this role"]}
        issuing = self.authority.issuing
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(csr.subject)
            .issuer_name(issuing.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(seconds=30))
            .not_valid_after(now + datetime.timedelta(seconds=int(body["ttl"].removesuffix("s"))))
            .add_extension(names.value, critical=True)
            .add_extension(x509.KeyUsage(True, False, True, False, True, False, False, False, False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.private_key.public_key()), False)
            .sign(issuing.private_key, SHA256())
        )
        pem = [pem_of([each]).decode() for each in self.chain()]
        return 200, {"data": {"certificate": pem_of([certificate]).decode(), "issuing_ca": pem[0], "ca_chain": pem}}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust the certificate, or has gone, is what some tests are about."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _handling(vault: FakeVault) -> type[http.server.BaseHTTPRequestHandler]:
    class Answering(http.server.BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            self.give()

        def do_POST(self) -> None:
            self.give()

        def give(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            vault.requests.append(request)
            if vault.answer is not None:
                status, data = vault.answer
            else:
                status, answer = vault.answer_to(request)
                data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Location", "https://evil.example.test/")
            self.end_headers()
            if vault.drip.is_set():
                self._drip()
            else:
                self.wfile.write(data)

        def _drip(self) -> None:
            try:
                while not vault.stopped.is_set():
                    self.wfile.write(b" ")
                    vault.stopped.wait(0.05)
            except OSError:
                return  # the client has gone

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    return Answering
