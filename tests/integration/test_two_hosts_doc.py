"""docs/two-hosts.md, done as it says: each machine is a network namespace, and between the two is a wire."""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import documents
from tests.documents import ROOT, Block
from tests.integration import go_program, program
from tests.integration.namespaces import Machine, connect, needs_namespaces
from tests.integration.processes import TWISTD, wait_until
from tests.integration.servers import PostgreSQL, Server, run, temporary_directory
from tests.integration.terminal import INTERRUPT, Terminal

DOCUMENT = (ROOT / "docs" / "two-hosts.md").read_text()
WITH_FILES, _, WITH_SPIRE = DOCUMENT.partition("\n# The same with SPIRE\n")
ADDRESSES = {"db": "192.0.2.10", "web": "192.0.2.20"}
# Copies to another machine: its last argument is HOST.shop.example:, whose directory lies beside this one's.
SCP = """#!/bin/sh
set -e
test "$1" = -pr
exec cp -pr "$2" "$MACHINES/${3%%.*}/"
"""


class TwoHostsTestCase(SynchronousTestCase):
    """Two machines, of which one has a PostgreSQL."""

    def setUp(self) -> None:
        needs_namespaces()
        self.database = PostgreSQL(self)
        self.psql = program("psql", "postgresql")
        place = ["-h", str(self.database.directory), "-p", str(self.database.port), "-U", "postgres", "-d", "postgres"]
        run(self.psql, "-X", *place, "-c", "CREATE ROLE app LOGIN")
        self.directory = temporary_directory(self)
        self.machines = {name: Machine(self, name, self.directory) for name in ADDRESSES}
        self.connect()
        self.start_database()
        self.environment = self.make_environment()
        self.terminals: dict[str, Terminal] = {}

    def connect(self) -> None:
        """A wire between the two, and their addresses."""
        db, web = self.machines.values()
        connect(db, web, *ADDRESSES.values())

    def start_database(self) -> None:
        """PostgreSQL on 127.0.0.1:5432 of its machine, by way of its unix socket, which is in no namespace."""
        where = f"UNIX-CONNECT:{self.database.directory}/.s.PGSQL.{self.database.port}"
        relay = [program("socat", "socat"), "TCP-LISTEN:5432,bind=127.0.0.1,fork,reuseaddr", where]
        db = self.machines["db"]
        Server(self, [*db.enter, *relay], directory=self.directory)
        ready = [*db.enter, program("pg_isready", "postgresql"), "-h", "127.0.0.1"]
        wait_until(lambda: run(*ready, status=None).returncode == 0, "PostgreSQL does not answer on its machine")

    def make_environment(self) -> dict[str, str]:
        tools = self.directory / "tools"
        tools.mkdir()
        (tools / "scp").write_text(SCP)
        (tools / "scp").chmod(0o755)
        programs = [TWISTD[1], self.psql, *self.more_programs()]
        path = [str(tools), *(str(Path(each).parent) for each in programs), os.environ["PATH"]]
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TCPMESH_", "PG"))},
            "PATH": os.pathsep.join(path),
            "MACHINES": str(self.directory),
            "PSQLRC": os.devnull,
            "LC_ALL": "C",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    def more_programs(self) -> list[str]:
        """What else has to be on the path."""
        return []

    def do(self, text: str) -> None:
        """Every block in its order, on its machine."""
        output = ""
        for block in documents.blocks(text):
            machine = self.machines.get(block.words.get("on", ""))
            if machine and "file" in block.words:
                (machine.directory / block.words["file"]).write_text(block.text)
            elif machine and "terminal" in block.words:
                self.open_terminal(machine, block)
            elif machine:
                self.assertEqual(block.language, "sh")
                output = self.type(machine, block)
            elif "terminal" in block.words:
                terminal = self.terminals[block.words["terminal"]]
                terminal.wait_until(
                    lambda terminal=terminal, block=block: block.text.strip() in terminal.text, block.text
                )
            else:
                self.assertEqual((block.language, output), ("console", block.text))

    def open_terminal(self, machine: Machine, block: Block) -> None:
        command = f"{' '.join(machine.enter)} {block.text}"
        terminal = Terminal(self, command, directory=machine.directory, environment=self.environment)
        self.terminals[block.words["terminal"]] = terminal
        if "tcpmesh run " in block.text:
            terminal.wait_until(lambda: re.search(r"INFO +admin ", terminal.text), "the proxy has not started")
        elif block.text.startswith("spire-"):
            started = re.compile("Starting (Server|agent) APIs")
            terminal.wait_until(lambda: started.search(terminal.text), "SPIRE has not started")
        else:
            self.wait_for_session()

    def wait_for_session(self) -> None:
        """The session's connection is open in both proxies."""
        for name in ("web", "db"):
            self.terminals[name].wait_until(
                lambda name=name: self.terminals[name].text.count("OPEN ") == 2, "no session"
            )

    def type(self, machine: Machine, block: Block) -> str:
        command = [*machine.enter, "sh", "-e", "-c", block.text]
        return run(*command, directory=machine.directory, environment=self.environment).stdout.decode()


class FilesTests(TwoHostsTestCase):
    """With certificates in files."""

    def test_does_what_it_says(self) -> None:
        """The renewal is taken and touches no session."""
        self.do(WITH_FILES)
        self.assertEqual(sorted(self.terminals), ["client", "db", "web"])
        self.assert_renewed()

    def assert_renewed(self) -> None:
        """Each proxy took its new certificate, and the session of before ends only when its user ends it."""
        for name in ("db", "web"):
            terminal = self.terminals[name]
            serial = run(
                program("openssl", "openssl"), "x509", "-noout", "-serial",
                "-in", self.machines[name].directory / name / "certificate.pem",
            ).stdout.decode().strip().partition("=")[2].lower().lstrip("0")  # fmt: skip
            said = re.compile(rf"workload {name}: the certificate in \S+ is in use now, serial 0*{serial}")
            terminal.wait_until(lambda terminal=terminal, said=said: said.search(terminal.text), said.pattern)
            self.assertNotIn("STALE", terminal.text)
        client = self.terminals["client"]
        self.assertIsNone(client.process.poll(), client.text)
        client.type(INTERRUPT)
        self.assertEqual(client.wait(), 1, client.text)
        self.assertIn("canceling statement due to user request", client.text)


class SpireTests(TwoHostsTestCase):
    """With a real SPIRE."""

    def setUp(self) -> None:
        self.spire = [go_program("spire-server"), go_program("spire-agent")]
        super().setUp()

    def more_programs(self) -> list[str]:
        return self.spire

    def test_does_what_it_says(self) -> None:
        """A connection from one to the other, and none when its entry is gone."""
        self.do(WITH_SPIRE)
        self.assertEqual(sorted(self.terminals), ["db", "db-agent", "spire-server", "web", "web-agent"])
        self.assertIn("TM-I104", self.terminals["web"].text)
