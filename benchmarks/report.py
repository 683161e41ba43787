"""Results for people: on the terminal, and as a directory with Markdown, JSON and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as TerminalTable

from benchmarks import plot
from benchmarks.results import Results
from benchmarks.tables import Gap, Table, case_tables, crowded, peers_table
from benchmarks.targets import targets_table

_WIDTH = 120  # narrower tables cannot be read


def write(results: Results, place: Path) -> None:
    """Write results.json, report.md and plot.png, and print the tables."""
    results.save(place / "results.json")
    remarks = [remark for remark in (crowded(results), plot.draw(results, place / "plot.png")) if remark]
    (place / "report.md").write_text(markdown(results, remarks))
    console = Console()
    if console.width < _WIDTH:
        console = Console(width=_WIDTH)
    for table in _all_tables(results):
        _print(console, table)
    for remark in remarks:
        console.print(escape(remark))
    console.print(f"written: {place}/report.md, results.json" + (", plot.png" if (place / "plot.png").exists() else ""))


def _all_tables(results: Results) -> Iterator[Table]:
    yield peers_table(results)
    yield from case_tables(results)
    yield targets_table(results)


def _print(console: Console, table: Table) -> None:
    shown = TerminalTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(
            escape(column.brief or column.title), justify="left" if number == 0 else "right", no_wrap=number == 0
        )
    for row in table.rows:
        if not isinstance(row, Gap):
            shown.add_row(*(escape(cell.text) for cell in row))
    console.print(shown)
    for row in table.rows:
        if isinstance(row, Gap):
            console.print(f"  {escape(row.name)}: {escape(row.reason)}", soft_wrap=True)
    for remark in table.remarks:
        console.print(f"  {escape(remark)}", soft_wrap=True)


def markdown(results: Results, remarks: list[str]) -> str:
    """The whole report."""
    effort = results.effort
    lines = [
        "# tcpmesh beside its peers",
        "",
        f"{results.started}; {effort.rounds} rounds, every case for one peer after the other, {effort.seconds:g} s "
        f"for each timed case, {effort.bulk_bytes / 1e6:,.0f} MB in bulk, {effort.idle[0]:,} and {effort.idle[1]:,} "
        "idle connections. Figures are medians, in brackets the least and the most; a ratio is taken within each "
        "round, and then the median of the ratios. How it is measured: benchmarks/README.md.",
        "",
        *(f"- {name}: {value}" for name, value in results.machine.items()),
        "",
    ]
    lines += [f"**{remark}**\n" for remark in remarks]
    if not any(remark.startswith("no plot") for remark in remarks):
        lines += ["![main figures](plot.png)", ""]
    for table in (targets_table(results), peers_table(results), *case_tables(results)):
        lines += [f"## {table.title}", "", *_markdown_table(table), ""]
        lines += [f"- {remark}" for remark in table.remarks]
        lines += [""] if table.remarks else []
    return "\n".join(lines)


def _markdown_table(table: Table) -> Iterator[str]:
    yield _line(column.title for column in table.columns)
    yield _line("---" for _column in table.columns)
    for row in table.rows:
        if isinstance(row, Gap):
            yield _line([row.name, row.reason, *[""] * (len(table.columns) - 2)])
        else:
            yield _line(str(cell) for cell in row)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
