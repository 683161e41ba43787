"""What the benchmark reads from /proc, held against what is known of processes that are started here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import processes

# Starts a child, which ends with it.
_FAMILY = """
import subprocess, sys
waiting = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
print(subprocess.Popen(waiting, stdin=subprocess.PIPE).pid, flush=True)
sys.stdin.read()
"""


class ProcessesTests(SynchronousTestCase):
    if not Path("/proc/self/smaps_rollup").exists():
        skip = "no /proc/PID/smaps_rollup: this is not Linux, or an old one"

    def start(self, program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_knows_descendants(self) -> None:
        """A peer's workers count with the process that was started; nobody counts twice."""
        parent = self.start(_FAMILY)
        assert parent.stdout is not None
        lines = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        [child] = [int(line) for line in lines if line != "up"]
        self.assertEqual(sorted(processes.family([parent.pid])), sorted([parent.pid, child]))
        self.assertEqual(sorted(processes.family([parent.pid, child])), sorted([parent.pid, child]))
        self.assertGreater(processes.memory([parent.pid]).rss, processes.memory([child]).rss)

    def test_sums_cpu_time_of_the_living_and_the_dead(self) -> None:
        """What a child has used is not lost with it."""
        before = processes.cpu_seconds([os.getpid()])
        busy = "import time\nwhile time.process_time() < 0.2: pass"
        subprocess.run([sys.executable, "-c", busy], check=True)
        used = processes.cpu_seconds([os.getpid()]) - before
        self.assertGreaterEqual(used, 0.17)  # each of several fields is cut to hundredths
        self.assertGreater(processes.machine_cpu_seconds(), used)

    def test_reads_memory(self) -> None:
        """A page that is shared is not whole in the proportional figure; a process that has ended is an error."""
        used = processes.memory([os.getpid()])
        self.assertGreater(used.pss, 1_000_000)
        self.assertGreaterEqual(used.rss, used.pss)
        process = self.start("")
        process.wait()
        self.assertIn(str(process.pid), str(self.assertRaises(RuntimeError, processes.memory, [process.pid])))

    def test_finds_where_a_process_listens(self) -> None:
        """Not what somebody else listens on, nor what it is connected to."""
        other = self.start(
            "import socket\nlistener = socket.create_server(('127.0.0.1', 0))\n"
            "print(listener.getsockname()[1], flush=True)\ninput()"
        )
        assert other.stdout is not None
        port = int(other.stdout.readline())
        self.assertEqual(processes.listening_ports([other.pid]), [port])
        with socket.create_connection(("127.0.0.1", port)), socket.create_server(("127.0.0.1", 0)) as own:
            ports = processes.listening_ports([os.getpid()])
            self.assertIn(own.getsockname()[1], ports)
            # The other process is our child, and so of the family.
            self.assertIn(port, ports)
            self.assertEqual(processes.listening_ports([other.pid]), [port])
