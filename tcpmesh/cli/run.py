"""
``tcpmesh run``: the proxy in the foreground, without twistd's command line.

Ring 4. Installs and imports the reactor when the command is invoked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.options import chosen_file, config_option, file_argument
from tcpmesh.reactor_choice import install_default, install_named

__all__ = ["run"]


@click.command()
@file_argument
@config_option
@click.option(
    "-r",
    "--reactor",
    metavar="NAME",
    help="Which reactor to use; twistd --help-reactors lists them.  [default: tcpmesh, where there is epoll]",
)
@click.pass_context
def run(ctx: click.Context, file: Path | None, config: Path, reactor: str | None) -> None:
    """
    Run the proxy that FILE describes in the foreground.

    Log lines go to standard error, connection records where log.access says. SIGTERM or Ctrl-C lets connections
    finish for up to timeouts.shutdown; a second one ends at once. Exit status: 0 when all connections finished,
    1 when some were cut or the start failed.
    """
    chosen = chosen_file(ctx, file, config)
    if reactor is None:
        install_default()
    else:
        try:
            install_named(reactor)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param_hint="'--reactor'") from None
    ctx.exit(_run(chosen))


def _run(file: Path) -> int:
    from twisted.internet import reactor as installed  # noqa: TID251  # the command owns the process
    from twisted.logger import globalLogBeginner

    from tcpmesh.config import load
    from tcpmesh.lifecycle import OrderlyStop, settle, use_monotonic_time
    from tcpmesh.observe.log import observer_for
    from tcpmesh.plugins import PluginRegistry
    from tcpmesh.service import MeshService

    reactor: Any = installed
    use_monotonic_time(reactor)
    plugins = PluginRegistry()
    settings = load(file.absolute(), plugins)
    mesh = MeshService(settings, plugins, reactor)
    globalLogBeginner.beginLoggingTo([observer_for(settings.log, sys.stderr)], redirectStandardIO=False)
    stop = OrderlyStop(mesh, reactor)
    stop.install()
    mesh.privilegedStartService()
    mesh.startService()
    reactor.addSystemEventTrigger("before", "shutdown", mesh.stopService)
    reactor.callWhenRunning(stop.install)
    reactor.callWhenRunning(settle)
    reactor.run()
    return stop.status
