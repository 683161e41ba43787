"""
``tcpmesh endpoints``: where a running proxy's services answer, and how each endpoint stands at this moment.

Ring 4. Statuses: 0 every service can be tried, 1 one cannot, 2 no proxy could be asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.tables import print_table
from tcpmesh.identity.certificates import span
from tcpmesh.observe.text import printable

__all__ = ["endpoints"]

_USABLE = ("up", "slow-start", "probation", "full")
_LISTED = 50  # endpoints of one service, where all services are shown
_COLUMNS = ("ADDRESS", "PRIO", "ZONE", "WEIGHT", "STATE", "OPEN", "PENDING", "ESTABLISHED", "FAILED", "LAST ERROR")


@click.command()
@click.argument("services", metavar="[SERVICE]…", nargs=-1)
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.pass_context
def endpoints(ctx: click.Context, services: tuple[str, ...], admin: str | None, config: Path, as_json: bool) -> None:
    """
    Show the endpoints of a running proxy's services, or of those that are named, and why they are not used.

    STATE is up, slow-start, probation (the next connection decides), ejected (after failures, for the time that is
    left), down (by its checks), full (limits.per_endpoint) or drain (weight 0: keeps its connections, gets no new
    ones). FAILED counts attempts by code since the endpoint is known. Exit status: 0 when every service can be tried,
    1 when one cannot (no endpoint is usable, or its circuit is open) or the configuration is invalid, 2 when no proxy
    could be asked, 64 when there is no such service.
    """
    address = admin_address(admin, config)
    query = urlencode([("service", name) for name in services])
    answer = ask(address, f"/endpoints?{query}" if query else "/endpoints")
    try:
        unknown = [str(name) for name in answer["unknown"]]
        blocks = [(list(_head(one)), list(_rows(one)), _is_good(one), _more(one)) for one in answer["services"]]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        shown = printable(str(address))
        raise AdminError(f"what answers on {shown} does not describe its endpoints as tcpmesh does") from None
    if unknown:
        listed = ", ".join(map(printable, unknown))
        raise click.UsageError(f"the proxy has no service {listed}; tcpmesh endpoints lists all that it has")
    if as_json:
        click.echo(json.dumps(answer))
    elif not blocks:
        click.echo("no services")
    else:
        for number, (head, rows, _, more) in enumerate(blocks):
            _print_block(head, rows, more, all_of_them=bool(services), first=number == 0)
    ctx.exit(0 if all(good for _, _, good, _ in blocks) else 1)


def _print_block(
    head: Sequence[str], rows: Sequence[Sequence[str]], more: Mapping[str, Any], *, all_of_them: bool, first: bool
) -> None:
    if not first:
        click.echo()
    click.echo("\n".join(head))
    shown = rows if all_of_them else rows[:_LISTED]
    if shown:
        columns, kept = _without_empty(more["columns"], shown)
        print_table(columns, kept)
    if len(shown) < len(rows):
        click.echo(f"and {len(rows) - len(shown)} more: tcpmesh endpoints {more['name']}")


def _without_empty(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """What no endpoint has needs no column."""
    kept = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    return [columns[number] for number in kept], [[row[number] for number in kept] for row in rows]


def _is_good(service: Mapping[str, Any]) -> bool:
    """Whether a connection could be made to it."""
    circuit = service["circuit"]
    usable = any(endpoint["state"] in _USABLE for endpoint in service["endpoints"])
    return usable and (circuit is None or circuit["state"] != "open")


# --- a service


def _head(service: Mapping[str, Any]) -> Iterator[str]:
    count = len(service["endpoints"])
    yield f"{_text(service['service'])}: {_count(count, 'endpoint')}{_states(service)}"
    yield from _discovery(service["discovery"])
    yield f"  traffic    {_traffic(service)}"
    yield f"  balance    {_text(service['balance'])}, retry {_retry(service)}"
    limits = _limits(service)
    if limits:
        yield f"  limits     {limits}"
    if service["circuit"] is not None:
        yield f"  {_circuit(service['circuit'])}"
    if service["refused"]:
        yield f"  refused    {_codes(service['refused'])}"
    for gone in service["gone"]:
        yield f"  removed    {_text(gone['address'])} has {gone['open']} open, {gone['pending']} pending"


def _states(service: Mapping[str, Any]) -> str:
    states: dict[str, int] = {}
    for endpoint in service["endpoints"]:
        state = _text(endpoint["state"])
        states[state] = states.get(state, 0) + 1
    return f" ({', '.join(f'{number} {state}' for state, number in sorted(states.items()))})" if states else ""


def _discovery(discovery: Mapping[str, Any] | None) -> Iterator[str]:
    if discovery is None:
        return
    said = "has said nothing yet" if discovery["said"] is None else f"last said {_text(discovery['said'])}"
    yield f"  discovery  {_text(discovery['plugin'])}, {said}, {_count(discovery['changes'], 'change')}"
    if discovery["failing_since"] is not None:
        yield f"  PROBLEM    it fails since {_text(discovery['failing_since'])}: {_text(discovery['reason'])}"
    elif discovery["reason"]:
        yield f"  PROBLEM    it says that there are no endpoints: {_text(discovery['reason'])}"


def _traffic(service: Mapping[str, Any]) -> str:
    parts = [f"{service['open']:d} open", f"{service['pending']:d} pending"]
    if service["waiting"] or service["queued"]:
        parts.append(f"{service['waiting']:d} waiting for room ({service['queued']:d} since the start)")
    if service["unresolved"]:
        parts.append(f"{service['unresolved']:d} waiting for its discovery")
    return ", ".join(parts)


def _retry(service: Mapping[str, Any]) -> str:
    budget = service["retry_budget"]
    window = f"{budget['retries']:d} of {budget['most']:d} in the last {span(budget['window_s'])}"
    text = f"{_text(service['retry'])}, retries: {service['retries']:d}, {window}"
    beyond = service["retries_unbudgeted"]
    return f"{text}; the budget was spent {_count(beyond, 'time')}" if beyond else text


def _limits(service: Mapping[str, Any]) -> str:
    limits = service["limits"]
    parts = []
    if limits["connections"] is not None:
        parts.append(f"connections {service['open'] + service['pending']:d} of {limits['connections']:d}")
    if limits["per_endpoint"] is not None:
        parts.append(f"{limits['per_endpoint']:d} per endpoint")
    if limits["pending"] is not None:
        parts.append(f"pending {service['pending']:d} of {limits['pending']:d}")
    if limits["queue"]:
        parts.append(f"queue {service['waiting']:d} of {limits['queue']:d}")
    return ", ".join(parts)


def _circuit(circuit: Mapping[str, Any]) -> str:
    state = _text(circuit["state"])
    left = f", for another {span(circuit['left_s'])}" if circuit["left_s"] is not None else ""
    since = f" since {_text(circuit['since'])}" if circuit["since"] is not None else ""
    word = "circuit  " if state == "closed" else "PROBLEM  "
    what = state if state == "closed" else f"circuit {state}"
    in_row = f", connections that failed in a row: {circuit['failures']:d}" if circuit["failures"] else ""
    return f"{word}  {what}{since}{left}, opened {_count(circuit['opened'], 'time')}{in_row}"


# --- an endpoint


def _more(service: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": _text(service["service"]), "columns": ("NUMBER", *_COLUMNS, "EXPECTED")}


def _rows(service: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for endpoint in service["endpoints"]:
        yield tuple(map(_text, _row(endpoint)))


def _row(endpoint: Mapping[str, Any]) -> Iterable[object]:
    position, expected = endpoint.get("position"), endpoint.get("expected_ms")
    return (
        "" if position is None else f"{position:d}",
        endpoint["address"],
        f"{endpoint['priority']:d}" if endpoint["priority"] else "",
        endpoint["zone"],
        f"{endpoint['weight']:d}",
        _state(endpoint),
        f"{endpoint['open']:d}",
        f"{endpoint['pending']:d}",
        f"{endpoint['established']:d}",
        _codes(endpoint["failed"]) or "0",
        _error(endpoint),
        "" if expected is None else f"{expected:g} ms",
    )


def _state(endpoint: Mapping[str, Any]) -> str:
    state = str(endpoint["state"])
    if state == "slow-start":
        state += f" {endpoint['share']:.0%}"
    if endpoint["left_s"] is not None:
        state += f", {span(endpoint['left_s'])} left"
    return state


def _error(endpoint: Mapping[str, Any]) -> str:
    error, check = endpoint["error"], endpoint["check"]
    parts = []
    if error is not None:
        parts.append(f"{error['code']} {error['reason']}, {span(error['age_s'])} ago")
    if check is not None and check["error"] is not None:
        parts.append(f"check {span(check['age_s'])} ago: {check['error']}")
    return "; ".join(map(str, parts))


def _codes(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{_text(code)} {count:d}" for code, count in counts.items())


def _count(number: int, word: str) -> str:
    return f"{number:d} {word}{'' if number == 1 else 's'}"


def _text(value: object) -> str:
    return printable(str(value))
