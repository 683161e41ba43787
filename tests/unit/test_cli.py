"""The command line: what is imported when, what is answered, and the exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

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
        self.assertEqual(listed[:6], ["run", "check", "connections", "ca", "plugins", "version"])
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

    def test_says_that_a_later_command_is_not_in_this_version(self) -> None:
        """A reader of later documentation is told, whatever arguments follow."""
        for command in ("bundle", "endpoints", "explain", "identity", "policy", "svid"):
            ended = self.run_command(command, "show", "--all")
            self.assertEqual((ended.status, ended.out), (64, ""), command)
            self.assertIn(f"the command '{command}' is not in this version", ended.err)

    def test_offers_config_for_every_command(self) -> None:
        """Every command takes --config, with its default and its variable of the environment."""
        for command in ("run", "check", "version"):
            ended = self.run_command(command, "--help")
            self.assertEqual(ended.status, 0, command)
            for word in ("-c, --config FILE", "TCPMESH_CONFIG", "tcpmesh.yaml"):
                self.assertIn(word, ended.out, command)

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
