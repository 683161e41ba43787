"""The command line: what is imported when, what is answered, and the exit status."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

import tcpmesh
from tcpmesh.cli import main

ROOT = Path(tcpmesh.__file__).parent.parent


@attrs.frozen
class Ended:
    """A finished command."""

    status: Any
    out: str
    err: str


class CommandTestCase(SynchronousTestCase):
    """Runs commands in this process."""

    def setUp(self) -> None:
        os.environ.pop("TCPMESH_CONFIG", None)

    def run_command(self, *arguments: str) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        status = self.assertRaises(SystemExit, main, list(arguments)).code
        return Ended(status, out.getvalue(), err.getvalue())


class UsageTests(CommandTestCase):
    """What is answered to a wrong command line."""

    def test_lists_every_command(self) -> None:
        """--help names the commands and the exit statuses."""
        ended = self.run_command("--help")
        self.assertEqual(ended.status, 0)
        listed = [line.split()[0] for line in ended.out.split("Commands:\n")[1].splitlines() if line.startswith("  ")]
        commands = ["run", "check", "connections", "endpoints", "explain", "policy", "ca", "identity", "svid", "bundle"]
        self.assertEqual(listed[: len(commands)], commands)
        self.assertIn("64", ended.out)

    def test_ends_with_64_when_a_command_is_unknown(self) -> None:
        """An unknown command is wrong usage."""
        ended = self.run_command("frobnicate")
        self.assertEqual((ended.status, ended.out), (64, ""))
        self.assertIn("No such command 'frobnicate'", ended.err)

    def test_ends_with_64_when_an_option_is_unknown(self) -> None:
        """So is an unknown option of a command."""
        ended = self.run_command("version", "--frobnicate")
        self.assertEqual((ended.status, ended.out), (64, ""))
        self.assertIn("--frobnicate", ended.err)

    def test_ends_with_64_without_a_command(self) -> None:
        """The bare command shows its help, and that is no success."""
        ended = self.run_command()
        self.assertEqual(ended.status, 64)
        self.assertIn("Commands:", ended.err)

    def test_offers_config_for_every_command(self) -> None:
        """Every command takes --config, with its default and its variable of the environment."""
        commands = (
            "run",
            "check",
            "version",
            "connections",
            "endpoints",
            "explain",
            "policy test",
            "policy report",
            "ca init",
            "ca issue",
            "ca show",
            "identity resolve",
            "identity map",
            "plugins",
            "plugins new",
        )
        for command in commands:
            ended = self.run_command(*command.split(), "--help")
            self.assertEqual(ended.status, 0, command)
            for word in ("-c, --config FILE", "TCPMESH_CONFIG", "tcpmesh.yaml"):
                self.assertIn(word, ended.out, command)

    def test_begins_every_complaint_with_its_name(self) -> None:
        """One prefix, whatever failed and in whichever command; the last line is the complaint."""
        missing = "/no/such/tcpmesh.yaml"
        for status, complaint, arguments in (
            (64, "there is no command 'chek'; did you mean 'check'?", ("chek", "a.yaml")),
            (64, "Missing option '--id'.", ("ca", "issue", "--out", "x")),
            (64, "Missing argument 'KIND'. Choose from: identity, discovery, authorization, ", ("plugins", "new")),
            (64, "write the options after 'new'", ("plugins", "--config", "a.yaml", "new", "retry", "x")),
            (64, "write the options after 'test'", ("plugins", "--json", "test", "none")),
            (1, "there is a retry plugin 'none' already", ("plugins", "new", "retry", "none")),
            (2, "there is no plugin 'nosuch'", ("plugins", "test", "nosuch")),
            (2, "no proxy is running: unix:/no/such does not exist", ("connections", "--admin", "unix:/no/such")),
            (
                1,
                "TM-C104 /no/such does not exist; make an authority there: tcpmesh ca init",
                ("ca", "show", "--state", "/no/such"),
            ),
            (1, f"{missing}: there is no such file; name one with --config FILE", ("check", missing)),
            (1, f"{missing}: there is no such file; name one with --config FILE", ("connections", "-c", missing)),
        ):
            ended = self.run_command(*arguments)
            self.assertEqual((ended.status, ended.out), (status, ""), arguments)
            *usage, last = ended.err.splitlines()
            self.assertTrue(last.startswith(f"tcpmesh: {complaint}"), ended.err)
            self.assertEqual([line.split()[0] for line in usage if line], ["Usage:", "Try"] if status == 64 else [])

    def test_tells_its_version_to_who_asks_with_an_option(self) -> None:
        """As most commands do; ``tcpmesh version`` says more."""
        ended = self.run_command("--version")
        self.assertEqual((ended.status, ended.out, ended.err), (0, f"tcpmesh {tcpmesh.__version__}\n", ""))

    def test_refuses_two_configurations(self) -> None:
        """One of two files would be ignored."""
        for command in ("run", "check"):
            ended = self.run_command(command, "--config", "a.yaml", "b.yaml")
            self.assertEqual((ended.status, ended.out), (64, ""), command)
            self.assertIn("name the configuration once: either b.yaml or --config a.yaml", ended.err)


class VersionTests(CommandTestCase):
    """``tcpmesh version``."""

    def test_names_what_it_stands_on(self) -> None:
        """A bug report needs the versions of Python, Twisted and the TLS library."""
        ended = self.run_command("version")
        self.assertEqual((ended.status, ended.err), (0, ""))
        names = [line.partition(" ")[0] for line in ended.out.splitlines()]
        self.assertEqual(names, ["tcpmesh", "Python", "Twisted", "pyOpenSSL", "cryptography", "OpenSSL"])
        self.assertIn(f"tcpmesh {tcpmesh.__version__}\n", ended.out)
        self.assertEqual(ended.out.count("OpenSSL"), 2, ended.out)  # pyOpenSSL's line and its own

    def test_writes_json(self) -> None:
        """--json has the same."""
        ended = self.run_command("version", "--json")
        self.assertEqual(ended.status, 0)
        found = json.loads(ended.out)
        self.assertEqual(found["tcpmesh"], tcpmesh.__version__)
        self.assertEqual(found["Python"], ".".join(map(str, sys.version_info[:3])))
        self.assertTrue(found["OpenSSL"].startswith("OpenSSL "), found)

    def test_imports_nothing_heavy(self) -> None:
        """No reactor, no TLS, no YAML for a command that needs none."""
        program = (
            "import atexit, sys\n"
            "from tcpmesh.cli import main\n"
            "heavy = ('twisted.internet', 'OpenSSL', 'yaml', 'rich', 'tcpmesh.config', 'tcpmesh.service')\n"
            "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
            "main(['version', '--json'])\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertEqual(ended.stdout.splitlines()[-1], "[]")


GOOD = """\
version: 1
trust_domain: example.test
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads:
    web: {id: "spiffe://example.test/web"}
services:
  orders:
    expect: ["spiffe://example.test/orders"]
    discovery: {plugin: static, endpoints: ["192.0.2.1:4143"]}
outbound:
  - {name: web-to-orders, listen: "127.0.0.1:15000", service: orders, workload: web}
"""


class CheckTests(CommandTestCase):
    """``tcpmesh check``."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.directory / "mesh.yaml"

    def check(self, text: str, *options: str) -> Ended:
        self.file.write_text(text)
        return self.run_command("check", str(self.file), *options)

    def test_shows_what_a_good_file_says(self) -> None:
        """One block: the file and its hash, who listens where, for what and as whom."""
        ended = self.check(GOOD)
        self.assertEqual((ended.status, ended.err), (0, ""))
        digest = hashlib.sha256(GOOD.encode()).hexdigest()
        self.assertEqual(
            ended.out.splitlines()[:2],
            [
                f"OK {self.file} (SHA-256 {digest[:16]}), trust domain example.test",
                "  outbound web-to-orders: 127.0.0.1:15000 to orders as spiffe://example.test/web",
            ],
        )

    def test_creates_nothing(self) -> None:
        """No state, no socket, no log: checking is safe on a machine where the proxy runs."""
        self.check(GOOD)
        self.assertEqual(os.listdir(self.directory), ["mesh.yaml"])

    def test_shows_every_problem_at_its_place(self) -> None:
        """Not only the first one, each with file, line and column."""
        ended = self.check(GOOD.replace("trust_domain", "trust_domian").replace("15000", "150000"))
        self.assertEqual((ended.status, ended.out), (1, ""))
        lines = ended.err.splitlines()
        self.assertTrue(any(line.startswith(f"{self.file}:2:1: ") and "trust_domain" in line for line in lines), lines)
        self.assertTrue(any(line.startswith(f"{self.file}:12:") and "150000" in line for line in lines), lines)

    def test_asks_plugins_about_their_settings(self) -> None:
        """What only the plugin can know is checked as well, as ``run`` would."""
        ended = self.check(GOOD.replace('["192.0.2.1:4143"]', "[]"))
        self.assertEqual((ended.status, ended.out), (1, ""))
        self.assertIn(f"{self.file}:10:", ended.err)

    def test_writes_problems_as_json(self) -> None:
        """--json has the same in parts."""
        ended = self.check(GOOD + "admim: {}\n", "--json")
        self.assertEqual((ended.status, ended.err), (1, ""))
        found = json.loads(ended.out)
        self.assertEqual((found["file"], found["ok"]), (str(self.file), False))
        problem = found["problems"][0]
        self.assertEqual((problem["file"], problem["line"], problem["column"]), (str(self.file), 13, 1))
        self.assertIn("admim", problem["message"])

    def test_writes_success_as_json(self) -> None:
        """A program learns the hash, to compare it with that of a running proxy."""
        ended = self.check(GOOD, "--json")
        self.assertEqual((ended.status, ended.err), (0, ""))
        found = json.loads(ended.out)
        self.assertEqual((found["ok"], found["digest"]), (True, hashlib.sha256(GOOD.encode()).hexdigest()))

    def test_warns_of_connections_that_do_not_fit(self) -> None:
        """The hard limit of open files is known before the start; it is a warning, since the proxy clamps."""
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY:
            raise SkipTest("this machine limits no open files")
        ended = self.check(GOOD + f"limits: {{connections: {hard}}}\n")
        self.assertEqual((ended.status, ended.err), (0, ""))
        warnings = [line for line in ended.out.splitlines() if line.startswith("warning: limits.connections")]
        self.assertEqual(len(warnings), 1, ended.out)
        self.assertIn(f"the hard limit of open files is {hard}", warnings[0])

    def test_shows_warnings_of_the_configuration(self) -> None:
        """What is allowed but worth a second look is said here, not only at the start."""
        text = GOOD.replace('listen: "127.0.0.1:15000"', 'listen: "0.0.0.0:15000", plaintext_network: allow')
        ended = self.check(text)
        self.assertEqual((ended.status, ended.err), (0, ""))
        self.assertTrue(
            any(line.startswith("warning: ") and "web-to-orders" in line for line in ended.out.splitlines())
        )
        self.assertIn("web-to-orders", json.loads(self.check(text, "--json").out)["warnings"][0])

    def test_says_that_a_file_is_missing(self) -> None:
        """A typing error in a path is named, with status 1."""
        ended = self.run_command("check", "--config", str(self.directory / "none.yaml"))
        self.assertEqual((ended.status, ended.out), (1, ""))
        self.assertIn(str(self.directory / "none.yaml"), ended.err)
        self.assertEqual(len(ended.err.splitlines()), 1)
