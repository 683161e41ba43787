"""
``tcpmesh connections``: what a running proxy carries at this moment.

Ring 4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.tables import print_table
from tcpmesh.observe.text import printable

__all__ = ["connections"]

_COLUMNS = ("ID", "DIRECTION", "LISTENER", "SOURCE", "DESTINATION", "AGE", "SENT", "RECEIVED", "STATE")


def _host(entry: Mapping[str, Any]) -> str:
    """Where it comes from, without the port; a unix path whole."""
    address = str(entry.get("src.addr", ""))
    return address if address.startswith("unix:") else address.rpartition(":")[0]


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "identity": lambda entry: str(entry.get("src.identity", "")),
    "source": _host,
    "listener": lambda entry: str(entry.get("listener", "")),
}


@click.command()
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.option("--by", "part", type=click.Choice(list(_PARTS)), help="Count them by this instead, the most first.")
def connections(admin: str | None, config: Path, as_json: bool, part: str | None) -> None:
    """
    Show the connections of a running proxy, asked over its admin socket, or with --by who has how many.

    SENT is payload towards the destination, RECEIVED towards the source. Exit status: 0 when the proxy answered, 1
    when the configuration is invalid, 2 when no proxy could be asked.
    """
    address = admin_address(admin, config)
    listing = ask(address, "/connections")
    entries = listing.get("connections") if isinstance(listing, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AdminError(f"what answers on {printable(str(address))} lists no connections as tcpmesh does")
    groups = _groups(entries, part) if part is not None else []
    if as_json:
        click.echo(json.dumps(listing if part is None else {"by": part, "count": len(entries), "groups": groups}))
    elif not entries:
        click.echo("no connections")
    elif part is not None:
        rows = [
            (
                str(group["connections"]),
                group["direction"],
                group["name"],
                *map(_size, (group["sent"], group["received"])),
            )
            for group in groups
        ]
        print_table(("CONNECTIONS", "DIRECTION", part.upper(), "SENT", "RECEIVED"), rows)
    else:
        print_table(_COLUMNS, map(_row, entries))


def _groups(entries: Iterable[Mapping[str, Any]], part: str) -> list[dict[str, Any]]:
    """Who has how many, and what they carried so far."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        key = (str(entry.get("direction", "")), _PARTS[part](entry) or "-")
        group = found.setdefault(key, {"name": key[1], "direction": key[0], "connections": 0, "sent": 0, "received": 0})
        group["connections"] += 1
        for name, field in (("sent", "bytes_sent"), ("received", "bytes_recv")):
            if isinstance(entry.get(field), int):
                group[name] += entry[field]
    return sorted(found.values(), key=lambda group: (-group["connections"], group["name"], group["direction"]))


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
