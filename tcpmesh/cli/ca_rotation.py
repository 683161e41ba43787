"""
``tcpmesh ca prepare | activate | taint | revoke | audit``: replace the embedded authority's root, and read its log.

Ring 4. A step is done by the proxy that owns the state, through its admin socket, or here when nobody does. Statuses: 0
done, 1 refused or the log is broken, 2 could not tell or could not write, 64 wrong usage.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.ca_place import CANNOT_TELL, INVALID, find_place, state_option, statuses
from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.observe.text import printable
from tcpmesh.sources.audit_log import AuditLog, Head
from tcpmesh.sources.authority_rotation import change
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.sources.private_directory import PrivateDirectory
from tcpmesh.wall_clock import wall_clock

__all__ = ["activate", "audit", "prepare", "revoke", "taint"]

_admin_option = click.option(
    "--admin", metavar="ADDRESS", help="The owning proxy's admin socket, as unix:PATH; else as the configuration."
)
_slot_argument = click.argument("slot", metavar="SLOT", type=click.IntRange(min=1))
_force_option = click.option(
    "--force",
    metavar="REASON",
    default="",
    help="Do it although something speaks against it, and why; the reason is kept in the audit log.",
)


@click.command()
@_admin_option
@state_option
@config_option
@json_option
def prepare(admin: str | None, state: Path | None, config: Path, as_json: bool) -> None:
    """Make a further root and publish it in the bundle. It signs nothing before it is activated."""
    _step("prepare", admin, state, config, as_json)


@click.command()
@_force_option
@_admin_option
@state_option
@config_option
@json_option
def activate(force: str, admin: str | None, state: Path | None, config: Path, as_json: bool) -> None:
    """Let the prepared root sign from now on. The one before it stays in the bundle, old."""
    _step("activate", admin, state, config, as_json, force=force)


@click.command()
@_slot_argument
@_admin_option
@state_option
@config_option
@json_option
def taint(slot: int, admin: str | None, state: Path | None, config: Path, as_json: bool) -> None:
    """Replace at once what hangs on an old root. It stays in the bundle until it is revoked."""
    _step("taint", admin, state, config, as_json, slot=slot)


@click.command()
@_slot_argument
@_force_option
@_admin_option
@state_option
@config_option
@json_option
def revoke(slot: int, force: str, admin: str | None, state: Path | None, config: Path, as_json: bool) -> None:
    """Take a root out of the bundle and destroy its key: what hangs on it is refused from then on."""
    _step("revoke", admin, state, config, as_json, slot=slot, force=force)


@click.command()
@click.option("--verify", is_flag=True, help="Only verify, and show no lines.")
@state_option
@config_option
@json_option
def audit(verify: bool, state: Path | None, config: Path, as_json: bool) -> None:
    """Show the audit log, and verify that each line is as it was written. With --json as it is in the files."""
    place = find_place(state, None, config)
    with statuses():
        head, count = Head(), 0
        # The log alone: somebody who reads it may do so since another file is damaged.
        with closing(PrivateDirectory.open(place.state, create=False)) as directory:
            for reached, fields in AuditLog(directory).lines():
                head, count = reached, count + 1
                if not verify:
                    click.echo(json.dumps(fields) if as_json else _audit_line(fields))
    if as_json and not verify:
        return
    removed = head.seq - count
    if as_json:
        click.echo(json.dumps({"lines": count, "removed": removed, "seq": head.seq, "sha256": head.sha256}))
        return
    before = f" (1 to {removed} were removed with their files)" if removed else ""
    click.echo(f"lines: {count}, all as they were written{before}; sha256 of the last: {head.sha256}")


def _step(
    step: str,
    admin: str | None,
    state: Path | None,
    config: Path,
    as_json: bool,
    *,
    slot: int | None = None,
    force: str = "",
) -> None:
    place = find_place(state, None, config)
    with statuses():
        authority = AuthorityState.read(place.state, place.trust_domain)
        owner = authority.owner()
        authority.close()
        if owner is None:
            authority = AuthorityState.own(place.state, place.trust_domain, wall_clock())
            try:
                done = change(authority, step, slot, wall_clock(), ttl=place.ttl, force=force)
            finally:
                authority.close()
        elif state is not None and admin is None:
            raise Failed(
                f"{place.state} is owned by process {owner}; say its admin socket: --admin unix:PATH", CANNOT_TELL
            )
        else:
            done = _ask(step, admin, config, place.state, slot, force)
    if as_json:
        click.echo(json.dumps(done))
        return
    slots = [f"{entry['slot']} {entry['state']}{', tainted' * bool(entry['tainted'])}" for entry in done["slots"]]
    click.echo(f"{step} of slot {done['slot']} done; slots: {'; '.join(slots)}")
    click.echo(f"next: {printable(str(done['next']))}")


def _ask(step: str, admin: str | None, config: Path, state: Path, slot: int | None, force: str) -> dict[str, Any]:
    """Let the owner do it."""
    address = admin_address(admin, config)
    query = {"step": step, "state": str(state.absolute()), "force": force, **({} if slot is None else {"slot": slot})}
    answer = ask(address, f"/authority?{urlencode(query)}", method="POST")
    if not isinstance(answer, dict) or answer.get("done") not in (True, False):
        raise AdminError(f"what answers on {printable(str(address))} does not change authorities as tcpmesh does")
    if not answer["done"]:
        raise Failed(printable(str(answer.get("reason"))), INVALID)
    if not isinstance(answer.get("slots"), list) or not {"slot", "next"} <= answer.keys():
        raise AdminError(f"what answers on {printable(str(address))} does not say what it did")
    return answer


def _audit_line(fields: dict[str, Any]) -> str:
    facts = {name: fields[name] for name in fields if name not in ("seq", "time", "event", "prev")}
    shown = ", ".join(f"{name} {value}" for name, value in facts.items())
    return printable(f"{fields['seq']} {fields.get('time')} {fields.get('event')}: {shown}")
