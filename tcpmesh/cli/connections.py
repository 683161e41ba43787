"""
``tcpmesh connections``: what a running proxy carries at this moment.

Ring 4.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.observe.text import printable

__all__ = ["connections"]

_COLUMNS = ("ID", "DIRECTION", "LISTENER", "SOURCE", "DESTINATION", "AGE", "SENT", "RECEIVED", "STATE")
_WIDE = 20_000  # columns where there is no terminal whose width would count: no line is broken


@click.command()
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
def connections(admin: str | None, config: Path, as_json: bool) -> None:
    """
    Show the connections of a running proxy, asked over its admin socket.

    SENT is payload towards the destination, RECEIVED towards the source. Exit status: 0 when the proxy answered, 1
    when the configuration is invalid, 2 when no proxy could be asked.
    """
    address = admin_address(admin, config)
    listing = ask(address, "/connections")
    entries = listing.get("connections") if isinstance(listing, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AdminError(f"what answers on {printable(str(address))} lists no connections as tcpmesh does")
    if as_json:
        click.echo(json.dumps(listing))
    elif not entries:
        click.echo("no connections")
    else:
        _print_table(entries)


def _print_table(entries: list[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")  # on a narrow terminal too, whole: half an identity says nothing
    for entry in entries:
        # Text, not str: rich reads markup in strings, and a name may look like it.
        table.add_row(*(Text(printable(cell)) for cell in _row(entry)))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    def text(name: str) -> str:
        return str(entry.get(name, ""))

    destination = text("dst.identity") or text("dst.service")
    return (
        text("id"),
        text("direction"),
        text("listener"),
        " ".join(filter(None, (text("src.identity"), text("src.addr")))),
        " ".join(filter(None, (destination, text("dst.addr")))),
        _age(entry.get("age_ms")),
        _size(entry.get("bytes_sent")),
        _size(entry.get("bytes_recv")),
        text("state"),
    )


def _age(milliseconds: Any) -> str:
    """The age in its two largest units."""
    if not isinstance(milliseconds, int | float):
        return ""
    seconds = max(0, int(milliseconds / 1000))
    for unit, next_unit, factor, next_factor in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if seconds >= factor:
            return f"{seconds // factor}{unit} {seconds % factor // next_factor}{next_unit}"
    return f"{seconds}s"


def _size(count: Any) -> str:
    if not isinstance(count, int):
        return ""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
