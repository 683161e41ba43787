"""
The foreign TLS peers: programs that hold a certificate of the mesh and know nothing of it.

Each runs with its block of docs/foreign-peers.md. Seen from a test, a client is a socket whose bytes it carries to
our inbound listener, and a server hands out the socket on which the application sits that it guards.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import go_program, program, skip_or_fail
from tests.integration.envoy import OPTIONS, envoy_program
from tests.integration.field import CommandLineAuthority, authority
from tests.integration.processes import PATIENCE, accepts, free_port
from tests.integration.servers import Server, temporary_directory
from tests.integration.snippets import fill, words

__all__ = ["WITHOUT_CERTIFICATE", "Change", "ForeignClient", "ForeignServer", "changed", "issued_files", "unchanged"]

Change = Callable[[str], str]


def unchanged(text: str) -> str:
    """The configuration as the document shows it."""
    return text


def changed(pattern: str, replacement: str) -> Change:
    """A configuration in which the pattern is replaced; it must be there."""

    def change(text: str) -> str:
        result, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if not count:
            raise AssertionError(f"there is no {pattern} in\n{text}")
        return result

    return change


# What takes a client's own certificate out of its configuration.
WITHOUT_CERTIFICATE: dict[str, Change] = {
    "openssl": changed(r"-cert \S+ -cert_chain \S+ -key \S+", ""),
    "socat": changed(r"cert=[^,]+,key=[^,]+,", ""),
    "stunnel": changed(r"^(cert|key) = .*\n", ""),
    "nginx": changed(r"^ *proxy_ssl_certificate(_key)? .*\n", ""),
    "haproxy": changed(r" crt \S+", ""),
    "ghostunnel": changed(r"--cert \S+ --key \S+", "--disable-authentication"),
    "envoy": changed(r"^ *tls_certificates:\n.*\n.*\n", ""),
}


def issued_files(test: SynchronousTestCase, name: str, *dns: str, issuer: CommandLineAuthority | None = None) -> Path:
    """
    A directory with certificate.pem, key.pem and bundle.pem of a workload, and combined.pem for haproxy.

    :param issuer: who signs it instead of the mesh's authority, which stays the one that is trusted.
    """
    directory = temporary_directory(test)
    issued = (issuer or authority()).issue(name, *dns)
    for file in ("certificate.pem", "key.pem"):
        shutil.copy(issued / file, directory)
    shutil.copy(authority().bundle, directory / "bundle.pem")
    combined = directory / "combined.pem"
    combined.touch(mode=0o600)
    combined.write_bytes((issued / "certificate.pem").read_bytes() + (issued / "key.pem").read_bytes())
    return directory


class _Peer:
    """Such a program with its configuration."""

    def __init__(self, test: SynchronousTestCase, kind: str, files: Path, change: Change = unchanged) -> None:
        self.test = test
        self.kind = kind
        self.files = files
        self.change = change
        self.directory = temporary_directory(test)
        self.server: Server | None = None
        self._own_end: socket.socket | None = None

    @property
    def said(self) -> str:
        """What it wrote to its log, which for all of them is standard error or output."""
        assert self.server is not None
        return self.server.both()

    def start(self, block: str, *, wire: int, plain: int | None, listening: int | None) -> None:
        """Start it and wait until it listens, if it does."""
        text = self.change(fill(block, wire=wire, plain=plain, files=self.files))
        self.server = getattr(self, f"_{self.kind}")(text)
        if listening is not None:
            self.server.wait_until(lambda: accepts(listening), f"{self.kind} does not listen")

    def _start(self, *arguments: str | Path) -> Server:
        return Server(self.test, arguments, directory=self.directory)

    def _socat(self, text: str) -> Server:
        name, *arguments = words(text)
        return self._start(program(name, "socat"), *arguments)

    def _stunnel(self, text: str) -> Server:
        file = self.directory / "stunnel.conf"
        file.write_text(f"foreground = yes\npid =\nsyslog = no\n{text}")
        return self._start(program("stunnel", "stunnel4"), file)

    def _nginx(self, text: str) -> Server:
        file = self.directory / "nginx.conf"
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        if not module.exists():
            skip_or_fail("nginx's stream module is not installed (Debian: apt install libnginx-mod-stream)")
        frame = f"daemon off;\nmaster_process off;\npid {self.directory}/pid;\nerror_log stderr info;\nevents {{}}\n"
        file.write_text(f"load_module {module};\n{frame}stream {{\n{text}}}\n")
        return self._start(program("nginx", "libnginx-mod-stream"), "-e", "stderr", "-c", file)

    def _haproxy(self, text: str) -> Server:
        file = self.directory / "haproxy.cfg"
        times = "timeout connect 5s\ntimeout client 1m\ntimeout server 1m\n"
        file.write_text(
            f"global\nlog stderr format raw local0\ndefaults\nmode tcp\nlog global\noption tcplog\n{times}{text}"
        )
        return self._start(program("haproxy", "haproxy"), "-db", "-f", file)

    def _ghostunnel(self, text: str) -> Server:
        _name, *arguments = words(text)
        return self._start(go_program("ghostunnel"), *arguments)

    def _envoy(self, text: str) -> Server:
        file = self.directory / "envoy.yaml"
        file.write_text(text)
        return self._start(envoy_program(), *OPTIONS, "-c", file)

    def _openssl(self, text: str) -> Server:
        """Its standard input and output are one end of a socket pair, of which the test has the other."""
        name, *arguments = words(text)
        self._own_end, its_end = socket.socketpair()
        self._own_end.settimeout(PATIENCE)
        self.test.addCleanup(_wake, self._own_end)
        with its_end:
            command = [program(name, "openssl"), *arguments]
            return Server(self.test, command, directory=self.directory, standard_io=its_end)


def _wake(connection: socket.socket) -> None:
    """End whatever a thread does on the socket; its owners close it, so that its number is not reused under them."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class ForeignClient(_Peer):
    """Carries what is sent to the sockets of :meth:`connect` to an inbound listener."""

    def __init__(
        self, test: SynchronousTestCase, kind: str, files: Path, wire: int, change: Change = unchanged
    ) -> None:
        super().__init__(test, kind, files, change)
        self._wire = wire
        self._plain = None if kind == "openssl" else free_port()
        if self._plain is not None:
            self.start(f"{kind}-client", wire=wire, plain=self._plain, listening=self._plain)

    def connect(self) -> socket.socket:
        """Connect as its application would."""
        if self._plain is None:
            self.start(f"{self.kind}-client", wire=self._wire, plain=None, listening=None)
            assert self._own_end is not None
            return self._own_end
        client = socket.create_connection(("127.0.0.1", self._plain), timeout=PATIENCE)
        self.test.addCleanup(client.close)
        return client


class ForeignServer(_Peer):
    """
    Listens for TLS on ``wire`` in front of an application.

    :param application: the port of the application; s_server is its own, see :meth:`own_end`.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        kind: str,
        files: Path,
        application: int,
        change: Change = unchanged,
    ) -> None:
        super().__init__(test, kind, files, change)
        self.wire = free_port()
        self.start(
            f"{kind}-server",
            wire=self.wire,
            plain=None if kind == "openssl" else application,
            listening=self.wire,
        )

    @property
    def own_end(self) -> socket.socket | None:
        """The application's end of what s_server reads and writes; None for those that dial an application."""
        return self._own_end
