"""
Tables of plain columns, for terminals and for pipes.

Ring 4.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from tcpmesh.observe.text import printable

__all__ = ["print_table"]

_WIDE = 20_000  # columns where there is no terminal whose width would count: no line is broken


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table to standard output, every cell escaped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # on a narrow terminal too, whole: half an identity says nothing
    for row in rows:
        # Text, not str: rich reads markup in strings, and a name may look like it.
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE)
    with console.capture() as printed:
        console.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))
