"""The README and the documentation, done as they say: the tour's files, commands and outputs, and what they name."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import entry, main
from tests import documents
from tests.documents import ROOT, Block
from tests.integration import program
from tests.integration.processes import TWISTD, free_port, wait_until
from tests.integration.servers import PostgreSQL, run, temporary_directory
from tests.integration.terminal import INTERRUPT, Terminal

README = (ROOT / "README.md").read_text()
TOUR = documents.section(README, "Five minutes with PostgreSQL")
DATABASE_PORT = "5432"
TOUR_DIRECTORY = "/tmp/tour"  # where the README's output was made

# What differs from run to run in what is shown; everything else must be as the README shows it.
VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\(in [\w ]+\)", "(in SPAN)"),
    (r"\bafter=\S+", "after=SPAN"),
    (r"\bSHA-256 [0-9a-f]+", "SHA-256 HEX"),
    (r"\bconn([= ])[0-9a-f]{16}\b", r"conn\1HEX"),
    (r"\b(sent|received)=\d+", r"\1=BYTES"),
    (r"\bby=(src|dst)\b", "by=SIDE"),  # psql and PostgreSQL close at the same time
    (r"\b\d+ B\b", "BYTES"),
    (r" \d+s ", " SPAN "),
    (r"\btcpmesh +\d\S*,", "tcpmesh VERSION,"),
    (r"\bOpenSSL \d.*", "OpenSSL VERSION"),
    # psql says one or the other, depending on how soon the reset comes.
    (r"failed: (Connection reset by peer|server closed the connection unexpectedly)", "failed: RESET"),
)
MAY_BE_MISSING = ("This probably means the server terminated abnormally", "before or while processing the request.")


class TourTests(SynchronousTestCase):
    """
    The tour with a real PostgreSQL, in a directory and on ports of its own.

    Every port that its configurations name is replaced by a free one wherever it stands, PostgreSQL's by that of the
    test's own server; nothing has to stay as it is. What is shown is compared with the ports put back.
    """

    def setUp(self) -> None:
        self.database = PostgreSQL(self)
        self.psql = program("psql", "postgresql")
        self.as_administrator("CREATE ROLE app LOGIN")
        self.as_administrator("ALTER SYSTEM SET log_connections = on")
        self.as_administrator("SELECT pg_reload_conf()")
        wait_until(lambda: "on" in self.as_administrator("SHOW log_connections"), "the setting is not in effect")
        self.directory = temporary_directory(self)
        configurations = "".join(block.text for block in documents.blocks(TOUR) if block.language == "yaml")
        named = dict.fromkeys(re.findall(r"127\.0\.0\.1:(\d+)", configurations))
        self.ports = {port: str(free_port()) for port in named} | {DATABASE_PORT: str(self.database.port)}
        self.assertGreaterEqual(len(self.ports), 4)
        scripts = str(Path(TWISTD[1]).parent)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TCPMESH_", "PG"))},
            "PATH": f"{scripts}{os.pathsep}{Path(self.psql).parent}{os.pathsep}{os.environ['PATH']}",
            "PSQLRC": os.devnull,
            "LC_ALL": "C",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self.terminals: dict[str, Terminal] = {}
        self.looked: dict[str, int] = {}  # how many lines of a terminal the README has shown

    def as_administrator(self, statement: str) -> str:
        """Ask PostgreSQL over its unix socket, past the mesh."""
        place = ["-h", str(self.database.directory), "-p", str(self.database.port), "-U", "postgres", "-d", "postgres"]
        return run(self.psql, "-X", "-A", "-t", *place, "-c", statement).stdout.decode()

    def dialled(self) -> int:
        """How many connections over TCP PostgreSQL has heard of."""
        return self.database.server.err.count("connection received: host=127.0.0.1")

    def ours(self, text: str) -> str:
        """The README's text with this test's ports."""
        return re.sub(rf"\b({'|'.join(self.ports)})\b", lambda match: self.ports[match[1]], text)

    def shape(self, text: str) -> list[str]:
        """The lines of an output, without what differs from run to run."""
        back = {ours: named for named, ours in self.ports.items()}
        text = re.sub(rf"\b({'|'.join(back)})\b", lambda match: back[match[1]], text)
        text = text.replace(str(self.directory), TOUR_DIRECTORY)
        text = re.sub(rf"\b127\.0\.0\.1:(?!(?:{'|'.join(self.ports)})\b)\d+", "127.0.0.1:PORT", text)
        for pattern, word in VARYING:
            text = re.sub(pattern, word, text)
        lines = [" ".join(line.split()) for line in text.splitlines()]
        return [line for line in lines if line and line not in MAY_BE_MISSING]

    def test_does_what_it_says(self) -> None:
        """Every block in its order; what is shown is what the README shows, and everything ends well."""
        output: list[str] = []  # of the commands since the last block that shows output
        for block in documents.blocks(TOUR):
            if "file" in block.words:
                (self.directory / block.words["file"]).write_text(self.ours(block.text))
            elif block.language == "sh" and "terminal" in block.words:
                self.open_terminal(block)
            elif block.language == "sh":
                output += self.type(block)
            elif "terminal" in block.words:
                self.assert_shown(block)
            else:
                self.assertEqual((block.language, output), ("console", self.shape(block.text)))
                output = []
        self.assertEqual(sorted(self.terminals), ["client", "db", "web"])
        self.assertEqual(self.dialled(), 2, "PostgreSQL hears of those who are allowed, and of nobody else")
        self.assert_ends_well()
        self.assert_joined()

    def open_terminal(self, block: Block) -> None:
        terminal = Terminal(self, self.ours(block.text), directory=self.directory, environment=self.environment)
        self.terminals[block.words["terminal"]] = terminal
        if block.text.startswith("tcpmesh run "):
            terminal.wait_until(lambda: re.search(r"INFO +admin ", terminal.text), "the proxy has not started")

    def type(self, block: Block) -> list[str]:
        """Run what a block says, wait for its end, and give the lines that it wrote."""
        status = int(block.words.get("status", "0"))
        written: list[str] = []

        def asked_about_something() -> bool:
            command = ("sh", "-e", "-c", self.ours(block.text))
            ended = run(*command, directory=self.directory, environment=self.environment, status=status)
            written[:] = self.shape((ended.stdout + ended.stderr).decode())
            return written != ["no connections"]

        # What a proxy is asked about may have begun just now; then it is asked again.
        wait_until(asked_about_something, f"{block.text} shows nothing")
        return written if not block.text.startswith("tcpmesh ca ") else []  # which the README does not show

    def assert_shown(self, block: Block) -> None:
        """A terminal shows these lines, in this order, after those that the README has shown of it."""
        name = block.words["terminal"]
        terminal = self.terminals[name]
        wanted = self.shape(block.text)

        def end() -> int:
            """The line after the last one that is wanted; 0 while one is missing."""
            lines = self.shape(terminal.text)
            at = self.looked.get(name, 0)
            for line in wanted:
                if line not in lines[at:]:
                    return 0
                at = lines.index(line, at) + 1
            return at

        terminal.wait_until(end, "\n".join(["the README shows", *wanted, "the terminal", *self.shape(terminal.text)]))
        self.looked[name] = end()

    def assert_ends_well(self) -> None:
        """Ctrl-C ends each, with status 0 where every connection has finished."""
        client, web, db = (self.terminals[name] for name in ("client", "web", "db"))
        client.type(INTERRUPT)
        self.assertEqual(client.wait(), 1, client.text)
        self.assertIn("canceling statement due to user request", client.text)
        for proxy in (web, db):
            # Two sessions, and the connection that psql made to have its query cancelled.
            proxy.wait_until(lambda proxy=proxy: proxy.text.count("CLOSE  #") == 3, "a connection has not ended")
            proxy.type(INTERRUPT)
            self.assertEqual(proxy.wait(), 0, proxy.text)
            self.assertNotIn("Traceback", proxy.text)

    def assert_joined(self) -> None:
        """Both proxies give each connection the same ``conn``."""
        joined = [re.findall(r"\bconn=([0-9a-f]{16})\b", self.terminals[name].text) for name in ("web", "db")]
        self.assertEqual(len(joined[0]), 4)
        self.assertEqual(*joined)


class CommandTests(SynchronousTestCase):
    """What the documentation says to type."""

    def answer(self, words: list[str]) -> str:
        """What ``tcpmesh WORDS --help`` prints; it must end well."""
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        ended = self.assertRaises(SystemExit, main, [*words, "--help"])
        self.assertEqual((ended.code, err.getvalue()), (0, ""), words)
        return out.getvalue()

    def path(self, words: list[str]) -> list[str]:
        """The command and subcommands that the words begin with."""
        command: click.Command | None = entry
        found: list[str] = []
        for word in words:
            if not isinstance(command, click.Group) or word.startswith("-"):
                break
            command = command.get_command(click.Context(command), word)
            self.assertIsNotNone(command, f"there is no command {' '.join(['tcpmesh', *found, word])}")
            found.append(word)
        return found

    def test_every_command_and_option_exists(self) -> None:
        """Each can be asked for help, and its help names the options that the documentation gives it."""
        seen = set()
        for document in documents.documents():
            for words in documents.commands(document.read_text(), "tcpmesh"):
                path = self.path(words)
                help_text = self.answer(path)
                for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                    self.assertIn(option, help_text, f"{document.name}: tcpmesh {' '.join(words)}")
                seen.add(" ".join(path))
        expected = {"run", "check", "connections", "version", "plugins", "plugins new", "plugins test"}
        expected |= {"ca init", "ca issue", "ca show", "identity map", "identity reload", "identity resolve"}
        expected |= {"ca prepare", "ca activate", "ca taint", "ca revoke", "ca audit"}
        expected |= {"explain", "policy test", "policy diff", "policy report"}
        expected |= {"svid inspect", "bundle diff", "identity check", "identity show", "policy reload", "policy import"}
        expected |= {"endpoints"}
        self.assertEqual(expected, seen - {""})

    def test_every_target_of_make_exists(self) -> None:
        """``make X`` has a rule."""
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = {words[0] for words in documents.commands(README, "make") if words}
        self.assertEqual({"run", "test", "check"} - named, set())
        self.assertEqual(named - targets, set())


class ReferenceTests(SynchronousTestCase):
    """What the documentation refers to."""

    def test_every_link_within_the_project_resolves(self) -> None:
        """Files exist, and headings that are linked to."""
        seen = 0
        for document in documents.documents():
            for link in documents.links(document.read_text()):
                if re.match(r"[a-z]+:", link):
                    continue
                path, _, anchor = link.partition("#")
                target = document.parent / path if path else document
                self.assertTrue(target.exists(), f"{document.name}: {link}")
                if anchor:
                    self.assertIn(anchor, documents.anchors(target.read_text()), f"{document.name}: {link}")
                seen += 1
        self.assertGreater(seen, 10)

    def test_the_readme_leads_to_every_document(self) -> None:
        """A page that nothing links to is not read."""
        linked = set(documents.links(README))
        pages = {str(page.relative_to(ROOT)) for page in documents.documents()} - {"README.md"}
        self.assertEqual(pages - linked, set())

    def test_every_configuration_can_be_used(self) -> None:
        """
        ``tcpmesh check`` accepts each YAML block.

        But for those that are marked as somebody else's to fill: by a bare name behind the fence, or by a comment
        ``file: NAME`` before it; the tests of their documents use them.
        """
        checked = 0
        directory = temporary_directory(self)
        for document in documents.documents():
            for block in documents.blocks(document.read_text()):
                marked = "" in block.words.values() or block.comment.startswith("file: ")
                if block.language not in ("yaml", "yml") or marked:
                    continue
                file = directory / "tcpmesh.yaml"
                file.write_text(block.text)
                where = f"{document.name}:{block.line}"
                command = [sys.executable, "-m", "tcpmesh", "check", file]
                # Where an agent is may be said by the environment.
                agent = {"SPIFFE_ENDPOINT_SOCKET": "unix:///run/spire/agent.sock"}
                ended = run(*command, directory=ROOT, status=None, environment=agent)
                if ended.stderr:
                    # The certificates of an example exist with its reader only: nothing else may be missing.
                    self.assertRegex(ended.stderr, rb"\Atcpmesh: TM-C101 (/\S+ does not exist(; |\n\Z))+", where)
                else:
                    self.assertEqual(ended.returncode, 0, where)
                self.assertNotIn(b"warning", ended.stdout, where)
                checked += 1
        self.assertGreaterEqual(checked, 2)
