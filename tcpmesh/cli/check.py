"""
``tcpmesh check``: every problem of a configuration at its place, or what it says.

Ring 4. Puts the proxy together as ``run`` does, plugins included, lets identity sources look at their files, and leaves
it at that: nothing is started, bound or created.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.options import chosen_file, config_option, file_argument, json_option
from tcpmesh.errors import ConfigurationError, Problem, TcpmeshError
from tcpmesh.settings import Settings

__all__ = ["check"]


@click.command()
@file_argument
@config_option
@json_option
@click.pass_context
def check(ctx: click.Context, file: Path | None, config: Path, as_json: bool) -> None:
    """
    Read FILE and say what is wrong with it; nothing is started or created.

    Exit status: 0 when nothing speaks against a start, warnings or not, as far as can be told without binding addresses
    or opening a state; 1 when it cannot start.
    """
    path = chosen_file(ctx, file, config).absolute()
    try:
        settings, warnings = _read(path)
    except ConfigurationError as error:
        if as_json:
            click.echo(
                json.dumps({"file": str(path), "ok": False, "problems": [_as_mapping(p) for p in error.problems]})
            )
            ctx.exit(1)
        raise
    if as_json:
        click.echo(json.dumps({"file": str(path), "ok": True, "digest": settings.digest, "warnings": warnings}))
    else:
        click.echo("\n".join(_block(settings, warnings)))


def _read(path: Path) -> tuple[Settings, list[str]]:
    from twisted.internet import reactor  # noqa: TID251  # lent to plugins as their clock; never run

    from tcpmesh import config
    from tcpmesh.open_files import fit_connections
    from tcpmesh.plugins import PluginRegistry
    from tcpmesh.port_ranges import ports_of_ranges
    from tcpmesh.service import MeshService

    plugins = PluginRegistry()
    settings = config.load(path, plugins)
    service = MeshService(settings, plugins, reactor)
    errors = [
        *service.composition.control.check(),
        *service.composition.denials.check(),
        *service.composition.policies.check(),
    ]
    if errors:
        raise ConfigurationError([problem for error in errors for problem in _problems(error)])
    doubts = service.composition.policies.warnings()
    warnings = [str(warning) for warning in [*config.warnings(settings), *doubts]]
    ports = ports_of_ranges(outbound.listen for outbound in settings.outbound)
    if too_many := fit_connections(settings.limits.connections, ports=ports).warning:
        warnings.append(too_many)
    return settings, warnings


def _problems(error: TcpmeshError) -> Sequence[Problem]:
    return error.problems if isinstance(error, ConfigurationError) else [Problem(str(error))]


def _as_mapping(problem: Problem) -> dict[str, Any]:
    place = (
        {"file": problem.mark.file, "line": problem.mark.line, "column": problem.mark.column} if problem.mark else {}
    )
    return {"message": problem.message, **place}


def _block(settings: Settings, warnings: list[str]) -> list[str]:
    from tcpmesh.observe.start_block import proxy_lines

    workloads = settings.identity.workloads
    lines = [f"OK {settings.file} (SHA-256 {settings.digest[:16]}), trust domain {settings.trust_domain}"]
    lines += [
        f"  outbound {o.name}: {o.listen} to {o.destination} as {workloads[o.workload].id}" for o in settings.outbound
    ]
    for one in settings.inbound:
        whom = ", ".join(str(workloads[name].id) for name in one.workloads)
        lines.append(f"  inbound {one.name}: {one.listen} to {one.destination}{f' as {whom}' if whom else ''}")
    lines += [f"  PROXY protocol: {line}" for line in proxy_lines(settings)]
    lines += [f"warning: {warning}" for warning in warnings]
    return lines
