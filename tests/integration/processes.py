"""
Real processes under test: started, waited for by what they do (never by time), and always ended.

Every wait polls a condition and has a bound, after which the test fails with what the process wrote.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import random
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tcpmesh

ROOT = Path(tcpmesh.__file__).parent.parent
TWISTD = (sys.executable, str(Path(sysconfig.get_path("scripts")) / "twistd"))
TCPMESH = (sys.executable, "-m", "tcpmesh")
PATIENCE = 60.0  # seconds that anything may take on a busy machine
BETWEEN_LOOKS = 0.02  # seconds
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_LISTEN = "0A"  # a state in /proc/net/tcp, proc(5)
_given: set[int] = set()  # by free_port


def free_port(host: str = "127.0.0.1") -> int:
    """
    Give a TCP port that nobody uses at the moment, each only once.

    None of those that the kernel gives to whoever connects or binds to port 0: between this and the program that is
    to listen there, one of the test's own connections would now and then have taken it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10_000, lowest // 2), lowest)
        if port in _given:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given.add(port)
        return port


def free_ports(count: int) -> range:
    """Give ports that follow each other, as :func:`free_port` gives one."""
    while True:
        first = free_port()
        wanted = range(first, first + count)
        with contextlib.ExitStack() as probes:
            try:
                for port in wanted:
                    probes.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        if _given.isdisjoint(wanted[1:]):
            _given.update(wanted)
            return wanted


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], patience: float = PATIENCE) -> None:
    """
    Poll until the condition is true.

    :raises AssertionError: saying ``what`` did not happen.
    """
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"within {patience:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(BETWEEN_LOOKS)


def is_ready(port: int, host: str = "127.0.0.1") -> bool:
    """Ask a proxy's admin port once."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def accepts(port: int) -> bool:
    """
    Tell whether somebody listens on this TCP port, by the kernel's table.

    To connect would be counted as a connection, and to bind would keep the port from who is about to listen there.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(table).read_text().splitlines()[1:]:
                _slot, local, _remote, state, *_rest = line.split()
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False


class Running:
    """
    A process and what it writes.

    :param standard_io: a socket for its standard input and output, instead of nothing and a file.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        arguments: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        standard_io: socket.socket | None = None,
    ) -> None:
        output = Path(test.mktemp())
        self.out_file = output.with_suffix(".out")
        self.err_file = output.with_suffix(".err")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TCPMESH_")}
        with self.out_file.open("wb") as out, self.err_file.open("wb") as err:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL if standard_io is None else standard_io.fileno(),
                stdout=out if standard_io is None else standard_io.fileno(),
                stderr=err,
                cwd=directory,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})},
                start_new_session=True,
            )
        test.addCleanup(self.kill)

    @property
    def out(self) -> str:
        return self.out_file.read_text()

    @property
    def err(self) -> str:
        return self.err_file.read_text()

    def both(self) -> str:
        """What it wrote, for a failing test's message."""
        return f"standard output:\n{self.out}\nstandard error:\n{self.err}"

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Poll until the condition is true or the process has ended."""

        def met() -> bool:
            if condition():
                return True
            if self.process.poll() is not None:
                raise AssertionError(f"{what}: the process ended with {self.process.returncode}\n{self.both()}")
            return False

        wait_until(met, lambda: f"{what}\n{self.both()}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; give the exit status, negative for a signal."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end\n{self.both()}") from None

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Daemon:
    """
    A daemonized process, known by its pid file.

    This process becomes the one that orphans are handed to (prctl(2)), so that the daemon's exit status can be read.
    """

    def __init__(self, test: SynchronousTestCase, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._status: int | None = None
        test.addCleanup(self.kill)

    @staticmethod
    def adopt_orphans() -> None:
        """Make orphaned descendants children of this process; to be called before the daemon starts."""
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    def signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._fd, number)

    def wait(self) -> int:
        """Wait for its end; give the exit status, negative for a signal."""
        if self._status is None:
            if not select.select([self._fd], [], [], PATIENCE)[0]:
                raise AssertionError(f"the daemon {self.pid} did not end")
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._fd)
        return self._status

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if self._status is None:
            self.signal(signal.SIGKILL)
            self.wait()
