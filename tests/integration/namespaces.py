"""Machines for tests: network namespaces with wires between them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.trial.unittest import SynchronousTestCase

from tests.integration import program, skip_or_fail
from tests.integration.processes import PATIENCE, Running
from tests.integration.servers import run

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # sched.h


def needs_namespaces() -> None:
    """Leave the test where no network namespace can be made."""
    if os.geteuid() != 0:
        skip_or_fail("network namespaces need root")
    tried = subprocess.run([program("unshare", "util-linux"), "--net", "true"], capture_output=True, check=False)
    if tried.returncode:
        skip_or_fail(f"no network namespace can be made: {tried.stderr.decode(errors='replace').strip()}")


class Machine:
    """
    A network namespace, held by a process, and a directory.

    :ivar enter: what to put in front of a command that is to run there.
    """

    def __init__(self, test: SynchronousTestCase, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        holder = Running(test, [program("unshare", "util-linux"), "--net", "sleep", "infinity"], directory=directory)
        self.pid = holder.process.pid
        self.enter = [program("nsenter", "util-linux"), "--target", str(self.pid), "--net", "--"]

        def is_apart() -> bool:
            return Path(f"/proc/{self.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()

        holder.wait_until(is_apart, "the namespace is made")

    def ip(self, *arguments: str) -> None:
        """Run ip(8) there."""
        run(*self.enter, program("ip", "iproute2"), *arguments)

    def inside(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function there, in a thread of its own: a socket that it makes belongs to this machine for ever."""
        outcome: list[T] = []

        def call() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/proc/{self.pid}/ns/net").open() as namespace:
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            outcome.append(function(*arguments))

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert outcome, f"{function} did not come to its end in {self.name}"
        return outcome[0]


def connect(one: Machine, other: Machine, address: str, other_address: str) -> None:
    """
    Lay a wire between two machines, or leave the test; each of its ends is called as the machine at the other.

    :param address: of ``one``, in a network of 256 addresses.
    """
    ends = ["name", other.name, "netns", str(one.pid), "type", "veth", "peer", "name", one.name]
    tried = run(program("ip", "iproute2"), "link", "add", *ends, "netns", str(other.pid), status=None)
    if tried.returncode:
        skip_or_fail(f"no wire between network namespaces: {tried.stderr.decode(errors='replace').strip()}")
    for machine, peer, own in ((one, other, address), (other, one, other_address)):
        machine.ip("address", "add", f"{own}/24", "dev", peer.name)
        machine.ip("link", "set", peer.name, "up")
        machine.ip("link", "set", "lo", "up")
