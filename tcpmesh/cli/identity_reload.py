"""
``tcpmesh identity reload``: lets a running proxy's identity sources look for something new at once.

Ring 4. Statuses: 0 every source is ready, 1 one is not, 2 no proxy could be asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.identity.certificates import span
from tcpmesh.observe.text import printable
from tcpmesh.values import IdentityState

__all__ = ["reload"]


@click.command()
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.pass_context
def reload(ctx: click.Context, admin: str | None, config: Path, as_json: bool) -> None:
    """
    Let a running proxy's identity sources and deny-list look for something new now, and show where they stand.

    Files are read before the answer; a source that asks somebody else may have its answer later: its log lines say what
    came of it. Exit status: 0 when every source is ready and the deny-list's file good, 1 when one is not or the
    configuration is invalid, 2 when no proxy could be asked.
    """
    address = admin_address(admin, config)
    answer = ask(address, "/identity/reload", method="POST")
    sources = answer.get("sources") if isinstance(answer, dict) else None
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise AdminError(f"what answers on {printable(str(address))} names no identity sources as tcpmesh does")
    deny_list = answer.get("deny_list")
    failure = deny_list.get("failure") if isinstance(deny_list, dict) else None
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for source in sources:
            click.echo("\n".join(_lines(source)))
        if failure:
            click.echo(f"deny-list: it cannot be used, what it said before goes on: {printable(str(failure))}")
    ready = all(source.get("state") == IdentityState.READY.value for source in sources)
    ctx.exit(int(not ready or bool(failure)))


def _lines(source: Mapping[str, Any]) -> list[str]:
    """One for the source, one for each workload that has a certificate."""
    state, failing = printable(str(source.get("state", ""))), source.get("failing_s")
    if isinstance(failing, int | float) and failing:
        state += f", failing for {span(failing)}"
    if source.get("state") != IdentityState.READY.value and source.get("reason"):
        state += f": {printable(str(source['reason']))}"
    lines = [f"source {printable(str(source.get('name', '')))}: {state}"]
    workloads = source.get("workloads")
    for name, facts in (workloads if isinstance(workloads, dict) else {}).items():
        age = facts.get("age_s") if isinstance(facts, dict) else None
        if isinstance(age, int | float):
            lines.append(f"  workload {printable(str(name))}: its certificate has been in use for {span(age)}")
    return lines
