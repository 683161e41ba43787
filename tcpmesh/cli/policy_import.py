"""
``tcpmesh policy import``: what another system's policies say, as policies of the plugin ``rules``.

Ring 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcpmesh.cli.complaints import Failed, complain
from tcpmesh.cli.options import config_option
from tcpmesh.cli.policy_side import policy_side
from tcpmesh.values import Effect

if TYPE_CHECKING:
    from tcpmesh.mesh_state import MeshState
    from tcpmesh.policy.linkerd import LinkerdPolicy

__all__ = ["policy_import"]


@click.command("import")
@click.option("--from", "origin", type=click.Choice(["linkerd"]), required=True, help="Whose policies they are.")
@config_option
def policy_import(origin: str, config: Path) -> None:
    """
    Write what the plugin linkerd of a configuration admits as a file of policies for the plugin rules.

    The configuration's entry of the plugin says which resources are read and for which listeners. What comes out is for
    files or directory of the plugin rules. The plugin linkerd denies whom it does not admit, and policies that allow
    deny nobody: so nothing is written when the configuration allows by default, or lists a listener in two entries of
    the plugin. Exit status: 0 when everything could be kept, 1 when something could not, which is named, with its line
    if it has one, or the configuration is invalid.
    """
    from tcpmesh.policy.linkerd import LinkerdPolicy
    from tcpmesh.policy.linkerd_export import as_rules, rules_yaml

    with policy_side(config) as side:
        policies = [named.policy for named in side.state.policies if isinstance(named.policy, LinkerdPolicy)]
    if not policies:
        raise Failed(f"{config}: there is no plugin linkerd in authorization, which says what to read and for whom")
    _check_denials(config, side.state, policies)
    found: list[dict[str, Any]] = []
    for policy in policies:
        found += as_rules(policy, len(found))
    click.echo(f"# of the plugin {origin} of {config.absolute()}\n{rules_yaml(found)}", nl=False)


def _check_denials(config: Path, state: MeshState, policies: Sequence[LinkerdPolicy]) -> None:
    """
    See that whoever is denied now is denied by what comes out.

    :raises Failed: when that is known not to be so.
    """
    if state.defaults.inbound is not Effect.DENY:
        raise Failed(
            f"{config}: defaults.inbound is allow, and without the plugin linkerd would let in whom that denies: write "
            "inbound: deny, and policies for the other listeners"
        )
    twice = [name for name, count in Counter(name for policy in policies for name in policy.ports).items() if count > 1]
    if twice:
        raise Failed(
            f"{config}: inbound listener {twice[0]!r} is in two entries of the plugin linkerd, both of which must "
            "admit a peer; policies that allow cannot say that: bring the resources together in one entry"
        )
    if len(state.policies) > len(policies):
        complain(
            f"hint: {config}: whom the plugin linkerd denies, the other entries of authorization may allow once it is "
            "gone; compare with tcpmesh policy diff"
        )
