"""Programs with TLS of their own through passthrough routes: gRPC, OpenSSL, nginx with two names, PostgreSQL."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

from tcpmesh.codes import CLEAN, NOT_TLS
from tests.integration import program
from tests.integration.mesh import Proxy, in_thread
from tests.integration.own_tls import OwnTLSTestCase
from tests.integration.processes import ROOT, accepts, free_port
from tests.integration.servers import PostgreSQL, Server, run, temporary_directory

NGINX = """\
daemon off;
pid DIRECTORY/pid;
error_log DIRECTORY/error.log;
events {}
http {
  access_log off;
  client_body_temp_path DIRECTORY/body;
  proxy_temp_path DIRECTORY/proxy;
  fastcgi_temp_path DIRECTORY/fastcgi;
  uwsgi_temp_path DIRECTORY/uwsgi;
  scgi_temp_path DIRECTORY/scgi;
  server { listen 127.0.0.1:PORT ssl; server_name a.test; ssl_certificate A.pem; ssl_certificate_key A.key;
           location / { return 200 "this is a\\n"; } }
  server { listen 127.0.0.1:PORT ssl; server_name b.test; ssl_certificate B.pem; ssl_certificate_key B.key;
           location / { return 200 "this is b\\n"; } }
}
"""


class ProgramsTests(OwnTLSTestCase):
    """What verifies, encrypts and is named by itself, on both sides."""

    def files(self, name: str) -> tuple[Path, Path]:
        directory = self.pki.directory.absolute()
        return directory / f"{name}.pem", directory / f"{name}.key"

    def through_both(self, *ports: int) -> Proxy:
        """An outbound proxy before inbound ones that pass TLS through, one for each of a.test, b.test and so on."""
        services, routes = [], []
        for name, port in zip("ab", ports, strict=False):
            inner = self.start_passing(port)
            services.append(f"{name}: {{{self.static(inner.port('in'))}}}")
            routes.append(f'{{sni: "{name}.test", service: {name}, passthrough: true}}')
        return self.start_routes("\n".join(services), ", ".join(routes))

    async def test_grpc(self) -> None:
        """Its library on both ends: HTTP/2, unary calls and a stream over one connection."""
        certificate, key = self.files("a")
        module = [sys.executable, "-m", "tests.integration.grpc_echo"]
        server = Server(self, [*module, "serve", certificate, key], directory=ROOT)
        await in_thread(server.wait_until, lambda: "READY" in server.out, "it listens")
        outer = self.through_both(int(server.out.split()[1]))
        asking = [*module, "ask", str(outer.port("out")), "a.test", str(self.pki.bundle.absolute()), "20"]
        answer = await in_thread(lambda: run(*asking, directory=ROOT))
        self.assertEqual(answer.stdout, b"HEARD 20 answers and a stream from a.test\n")
        record = await outer.closed()
        self.assertEqual((record.sni, record.passthrough, record.dst_identity), ("a.test", True, ""))
        self.assertGreater(record.bytes_sent, 400_000)

    async def test_openssl(self) -> None:
        """s_client and s_server, which see each other's handshake and nothing else."""
        openssl = program("openssl", "openssl")
        ports = []
        for name in ("a", "b"):
            certificate, key = self.files(name)
            port = free_port()
            Server(
                self,
                [
                    *(openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate),
                    *("-cert_chain", certificate, "-key", key, "-www", "-quiet"),
                ],
                directory=Path("/"),
            )
            await in_thread(accepts, port)
            ports.append(port)
        outer = self.through_both(*ports)
        for name, other in (("a", "b"), ("b", "a")):
            client = [
                *(openssl, "s_client", "-connect", f"127.0.0.1:{outer.port('out')}", "-servername", f"{name}.test"),
                *("-CAfile", str(self.pki.bundle.absolute()), "-verify_return_error", "-brief", "-ign_eof"),
            ]
            verified = await in_thread(
                lambda c=client, n=name: run(*c, "-verify_hostname", f"{n}.test", feed=b"GET / HTTP/1.0\r\n\r\n")
            )
            self.assertIn(b"Verification: OK", verified.stderr)
            self.assertIn(b"HTTP/1.0 200 ok", verified.stdout)
            wrong = await in_thread(
                lambda c=client, o=other: run(*c, "-verify_hostname", f"{o}.test", feed=b"", status=None)
            )
            self.assertIn(b"hostname mismatch", wrong.stderr.lower())

    async def test_nginx_with_two_names_on_one_port(self) -> None:
        """curl asks one listener for both; nginx shows the certificate of each."""
        nginx, curl = program("nginx", "nginx"), program("curl", "curl")
        directory, port = temporary_directory(self), free_port()
        configuration = NGINX.replace("DIRECTORY", str(directory)).replace("PORT", str(port))
        for name in ("a", "b"):
            configuration = configuration.replace(f"{name.upper()}.pem", str(self.files(name)[0]))
            configuration = configuration.replace(f"{name.upper()}.key", str(self.files(name)[1]))
        (directory / "nginx.conf").write_text(configuration)
        Server(self, [nginx, "-e", "stderr", "-p", directory, "-c", directory / "nginx.conf"], directory=directory)
        await in_thread(accepts, port)
        inner = self.start_passing(port)
        outer = self.start_routes(
            f"site: {{{self.static(inner.port('in'))}}}", '{sni: "*.test", service: site, passthrough: true}'
        )
        where = outer.port("out")
        for count, name in enumerate(("a", "b", "a"), 1):
            host = f"{name}.test"
            answer = await in_thread(
                lambda h=host: run(
                    *(curl, "--silent", "--show-error", "--cacert", str(self.pki.bundle.absolute())),
                    *("--resolve", f"{h}:{where}:127.0.0.1", f"https://{h}:{where}/"),
                )
            )
            self.assertEqual(answer.stdout, f"this is {name}\n".encode())
            record = await outer.closed(count)
            self.assertEqual((record.code, record.sni), (CLEAN, host))

    async def test_a_client_that_starts_tls_later_is_told_what_to_do(self) -> None:
        """psql asks for TLS in a message of its own first; the log says how to change that."""
        psql = program("psql", "postgresql")
        outer = self.through_both(self.target.port)
        where = f"host=127.0.0.1 port={outer.port('out')} sslmode=require dbname=x user=x connect_timeout=10"
        ended = await in_thread(lambda: run(psql, where, "-c", "select 1", status=2))
        self.assertIn(b"error", ended.stderr)
        record = await outer.closed()
        self.assertEqual(record.code, NOT_TLS)
        self.assertIn("set sslnegotiation=direct", record.reason)
        self.assertFalse(self.target.was_dialled)

    async def test_postgresql_with_direct_tls(self) -> None:
        """From version 17 on a client can begin with its ClientHello."""
        psql = program("psql", "postgresql")
        version = re.search(rb"(\d+)\.", subprocess.run([psql, "--version"], capture_output=True, check=True).stdout)
        if version is None or int(version[1]) < 17:
            raise SkipTest("direct TLS needs PostgreSQL 17 or later: apt-get install postgresql-17")
        offered = temporary_directory(self)
        for file, kind in zip(self.files("a"), ("certificate.pem", "key.pem"), strict=True):
            (offered / kind).write_bytes(file.read_bytes())
        (offered / "key.pem").chmod(0o600)
        database = await in_thread(lambda: PostgreSQL(self, tls=offered))
        outer = self.through_both(database.port)
        where = (
            f"host=a.test hostaddr=127.0.0.1 port={outer.port('out')} dbname=postgres user=postgres "
            f"sslmode=verify-full sslrootcert={self.pki.bundle.absolute()} sslnegotiation=direct"
        )
        answer = await in_thread(lambda: run(psql, where, "-Atc", "select ssl from pg_stat_ssl"))
        self.assertEqual(answer.stdout, b"t\n")
