"""
``tcpmesh plugins``: what is installed, from where, and what cannot be used and why; writes and tests plugins.

Ring 4.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tcpmesh.cli.complaints import Failed
from tcpmesh.cli.options import config_option, json_option

__all__ = ["plugins"]

_KINDS = click.Choice(["identity", "discovery", "authorization", "retry", "balance"])


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def plugins(ctx: click.Context, config: Path, as_json: bool) -> None:
    """
    List every plugin that is installed, and where it comes from. No configuration changes that.

    Exit status: 0 when all can be used, 1 when one cannot; it is listed with the reason.
    """
    if ctx.invoked_subcommand is not None:
        if as_json or ctx.get_parameter_source("config") is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"write the options after {ctx.invoked_subcommand!r}", ctx)
        return
    _leave_reporting_to_us()
    from tcpmesh.plugins import PluginRegistry

    listing = PluginRegistry().listing()
    if as_json:
        click.echo(json.dumps(_as_mapping(listing)))
    else:
        click.echo("\n".join(_lines(listing)))
    ctx.exit(1 if listing.failed or any(plugin.problem for plugin in listing.found) else 0)


@plugins.command()
@click.argument("kind", type=_KINDS, metavar="KIND")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to write it; a new or empty directory, by default ./tcpmesh-NAME.",
)
@config_option
def new(kind: str, name: str, out: Path | None, config: Path) -> None:
    """
    Write a distribution with a working plugin of KIND, called NAME, and a contract test that passes.

    KIND is identity, discovery, authorization, retry or balance. No configuration is read.
    """
    from tcpmesh.cli.new_plugin import NAME, distribution_name, write_distribution
    from tcpmesh.plugins import PluginRegistry

    if not NAME.match(name):
        raise click.BadParameter("write small letters and digits, words joined by '-'", param_hint="NAME")
    chosen = next(each for each in _all_kinds() if each.name == kind)
    _leave_reporting_to_us()
    if name in PluginRegistry().names(chosen):
        raise Failed(f"there is a {kind} plugin {name!r} already; two of one name are both refused")
    directory = out or Path(distribution_name(name))
    try:
        written = write_distribution(chosen, name, directory)
    except (ValueError, OSError) as error:
        raise Failed(str(error)) from None
    click.echo(f"wrote {directory}:")
    for path in written:
        click.echo(f"  {path}")
    package = distribution_name(name).replace("-", "_")
    click.echo(f"next: cd {directory} && pip install -e . && trial {package}")


@plugins.command()
@click.argument("name")
@click.option("--kind", type=_KINDS, help="Needed when plugins of two kinds have that name.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Take the plugin's settings, workloads and trust domain from this configuration instead of their defaults.",
)
@json_option
@click.pass_context
def test(ctx: click.Context, name: str, kind: str | None, config: Path | None, as_json: bool) -> None:
    """
    Run the installed plugin NAME through the contract of its kind, point by point.

    The plugin is really started: an identity source asks its authority, a discovery its source of addresses.

    Exit status: 0 when every point is kept, 1 when one is not, 2 when the contract cannot be run, or not all of it: a
    plugin that connects to somebody by itself delivers nothing here, where there is a clock and no reactor.
    """
    from tcpmesh.plugins import PluginRegistry

    _leave_reporting_to_us()
    if kind is None:
        registry = PluginRegistry()
        kinds = [each.name for each in _all_kinds() if name in registry.names(each)]
        if len(kinds) > 1:
            raise click.UsageError(f"{name!r} is a plugin for {' and '.join(kinds)}; say which with --kind", ctx)
        if not kinds:
            raise Failed(f"there is no plugin {name!r}; 'tcpmesh plugins' lists what is installed", 2)
        kind = kinds[0]
    command = [sys.executable, "-m", "tcpmesh.testing", kind, name]
    command += ["--config", str(config.absolute())] if config is not None else []
    command += ["--json"] if as_json else []
    status = subprocess.run(command, check=False).returncode  # noqa: S603 - ourselves
    ctx.exit(status if status in (0, 1) else 2)


def _all_kinds() -> Any:
    from tcpmesh.interfaces import KINDS

    return KINDS


def _leave_reporting_to_us() -> None:
    """Twisted writes the traceback of a drop-in that fails to standard error; we list it, in a line."""
    from twisted.logger import globalLogBeginner

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def _as_mapping(listing: Any) -> dict[str, Any]:
    import attrs

    return {
        "plugins": [
            {
                "kind": plugin.kind.name,
                "name": plugin.name,
                "description": plugin.description,
                **attrs.asdict(plugin.origin),
                "problem": plugin.problem,
            }
            for plugin in listing.found
        ],
        "failed": [
            {**attrs.asdict(failed.origin), "name": failed.name, "error": failed.error} for failed in listing.failed
        ],
    }


def _lines(listing: Any) -> list[str]:
    rows = [("KIND", "NAME", "FROM", "DESCRIPTION")]
    for plugin in listing.found:
        origin = plugin.origin
        source = f"{origin.distribution} {origin.version}" if origin.distribution else "no distribution"
        rows.append((plugin.kind.name, plugin.name, source, plugin.description))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    ]
    lines += ["", "found in:"]
    lines += [f"  {file}" for file in dict.fromkeys(plugin.origin.file for plugin in listing.found)]
    problems = [f"  {plugin.problem}" for plugin in listing.found if plugin.problem]
    problems += [f"  {failed}" for failed in listing.failed]
    return [*lines, "", "cannot be used:", *dict.fromkeys(problems)] if problems else lines
