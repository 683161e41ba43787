"""
The options that commands share.

Ring 4. Imports click and ring 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tcpmesh.defaults import CONFIGURATION_FILE, CONFIGURATION_VARIABLE

__all__ = ["chosen_file", "config_option", "file_argument", "json_option"]

config_option: Callable[..., Any] = click.option(
    "-c",
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path(CONFIGURATION_FILE),
    envvar=CONFIGURATION_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="The configuration.",
)

json_option: Callable[..., Any] = click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")

file_argument: Callable[..., Any] = click.argument(
    "file", metavar="[FILE]", type=click.Path(path_type=Path), required=False
)


def chosen_file(ctx: click.Context, file: Path | None, config: Path) -> Path:
    """
    Tell which configuration a command that takes it both ways is to use.

    :raises click.UsageError: when both are given, since one of them would be ignored.
    """
    if file is None:
        return config
    if ctx.get_parameter_source("config") is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"name the configuration once: either {file} or --config {config}", ctx)
    return file
