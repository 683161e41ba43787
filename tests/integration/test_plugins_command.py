"""``tcpmesh plugins`` as a user runs it: lists, writes and tests plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.interfaces import KINDS
from tests.integration.processes import PATIENCE, ROOT

BUILT_IN = [
    ("identity", "embedded"),
    ("identity", "files"),
    ("identity", "workload-api"),
    ("discovery", "dns"),
    ("discovery", "file"),
    ("discovery", "static"),
    ("authorization", "linkerd"),
    ("authorization", "opa"),
    ("authorization", "rules"),
    ("retry", "exponential"),
    ("retry", "fixed"),
    ("retry", "none"),
    ("balance", "least-connections"),
    ("balance", "p2c-ewma"),
    ("balance", "random"),
    ("balance", "round-robin"),
    ("balance", "source-hash"),
]
DROP_IN = """
from tcpmesh.descriptors import PluginDescriptor
from tcpmesh.interfaces import RETRY
"""


class CommandTestCase(SynchronousTestCase):
    """Runs commands in a directory of the test's own; ``self.project`` is a folder that Python finds drop-ins in."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.project = self.directory / "project"
        (self.project / "twisted" / "plugins").mkdir(parents=True)

    def run_python(self, *arguments: str, project: Path | None = None) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TCPMESH_", "SPIFFE_"))}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env={**inherited, "PYTHONPATH": f"{project or self.project}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def plugins(self, *arguments: str, project: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.run_python("-m", "tcpmesh", "plugins", *arguments, project=project)

    def drop_in(self, name: str, text: str) -> Path:
        file = self.project / "twisted" / "plugins" / f"{name}.py"
        file.write_text(DROP_IN + text)
        return file


class ListTests(CommandTestCase):
    def test_lists_the_built_in_plugins(self) -> None:
        """One line each, in the order of the documentation, and status 0."""
        result = self.plugins()
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual([tuple(line.split()[:2]) for line in lines[1 : len(BUILT_IN) + 1]], BUILT_IN)
        self.assertNotIn("cannot be used", result.stdout)

    def test_json_says_the_same(self) -> None:
        """Programs get kind, name, description, origin and problem."""
        result = self.plugins("--json")
        listing = json.loads(result.stdout)
        self.assertEqual([(plugin["kind"], plugin["name"]) for plugin in listing["plugins"]], BUILT_IN)
        self.assertEqual({plugin["module"] for plugin in listing["plugins"]}, {"twisted.plugins.tcpmesh_plugin"})
        self.assertEqual((result.returncode, listing["failed"]), (0, []))

    def test_what_cannot_be_used_is_listed_with_the_reason(self) -> None:
        """A broken drop-in and a broken target: status 1, one line each, no traceback."""
        broken = self.drop_in("broken_plugin", "import no_such_module")
        target = self.drop_in("target_plugin", 'x = PluginDescriptor(RETRY, "lost", "x", "no_such_package:Factory")')
        result = self.plugins()
        self.assertEqual((result.returncode, result.stderr), (1, ""))
        self.assertIn(
            f"  the retry plugin 'lost' of {target} cannot be used: "
            "ModuleNotFoundError: No module named 'no_such_package'\n",
            result.stdout,
        )
        self.assertIn(
            f"  {broken} was not loaded: ModuleNotFoundError: No module named 'no_such_module'\n", result.stdout
        )
        self.assertIn("exponential", result.stdout)


class NewTests(CommandTestCase):
    def check_kind(self, kind: str) -> None:
        """Write it, run its tests, find it, run it through the contract."""
        name = f"my-{kind}"
        package = f"tcpmesh_my_{kind}"
        out = self.directory / "written"
        result = self.plugins("new", kind, name, "--out", str(out))
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn(f"next: cd {out} && pip install -e . && trial {package}", result.stdout)
        for line in result.stdout.splitlines()[1:-1]:
            self.assertTrue((out / line.strip()).is_file(), line)
        tests = self.run_python("-m", "twisted.trial", package, project=out)
        self.assertEqual(tests.returncode, 0, tests.stdout + tests.stderr)
        self.assertIn("PASSED (successes=", tests.stdout)
        listing = json.loads(self.plugins("--json", project=out).stdout)
        [plugin] = [plugin for plugin in listing["plugins"] if plugin["name"] == name]
        self.assertEqual((plugin["kind"], plugin["problem"]), (kind, ""))
        self.assertEqual(plugin["file"], str(out / "twisted" / "plugins" / f"{package}_plugin.py"))
        for file in out.rglob("*"):
            if file.is_file() and file.suffix != ".pyc":
                self.assertNotIn("$", file.read_text(errors="replace"), file)

    def test_identity(self) -> None:
        """A new identity source works as written."""
        self.check_kind("identity")

    def test_discovery(self) -> None:
        """A new discovery works as written."""
        self.check_kind("discovery")

    def test_authorization(self) -> None:
        """A new policy works as written."""
        self.check_kind("authorization")

    def test_retry(self) -> None:
        """A new retry strategy works as written."""
        self.check_kind("retry")

    def test_balance(self) -> None:
        """A new load balancer works as written."""
        self.check_kind("balance")

    def test_each_kind_has_such_a_test(self) -> None:
        """None of the kinds is left out above."""
        self.assertEqual([kind.name for kind in KINDS if not hasattr(self, f"test_{kind.name}")], [])

    def test_writes_beside_the_reader_by_default(self) -> None:
        """Without --out it is ./tcpmesh-NAME."""
        self.assertEqual(self.plugins("new", "retry", "mine").returncode, 0)
        self.assertTrue((self.directory / "tcpmesh-mine" / "pyproject.toml").is_file())

    def test_overwrites_nothing(self) -> None:
        """A directory that has something in it is left alone."""
        (self.directory / "kept").write_text("mine")
        result = self.plugins("new", "retry", "mine", "--out", str(self.directory))
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"{self.directory} is not empty; name another directory with --out", result.stderr)
        self.assertFalse((self.directory / "pyproject.toml").exists())

    def test_refuses_a_name_that_is_taken(self) -> None:
        """Two plugins of one name would both be refused."""
        result = self.plugins("new", "retry", "none")
        self.assertEqual(result.returncode, 1)
        self.assertIn("there is a retry plugin 'none' already", result.stderr)

    def test_wrong_usage_is_64(self) -> None:
        """A kind that does not exist, a name that is no word, a missing name."""
        for arguments in (("new", "retries", "mine"), ("new", "retry", "My Plugin"), ("new", "retry")):
            result = self.plugins(*arguments)
            self.assertEqual((result.returncode, result.stdout), (64, ""), arguments)
            self.assertIn("Usage:", result.stderr)


class TestTests(CommandTestCase):
    def test_a_good_plugin_passes_each_point(self) -> None:
        """Status 0, and a line per point."""
        result = self.plugins("test", "exponential")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        *points, summary = result.stdout.splitlines()
        self.assertEqual(summary, f"retry plugin exponential: none of {len(points)} points failed")
        self.assertEqual({point.split()[0] for point in points}, {"ok"})
        self.assertIn("ok   ends: A strategy gives up: no connection is attempted for ever.", points)
        self.assertNotIn("``", result.stdout)

    def test_a_broken_plugin_fails_by_point(self) -> None:
        """Status 1, and the point says what is wrong; JSON has the same."""
        self.drop_in("endless_plugin", 'x = PluginDescriptor(RETRY, "endless", "x", "endless:Factory")')
        (self.project / "endless.py").write_text(
            "import itertools\n"
            "from tcpmesh.retry.none import NoRetry, NoRetryFactory\n"
            "class Strategy(NoRetry):\n"
            "    def attempts(self, context):\n"
            "        return itertools.repeat(-1.0)\n"
            "class Factory(NoRetryFactory):\n"
            "    name = 'endless'\n"
            "    def create(self, settings, context):\n"
            "        return Strategy()\n"
        )
        result = self.plugins("test", "endless")
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("FAIL ends: ", result.stdout)
        self.assertIn("FAIL waits_are_numbers_of_seconds: ", result.stdout)
        self.assertIn("       -1.0 is no wait", result.stdout)
        self.assertRegex(result.stdout, r"\nretry plugin endless: 2 of \d+ points failed\n\Z")
        shown = json.loads(self.plugins("test", "endless", "--json").stdout)
        failed = {point["name"] for point in shown["points"] if point["outcome"] == "FAIL"}
        self.assertEqual((shown["kind"], failed), ("retry", {"ends", "waits_are_numbers_of_seconds"}))

    def write_quickstart(self) -> None:
        """Without its admin socket, whose path would be too long here."""
        lines = (ROOT / "etc" / "quickstart.yaml").read_text().replace("../var", "var").splitlines()
        text = "\n".join(line for line in lines if not line.startswith("admin:"))
        (self.directory / "mesh.yaml").write_text(text)

    def test_settings_come_from_a_configuration(self) -> None:
        """Plugins whose settings have no default are tried as a configuration uses them."""
        self.write_quickstart()
        for _, name in (("identity", "embedded"), ("discovery", "static"), ("authorization", "rules")):
            result = self.plugins("test", name, "--config", "mesh.yaml")
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertIn("none of", result.stdout)

    def test_what_cannot_be_told_is_2(self) -> None:
        """No such plugin, settings without default, a configuration that does not use it or is wrong."""
        (self.directory / "wrong.yaml").write_text("version: 1\n")
        self.write_quickstart()
        for arguments, message in [
            (("nosuch",), "there is no plugin 'nosuch'"),
            (("nosuch", "--kind", "retry"), "there is no retry plugin 'nosuch'"),
            (("embedded",), "identity plugin 'embedded' needs state, without default"),
            (("none", "--config", "mesh.yaml"), "uses no retry plugin 'none'"),
            (("none", "--config", "wrong.yaml"), "key 'trust_domain' is missing"),
        ]:
            result = self.plugins("test", *arguments)
            self.assertEqual((result.returncode, result.stdout), (2, ""), arguments)
            self.assertIn(message, result.stderr)
            place = f"{self.directory / 'wrong.yaml'}:1:1: " if "wrong.yaml" in arguments else "tcpmesh: "
            self.assertEqual([line for line in result.stderr.splitlines() if not line.startswith(place)], [])

    def test_what_asks_somebody_is_tried_as_far_as_that_goes(self) -> None:
        """A source that needs a server says what it lacks, in one line; nothing is called broken for that."""
        result = self.plugins("test", "workload-api")
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        self.assertIn("identity plugin 'workload-api' cannot be made with these settings: ", result.stderr)
        self.assertIn("write socket: unix:///run/spire/agent.sock", result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1)
        self.write_quickstart()
        text = (self.directory / "mesh.yaml").read_text()
        (self.directory / "mesh.yaml").write_text(
            text.replace("plugin: embedded, state: var/quickstart", 'plugin: workload-api, socket: "unix:///nobody"')
        )
        result = self.plugins("test", "workload-api", "--config", "mesh.yaml")
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        *points, summary = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
        self.assertEqual({point.split()[0] for point in points}, {"ok", "skip"})
        self.assertIn("skip delivers_a_snapshot: ", result.stdout)
        self.assertIn("ok   can_be_stopped_at_once: ", result.stdout)
        self.assertEqual(summary, f"identity plugin workload-api: none of {len(points)} points failed")
        self.assertIn("points could not be tried: it asks the reactor for connectUNIX", result.stderr)

    def test_a_name_of_two_kinds_needs_the_kind(self) -> None:
        """Which of them is meant is asked, not guessed."""
        self.drop_in("both_plugin", 'x = PluginDescriptor(RETRY, "round-robin", "x", "a:B")')
        result = self.plugins("test", "round-robin")
        self.assertEqual(result.returncode, 64)
        self.assertIn("'round-robin' is a plugin for retry and balance; say which with --kind", result.stderr)
        self.assertEqual(self.plugins("test", "round-robin", "--kind", "balance").returncode, 0)
