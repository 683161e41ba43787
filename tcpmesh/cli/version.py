"""
``tcpmesh version``.

Ring 4. Imports nothing that is only asked for its version.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from tcpmesh.cli.options import config_option, json_option
from tcpmesh.versions import versions

__all__ = ["version"]


@click.command()
@config_option
@json_option
def version(config: Path, as_json: bool) -> None:
    """Show the versions of tcpmesh and of what it stands on. No configuration changes them."""
    found = versions()
    if as_json:
        click.echo(json.dumps(found))
    else:
        for name, number in found.items():
            click.echo(number if number.startswith(f"{name} ") else f"{name} {number}")
