"""
``tcpmesh explain --from ID --to NAME``: the policies of a configuration, asked about a connection that there is not.

Ring 4.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from tcpmesh.cli.explain_output import connection_line, explanation_lines, field, head, status_of
from tcpmesh.cli.policy_side import policy_side, waited_for
from tcpmesh.observe.records import rfc3339
from tcpmesh.policy.questions import Question, assumptions
from tcpmesh.policy.replay import NOWHERE
from tcpmesh.values import AuthorizationRequest
from tcpmesh.wall_clock import wall_clock

__all__ = ["as_fields", "explain_asked"]


def explain_asked(question: Question, at: float | None, config: Path, *, as_json: bool) -> int:
    """
    Explain, and say the exit status.

    :param at: seconds since the epoch; None for now.
    :raises ConfigurationError: when there are no policies to ask.
    :raises click.UsageError: when the question is about nothing in the configuration.
    """
    moment = at if at is not None else wall_clock()
    with policy_side(config, wall_clock if at is None else lambda: moment) as side:
        try:
            request = question.request(side.places, moment)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        explanation = waited_for(side.explain(request))
        assumed = assumptions(question, side.state, side.places)
    fields = as_fields(request)
    if as_json:
        about = {"file": str(side.settings.file), "at": rfc3339(moment), "connection": fields}
        click.echo(json.dumps({**about, **explanation, "assumed": assumed}))
    else:
        click.echo(head(explanation))
        click.echo(connection_line(fields))
        for line in (*explanation_lines(explanation), *(field("assumed", text) for text in assumed)):
            click.echo(line)
    return status_of(explanation)


def as_fields(request: AuthorizationRequest) -> dict[str, str]:
    """A request by the names of records; what is empty is left out."""
    fields = {
        "direction": "outbound" if request.service else "inbound",
        "listener": request.inbound,
        "dst.service": request.service,
        "src.identity": str(request.peer),
        "src.addr": "" if request.source == NOWHERE else str(request.source).removesuffix(":0"),
        "sni": request.sni,
        "alpn": request.alpn,
    }
    return {name: value for name, value in fields.items() if value}
