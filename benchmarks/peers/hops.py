"""The two processes of a peer: started together, watched until both listen, and all ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from attrs import field, frozen

from benchmarks.peers.base import GROUPS, Found, Missing, Run, Running

HOST: Final = "127.0.0.1"
FOREVER: Final = "24h"  # for timeouts that cannot be switched off
_START_LIMIT: Final = 30.0  # seconds
_END_LIMIT: Final = 10.0  # seconds
_POLL: Final = 0.002  # seconds between two looks at the listening ports
_LOG_LINES: Final = 15


@frozen
class Ports:
    """client -> ``entry``, first hop -> ``dial``, which is ``tls`` unless somebody listens in between, second hop."""

    entry: int  # the first hop listens here
    dial: int  # the first hop connects to this
    tls: int  # the second hop listens here


@frozen
class Hop:
    """One process to start."""

    command: tuple[str, ...]
    port: int  # it is up when it listens here
    environment: Mapping[str, str] = field(factory=dict)  # beside our own


def free_port() -> int:
    """A TCP port of the loopback address that nobody uses now, and that the kernel gives to nobody by itself."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10_000, lowest // 2), lowest)
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


def openssl_groups(run: Run) -> dict[str, str]:
    """The environment in which OpenSSL offers and takes only ``run.group``, for programs that have no option for it."""
    path = run.directory / "openssl.cnf"
    path.write_text(
        "openssl_conf = program\n[program]\nssl_conf = ssl\n[ssl]\nsystem_default = defaults\n"
        f"[defaults]\nGroups = {run.group}\n"
    )
    return {"OPENSSL_CONF": str(path)}


class TwoHops(ABC):
    """A peer whose hops are one process each; what is left to say is where it is and how it is configured."""

    name: str

    @abstractmethod
    def locate(self) -> Found | Missing:
        """Find the program and its versions; ``groups`` is empty, since `find` tries them."""

    @abstractmethod
    def hops(self, run: Run, ports: Ports) -> tuple[Hop, Hop]:
        """Write the configurations and give the first and the second hop."""

    def renewal(self, run: Run, pids: tuple[int, ...]) -> Callable[[], None] | None:
        """What becomes `Running.renew`; None unless the peer can renew without a stop."""
        return None

    def find(self) -> Found | Missing:
        """Find the program, and try each group in a handshake between its two hops."""
        from benchmarks.peers import trial

        located = self.locate()
        if isinstance(located, Missing):
            return located
        outcomes = {group: trial.attempt(self, group) for group in GROUPS}
        groups = frozenset(group for group, outcome in outcomes.items() if outcome is None)
        if not groups:
            return Missing(f"{self.name} {located.version} is here but does not work: {outcomes[GROUPS[-1]]}")
        return Found(located.version, located.tls_library, groups)

    def running(self, run: Run) -> AbstractContextManager[Running]:
        """Start both hops and end them on exit; see `benchmarks.peers.base.Peer`."""
        return self.started(run)

    @contextmanager
    def started(self, run: Run, between: Callable[[int], int] | None = None) -> Iterator[Running]:
        """As `running`.

        :param between: is given the port of the second hop and answers where the first hop shall connect instead.
        """
        tls = free_port()
        ports = Ports(entry=free_port(), dial=between(tls) if between else tls, tls=tls)
        hops = self.hops(run, ports)
        # Programs that do not raise it themselves shall not be measured against the shell's default of 1024.
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with contextlib.ExitStack() as stack:
            started = time.perf_counter()
            processes = [
                stack.enter_context(_process(f"{self.name}, {title}", hop, run.directory / f"{title.split()[0]}.log"))
                for title, hop in zip(("first hop", "second hop"), hops, strict=True)
            ]
            for hop, process in zip(hops, processes, strict=True):
                process.wait_for(hop.port, started + _START_LIMIT)
            seconds = time.perf_counter() - started
            pids = tuple(process.pid for process in processes)
            try:
                yield Running(port=ports.entry, pids=pids, start_seconds=seconds, renew=self.renewal(run, pids))
            except Exception as error:
                for process in processes:
                    if (death := process.death()) is not None:
                        error.add_note(death)
                raise
            for process in processes:
                process.expect_alive()


def signal_all(pids: tuple[int, ...], number: signal.Signals) -> None:
    """Send a signal to the process of each hop."""
    for pid in pids:
        os.kill(pid, number)


def installed(name: str) -> str | None:
    """The path of a program, also where daemons are and users do not look."""
    return shutil.which(
        name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    )


def program_output(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Both output streams of a program that is run for its version."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    return done.stdout


def listens(port: int) -> bool:
    """Whether somebody listens on the loopback port.

    Read from the kernel, not tried: a connection that says nothing would be a broken handshake to the second hop.
    """
    wanted = f"0100007F:{port:04X}"
    with Path("/proc/net/tcp").open() as table:
        next(table)
        for line in table:
            _number, local, _remote, state, *_rest = line.split()
            if state != "0A":  # listening sockets come first
                return False
            if local == wanted:
                return True
    return False


class _Process:
    def __init__(self, title: str, hop: Hop, log: Path) -> None:
        self._title, self._hop, self._log = title, hop, log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                hop.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env={**os.environ, **hop.environment},
                start_new_session=True,  # so that its children can be ended with it
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_for(self, port: int, deadline: float) -> None:
        """Return when somebody listens on the port.

        :raises RuntimeError: when the process ends, or has not come so far at the deadline (of ``perf_counter``).
        """
        while not listens(port):
            self.expect_alive()
            if time.perf_counter() > deadline:
                raise RuntimeError(
                    f"{self._title} does not listen on port {port} after {_START_LIMIT:.0f} s{self._last_lines()}"
                )
            time.sleep(_POLL)

    def expect_alive(self) -> None:
        """:raises RuntimeError: when the process has ended."""
        if (death := self.death()) is not None:
            raise RuntimeError(death)

    def death(self) -> str | None:
        """How the process ended, or None while it lives."""
        status = self._popen.poll()
        return None if status is None else f"{self._title} ended with status {status}{self._last_lines()}"

    def end(self) -> None:
        """Kill the process and its children; connections that are still open would keep a polite end waiting."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(_END_LIMIT)
        # Thousands of connections take a while to go; they shall not disturb what is measured next.
        deadline = time.perf_counter() + _END_LIMIT
        while _group_lives(self._popen.pid) and time.perf_counter() < deadline:
            time.sleep(_POLL)

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "; it printed:\n    " + "\n    ".join(lines) if lines else " and printed nothing"


def _group_lives(group: int) -> bool:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, of_group, *_rest = status.read_text().rpartition(")")[2].split()
        except OSError:  # just gone
            continue
        if int(of_group) == group and state not in "ZX":
            return True
    return False


@contextmanager
def _process(title: str, hop: Hop, log: Path) -> Iterator[_Process]:
    process = _Process(title, hop, log)
    try:
        yield process
    finally:
        process.end()
