"""
``tcpmesh policy report``: what policies that decide nothing would have done in the running proxy, by identity.

Ring 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.observe.text import printable

__all__ = ["policy_report"]

_VERBS = {
    "audit": "noted",
    "would-allow": "would have allowed",
    "would-deny": "would have denied",
    "would-limit": "would have refused",
}


@click.command("report")
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
def policy_report(admin: str | None, config: Path, as_json: bool) -> None:
    """
    Say what policies with action: audit or mode: dry-run would have done since the proxy started, by identity.

    Exit status: 0 when the proxy answered, 1 when the configuration is invalid, 2 when no proxy could be asked.
    """
    address = admin_address(admin, config)
    answer = ask(address, "/policy/notes")
    notes = answer.get("notes") if isinstance(answer, dict) else None
    if not isinstance(notes, list) or not all(_is_note(note) for note in notes):
        raise AdminError(f"what answers on {printable(str(address))} notes nothing as tcpmesh does")
    if as_json:
        click.echo(json.dumps(answer))
        return
    for note in notes:
        click.echo(_line(note))
    if not notes:
        click.echo("no policy noted a connection")
    if answer.get("left_out"):
        click.echo(printable(f"left out: {answer['left_out']} connections of too many kinds"))


def _is_note(note: Any) -> bool:
    return isinstance(note, dict) and isinstance(note.get("connections"), int)


def _line(note: Mapping[str, Any]) -> str:
    verb = _VERBS.get(str(note.get("says")), "noted")
    count = note["connections"]
    what = "connection" if count == 1 else "connections"
    by = f"policy {note.get('policy')}: {note.get('rule')}"
    return printable(f"{verb} {count} {what} from {note.get('identity')} at {note.get('where')} ({by})")
