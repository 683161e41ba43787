"""Whether a peer really does what is asked of it: one round trip, with the handshake between its hops read."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.peers.base import Run
from benchmarks.peers.hops import TwoHops
from benchmarks.peers.throwaway import ThrowawayCertificates, echo, round_trip
from benchmarks.peers.wire import tap

CONNECTIONS = 100  # that a trial configures for


def attempt(peer: TwoHops, group: str) -> str | None:
    """Run both hops with ``group``; give None when they agree on it, else the reason why they do not, in one line."""
    with tempfile.TemporaryDirectory() as name, echo() as target, tap() as between:
        certificates = Path(name, "certificates")
        directory = Path(name, "run")
        certificates.mkdir()
        directory.mkdir()
        run = Run(directory, target, group, CONNECTIONS, ThrowawayCertificates(certificates))
        try:
            with peer.started(run, between.towards) as running:
                round_trip(running.port)
        except (RuntimeError, OSError) as error:
            return " | ".join(line.strip() for line in str(error).splitlines())
        groups = sorted({negotiated.group for negotiated in between.negotiated})
        return None if groups == [group] else f"negotiated {' and '.join(groups) or 'nothing'} instead of {group}"
