"""
``tcpmesh explain``: what the policies decide, by which rule, and which other rule came nearest.

Ring 4. Statuses: 0 allowed, 1 denied, 2 could not tell, 64 wrong usage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.options import config_option, json_option
from tcpmesh.cli.parsed import parsed
from tcpmesh.errors import ConfigurationError
from tcpmesh.moments import parse_moment
from tcpmesh.values import parse_duration

__all__ = ["explain"]

_MOST = 100  # decisions in one answer


def _who(text: str) -> str:
    from tcpmesh.policy.questions import parse_who

    return parse_who(text)


def _ip(text: str) -> str:
    from tcpmesh.policy.questions import parse_ip

    return parse_ip(text)


@click.command()
@click.argument("connection", metavar="[CONN]", required=False)
@click.option(
    "--from", "who", metavar="ID", type=parsed("ID", _who), help="Who comes: a SPIFFE ID, dns:NAME or unauthenticated."
)
@click.option("--to", metavar="NAME", help="Where to: an inbound listener or a service of the configuration.")
@click.option("--ip", metavar="ADDRESS", type=parsed("ADDRESS", _ip), help="Where the connection is from.")
@click.option("--sni", metavar="NAME", default="", help="The server name that it asks for.")
@click.option("--alpn", metavar="NAME", default="", help="The protocol that it agrees on.")
@click.option("--at", metavar="TIME", type=parsed("TIME", parse_moment), help="When, as 2026-11-22T10:00:00Z; now.")
@click.option(
    "--cert-age", metavar="DURATION", type=parsed("DURATION", parse_duration), help="How old its certificate is."
)
@click.option(
    "--cert-left", metavar="DURATION", type=parsed("DURATION", parse_duration), help="How long that is valid."
)
@click.option(
    "--last-denied",
    metavar="[N]",
    type=click.IntRange(1, _MOST),
    is_flag=False,
    flag_value=1,
    help="The last N connections that the running proxy denied; 1.",
)
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.pass_context
def explain(
    ctx: click.Context,
    /,
    connection: str | None,
    who: str | None,
    to: str | None,
    last_denied: int | None,
    admin: str | None,
    config: Path,
    as_json: bool,
    **details: Any,
) -> None:
    """
    Say whether ID may use a listener or a service, by which rule, and which other rule came nearest.

    With --from and --to the policies of the configuration are asked, and no proxy. CONN is the conn or the id of a
    record: the running proxy says what it decided then, and the same question is put to the policies that are in force
    there now, and to those of the configuration where they answer otherwise. Exit status: 0 allowed, 1 denied, 2 could
    not tell, 64 wrong usage; of several connections that of the worst.
    """
    given = [name for name, value in (("--from", who), ("CONN", connection), ("--last-denied", last_denied)) if value]
    if len(given) != 1:
        said = " and ".join(given) or "none of them"
        raise click.UsageError(f"say one of --from, CONN and --last-denied, got {said}", ctx)
    if who is None:
        unused = [f"--{name.replace('_', '-')}" for name, value in {"to": to, **details}.items() if value]
        if unused:
            raise click.UsageError(f"{unused[0]} belongs to --from; a connection of the past has its own", ctx)
        from tcpmesh.cli.explain_recorded import explain_recorded

        ctx.exit(explain_recorded(connection, last_denied or _MOST, admin, config, as_json=as_json))
    if to is None:
        raise click.UsageError("--from needs --to: an inbound listener or a service", ctx)
    if admin is not None:
        raise click.UsageError("--admin is for CONN and --last-denied; --from asks the configuration", ctx)
    from tcpmesh.cli.complaints import complain_of_configuration
    from tcpmesh.cli.explain_asked import explain_asked
    from tcpmesh.policy.questions import Question

    at = details.pop("at")
    details["ip"] = details["ip"] or ""
    try:
        status = explain_asked(Question(who=who, to=to, **details), at, config, as_json=as_json)
    except ConfigurationError as error:
        complain_of_configuration(error)
        status = 2
    ctx.exit(status)
