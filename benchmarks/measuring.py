"""The procedure: every case for one peer after the other, and again in the next round with another one first."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import evolve, frozen

from benchmarks import generator
from benchmarks.cases import Case, Effort, Sample, Session
from benchmarks.peers.base import DIRECT, GROUPS, Peer, Run
from benchmarks.peers.throwaway import ThrowawayCertificates
from benchmarks.results import Entry, Measured, Results

_LOG_END = 100_000  # bytes
_SPARE = 500  # connections more than a case opens


@frozen
class Step:
    """One measurement of the plan."""

    round: int
    case: Case
    entry: Entry


def plan(results: Results, cases: Sequence[Case]) -> list[Step]:
    """All measurements in their order: those that are compared follow each other immediately."""
    steps = []
    for number in range(1, results.effort.rounds + 1):
        for case in cases:
            if case.once and number > 1:
                continue
            entries = _entries(results, case)
            turn = number % len(entries) if entries else 0
            steps += [Step(number, case, entry) for entry in entries[turn:] + entries[:turn]]
    return steps


def _entries(results: Results, case: Case) -> list[Entry]:
    groups = results.groups
    if results.effort.groupless_once and not case.group_matters:
        groups = groups[-1:]
    entries = dict.fromkeys(entry for group in groups for entry in results.entries(group))
    return [entry for entry in entries if not (case.needs_hops and entry.peer == DIRECT)]


def run(
    results: Results, steps: Sequence[Step], peers: Sequence[Peer], program: Path, place: Path
) -> Iterator[tuple[Step, Measured]]:
    """Go through the plan, and add each measurement to the results before it is given.

    A peer that fails in a case leaves a `Measured` with its error, and its logs below ``place``; the plan goes on.
    """
    by_name = {peer.name: peer for peer in peers}
    with generator.application(program) as (port, pid):
        for step in steps:
            entry = step.entry
            outcome = Measured(step.round, step.case.key, entry.peer, entry.group)
            with tempfile.TemporaryDirectory(prefix="tcpmesh-bench-") as directory:
                try:
                    sample = _measure(step, by_name[entry.peer], results.effort, program, port, pid, Path(directory))
                    outcome = evolve(outcome, values=sample.values, share=sample.share, note=sample.note)
                except (RuntimeError, OSError, subprocess.SubprocessError, generator.LoadError) as error:
                    logs = _keep_logs(Path(directory), place / f"failed-{step.round}-{step.case.key}-{entry.name}")
                    outcome = evolve(outcome, error=f"{' '.join(str(error).split()) or type(error).__name__}{logs}")
            results.measured.append(outcome)
            yield step, outcome


def _measure(step: Step, peer: Peer, effort: Effort, program: Path, port: int, pid: int, directory: Path) -> Sample:
    for name in ("certificates", "run"):
        (directory / name).mkdir()
    details = Run(
        directory=directory / "run",
        target_port=port,
        group=step.entry.group or GROUPS[-1],
        max_connections=effort.idle[1] + _SPARE,
        certificates=ThrowawayCertificates(directory / "certificates"),
        renewing=step.case.renewing,
    )
    with peer.running(details) as running:
        return step.case.measure(Session(running, program, pid, effort))


def _keep_logs(directory: Path, place: Path) -> str:
    """Save the ends of the peer's logs, and say so."""
    logs = [log for log in sorted(directory.glob("run/*.log")) if log.stat().st_size]
    for log in logs:
        place.mkdir(parents=True, exist_ok=True)
        (place / log.name).write_bytes(log.read_bytes()[-_LOG_END:])
    return f" (logs in {place.name})" if logs else ""


def seconds_left(started: float, done: int, steps: int, now: float) -> float:
    """How long the rest will take if it goes on like this."""
    return (now - started) / done * (steps - done) if done else 0.0
