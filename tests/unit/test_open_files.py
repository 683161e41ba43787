"""How many connections fit: by the process's limit of open files, and by what its reactor can watch."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

import tcpmesh
from tcpmesh.open_files import PER_CONNECTION, RESERVED, Fit, fit_connections
from tcpmesh.reactor_choice import most_files

ROOT = Path(tcpmesh.__file__).parent.parent
FEW = 200  # files


class FitTests(SynchronousTestCase):
    """What becomes of ``limits.connections``."""

    def test_what_fits_is_taken(self) -> None:
        """Without a word, and with what is left for sockets."""
        self.assertEqual(fit_connections(68, FEW), Fit(68, "", FEW - RESERVED))

    def test_what_the_reactor_cannot_watch_is_cut(self) -> None:
        """With a warning that says which limit it is and what to do."""
        self.assertEqual(
            fit_connections(69, FEW),
            Fit(
                68,
                "limits.connections 69 does not fit: the reactor can watch 200 files, which is enough for 68 "
                "connections; choose another reactor",
                FEW - RESERVED,
            ),
        )

    def test_ports_of_ranges_are_files_too(self) -> None:
        """What listens on a range leaves less for connections."""
        self.assertEqual(fit_connections(58, FEW, 20), Fit(58, "", FEW - RESERVED - 20))
        self.assertEqual(fit_connections(59, FEW, 20).connections, 58)

    def test_a_reactor_that_can_watch_more_than_there_are_changes_nothing(self) -> None:
        """The process's limit is what counts then, and what the warning names."""
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY:
            self.assertEqual(fit_connections(10**9), Fit(10**9))
            return
        fit = fit_connections(hard, hard + 1)
        self.assertEqual(fit, fit_connections(hard))
        self.assertIn(f"the hard limit of open files is {hard}, ", fit.warning)
        self.assertIn(f"to {hard * PER_CONNECTION + RESERVED}", fit.warning)


class SoftLimitTests(SynchronousTestCase):
    """What the process may open from then on, in a process that has nothing else to lose."""

    def limits(self, before: str, call: str) -> list[int]:
        program = (
            "import resource as r; from tcpmesh.open_files import set_soft_limit\n"
            f"r.setrlimit(r.RLIMIT_NOFILE, {before})\n{call}\n"
            "print(*r.getrlimit(r.RLIMIT_NOFILE))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return [int(number) for number in ended.stdout.split()]

    def test_is_raised_to_the_hard_one(self) -> None:
        """As far as the process may."""
        self.assertEqual(self.limits("(100, 300)", "set_soft_limit(10)"), [300, 300])

    def test_is_what_the_reactor_can_watch(self) -> None:
        """Raised or lowered to that: with more, a connection could get a file that breaks it."""
        for before in ("(100, 300)", "(300, 300)"):
            self.assertEqual(self.limits(before, "set_soft_limit(10, 200)"), [200, 300])
        self.assertEqual(self.limits("(100, 300)", "set_soft_limit(10, 400)"), [300, 300])


class ReactorTests(SynchronousTestCase):
    """Which reactor can watch how many."""

    def test_select_knows_1024(self) -> None:
        """FD_SETSIZE of select(2)."""
        reactor = SelectReactor()
        self.addCleanup(self.release, reactor)
        self.assertEqual(most_files(reactor), 1024)

    def release(self, reactor: SelectReactor) -> None:
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(Failure(ConnectionError()))

    def test_others_know_no_limit(self) -> None:
        """Whatever they are."""
        self.assertIsNone(most_files(Clock()))
