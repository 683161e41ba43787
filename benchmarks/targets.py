"""What tcpmesh is to reach, and whether it did in this run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from attrs import frozen

from benchmarks.cases import CASES
from benchmarks.peers.base import CLASSICAL, OURS, POST_QUANTUM, STOCK
from benchmarks.results import Entry, Results, Spread, paired_ratio
from benchmarks.tables import Cell, Column, Table, number, spread


@frozen
class Target:
    """A bound for one metric: relative to the best peer, to stock Twisted, or absolute."""

    case: str
    metric: str
    bound: float
    at_least: bool = False
    against: Literal["best", "stock", ""] = "best"
    group: str = ""  # holds for this group only


TARGETS: Final = (
    Target("bulk-1", "rate", 1.0, at_least=True),
    Target("bulk-8", "rate", 1.0, at_least=True),
    Target("bulk-1", "cpu", 1.2),
    Target("bulk-8", "cpu", 1.2),
    Target("echo-64-1", "p50", 1.4),
    Target("echo-64-32", "rate", 0.8, at_least=True),
    Target("connect", "cpu", 1.4),
    Target("idle", "few", 80, against="", group=POST_QUANTUM),
    Target("idle", "many", 80, against="", group=POST_QUANTUM),
    Target("idle", "few", 70, against="", group=CLASSICAL),
    Target("idle", "many", 70, against="", group=CLASSICAL),
    Target("rest", "rss", 60, against=""),
    Target("rest", "start", 1, against=""),
    Target("renewals", "failed", 0, against=""),
    Target("bulk-1", "rate", 2, at_least=True, against="stock"),
    Target("bulk-8", "rate", 2, at_least=True, against="stock"),
    Target("echo-64-1", "rate", 4, at_least=True, against="stock"),
    Target("echo-64-32", "rate", 4, at_least=True, against="stock"),
)


@frozen
class Comparison:
    """Ours beside one peer, paired."""

    peer: str
    theirs: Spread
    ratio: Spread


def targets_table(results: Results) -> Table:
    """One row for each target and group of which anything was measured."""
    columns = ("case", "group", "tcpmesh", "against", "theirs", "ratio", "target", "")
    rows, remarks = [], []
    for row, remark in _rows(results):
        rows.append(row)
        remarks += [remark] if remark else []
    return Table("Targets", tuple(Column(column) for column in columns), tuple(rows), tuple(remarks))


def _rows(results: Results) -> Iterator[tuple[tuple[Cell, ...], str]]:
    """Each with the reason why it is open, if it is."""
    for target in TARGETS:
        for group in results.groups:
            if target.case in results.cases and target.group in ("", group) and _was_planned(results, target, group):
                row, reason = _row(results, target, group)
                yield row, reason and f"open: {row[0]} with {group}: {reason}"


def _was_planned(results: Results, target: Target, group: str) -> bool:
    return any(results.of(target.case, entry) for entry in results.entries(group) if entry.group)


def _row(results: Results, target: Target, group: str) -> tuple[tuple[Cell, ...], str]:
    case = next(case for case in CASES if case.key == target.case)
    metric = case.metric(target.metric)
    title = Cell(f"{case.title}: {metric.in_short(results.effort)}")
    sign = "≥" if target.at_least else "≤"
    wanted = Cell(f"{sign} {target.bound:g} {'x' if target.against else metric.unit.removesuffix(' each')}".rstrip())
    empty, undecided = Cell(""), Cell("open")
    ours = results.values(target.case, Entry(OURS, group), target.metric)
    if not ours:
        reason = "; ".join(results.errors(target.case, Entry(OURS, group))) or f"{OURS} was not measured"
        return (title, Cell(group), empty, empty, empty, empty, wanted, undecided), reason
    figures = Spread.of(list(ours.values()))
    start = (title, Cell(group), spread(figures, metric.digits))
    if not target.against:
        return (*start, empty, empty, empty, wanted, _verdict(target, figures.median)), ""
    comparison = _against(results, target, group, ours)
    if comparison is None:
        nobody = f"no figures of {STOCK}" if target.against == "stock" else "no figures of a peer"
        return (*start, empty, empty, empty, wanted, undecided), nobody
    theirs = Cell(number(comparison.theirs.median, metric.digits))
    verdict = _verdict(target, comparison.ratio.median)
    return (*start, Cell(comparison.peer), theirs, spread(comparison.ratio, 2), wanted, verdict), ""


def _against(results: Results, target: Target, group: str, ours: dict[int, float]) -> Comparison | None:
    """The peer beside which we look worst, or stock Twisted."""
    comparisons = []
    for facts in results.peers:
        if facts.name == STOCK if target.against == "stock" else facts.is_rival:
            theirs = results.values(target.case, Entry(facts.name, group), target.metric)
            ratio = paired_ratio(ours, theirs)
            if ratio is not None:
                comparisons.append(Comparison(facts.name, Spread.of(list(theirs.values())), ratio))
    choose = min if target.at_least else max
    return choose(comparisons, key=lambda comparison: comparison.ratio.median, default=None)


def _verdict(target: Target, value: float) -> Cell:
    if value >= target.bound if target.at_least else value <= target.bound:
        return Cell("met")
    if not target.bound:
        return Cell("missed")
    off = abs(value / target.bound - 1)
    return Cell("missed", f"by {off:.0%}" if off >= 0.01 else "by less than 1%")
