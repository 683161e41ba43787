"""
``tcpmesh policy diff``: whom another configuration's policies would cut off or let in.

Ring 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
from twisted.internet.defer import inlineCallbacks

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.explain_output import explanation_lines, field, head
from tcpmesh.cli.options import json_option
from tcpmesh.cli.policy_side import PolicySide, policy_side, waited_for
from tcpmesh.cli.record_lines import ConnectionLines, opened
from tcpmesh.moments import parse_moment
from tcpmesh.observe.text import printable
from tcpmesh.policy.changes import Change, Kind, Kinds, changes, missing_place, without_port
from tcpmesh.policy.explain import DENIED
from tcpmesh.policy.replay import Places, request_of
from tcpmesh.policy.rules import Rules
from tcpmesh.wall_clock import wall_clock

__all__ = ["policy_diff"]

_MINUTE, _DAY = 60, 86400.0  # seconds
_TITLES = {"cut off": "WOULD BE CUT OFF", "cannot tell": "CANNOT BE TOLD", "let in": "WOULD BE LET IN"}


@attrs.define(eq=False)
class _Seen:
    """
    What there was to try.

    :ivar timed: whether it matters when a connection was.
    :ivar certificates: whether it matters which certificate it had.
    """

    places: Places
    now: float
    timed: bool
    certificates: bool
    kinds: Kinds = attrs.field(factory=Kinds)
    connections: int = 0
    unusable: int = 0  # without what a policy looks at
    damaged: int = 0
    others: int = 0

    def add(self, fields: Mapping[str, Any]) -> None:
        """Take a connection, by the names of records."""
        self.connections += 1
        try:
            at = parse_moment(str(fields.get("time", ""))) // _MINUTE * _MINUTE if self.timed else self.now
            request = without_port(request_of(fields, self.places, at))
        except ValueError:
            self.unusable += 1
            return
        if not self.certificates:
            request = attrs.evolve(
                request, peer=attrs.evolve(request.peer, serial="", not_before=0.0, not_after=at + _DAY)
            )
        self.kinds.add(Kind(request, at))


@click.command("diff")
@click.argument("old", metavar="OLD", type=click.Path(path_type=Path))
@click.argument("new", metavar="NEW", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Choice(["records", "connections"]),
    required=True,
    help="What to try them on: an access log, or what a running proxy carries.",
)
@click.argument("file", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as OLD says.")
@json_option
@click.pass_context
def policy_diff(
    ctx: click.Context, old: Path, new: Path, against: str, file: Path | None, admin: str | None, as_json: bool
) -> None:
    """
    Say whom the policies of NEW would cut off or let in, and whom those of OLD do not.

    OLD and NEW are configurations. With --against records every connection in FILE, an access log in JSON ("-" is
    standard input), is tried on both, at the time of its record; with --against connections those that the running
    proxy has open now. Connections that policies cannot tell apart are tried once. Exit status: 0 when nobody would be
    cut off, 1 when somebody would or a configuration is invalid, 2 when it could not be told for somebody, or there was
    nothing to read.
    """
    if (file is None) == (against == "records"):
        raise click.UsageError(
            "--against records needs FILE, an access log" if file is None else "FILE is for --against records", ctx
        )
    if admin is not None and file is not None:
        raise click.UsageError("--admin is for --against connections", ctx)
    moment = wall_clock()
    clock = _Moment(moment)
    with policy_side(old, clock.now) as before, policy_side(new, clock.now) as after:
        timed = _is_timed(before) or _is_timed(after)
        seen = _Seen(before.places, moment, timed, timed or not (_is_known(before) and _is_known(after)))
        if file is not None:
            _read_records(file, seen)
        else:
            _ask_proxy(admin, old, seen)
        found: Sequence[Change] = waited_for(_try(before, after, seen.kinds, clock))
        if as_json:
            click.echo(json.dumps(_as_mapping(seen, found)))
        else:
            for line in _lines(seen, found):
                click.echo(line)
    effects = {change.effect for change in found}
    ctx.exit(1 if "cut off" in effects else 2 if "cannot tell" in effects else 0)


@attrs.define
class _Moment:
    """The time of day that policies see."""

    seconds: float

    def now(self) -> float:
        return self.seconds


def _is_timed(side: PolicySide) -> bool:
    """Whether it matters when a connection was, or how old its certificate was."""
    return any(
        policy.when is not None
        for named in side.state.policies
        if isinstance(named.policy, Rules)
        for policy in named.policy.policies
    )


def _is_known(side: PolicySide) -> bool:
    """Whether it is known that nothing looks at certificates."""
    return not side.state.deny_list and all(isinstance(named.policy, Rules) for named in side.state.policies)


def _read_records(file: Path, seen: _Seen) -> None:
    lines = ConnectionLines()
    with opened(file) as log:
        for record in lines.read(log):
            seen.add(record)
    seen.damaged, seen.others = lines.damaged, lines.others


def _ask_proxy(admin: str | None, config: Path, seen: _Seen) -> None:
    address = admin_address(admin, config)
    answer = ask(address, "/connections")
    connections = answer.get("connections") if isinstance(answer, dict) else None
    if not isinstance(connections, list) or not all(isinstance(each, dict) for each in connections):
        raise AdminError(f"what answers on {printable(str(address))} lists no connections as tcpmesh does")
    for each in connections:
        if each.get("state") == "open":
            seen.add(each | {"time": answer.get("time", "")})  # a live one is allowed now, or not


@inlineCallbacks
def _try(before: PolicySide, after: PolicySide, kinds: Kinds, clock: _Moment) -> Any:
    tried = []
    for kind, count in kinds.counts.items():
        clock.seconds = kind.moment
        old = yield _explain(before, kind)
        new = yield _explain(after, kind)
        tried.append((kind, count, old, new))
    found = changes(tried)
    for change in found:  # what came nearest is looked for once for each, not for every kind
        clock.seconds = change.example.moment
        change.new = yield _explain(after, change.example, nearest=True)
    return found


@inlineCallbacks
def _explain(side: PolicySide, kind: Kind, *, nearest: bool = False) -> Any:
    missing = missing_place(kind.request, side.places)
    if missing:
        return {"decision": DENIED, "reason": f"{missing} in {side.settings.file}"}
    port = side.places.port(kind.request.inbound, kind.request.sni)
    explanation = yield side.explain(attrs.evolve(kind.request, port=port), nearest=nearest)
    return explanation


def _lines(seen: _Seen, found: Sequence[Change]) -> Iterable[str]:
    for effect, title in _TITLES.items():
        group = [change for change in found if change.effect == effect]
        if not group:
            continue
        yield f"{title}: {_counted(sum(change.connections for change in group))}"
        for change in group:
            sources = f" from {len(change.sources)} addresses" if len(change.sources) > 1 else ""
            yield printable(f"  {change.identity} to {change.where}: {_counted(change.connections)}{sources}")
            yield field("old", head(change.old), "    ")
            yield from explanation_lines(change.old, "      ")
            yield field("new", head(change.new), "    ")
            yield from explanation_lines(change.new, "      ")
    affected = sum(change.connections for change in found)
    kinds = len(seen.kinds.counts)
    yield f"tried: {_counted(seen.connections)}, kinds of them: {kinds}, changed: {affected}"
    for count, what in (
        (seen.unusable, "connections that lack what a policy looks at, an identity as a rule"),
        (seen.kinds.left_out, "connections of too many kinds"),
        (seen.damaged, "damaged lines"),
        (seen.others, "lines about no decision"),
    ):
        if count:
            yield f"left out, {what}: {count}"


def _counted(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"


def _as_mapping(seen: _Seen, found: Sequence[Change]) -> dict[str, Any]:
    return {
        "connections": seen.connections,
        "kinds": len(seen.kinds.counts),
        "left_out": {
            "unusable": seen.unusable,
            "too_many_kinds": seen.kinds.left_out,
            "damaged": seen.damaged,
            "others": seen.others,
        },
        "changes": [
            {
                "effect": change.effect.replace(" ", "_"),
                "identity": change.identity,
                "where": change.where,
                "connections": change.connections,
                "sources": len(change.sources),
                "old": change.old,
                "new": change.new,
            }
            for change in found
        ],
    }
