"""
The tables and plots of docs/upstream-balancing.md, from simulations: ``python -m benchmarks.balancing_report docs``.

Prints the tables and, where matplotlib is installed, writes the plots into the directory that is named.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.task import Clock

from benchmarks.balancing import (
    BALANCERS,
    BLACK_HOLE,
    REFUSING,
    SLOW,
    Outcome,
    Simulation,
    balancer,
    fleet,
)
from tcpmesh.values import Endpoint, TCPAddress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HUNDRED", "MISBEHAVING", "share_rows"]

HUNDRED: Final = fleet(100)
MISBEHAVING: Final = {HUNDRED[10]: SLOW, HUNDRED[40]: REFUSING, HUNDRED[70]: BLACK_HOLE}
_NAMES: Final = ("ten times as slow", "refuses at once", "black hole")
_SIZES: Final = (3, 100, 10_000)
_BIN: Final = 5  # seconds of a point


def _times_fair(outcome: Outcome, endpoint: Endpoint) -> float:
    return outcome.share(endpoint) * len(HUNDRED)


def share_rows(*, ejects: bool, seconds: float = 60.0) -> Iterator[tuple[str, list[float]]]:
    """
    By balancer: the share of each of the three, the least and the most of the others, in fair shares; the part of
    connections that failed, in percent; and how long 99 % of the others took at most to be established, in ms.
    """
    for name in BALANCERS:
        outcome = Simulation(name, HUNDRED, MISBEHAVING, ejects=ejects).run(seconds)
        others = sorted(_times_fair(outcome, each) for each in HUNDRED if each not in MISBEHAVING)
        failed = 100 * outcome.failed / outcome.connections
        shares = [_times_fair(outcome, each) for each in MISBEHAVING]
        yield name, [*shares, others[0], others[-1], failed, 1000 * outcome.percentile(0.99)]


def share_table(*, ejects: bool) -> Iterator[str]:
    """The same, as Markdown."""
    yield "| balancer | slow | refuses | black hole | the other 97 | failed | 99 % within |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, (slow, refusing, hole, least, most, failed, late) in share_rows(ejects=ejects):
        yield (
            f"| `{name}` | {slow:.2f} | {refusing:.2f} | {hole:.2f} | {least:.2f} to {most:.2f} | {failed:.2f} % "
            f"| {late:.0f} ms |"
        )


def cost_table() -> Iterator[str]:
    """What a pick costs with the news that follow it, in microseconds, measured here and now."""
    yield "| balancer | " + " | ".join(f"{size:,}" for size in _SIZES) + " |"
    yield "| --- |" + " --- |" * len(_SIZES)
    for name in BALANCERS:
        for weighted in (False, True):
            costs = " | ".join(f"{_cost(name, size, weighted=weighted):.1f}" for size in _SIZES)
            yield f"| `{name}`{', weighted' if weighted else ''} | {costs} |"
    costs = " | ".join(f"{_cost('source-hash', size, new_sources=True):.1f}" for size in _SIZES)
    yield f"| `source-hash`, new source | {costs} |"


def _cost(name: str, size: int, *, weighted: bool = False, new_sources: bool = False) -> float:
    endpoints = tuple(attrs.evolve(each, weight=1 + number % 3 * weighted) for number, each in enumerate(fleet(size)))
    chance = random.Random(6)
    one = balancer(name, Clock(), chance)
    nobody: frozenset[Endpoint] = frozenset()
    best = float("inf")
    for number in range(5):
        chosen = []
        spent = 0.0
        for source in range(200):
            at = TCPAddress(f"10.{number}.{source}.1" if new_sources else "10.0.0.1", 1)
            began = time.perf_counter()
            picked = one.pick_for(endpoints, nobody, at) if name == "source-hash" else one.pick(endpoints, nobody)
            one.opened(picked)
            one.established(picked, 0.002)
            spent += time.perf_counter() - began
            chosen.append(picked)
        for picked in chosen:
            one.closed(picked)
        best = min(best, spent / len(chosen))
    return best * 1e6


def _in_bins(simulation: Simulation, seconds: int, *where: Endpoint) -> list[float]:
    """The share of these endpoints, bin after bin."""
    return [simulation.run(_BIN).share(*where) for _ in range(seconds // _BIN)]


def _draw_shares(place: Axes, *, ejects: bool) -> None:
    rows = list(share_rows(ejects=ejects))
    for number, (label, colour) in enumerate(zip(_NAMES, ("tab:orange", "tab:red", "tab:purple"), strict=True)):
        values = [max(row[number], 0.005) for _, row in rows]
        at = [position + (number - 1) * 0.27 for position in range(len(rows))]
        place.barh(at, [value - 0.005 for value in values], 0.25, left=0.005, color=colour, label=label)
    place.set_xscale("log")
    place.set_xlim(0.005, 200)
    place.axvline(1.0, color="black", linewidth=0.8)
    place.set_yticks(range(len(rows)), [name for name, _ in rows])
    place.set_ylim(len(rows) - 0.5, -0.5)
    place.set_title("with ejection (the default)" if ejects else "without ejection")
    place.set_xlabel("attempts, in fair shares (1 = one of a hundred)")


def _draw_recovery(place: Axes) -> None:
    refusing = HUNDRED[40]
    for name, ejects, colour in (
        ("round-robin", False, "tab:gray"),
        ("least-connections", False, "tab:red"),
        ("least-connections", True, "tab:orange"),
        ("p2c-ewma", False, "tab:blue"),
    ):
        simulation = Simulation(name, HUNDRED, {}, ejects=ejects)
        shares = _in_bins(simulation, 30, refusing)
        simulation.behaviours = {each.address: behaviour for each, behaviour in MISBEHAVING.items()}
        shares += _in_bins(simulation, 90, refusing)
        simulation.behaviours = {}
        shares += _in_bins(simulation, 120, refusing)
        label = f"{name}, with ejection" if ejects else name
        times = [_BIN * (number + 0.5) for number in range(len(shares))]
        place.plot(times, [share * len(HUNDRED) for share in shares], color=colour, label=label, linewidth=1.4)
    place.axvspan(30, 120, color="0.93")
    place.text(33, 20, "it refuses", fontsize=8)
    place.set_yscale("symlog", linthresh=0.1)
    place.set_ylim(-0.02, 150)
    place.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    place.set_xlabel("seconds")
    place.set_ylabel("attempts, in fair shares")
    place.legend(fontsize=7)


def _draw_priorities(place: Axes) -> None:
    first = fleet(4)
    second = tuple(attrs.evolve(each, priority=1) for each in fleet(8)[4:])
    simulation = Simulation("p2c-ewma", (*first, *second), {}, ejects=True, rate=50.0)
    shares = _in_bins(simulation, 30, *second)
    simulation.behaviours = {each.address: REFUSING for each in first}
    shares += _in_bins(simulation, 60, *second)
    simulation.behaviours = {}
    shares += _in_bins(simulation, 90, *second)
    _stack(place, shares, ("priority 0", "priority 1"))
    place.set_title("priority 0 refuses from 30 s to 90 s")


def _draw_zones(place: Axes) -> None:
    near = fleet(6, zone="eu-1a")
    far = tuple(attrs.evolve(each, zone="eu-1b") for each in fleet(12)[6:])
    simulation = Simulation("round-robin", (*near, *far), {}, ejects=True, rate=50.0, zone="eu-1a")
    shares = _in_bins(simulation, 30, *far)
    for failing, seconds in ((2, 60), (4, 60), (0, 150)):
        simulation.behaviours = {each.address: REFUSING for each in near[:failing]}
        shares += _in_bins(simulation, seconds, *far)
    _stack(place, shares, ("own zone", "other zone"))
    place.set_title("own zone: 2 of 6 refuse from 30 s, 4 from 90 to 150 s")


def _stack(place: Axes, shares: Sequence[float], labels: tuple[str, str]) -> None:
    times = [_BIN * (number + 0.5) for number in range(len(shares))]
    upper = [100 * share for share in shares]
    place.stackplot(
        times, [100 - share for share in upper], upper, labels=labels, colors=("tab:blue", "tab:orange"), alpha=0.7
    )
    place.set_xlabel("seconds")
    place.set_ylabel("% of attempts")
    place.set_ylim(0, 100)
    place.legend(fontsize=8, loc="center right")


def draw(directory: Path) -> str:
    """Write the plots; give the reason if there are none."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "no plots: matplotlib is not installed (pip install 'tcpmesh[bench]')"
    mpl.use("Agg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tcpmesh", "font.size": 9})
    from matplotlib import pyplot

    def save(figure: Any, name: str) -> None:
        figure.tight_layout()
        figure.savefig(directory / name, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for place, ejects in zip(axes, (False, True), strict=True):
        _draw_shares(place, ejects=ejects)
    axes[1].legend(fontsize=8, loc="upper right")
    save(figure, "upstream-balancing-shares.svg")
    figure, place = pyplot.subplots(figsize=(10, 3.2))
    _draw_recovery(place)
    save(figure, "upstream-balancing-recovery.svg")
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3))
    _draw_priorities(axes[0])
    _draw_zones(axes[1])
    save(figure, "upstream-balancing-tiers.svg")
    return ""


def main(arguments: Sequence[str]) -> None:
    """Print the tables and write the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balancing_report", description=(__doc__ or "").strip())
    parser.add_argument("directory", nargs="?", type=Path, help="where the plots go; by default there are none")
    directory = parser.parse_args(arguments).directory
    for ejects in (False, True):
        print(f"\n{'with' if ejects else 'without'} ejection\n")
        print("\n".join(share_table(ejects=ejects)), flush=True)
    print("\nmicroseconds\n")
    print("\n".join(cost_table()))
    if directory is not None:
        print(draw(directory), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
