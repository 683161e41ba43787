"""
``tcpmesh identity map``: whom the proxy expects behind each service, at which addresses, and where it is told so.

Ring 4. From the configuration alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.options import config_option, json_option
from tcpmesh.config.mentions import Destination, destinations
from tcpmesh.identity.mapping import compile_mappings
from tcpmesh.identity.origin import Origin, origin_of
from tcpmesh.identity.spiffe import SpiffeId

__all__ = ["identity_map"]

_COLUMNS = ("SERVICE", "ENDPOINTS", "EXPECTED", "NAME", "FROM")
_WIDE = 20_000  # columns where there is no terminal whose width would count: no line is broken


@click.command("map")
@click.option("--service", "services", metavar="NAME", multiple=True, help="Only this service; may be repeated.")
@config_option
@json_option
@click.pass_context
def identity_map(ctx: click.Context, services: tuple[str, ...], config: Path, as_json: bool) -> None:
    """
    Show each service's endpoints, whom it expects there, what name identity.mapping gives that ID to, and where the
    configuration says so.

    Any of the identities of a service may answer at any of its endpoints. Exit status: 0, also when there is no
    service; 1 when the configuration is invalid.
    """
    from tcpmesh.config import load_with_marks
    from tcpmesh.plugins import PluginRegistry

    settings, marks = load_with_marks(config.absolute(), PluginRegistry())
    for name in services:
        if name not in settings.services:
            close = get_close_matches(name, settings.services, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(settings.services) or 'none'}"
            raise click.UsageError(f"{settings.file} has no service {name!r}; {hint}", ctx)
    mappings = compile_mappings(settings.identity.mapping)
    found = [
        (
            each,
            origin_of(each.expected, mappings, settings.trust_domain) if isinstance(each.expected, SpiffeId) else None,
        )
        for each in destinations(settings, marks, services or None)
    ]
    if as_json:
        click.echo(json.dumps({"file": str(settings.file), "destinations": [_as_mapping(*each) for each in found]}))
    elif not settings.services:
        click.echo(f"{settings.file} has no services")
    else:
        if found:
            _print_table(found, named=bool(mappings))
        for name in services or settings.services:
            if not settings.services[name].expect:
                click.echo(f"{name} expects nobody: TLS of applications is passed through to it")


def _as_mapping(destination: Destination, origin: Origin | None) -> dict[str, Any]:
    mark = destination.mark
    return {
        "service": destination.service,
        "discovery": destination.discovery,
        "endpoints": None if destination.addresses is None else [str(address) for address in destination.addresses],
        "expected": str(destination.expected),
        "name": None
        if origin is None
        else {"mapping": origin.mapping.name, "text": origin.name or None, "problem": origin.problem or None},
        "from": None if mark is None else {"file": mark.file, "line": mark.line, "column": mark.column},
    }


def _print_table(found: Sequence[tuple[Destination, Origin | None]], *, named: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        if column == "NAME" and not named:
            continue
        table.add_column(column, overflow="fold")
    before = ""
    for each, origin in found:
        again = each.service == before
        before = each.service
        row = ("", "") if again else (each.service, _endpoints(each))
        names = (_name(origin),) if named else ()
        table.add_row(*map(Text, (*row, str(each.expected), *names, str(each.mark or ""))))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)


def _name(origin: Origin | None) -> str:
    """Who has the ID elsewhere."""
    if origin is None:
        return "-"
    return origin.name or f"PROBLEM: {origin.mapping} gives it to nobody: {origin.problem}"


def _endpoints(destination: Destination) -> str:
    if destination.addresses is None:
        return f"found by {destination.discovery} while the proxy runs"
    return " ".join(str(address) for address in destination.addresses)
