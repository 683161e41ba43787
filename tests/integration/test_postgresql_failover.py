"""
A PostgreSQL crashes under pgbench and its standby takes over: nothing that was committed is lost or done twice.

Replication is synchronous, so that what a client was told to be committed is on the standby. What the mesh can add to
that or take from it is looked at here; the switch itself is the operator's, which is this test.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path

import attrs

from tests.integration import program
from tests.integration.field import FieldTestCase, ProxyProcess
from tests.integration.processes import PATIENCE, free_port, wait_until
from tests.integration.servers import PostgreSQL, run

WORKERS = 3
TRANSACTIONS = 25  # of one run of pgbench, which is one connection
# pgbench's own transaction, and a line that says whose it was.
SCRIPT = """\
\\set aid random(1, 100000)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = 1;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler) VALUES (:worker, 1, :aid, :delta, now(), :run);
COMMIT;
"""
# What pgbench says of a connection that broke, of a server that crashes, and of a standby that is still one.
BROKEN = (
    "server closed the connection unexpectedly|Connection reset by peer|could not (?:send|receive) data|"
    "terminating connection|the database system is|session is read-only"
)


@attrs.frozen
class Run:
    """One run of pgbench: how many commits it was told of, and whether its connection broke."""

    worker: int
    number: int
    committed: int
    broke: bool
    said: str


class Worker(threading.Thread):
    """Runs pgbench again and again."""

    def __init__(self, number: int, place: str, script: Path) -> None:
        super().__init__(daemon=True)
        self._number = number
        self._place = place
        self._script = script
        self._pgbench = program("pgbench", "postgresql")
        self.runs: list[Run] = []
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            number = len(self.runs) + 1
            variables = [f"-Dworker={self._number}", f"-Drun={number}"]
            ended: subprocess.CompletedProcess[bytes] = run(
                self._pgbench, "-n", "-c", "1", "-t", str(TRANSACTIONS), "-f", self._script, *variables, self._place,
                status=None,
            )  # fmt: skip
            counted = re.search(rb"actually processed: (\d+)/", ended.stdout)
            said = ended.stderr.decode()
            self.runs.append(Run(self._number, number, int(counted[1]) if counted else 0, ended.returncode != 0, said))


class FailoverTests(FieldTestCase):
    """A primary and a standby, each behind an inbound listener."""

    def setUp(self) -> None:
        super().setUp()
        self.primary = PostgreSQL(self, settings={"max_wal_senders": "4", "wal_level": "replica"})
        run(program("pgbench", "postgresql"), "-i", "-q", "-h", self.primary.directory, "-p", str(self.primary.port),
            "-U", "postgres", "postgres")  # fmt: skip
        self.standby = PostgreSQL(self, follows=self.primary)
        self.primary.told("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self.primary.told("SELECT pg_reload_conf()")
        wait_until(
            lambda: self.primary.told("SELECT sync_state FROM pg_stat_replication") == "sync",
            "the standby does not follow",
        )
        self.ports = [free_port(), free_port()]
        targets = (self.primary.port, self.standby.port)
        listeners = "".join(
            f'  - {{name: db{number}-in, listen: "127.0.0.1:{port}", target: "127.0.0.1:{target}", workload: orders}}\n'
            for number, (port, target) in enumerate(zip(self.ports, targets, strict=True), 1)
        )
        self.start_proxy(
            "inbound",
            self.identity("orders")
            + f"inbound:\n{listeners}"
            + "authorization: [{plugin: rules, policies: [{name: web-may, action: allow, "
            + 'from: [{ids: ["spiffe://example.org/web"]}]}]}]\n',
        )

    def start_outer(self, discovery: str) -> ProxyProcess:
        self.outbound_port = free_port()
        return self.start_proxy(
            "outbound",
            self.identity("web")
            + 'services: {orders: {expect: ["spiffe://example.org/orders"], '
            + f"discovery: {discovery}, on_removed: close, "
            + "retry: {plugin: exponential, attempts: 5, base: 1ms, max: 20ms}}}\n"
            + f'outbound: [{{name: to-orders, listen: "127.0.0.1:{self.outbound_port}", '
            + "service: orders, workload: web}]\n",
        )

    def begin(self) -> list[Worker]:
        """Put load on the service, and wait until all of it is under way."""
        script = self.directory / "script"
        script.write_text(SCRIPT)
        # A session with the standby before it takes over is one that can only read: libpq then looks elsewhere.
        place = f"host=127.0.0.1 port={self.outbound_port} user=postgres dbname=postgres sslmode=disable "
        workers = [Worker(number, place + "target_session_attrs=read-write", script) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        self.go_on(workers)
        return workers

    def go_on(self, workers: list[Worker]) -> None:
        """Wait until each of them has had another two runs without an error."""
        wanted = [sum(not run.broke for run in worker.runs) + 2 for worker in workers]
        wait_until(
            lambda: all(
                sum(not run.broke for run in worker.runs) >= least
                for worker, least in zip(workers, wanted, strict=True)
            ),
            lambda: f"they do not go on: {[worker.runs[-2:] for worker in workers]}",
        )

    def fail_over(self) -> None:
        """The primary crashes, and the standby becomes one."""
        self.primary.crash()
        self.assertEqual(self.standby.told("SELECT pg_promote(true, 60)"), "t")

    def end(self, workers: list[Worker]) -> list[Run]:
        for worker in workers:
            worker.stop = True
        for worker in workers:
            worker.join(PATIENCE)
            self.assertFalse(worker.is_alive())
        return [run for worker in workers for run in worker.runs]

    def assert_right(self, runs: list[Run], outer: ProxyProcess) -> None:
        """The books balance, every commit that was told is there once, and who met an error met a broken connection."""
        told = self.standby.told
        sums = told(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
            "(SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)"
        ).split("|")
        self.assertEqual(len(set(sums)), 1, sums)
        kept = {}
        for line in told("SELECT tid, trim(filler), count(*) FROM pgbench_history GROUP BY 1, 2").splitlines():
            worker, number, count = map(int, line.split("|"))
            kept[worker, number] = count
        for each in runs:
            count = kept.pop((each.worker, each.number), 0)
            # Of a connection that broke while it committed nobody can know.
            self.assertLessEqual(each.committed, count, each)
            self.assertLessEqual(count, each.committed + each.broke, each)
        self.assertEqual(kept, {})
        broken = [run for run in runs if run.broke]
        self.assertGreaterEqual(len(broken), 1)
        for each in broken:
            self.assertRegex(each.said, BROKEN)
        for record in outer.records("close"):
            # Of the two ends that a crash makes, FIN and RST, the kernel chooses; a refused connection carried nothing.
            if record["code"] not in ("TM-D100", "TM-D101", "TM-U114"):
                self.assertEqual((record["bytes_sent"], record["bytes_recv"]), (0, 0), record)
            if record["bytes_sent"] or record["bytes_recv"]:
                self.assertEqual(len(record.get("failures", ())), record["attempts"] - 1, record)

    def test_priorities(self) -> None:
        """The standby has the second priority: while the first one's target is down, connections go to it."""
        first, second = self.ports
        outer = self.start_outer(
            f'{{plugin: static, endpoints: ["127.0.0.1:{first}", {{address: "127.0.0.1:{second}", priority: 1}}]}}'
        )
        workers = self.begin()
        self.fail_over()
        self.go_on(workers)
        self.assert_right(self.end(workers), outer)
        last = [record for record in outer.records("close") if record["code"] == "TM-D100"][-1]
        self.assertEqual(last["dst.addr"], f"127.0.0.1:{second}")

    def test_a_file_says_where_the_primary_is(self) -> None:
        """The operator writes the standby's address into the file, and takes the dead one's out."""
        first, second = self.ports
        file = self.directory / "endpoints.yaml"
        file.write_text(json.dumps([f"127.0.0.1:{first}"]))
        outer = self.start_outer(f"{{plugin: file, path: {file}, interval: 100ms}}")
        workers = self.begin()
        self.fail_over()
        replacement = file.with_suffix(".new")
        replacement.write_text(json.dumps([f"127.0.0.1:{second}"]))
        replacement.rename(file)
        self.go_on(workers)
        self.assert_right(self.end(workers), outer)
        last = [record for record in outer.records("close") if record["code"] == "TM-D100"][-1]
        self.assertEqual((last["dst.addr"], last["attempts"]), (f"127.0.0.1:{second}", 1))
