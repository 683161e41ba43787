"""Which reactor runs the proxy: each choice in an interpreter of its own, since a reactor is for a process's life."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import tcpmesh

ROOT = Path(tcpmesh.__file__).parent.parent

TWISTD = """
from twisted.scripts.twistd import ServerOptions
ServerOptions().parseOptions({arguments})
"""

RUN = """
from tcpmesh.cli import main
try:
    main({arguments})
except SystemExit as ended:
    print(ended.code)
"""

SAY_WHICH = """
import sys
reactor = sys.modules.get("twisted.internet.reactor")
print("none" if reactor is None else type(reactor).__name__)
"""

# Twisted's names change, and ours is what suffers.
ANOTHER_TWISTED = """
from twisted.internet import posixbase
posixbase._PollLikeMixin.readOrWrite = posixbase._PollLikeMixin.__dict__["_doReadOrWrite"]
del posixbase._PollLikeMixin._doReadOrWrite
from twisted.logger import globalLogBeginner
globalLogBeginner.beginLoggingTo([lambda event: print(event["log_format"].format(**event))], redirectStandardIO=False)
"""

NO_EPOLL = """
import select
for name in [name for name in dir(select) if name.lower().startswith("epoll")]:
    delattr(select, name)
"""

COMPLAIN_TO_US = "import sys; sys.stderr = sys.stdout"

ALREADY = """
from twisted.internet import selectreactor
selectreactor.install()
"""


class ChoiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        if not hasattr(select, "epoll"):
            raise SkipTest("no epoll here")

    def after(self, *program: str) -> list[str]:
        """The lines that these pieces of program write, and the reactor that is installed then."""
        ended = subprocess.run(
            [sys.executable, "-c", "\n".join([*program, SAY_WHICH])],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return ended.stdout.splitlines()


class TwistdTests(ChoiceTestCase):
    """``twistd tcpmesh``, up to the point where its options are read."""

    def twistd(self, *arguments: str) -> str:
        return TWISTD.format(arguments=list(arguments))

    def test_installs_ours_when_none_is_named(self) -> None:
        """The proxy's users need not know what a reactor is."""
        self.assertEqual(self.after(self.twistd("-n", "tcpmesh")), ["MeshReactor"])

    def test_leaves_the_one_that_the_user_names(self) -> None:
        """--reactor of twistd is read first."""
        for name, kind in (("poll", "PollReactor"), ("tcpmesh", "MeshReactor"), ("epoll", "EPollReactor")):
            self.assertEqual(self.after(self.twistd("-n", f"--reactor={name}", "tcpmesh")), [kind])

    def test_leaves_the_one_that_is_installed(self) -> None:
        """Another plugin may have imported it, or whoever calls twistd from a program."""
        self.assertEqual(self.after(ALREADY, self.twistd("-n", "tcpmesh")), ["SelectReactor"])

    def test_leaves_the_choice_to_twisted_without_epoll(self) -> None:
        """Where twistd goes on to the default of the platform."""
        self.assertEqual(self.after(NO_EPOLL, self.twistd("-n", "tcpmesh")), ["none"])

    def test_leaves_the_choice_to_twisted_where_its_inside_is_another(self) -> None:
        """A newer Twisted may make the proxy slower, with a warning, but does not keep it from starting."""
        self.assertEqual(
            self.after(ANOTHER_TWISTED, self.twistd("-n", "tcpmesh")),
            [
                "Twisted's epoll reactor has no _doReadOrWrite: choose another, --reactor=epoll; "
                "a reactor of Twisted's is used, which is slower",
                "none",
            ],
        )

    def test_other_subcommands_are_not_concerned(self) -> None:
        """What else runs under twistd gets its own default."""
        self.assertNotEqual(self.after(self.twistd("-n", "web")), ["MeshReactor"])


class RunTests(ChoiceTestCase):
    """``tcpmesh run``, which ends here because there is no such file."""

    def run_command(self, *arguments: str) -> str:
        return RUN.format(arguments=["run", *arguments, "/no/such/tcpmesh.yaml"])

    def test_installs_ours_when_none_is_named(self) -> None:
        """As under twistd."""
        self.assertEqual(self.after(self.run_command()), ["1", "MeshReactor"])

    def test_installs_the_one_that_the_user_names(self) -> None:
        """With --reactor or -r, by twistd's names."""
        self.assertEqual(self.after(self.run_command("--reactor", "poll")), ["1", "PollReactor"])
        self.assertEqual(self.after(self.run_command("-r", "select")), ["1", "SelectReactor"])

    def test_refuses_a_name_that_there_is_not(self) -> None:
        """That is wrong usage, and no reactor is installed; those that there are are listed, ours among them."""
        *complaint, status, kind = self.after(COMPLAIN_TO_US, self.run_command("--reactor", "nuclear"))
        self.assertEqual((status, kind), ("64", "none"))
        self.assertIn("there is no reactor 'nuclear'; there are: asyncio, ", complaint[-1])
        self.assertIn(" tcpmesh,", complaint[-1])

    def test_refuses_one_that_cannot_be_used(self) -> None:
        """Nor is the default taken in its stead."""
        *complaint, status, kind = self.after(COMPLAIN_TO_US, NO_EPOLL, self.run_command("--reactor", "tcpmesh"))
        self.assertEqual((status, kind), ("64", "none"))
        self.assertIn("the reactor 'tcpmesh' cannot be used: cannot import name 'EPOLLIN'", complaint[-1])
        self.assertIn("twistd --help-reactors lists those that can", complaint[-1])

    def test_refuses_one_when_another_is_installed(self) -> None:
        """There is one for a process's life."""
        *complaint, status, kind = self.after(COMPLAIN_TO_US, ALREADY, self.run_command("--reactor", "poll"))
        self.assertEqual((status, kind), ("64", "SelectReactor"))
        self.assertIn("the reactor 'poll' cannot be used: reactor already installed", complaint[-1])
