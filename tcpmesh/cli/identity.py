"""
``tcpmesh identity``: who is who by the configuration, and where a running proxy's identities stand.

Ring 4. Statuses: 0 there is an answer, and a good one; 1 the name has no SPIFFE ID, a source is not ready, or the
configuration is invalid; 2 a file cannot be read, or no proxy asked; 64 wrong usage.
"""

from __future__ import annotations

import click

from tcpmesh.cli.identity_check import check
from tcpmesh.cli.identity_map import identity_map
from tcpmesh.cli.identity_reload import reload
from tcpmesh.cli.identity_resolve import resolve
from tcpmesh.cli.identity_show import show

__all__ = ["identity"]


@click.group()
def identity() -> None:
    """Say who is who, whom services expect, and where a running proxy's identities stand."""


identity.add_command(resolve)
identity.add_command(identity_map)
identity.add_command(reload)
identity.add_command(show)
identity.add_command(check)
