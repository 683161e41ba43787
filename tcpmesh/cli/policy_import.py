"""
``tcpmesh policy import``: what another system's policies say, as policies of the plugin ``rules``.

Ring 4.
"""

from __future__ import annotations

from pathlib import Path

import click

from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.options import config_option
from tcpmesh.cli.policy_side import policy_side

__all__ = ["policy_import"]


@click.command("import")
@click.option("--from", "origin", type=click.Choice(["linkerd"]), required=True, help="Whose policies they are.")
@config_option
def policy_import(origin: str, config: Path) -> None:
    """
    Write what the plugin linkerd of a configuration admits as a file of policies for the plugin rules.

    The configuration's entry of the plugin says which resources are read and for which listeners. What comes out is for
    files or directory of the plugin rules. Exit status: 0 when everything could be kept, 1 when something could not,
    which is named with its line, or the configuration is invalid.
    """
    from tcpmesh.policy.linkerd import LinkerdPolicy
    from tcpmesh.policy.linkerd_export import as_rules, rules_yaml

    with policy_side(config) as side:
        policies = [named.policy for named in side.state.policies if isinstance(named.policy, LinkerdPolicy)]
    if not policies:
        raise Failed(f"{config}: there is no plugin linkerd in authorization, which says what to read and for whom")
    found = [entry for policy in policies for entry in as_rules(policy)]
    click.echo(f"# of the plugin {origin} of {config.absolute()}\n{rules_yaml(found)}", nl=False)
