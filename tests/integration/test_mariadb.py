"""MariaDB, whose server speaks first, unchanged, through two hops that are processes of their own."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess

from tests.integration import program
from tests.integration.field import TRUST_DOMAIN, FieldTestCase, authority
from tests.integration.processes import PATIENCE
from tests.integration.servers import MariaDB, run

ROWS, VALUE_BYTES = 2000, 4000


class MariaDBTests(FieldTestCase):
    """A MariaDB behind an inbound and an outbound proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.database = MariaDB(self)
        self.inner = self.start_inbound(self.database.port)

    def client(self, *options: str, name: str = "mariadb", feed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one of MariaDB's clients through the hops."""
        place = ["--protocol=tcp", "-h", "127.0.0.1", "-P", str(self.outbound_port), "-u", "root"]
        return run(program(name, "mariadb-server"), "--no-defaults", *place, *options, feed=feed)

    def told(self, statement: str) -> str:
        """The rows that a statement gives, through the hops."""
        return self.client("-BNe", statement).stdout.decode().strip()

    def test_answers_queries(self) -> None:
        """The greeting comes first and the client answers it; both records are of one clean connection."""
        outer = self.start_outbound()
        self.assertEqual(self.told("SELECT 6 * 7, USER()"), "42\troot@127.0.0.1")
        [there], [here] = self.inner.closed(), outer.closed()
        self.assert_joined(here, there)
        self.assertEqual((here["code"], there["decision"]), ("TM-D100", "allow"))

    def test_dumps_and_restores_a_table(self) -> None:
        """8 MB of random bytes are loaded, dumped and restored through the hops; the checksums are the same."""
        outer = self.start_outbound()
        values = [os.urandom(VALUE_BYTES) for _ in range(ROWS)]
        lines = ["CREATE DATABASE one; CREATE DATABASE two; CREATE TABLE one.t (n INT PRIMARY KEY, v BLOB);"]
        lines += [f"INSERT INTO one.t VALUES ({number}, x'{value.hex()}');" for number, value in enumerate(values)]
        self.client(feed="\n".join(lines).encode())
        self.assertEqual(self.told("SELECT COUNT(*), SUM(LENGTH(v)) FROM one.t"), f"{ROWS}\t{ROWS * VALUE_BYTES}")
        dump = self.client("--hex-blob", "one", "t", name="mariadb-dump").stdout
        self.client("two", feed=dump)
        digest = hashlib.sha256(b"".join(values)).hexdigest()
        for database in ("one", "two"):
            rows = self.client("-BNe", f"SELECT HEX(v) FROM {database}.t ORDER BY n").stdout
            self.assertEqual(hashlib.sha256(bytes.fromhex(rows.decode())).hexdigest(), digest)
        one, two = (line.split()[1] for line in self.told("CHECKSUM TABLE one.t, two.t").splitlines())
        self.assertEqual(one, two)
        for record in outer.records("close"):
            self.assertEqual(record["code"], "TM-D100", record)

    def test_shows_a_denied_client_no_byte_of_the_greeting(self) -> None:
        """An identity that no rule names is reset by its proxy, and the server was never dialled."""
        outer = self.start_outbound(workload="intruder")
        before = self.attempts()
        client = socket.create_connection(("127.0.0.1", self.outbound_port), timeout=PATIENCE)
        self.addCleanup(client.close)
        self.assertRaises(ConnectionResetError, client.recv, 1)
        [there], [here] = self.inner.closed(), outer.closed()
        self.assertEqual((there["code"], here["code"]), ("TM-P102", "TM-P102"))
        self.assertEqual(there["src.identity"], f"spiffe://{TRUST_DOMAIN}/intruder")
        self.assertEqual((there["decision"], there["bytes_recv"], here["bytes_recv"]), ("deny", 0, 0))
        # The second look is itself a connection.
        self.assertEqual(self.attempts(), before + 1)

    def test_shows_a_denied_foreign_client_no_byte_of_the_greeting(self) -> None:
        """The same for a client without a proxy, whose TLS handshake is complete before the decision."""
        files = authority().issue("intruder")
        before = self.attempts()
        ended = run(
            program("openssl", "openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{self.inbound_port}",
            "-cert", files / "certificate.pem", "-cert_chain", files / "certificate.pem", "-key", files / "key.pem",
            "-CAfile", files / "bundle.pem", "-verify_return_error", status=None,
        )  # fmt: skip
        self.assertEqual(ended.stdout, b"")
        [there] = self.inner.closed()
        self.assertEqual((there["code"], there["bytes_recv"]), ("TM-P102", 0))
        self.assertEqual(there["src.identity"], f"spiffe://{TRUST_DOMAIN}/intruder")
        self.assertEqual(self.attempts(), before + 1)

    def attempts(self) -> int:
        """How many connections the server has seen, the one that asks included."""
        return int(self.database.query("SHOW GLOBAL STATUS LIKE 'Connections'").stdout.split()[1])
