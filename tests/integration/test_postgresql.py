"""PostgreSQL, unchanged, through two hops that are processes of their own."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.integration import program
from tests.integration.field import FieldTestCase, authority
from tests.integration.processes import Running
from tests.integration.servers import PostgreSQL, run

COPY_BYTES = 100_000_000
LINE_BYTES = 1000


class PostgreSQLTestCase(FieldTestCase):
    """A PostgreSQL that offers its own TLS, as Debian's does, behind an inbound and an outbound proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.psql = program("psql", "postgresql")
        self.pgbench = program("pgbench", "postgresql")
        self.database = PostgreSQL(self, tls=authority().issue("postgres", "orders.example.org"))

    def start_hops(self) -> None:
        self.inner = self.start_inbound(self.database.port)
        self.outer = self.start_outbound()

    def place(self, sslmode: str = "disable", **more: str) -> str:
        """Where a client finds the database: the outbound listener, as a connection string."""
        options = {
            "host": "127.0.0.1",
            "port": str(self.outbound_port),
            "user": "postgres",
            "dbname": "postgres",
            "sslmode": sslmode,
        }
        return " ".join(f"{name}={value}" for name, value in (options | more).items())

    def ask(self, statement: str, place: str = "", *, status: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        """Run one statement with psql."""
        return run(
            self.psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", place or self.place(), "-c", statement,
            status=status,
        )  # fmt: skip

    def told(self, statement: str, place: str = "") -> str:
        """What psql printed for one statement."""
        return self.ask(statement, place).stdout.decode().strip()

    def assert_ended_by_tls(self, record: dict[str, Any]) -> None:
        """
        A session with PostgreSQL's own TLS inside has ended as such sessions do.

        Either side closes its socket without reading the other's close_notify, when that is quick enough to be there,
        and the kernel then sends a reset. So it is without a mesh; here it is passed on and recorded as what it is.
        """
        self.assertIn(record["code"], ("TM-D100", "TM-D101"), record)

    def bench(self, *options: str) -> str:
        """Run pgbench through the hops; it must not lose a transaction. Give what it printed."""
        ended = run(self.pgbench, *options, self.place())
        printed = ended.stdout.decode()
        self.assertNotIn(b"error", ended.stderr)
        self.assertNotIn(b"aborted", ended.stderr)
        if "-i" not in options:
            self.assertIn("number of failed transactions: 0 (0.000%)", printed)
        return printed


class PsqlTests(PostgreSQLTestCase):
    """Queries, with and without the server's own TLS inside the tunnel."""

    def test_answers_a_query_plain_and_with_its_own_tls_inside(self) -> None:
        """sslmode disable, prefer, require and verify-full all work; the server sees its own TLS, not the mesh's."""
        self.start_hops()
        in_use = "SELECT 6 * 7, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        verified = self.place(
            "verify-full", host="orders.example.org", hostaddr="127.0.0.1", sslrootcert=str(authority().bundle)
        )
        self.assertEqual(
            [self.told(in_use, self.place(mode)) for mode in ("disable", "prefer", "require")],
            ["42|f", "42|t", "42|t"],
        )
        self.assertEqual(self.told(in_use, verified), "42|t")
        there, here = self.inner.closed(4), self.outer.closed(4)
        for outer, inner in zip(here, there, strict=True):
            self.assert_joined(outer, inner)
            self.assertEqual((outer["alpn"], outer["tls.version"]), ("tcpmesh/1", "TLSv1.3"))
            self.assertEqual(inner["decision"], "allow")
        self.assertEqual(here[0]["code"], "TM-D100")
        for record in here[1:]:
            self.assert_ended_by_tls(record)

    def test_cancels_a_query_through_a_second_connection(self) -> None:
        """psql's Ctrl-C opens another connection for its request, and pg_cancel_backend comes from anywhere."""
        self.start_hops()
        running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)' AND state = 'active'"
        cancel = (
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity "
            "WHERE query = 'SELECT pg_sleep(300)' AND state = 'active'"
        )
        for how, sslmode in (("interrupt", "disable"), ("interrupt", "require"), ("pg_cancel_backend", "disable")):
            arguments = [self.psql, "-X", "-d", self.place(sslmode), "-c", "SELECT pg_sleep(300)"]
            sleeper = Running(self, arguments, directory=self.directory)
            sleeper.wait_until(lambda: self.told(running) == "1", "the query does not run")
            if how == "interrupt":
                sleeper.signal(signal.SIGINT)
            else:
                self.assertEqual(self.told(cancel), "1")
            self.assertEqual(sleeper.wait(), 1, sleeper.both())
            self.assertIn("canceling statement due to user request", sleeper.err)
            self.assertEqual(self.told(running), "0")
        for record in self.outer.records("close"):
            self.assert_ended_by_tls(record)

    def test_refuses_while_the_server_is_down_and_serves_when_it_is_back(self) -> None:
        """A stopped server is a reset with TM-U106 in both records, never a hang; after the restart all is well."""
        self.start_hops()
        self.ask("CREATE TABLE kept AS SELECT 'yes' AS answer")
        self.database.server.kill()
        refused = self.ask("SELECT 1", status=2)
        self.assertRegex(refused.stderr.decode(), "Connection reset by peer|server closed the connection unexpectedly")
        there = self.inner.wait_for("close", lambda record: record["code"] == "TM-U106")
        here = self.outer.wait_for("close", lambda record: record["code"] == "TM-U106")
        self.assertIn(f"TM-U101 connecting to 127.0.0.1:{self.database.port}: Connection refused", there["reason"])
        self.assertEqual((here["closed_by"], here["bytes_sent"], here["bytes_recv"]), ("proxy", 0, 0))
        self.database.start()
        self.assertEqual(self.told("SELECT answer FROM kept"), "yes")

    def test_passes_on_that_the_server_went_away(self) -> None:
        """A session that the server ends while it runs sees the server's own words and its end."""
        self.start_hops()
        sleeper = Running(
            self, [self.psql, "-X", "-d", self.place(), "-c", "SELECT pg_sleep(300)"], directory=self.directory
        )
        sleeper.wait_until(
            lambda: self.told("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") == "1",
            "the query does not run",
        )
        self.database.server.kill()
        self.assertEqual(sleeper.wait(), 2, sleeper.both())
        self.assertIn("terminating connection due to administrator command", sleeper.err)


class LoadTests(PostgreSQLTestCase):
    """Many transactions, and many bytes."""

    def test_runs_pgbench_without_an_error(self) -> None:
        """Several clients for a few seconds; the database holds exactly the transactions that pgbench counts."""
        self.start_hops()
        self.bench("-i", "-q", "-s", "2")
        printed = self.bench("-c", "4", "-j", "2", "-T", "4")
        count = re.search(r"actually processed: (\d+)", printed)
        assert count is not None
        self.assertGreater(int(count[1]), 0)
        self.assertEqual(self.told("SELECT count(*) FROM pgbench_history"), count[1])
        # With a connection for each transaction.
        printed = self.bench("-C", "-c", "4", "-j", "2", "-t", "10")
        self.assertIn("actually processed: 40/40", printed)
        for record in self.outer.records("close"):
            self.assertEqual(record["code"], "TM-D100", record)
        self.assertGreaterEqual(len(self.inner.records("close")), 40)

    def test_copies_100_mb_in_and_out_unchanged(self) -> None:
        """COPY FROM and COPY TO of 100 MB: what comes out has the SHA-256 of what went in; the bytes are counted."""
        self.start_hops()
        source, result = self.directory / "source", self.directory / "result"
        digest = _write_lines(source)
        self.ask("CREATE UNLOGGED TABLE lines (line text)")
        self.ask(f"\\copy lines FROM '{source}'")
        self.assertEqual(
            self.told("SELECT count(*), sum(length(line)) FROM lines"),
            f"{COPY_BYTES // LINE_BYTES}|{COPY_BYTES - COPY_BYTES // LINE_BYTES}",
        )
        self.ask(f"\\copy lines TO '{result}'")
        self.assertEqual(hashlib.sha256(result.read_bytes()).hexdigest(), digest)

        def sizes(record: dict[str, Any]) -> tuple[bool, bool]:
            return record["bytes_sent"] >= COPY_BYTES, record["bytes_recv"] >= COPY_BYTES

        there, here = self.inner.closed(4), self.outer.closed(4)
        self.assertEqual(
            [sizes(record) for record in here], [(False, False), (True, False), (False, False), (False, True)]
        )
        for outer, inner in zip(here, there, strict=True):
            self.assert_joined(outer, inner)


def _write_lines(path: Path) -> str:
    """Write COPY_BYTES in lines that all differ and that do not compress; give the SHA-256."""
    digest = hashlib.sha256()
    width = LINE_BYTES - 1
    with path.open("wb") as file:
        for number in range(COPY_BYTES // LINE_BYTES):
            line = hashlib.shake_128(b"%d" % number).hexdigest(width // 2 + 1)[:width].encode() + b"\n"
            file.write(line)
            digest.update(line)
    return digest.hexdigest()
