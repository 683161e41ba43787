"""python -m benchmarks: measure tcpmesh beside the peers that are on this machine."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from attrs import evolve

from benchmarks import generator, machine, measuring, report, results
from benchmarks.cases import CASES, QUICK, Case, Effort, Share
from benchmarks.peers import PEERS
from benchmarks.peers.base import GROUPS, Found, Peer
from benchmarks.results import Measured, PeerFacts, Results

RESULTS = Path(__file__).parent / "results"


def _chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names in a list with commas; all if it is empty."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise click.UsageError(f"no {what} {name!r}; there are: {', '.join(known)}")
    return [name for name in known if name in names or not names]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Some five minutes: two rounds, shorter cases, fewer idle connections.")
@click.option("--rounds", type=click.IntRange(1), help="How often everything is repeated.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Length of each timed case.")
@click.option("--peers", default="", metavar="NAME,...", help=f"Of: {', '.join(peer.name for peer in PEERS)}.")
@click.option("--cases", default="", metavar="KEY,...", help=f"Of: {', '.join(case.key for case in CASES)}.")
@click.option("--group", type=click.Choice([*GROUPS, "both"]), default="both", help="With which key agreement.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where the results go; by default benchmarks/results/DATE."
)
@click.option("--report", "old", type=click.Path(path_type=Path, exists=True), help="Only report on this results.json.")
def main(
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    peers: str,
    cases: str,
    group: str,
    out: Path | None,
    old: Path | None,
) -> None:
    """Measure tcpmesh beside other proxies, every one with two hops of mutual TLS 1.3."""
    if old:
        report.write(results.load(old), old.parent)
        return
    effort = QUICK if quick else Effort()
    effort = evolve(effort, rounds=rounds or effort.rounds, seconds=seconds or effort.seconds)
    picked = _chosen(peers, [peer.name for peer in PEERS], "peer")
    wanted = _chosen(cases, [case.key for case in CASES], "case")
    plan_cases = [case for case in CASES if case.key in wanted]
    everyone = [peer for peer in PEERS if peer.name in picked]
    run = Results(
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=machine.facts(),
        effort=effort,
        groups=GROUPS if group == "both" else (group,),
        cases=tuple(case.key for case in plan_cases),
        peers=tuple(_look(peer) for peer in everyone),
    )
    place = out or RESULTS / run.started[:16].replace("T", "-").replace(":", "")
    place.mkdir(parents=True, exist_ok=True)
    complete = _measure(run, plan_cases, everyone, place)
    report.write(run, place)
    sys.exit(not complete)


def _look(peer: Peer) -> PeerFacts:
    found = peer.find()
    if isinstance(found, Found):
        facts = PeerFacts(peer.name, found.version, found.tls_library, tuple(g for g in GROUPS if g in found.groups))
        click.echo(f"{peer.name} {found.version}, {found.tls_library}, {' '.join(facts.groups)}", err=True)
        return facts
    click.echo(f"{peer.name}: not measured: {found.reason}", err=True)
    return PeerFacts(peer.name, missing=found.reason)


def _measure(run: Results, cases: Sequence[Case], peers: Sequence[Peer], place: Path) -> bool:
    """Go through the whole plan; false if somebody had no patience."""
    steps = measuring.plan(run, cases)
    started = time.monotonic()
    try:
        for step, measured in measuring.run(run, steps, peers, generator.build(), place):
            left = measuring.seconds_left(started, len(run.measured), len(steps), time.monotonic())
            where = f"[{len(run.measured)}/{len(steps)}, {left / 60:.0f} min left] round {step.round}, {step.case.key}"
            click.echo(f"{where}, {step.entry.title}: {_in_short(step.case, measured)}", err=True)
            run.save(place / "results.json")
    except KeyboardInterrupt:
        click.echo("interrupted: what there is is reported", err=True)
        return False
    return True


def _in_short(case: Case, measured: Measured) -> str:
    if measured.error:
        return f"FAILED: {measured.error}"
    figures = (f"{measured.values[metric.key]:.{metric.digits}f} {metric.unit}" for metric in case.metrics)
    return ", ".join(figures) + _others(measured.share) + (f" ({measured.note})" if measured.note else "")


def _others(share: Share | None) -> str:
    """A warning if somebody else was busy."""
    if share is None or share.others < 0.1 * share.seconds:
        return ""
    return f" (others used {share.others / share.seconds:.1f} processors meanwhile)"


if __name__ == "__main__":
    main()
