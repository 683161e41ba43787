"""The main figures as bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.cases import CASES
from benchmarks.peers.base import DIRECT, OURS
from benchmarks.results import Entry, Results, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN: Final = (
    ("bulk-1", "rate"),
    ("bulk-1", "cpu"),
    ("echo-64-1", "p50"),
    ("echo-64-32", "rate"),
    ("echo-64-32", "cpu"),
    ("connect", "cpu"),
    ("idle", "many"),
    ("rest", "pss"),
)
_COLOURS: Final = ("tab:purple", "tab:cyan")


def draw(results: Results, path: Path) -> str:
    """Write the picture; give the reason if there is none."""
    try:
        import matplotlib as mpl
    except ImportError:
        return "no plot: matplotlib is not installed (make bench installs it: the extra tcpmesh[bench])"
    mpl.use("Agg")
    from matplotlib import pyplot

    shown = [(case, metric) for case, metric in _SHOWN if case in results.cases]
    if not shown:
        return "no plot: none of the cases that it would show was measured"
    rows = (len(shown) + 1) // 2
    figure, axes = pyplot.subplots(rows, 2, figsize=(12, 0.6 + 2.6 * rows), squeeze=False)
    for place, (case_key, metric_key) in zip(axes.flat, shown, strict=False):
        _bars(results, place, case_key, metric_key)
    for place in list(axes.flat)[len(shown) :]:
        place.set_visible(False)
    figure.suptitle("Two hops of mutual TLS 1.3: median of all rounds, least and most")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return ""


def _bars(results: Results, place: Axes, case_key: str, metric_key: str) -> None:
    case = next(case for case in CASES if case.key == case_key)
    metric = case.metric(metric_key)
    names = [peer.name for peer in results.peers if peer.name != DIRECT and not peer.missing]
    height = 0.8 / len(results.groups)
    for number, group in enumerate(results.groups):
        for row, name in enumerate(names):
            values = results.values(case_key, Entry(name, group), metric_key)
            if not values:
                continue
            spread = Spread.of(list(values.values()))
            place.barh(
                row + (number - (len(results.groups) - 1) / 2) * height,
                spread.median,
                height,
                xerr=[[spread.median - spread.least], [spread.most - spread.median]],
                color=_COLOURS[number % 2],
                alpha=1.0 if name == OURS else 0.55,
                label=group if name == OURS else None,
                capsize=2,
            )
    better = "more" if metric.more_is_better else "less"
    title = f"{case.title}: {metric.in_words(results.effort)} ({better} is better)"
    place.set_title(title, fontsize=9)
    place.set_yticks(range(len(names)), names, fontsize=8)
    place.invert_yaxis()
    if place.get_legend_handles_labels()[0]:
        place.legend(fontsize=7)
