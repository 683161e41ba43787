"""
``tcpmesh explain CONN`` and ``--last-denied``: what a running proxy decided, and what it would decide now.

Ring 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
from twisted.internet.defer import inlineCallbacks

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.explain_output import connection_line, explanation_lines, field, head, is_explanation, status_of
from tcpmesh.cli.policy_side import PolicySide, policy_side, waited_for
from tcpmesh.errors import ConfigurationError
from tcpmesh.observe.text import printable
from tcpmesh.policy.changes import missing_place
from tcpmesh.policy.explain import DENIED, UNKNOWN, changed
from tcpmesh.policy.replay import request_of
from tcpmesh.wall_clock import wall_clock

__all__ = ["explain_recorded"]

_PATIENCE = 35.0  # seconds; the proxy's admin interface answers within 30, or not at all


def explain_recorded(connection: str | None, last: int, admin: str | None, config: Path, *, as_json: bool) -> int:
    """
    Explain what the proxy remembers, and say the exit status: that of what would be decided now.

    :param connection: ``id`` or ``conn`` of a record; None for the ``last`` that were denied.
    :raises AdminError: when no proxy can be asked.
    :raises Failed: with status 2, when it remembers no such connection.
    """
    address = admin_address(admin, config)
    words = {"connection": connection} if connection is not None else {"last_denied": str(last)}
    answer = ask(address, f"/decisions?{urlencode(words, errors='surrogateescape')}", timeout=_PATIENCE)
    decisions = answer.get("decisions") if isinstance(answer, dict) else None
    if not isinstance(decisions, list) or not all(_is_decision(each) for each in decisions):
        raise AdminError(f"what answers on {printable(str(address))} explains nothing as tcpmesh does")
    if connection is not None and not decisions:
        raise Failed(
            f"the proxy remembers no decision about connection {printable(connection)}: it keeps the last "
            f"{answer.get('kept')}, none about connections that failed before one, and what the other side refused is "
            "known there",
            2,
        )
    why = _add_files(decisions, config)
    if as_json:
        click.echo(json.dumps({**answer, **({"file_not_tried": why} if why else {})}))
    else:
        for each in decisions:
            for line in _lines(each, answer):
                click.echo(line)
        if not decisions:
            click.echo("no connection was denied")
        elif why:
            click.echo(printable(f"the configuration was not tried: {why}"), err=True)
    return max((status_of(each["now"]) for each in decisions), default=0)


def _is_decision(value: Any) -> bool:
    return isinstance(value, dict) and all(is_explanation(value.get(name)) for name in ("then", "now"))


def _add_files(decisions: Sequence[dict[str, Any]], config: Path) -> str:
    """Put every question to the configuration's policies as well; why that could not be done, if so."""
    if not decisions:
        return ""
    try:
        with policy_side(config) as side:
            waited_for(_ask_file(side, decisions))
    except ConfigurationError as error:
        return str(error.problems[0])
    return ""


@inlineCallbacks
def _ask_file(side: PolicySide, decisions: Sequence[dict[str, Any]]) -> Any:
    for each in decisions:
        try:
            request = request_of(each["then"], side.places, wall_clock())
        except ValueError as error:
            each["file"] = {"decision": UNKNOWN, "reason": f"it cannot be asked again: {error}"}
            continue
        missing = missing_place(request, side.places)
        if missing:
            each["file"] = {"decision": DENIED, "reason": f"{missing} in {side.settings.file}"}
        else:
            each["file"] = yield side.explain(request)


def _lines(each: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[str]:
    then, now, file = each["then"], each["now"], each.get("file")
    conn = f" (conn {then['conn']})" if then.get("conn") else ""
    yield printable(f"connection {then.get('id')}{conn} at {then.get('time')}")
    yield connection_line(then)
    yield field("then", f"{head(then)}, generation {then.get('generation')}")
    yield from explanation_lines(then, "    ")
    news = "" if changed(then, now) else ", as then"
    yield field("now", f"{head(now)}, generation {answer.get('generation')}{news}")
    yield from explanation_lines(now, "    ")
    if file is not None and changed(now, file):
        yield field("file", f"{head(file)}, when the configuration is loaded")
        yield from explanation_lines(file, "    ")
