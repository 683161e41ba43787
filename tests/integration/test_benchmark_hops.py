"""The benchmark's processes: a hop that cannot work is named with what it printed, and none outlives its run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.peers.base import CLASSICAL, Found, Missing, Run
from benchmarks.peers.ghostunnel import Ghostunnel
from benchmarks.peers.hops import Hop, Ports, TwoHops, free_port, listens
from benchmarks.peers.throwaway import ThrowawayCertificates

LISTEN = "import socket; s = socket.create_server(('127.0.0.1', {port}), backlog=1)\n"
STAY = "import time; time.sleep(600)\n"
# With a child, whose number it leaves behind before it listens.
FORK = (
    "import os, pathlib\nif not (child := os.fork()): __import__('time').sleep(600)\n"
    "pathlib.Path('child').write_text(str(child))\n"
)


@frozen
class Scripted(TwoHops):
    """Hops that are Python programs; ``{port}`` in them is where they should listen."""

    first: str
    second: str
    name = "scripted"

    def locate(self) -> Found | Missing:
        return Found("1", "none", frozenset())

    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        scripts = ((self.first, ports.entry), (self.second, ports.tls))
        first, second = (Hop((sys.executable, "-c", text.format(port=port)), port) for text, port in scripts)
        return first, second


class HopTests(SynchronousTestCase):
    """Starting and ending two processes."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        places = Path(directory.name, "certificates"), Path(directory.name, "run")
        for place in places:
            place.mkdir()
        self.run_ = Run(places[1], free_port(), CLASSICAL, 10, ThrowawayCertificates(places[0]))

    def gone(self, pid: int) -> bool:
        """Nobody, or a zombie that its new parent has not noticed yet."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    def test_gives_hops_that_listen(self) -> None:
        """Inside, both ports listen; afterwards neither does, and the processes are gone."""
        with Scripted(LISTEN + STAY, LISTEN + STAY).running(self.run_) as running:
            self.assertTrue(listens(running.port))
            self.assertEqual(len(running.pids), 2)
            self.assertGreater(running.start_seconds, 0)
        self.assertFalse(listens(running.port))
        self.assertEqual([self.gone(pid) for pid in running.pids], [True, True])

    def test_ends_children_too(self) -> None:
        """A worker does not outlive its master, also when the benchmark fails."""
        with self.assertRaises(ZeroDivisionError), Scripted(FORK + LISTEN + STAY, LISTEN + STAY).running(self.run_):
            child = int((self.run_.directory / "child").read_text())
            os.kill(child, 0)
            raise ZeroDivisionError
        self.assertTrue(self.gone(child))

    def test_shows_the_last_words_of_a_hop_that_dies(self) -> None:
        """Which one, its status, and what it printed; the other one is ended."""
        with self.assertRaises(RuntimeError) as caught:
            self.enter(Scripted(LISTEN + STAY, "import sys; print('no such key'); sys.exit(3)"))
        self.assertIn("scripted, second hop ended with status 3", str(caught.exception))
        self.assertIn("no such key", str(caught.exception))

    def test_reports_a_death_while_it_is_measured(self) -> None:
        """A figure that was taken from a dead proxy must not stand."""
        with (
            self.assertRaises(RuntimeError) as caught,
            Scripted(LISTEN + STAY, LISTEN + STAY).running(self.run_) as running,
        ):
            os.kill(running.pids[0], 9)
            os.waitid(os.P_PID, running.pids[0], os.WEXITED | os.WNOWAIT)
        self.assertIn("scripted, first hop ended with status -9", str(caught.exception))

    def test_adds_a_death_to_another_failure(self) -> None:
        """What failed in the load is told, and why."""
        with (
            self.assertRaises(ConnectionResetError) as caught,
            Scripted(LISTEN + STAY, LISTEN + STAY).running(self.run_) as running,
        ):
            os.kill(running.pids[1], 9)
            os.waitid(os.P_PID, running.pids[1], os.WEXITED | os.WNOWAIT)
            raise ConnectionResetError
        self.assertIn("second hop ended with status -9", "".join(caught.exception.__notes__))

    def enter(self, peer: TwoHops) -> None:
        with peer.running(self.run_):
            self.fail("it should not have come up")


class GhostunnelTests(SynchronousTestCase):
    """Which ghostunnel there is, by what the program says of itself."""

    def located(self, said: str, go: str | None = None) -> Found | Missing:
        """With nothing but these two programs: what ghostunnel says of its version, and go of what is in it."""
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        for name, text in (("ghostunnel", said), ("go", go)):
            if text is not None:
                program = Path(holder.name, name)
                program.write_text(f"#!/bin/sh\nprintf '{text}\\n'\n")
                program.chmod(0o755)
        self.patch(os, "environ", {**os.environ, "PATH": holder.name, "XDG_CACHE_HOME": holder.name})
        return Ghostunnel().locate()

    def test_a_release(self) -> None:
        """Needs no go."""
        found = self.located("rev v1.11.1 built with go1.26.8 (pkcs11: true, keychain: false)")
        self.assertEqual(found, Found("1.11.1", "Go 1.26.8 crypto/tls", frozenset()))

    def test_what_go_install_makes(self) -> None:
        """It does not know its version; go does."""
        said = "rev master built with go1.26.8 (pkcs11: true, keychain: false)"
        contents = "ghostunnel: go1.26.8\\n\\tmod\\tgithub.com/ghostunnel/ghostunnel\\tv1.11.1\\th1:x="
        self.assertEqual(self.located(said, contents), Found("1.11.1", "Go 1.26.8 crypto/tls", frozenset()))
        self.assertEqual(self.located(said), Found("master", "Go 1.26.8 crypto/tls", frozenset()))

    def test_something_else(self) -> None:
        """What it says is shown."""
        found = self.located("hello")
        assert isinstance(found, Missing)
        self.assertIn("names no version: 'hello'", found.reason)
