"""``tcpmesh svid inspect``: files, and servers that present what they like."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tcpmesh.cli.presented import Target, parse_target
from tcpmesh.testing import TestAuthority
from tests.integration.foreign import ForeignTLS
from tests.unit.crafted import dns
from tests.unit.tls_pairs import foreign_context, now_authority, now_leaf

SECONDS = 10.0  # for a server to end, when the command has ended


@attrs.frozen
class Ended:
    """A finished command."""

    status: Any
    out: str
    err: str


class Server(Thread):
    """Takes one connection, and keeps whatever came over it after the handshake."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], bytes]) -> None:
        super().__init__(daemon=True)
        self._listener = listener
        self._serve = serve
        self.received = b""

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(SECONDS)
            self.received = self._serve(connection)


class InspectCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir()
        self.authority = TestAuthority("a.test")
        self.web = self.authority.svid("/web", dns=["web.a.test"])
        self.certificate, self.key = self.authority.write_svid(self.web, self.base)

    def inspect(self, *arguments: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, ["svid", "inspect", *map(str, arguments)]).code
        return Ended(status, out.getvalue(), err.getvalue())

    def check_failed(self, ended: Ended, status: int, message: str) -> None:
        self.assertEqual((ended.status, ended.out), (status, ""))
        self.assertEqual(ended.err.splitlines()[-1], f"tcpmesh: {message}")


class FileTests(InspectCase):
    """Certificates in files."""

    def test_shows_a_good_one(self) -> None:
        """Every field that one looks for, leaf first."""
        ended = self.inspect(self.certificate)
        self.assertEqual((ended.status, ended.err), (0, ""))
        lines = ended.out.splitlines()
        self.assertEqual(
            lines[:4],
            [
                "spiffe://a.test/web",
                f"  from      {self.certificate}",
                "  leaf      O=tcpmesh",
                "            names   spiffe://a.test/web dns:web.a.test",
            ],
        )
        self.assertRegex(ended.out, r"\n            valid   20\S+Z to 20\S+Z \(60 min left\)\n")
        self.assertEqual(
            [line[:11] for line in lines if line[2] != " "][2:], ["  leaf     ", "  above    ", "  good     "]
        )

    def test_tells_programs(self) -> None:
        """The same as JSON, with codes and next steps."""
        before = TestAuthority("a.test", now=self.authority.now() - 7200)
        file, _ = before.write_svid(before.svid("/late", ttl=60), self.base, "late")
        ended = self.inspect(file, "--json")
        answer = json.loads(ended.out)
        self.assertEqual((ended.status, answer["id"], "tls" in answer), (1, "spiffe://a.test/late", False))
        (problem,) = answer["problems"]
        self.assertEqual(
            (problem["code"], problem["next"]),
            ("TM-I503", "see why the peer did not renew it; compare both clocks: tcpmesh svid inspect HOST:PORT"),
        )
        self.assertIn("expired", problem["reason"])
        self.assertEqual([len(one["sha256"]) for one in answer["certificates"]], [64, 64])

    def test_names_every_problem(self) -> None:
        """Behind the certificates, with what to do."""
        ended = self.inspect(self.authority.write_bundle(self.base / "bundle.pem"))
        self.assertEqual(ended.status, 1)
        self.assertEqual(
            ended.out.splitlines()[-2:],
            [
                "  PROBLEM   TM-I506 spiffe://a.test has no path: it names a trust domain's authority, not a workload",
                "            next: issue the certificate anew without the defects that tcpmesh svid inspect shows",
            ],
        )
        self.assertEqual(ended.out.splitlines()[0], "no SPIFFE ID")

    def test_says_what_is_no_certificate(self) -> None:
        """Status 1 for a file of something else, 2 for one that cannot be read."""
        self.check_failed(self.inspect(self.key), 1, f"{self.key}: holds a private key and no certificate")
        missing = self.base / "missing"
        self.check_failed(self.inspect(missing), 2, f"{missing}: cannot be read: No such file or directory")

    def test_refuses_options_of_servers(self) -> None:
        """Which would be ignored."""
        ended = self.inspect(self.certificate, "--sni", "a.test")
        self.check_failed(ended, 64, f"--identity and --sni are for servers; {self.certificate} is a file")


class ServerTests(InspectCase):
    """What servers present."""

    def start(self, serve: Callable[[socket.socket], bytes]) -> tuple[str, Server]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        server = Server(listener, serve)
        server.start()
        return f"127.0.0.1:{listener.getsockname()[1]}", server

    def ended(self, server: Server) -> bytes:
        server.join(SECONDS)
        self.assertFalse(server.is_alive(), "the server still waits for something")
        return server.received

    def test_shows_it_and_sends_nothing(self) -> None:
        """But the handshake and a proper end."""
        made = now_leaf(now_authority("root"))
        ends: list[bool] = []

        def serve(connection: socket.socket) -> bytes:
            stream = ForeignTLS(connection, foreign_context(made), server=True)
            stream.handshake()
            received = stream.recv(65536)
            ends.append(True)  # close_notify; a bare FIN would have raised
            return received

        address, server = self.start(serve)
        ended = self.inspect(address)
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertEqual((self.ended(server), ends), (b"", [True]))
        self.assertEqual(ended.out.splitlines()[:2], ["spiffe://a.test/web", f"  from      {address}"])
        self.assertRegex(ended.out, r"\n  tls       TLSv1\.3 TLS_\S+ \S+\n  leaf      CN=leaf\n")

    def test_asks_for_a_name(self) -> None:
        """And shows that what comes is no SVID."""
        made = now_leaf(now_authority("root"), dns("db.test"))
        asked: list[bytes | None] = []

        def serve(connection: socket.socket) -> bytes:
            context = foreign_context(made)
            context.set_tlsext_servername_callback(lambda stream: asked.append(stream.get_servername()))
            stream = ForeignTLS(connection, context, server=True)
            stream.handshake()
            return stream.recv(65536)

        address, server = self.start(serve)
        ended = self.inspect(address, "--sni", "db.test", "--json")
        self.ended(server)
        answer = json.loads(ended.out)
        self.assertEqual((ended.status, asked, answer["tls"]["sni"]), (1, [b"db.test"], "db.test"))
        self.assertEqual([problem["code"] for problem in answer["problems"]], ["TM-I501"])

    def judging(self, accept: bool, seen: list[str]) -> Callable[[socket.socket], bytes]:
        """A server that wants a certificate, and likes it or does not."""
        made = now_leaf(now_authority("root"))

        def verify(_stream: Any, certificate: Any, _error: int, _depth: int, _ok: int) -> bool:
            seen.append(certificate.get_subject().O)
            return accept

        def serve(connection: socket.socket) -> bytes:
            context = foreign_context(made)
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
            stream = ForeignTLS(connection, context, server=True)
            try:
                stream.handshake()
                return stream.recv(65536)
            except SSL.Error:
                stream._flush()
                return b""

        return serve

    def test_presents_an_identity(self) -> None:
        """That the server takes, or refuses after the handshake: TLS 1.3 has it so."""
        for accept in (True, False):
            seen: list[str] = []
            address, server = self.start(self.judging(accept, seen))
            ended = self.inspect(address, "--identity", self.certificate, self.key)
            self.ended(server)
            self.assertEqual(ended.status, 0 if accept else 1, ended.out)
            self.assertEqual(seen[-1:], ["tcpmesh"])
            problem = "  PROBLEM   TM-I403 the server refused this identity: it sent the TLS alert"
            self.assertEqual(problem in ended.out, not accept, ended.out)

    def test_says_that_a_certificate_is_wanted(self) -> None:
        """Which is no problem of the server's."""
        address, server = self.start(self.judging(True, []))
        ended = self.inspect(address)
        self.ended(server)
        self.assertEqual(ended.status, 0)
        self.assertIn("  note      it sent the TLS alert 'certificate required' after the handshake\n", ended.out)

    def test_says_why_there_was_no_handshake(self) -> None:
        """Plain text, an end, an alert."""

        def greet(connection: socket.socket) -> bytes:
            connection.sendall(b"220 ready\r\n")
            return connection.recv(65536)

        def hang_up(connection: socket.socket) -> bytes:
            return connection.recv(65536)

        def alert(connection: socket.socket) -> bytes:
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            return connection.recv(65536)

        for serve, message in [
            (greet, "TM-I402 expected a TLS handshake record, got '220 ready\\r\\n'; point the client at"),
            (hang_up, "TM-I405 the server closed the connection during the TLS handshake; read the peer's log"),
            (alert, "TM-I403 the server sent the TLS alert 'handshake failure'; perhaps nothing in common: we offer"),
        ]:
            address, server = self.start(serve)
            ended = self.inspect(address)
            self.ended(server)
            self.assertEqual((ended.status, ended.out), (2, ""))
            self.assertTrue(ended.err.startswith(f"tcpmesh: {message}"), ended.err)

    def test_says_why_there_was_no_connection(self) -> None:
        """A closed port, a name that nobody has, a socket that is not there."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        path = os.path.relpath(self.base / "none.sock")  # short enough for a socket
        for where, message in [
            (f"127.0.0.1:{port}", f"TM-U101 127.0.0.1:{port} refused the connection; "),
            (f"{'a' * 64}.invalid:1", f"TM-U104 {'a' * 64}.invalid is not the name of a server; "),
            (f"{'a' * 300}:1", f"TM-U104 '{'a' * 199}...' is not the name of a server; "),
            (f"unix:{path}", f"TM-U104 unix:{path}: No such file or directory; "),
        ]:
            ended = self.inspect(where)
            self.assertEqual((ended.status, ended.out), (2, ""))
            self.assertTrue(ended.err.startswith(f"tcpmesh: {message}"), ended.err)

    def test_connects_to_unix_sockets(self) -> None:
        """Where a name is not asked for."""
        made = now_leaf(now_authority("root"))
        path = os.path.relpath(self.base / "s")
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen()

        def serve(connection: socket.socket) -> bytes:
            tls = SSL.Connection(foreign_context(made), connection)
            connection.settimeout(None)  # else the socket would not block, as OpenSSL needs it here
            tls.set_accept_state()
            tls.do_handshake()
            try:
                return tls.recv(65536)
            except SSL.ZeroReturnError:
                return b""

        server = Server(listener, serve)
        server.start()
        ended = self.inspect(f"unix:{path}")
        self.assertEqual((ended.status, self.ended(server)), (0, b""), ended.err)

    def test_wants_a_key_that_fits(self) -> None:
        """Before anybody is connected to."""
        _, other = self.authority.write_svid(self.authority.svid("/other"), self.base, "other")
        for certificate, key, message in [
            (
                self.certificate,
                other,
                f"{self.certificate}: TM-I201 the key in {other} does not belong to this certificate",
            ),
            (self.certificate, self.certificate, f"{self.certificate}: holds a certificate and no private key"),
        ]:
            self.check_failed(self.inspect("127.0.0.1:1", "--identity", certificate, key), 1, message)


class TargetTests(SynchronousTestCase):
    """How servers are named."""

    def test_reads_addresses(self) -> None:
        """What is none is a file."""
        for text, target, sni in [
            ("db.test:443", Target("db.test", 443), "db.test"),
            ("127.0.0.1:1", Target("127.0.0.1", 1), ""),
            ("[::1]:65535", Target("::1", 65535), ""),
            ("unix:/run/s", Target("", path="/run/s"), ""),
        ]:
            found = parse_target(text)
            assert found is not None
            self.assertEqual((found, str(found), found.sni), (target, text, sni))
        for text in ("file.pem", "a:", ":1", "a:0", "a:65536", "a:99999999999", "a:x", "a:\u0661", "unix:"):
            self.assertIsNone(parse_target(text), text)
