"""No proxy at all: what the machine and the load generator can do, and so the bound of every figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.peers.base import DIRECT, GROUPS, Found, Missing, Run, Running


class Direct:
    """The client talks to the application."""

    name = DIRECT

    def find(self) -> Found | Missing:
        """Always there; a group makes no difference to it."""
        return Found(version="", tls_library="none", groups=frozenset(GROUPS))

    @contextmanager
    def running(self, run: Run) -> Iterator[Running]:
        """Nothing to start."""
        yield Running(port=run.target_port, pids=(), start_seconds=0.0)
