"""The options of twistd's subcommand; the service itself is tested with the real twistd, tests/integration."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

import tcpmesh
from tcpmesh.tap import Options

ROOT = Path(tcpmesh.__file__).parent.parent


class OptionsTests(SynchronousTestCase):
    """Which file is chosen."""

    def setUp(self) -> None:
        before = os.environ.pop("TCPMESH_CONFIG", None)
        if before is not None:
            self.addCleanup(os.environ.__setitem__, "TCPMESH_CONFIG", before)

    def chosen(self, *arguments: str) -> str:
        options = Options()
        options.parseOptions(list(arguments))
        return str(options["config"])

    def test_defaults_to_the_current_directory(self) -> None:
        """Without a word it is ./tcpmesh.yaml, named absolutely: the daemon changes its directory."""
        self.assertEqual(self.chosen(), str(Path.cwd() / "tcpmesh.yaml"))

    def test_takes_the_variable_of_the_environment(self) -> None:
        """TCPMESH_CONFIG wins over the default; empty is as good as unset."""
        self.addCleanup(os.environ.pop, "TCPMESH_CONFIG", None)
        os.environ["TCPMESH_CONFIG"] = "elsewhere/mesh.yaml"
        self.assertEqual(self.chosen(), str(Path.cwd() / "elsewhere" / "mesh.yaml"))
        os.environ["TCPMESH_CONFIG"] = ""
        self.assertEqual(self.chosen(), str(Path.cwd() / "tcpmesh.yaml"))

    def test_takes_the_option_first(self) -> None:
        """--config, or -c, wins over both."""
        self.addCleanup(os.environ.pop, "TCPMESH_CONFIG", None)
        os.environ["TCPMESH_CONFIG"] = "elsewhere/mesh.yaml"
        self.assertEqual(self.chosen("--config", "/etc/mesh.yaml"), "/etc/mesh.yaml")
        self.assertEqual(self.chosen("-c", "mine.yaml"), str(Path.cwd() / "mine.yaml"))

    def test_refuses_anything_else(self) -> None:
        """A file without --config would be ignored."""
        self.assertRaises(UsageError, Options().parseOptions, ["mesh.yaml"])
        self.assertRaises(UsageError, Options().parseOptions, ["--frobnicate"])

    def test_shows_our_version(self) -> None:
        """--version is about tcpmesh; twistd --version is about Twisted."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        ended = self.assertRaises(SystemExit, Options().parseOptions, ["--version"])
        self.assertEqual((ended.code, out.getvalue()), (0, f"tcpmesh {tcpmesh.__version__}\n"))

    def test_help_says_what_an_operator_asks(self) -> None:
        """Where lines go, what a signal does, which status: without looking into the documentation."""
        text = " ".join(str(Options()).split())
        for word in ("--config", "TCPMESH_CONFIG", "standard error", "SIGTERM", "timeouts.shutdown", "Exit status"):
            self.assertIn(word, text)


class ImportTests(SynchronousTestCase):
    """What the options cost."""

    def test_imports_neither_reactor_nor_tls(self) -> None:
        """twistd chooses the reactor after it has parsed our options; nothing else heavy is needed to parse them."""
        program = (
            "import sys, tcpmesh.tap\n"
            "heavy = ('twisted.internet.reactor', 'OpenSSL', 'cryptography', 'yaml', 'click', 'tcpmesh.service')\n"
            "print([name for name in heavy if name in sys.modules])\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, "[]\n", ""))
