"""
``tcpmesh run``: the proxy in the foreground, without twistd's command line.

Ring 4. Imports the reactor, and with it installs the default one, when the command is invoked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tcpmesh.cli.options import chosen_file, config_option, file_argument

__all__ = ["run"]


@click.command()
@file_argument
@config_option
@click.pass_context
def run(ctx: click.Context, file: Path | None, config: Path) -> None:
    """
    Run the proxy that FILE describes in the foreground.

    Log lines go to standard error, connection records where log.access says. SIGTERM or Ctrl-C lets connections
    finish for up to timeouts.shutdown; a second one ends at once. Exit status: 0 when all connections finished,
    1 when some were cut or the start failed.
    """
    ctx.exit(_run(chosen_file(ctx, file, config)))


def _run(file: Path) -> int:
    from twisted.internet import reactor as installed  # noqa: TID251  # the command owns the process
    from twisted.logger import globalLogBeginner

    from tcpmesh.config import load
    from tcpmesh.lifecycle import OrderlyStop, use_monotonic_time
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
    reactor.run()
    return stop.status
