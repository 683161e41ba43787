"""
``tcpmesh policy reload``: lets a running proxy's policies look for something new at once.

Ring 4. Statuses: 0 every policy is the newest there is, 1 one is not, 2 no proxy could be asked.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from tcpmesh.cli.admin_client import AdminError, admin_address, ask
from tcpmesh.cli.options import config_option, json_option
from tcpmesh.observe.text import printable

__all__ = ["policy_reload"]

_PATIENCE = 30.0  # seconds: the proxy answers when it has read everything, and it waits no longer itself


@click.command("reload")
@click.option("--admin", metavar="ADDRESS", help="The proxy's admin socket, as unix:PATH; else as the configuration.")
@config_option
@json_option
@click.pass_context
def policy_reload(ctx: click.Context, admin: str | None, config: Path, as_json: bool) -> None:
    """
    Let a running proxy's policies read their files now, and show where they stand.

    What cannot be used changes nothing: the policies of before go on to decide. Exit status: 0 when every policy is the
    newest there is, 1 when one cannot be used or the configuration is invalid, 2 when no proxy could be asked.
    """
    address = admin_address(admin, config)
    answer = ask(address, "/policy/reload", method="POST", timeout=_PATIENCE)
    policies = answer.get("policies") if isinstance(answer, dict) else None
    if not isinstance(policies, list) or not all(isinstance(policy, dict) for policy in policies):
        raise AdminError(f"what answers on {printable(str(address))} names no policies as tcpmesh does")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for policy in policies:
            name = f"authorization[{policy.get('position')}] {printable(str(policy.get('plugin', '')))}"
            failures = str(policy.get("failure") or "").splitlines()
            stands = "the one of before goes on to decide" if failures else "good"
            if not policy.get("changes"):
                stands = "never changes while the proxy runs"
            click.echo("\n  ".join([f"{name}: {stands}", *map(printable, failures)]))
    ctx.exit(int(any(policy.get("failure") for policy in policies)))
