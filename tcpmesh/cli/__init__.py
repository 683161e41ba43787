"""
The command ``tcpmesh``: what it is called with, and with which status it ends.

Ring 4. Imports nothing but click: a command's module is imported when the command is invoked, so that ``tcpmesh
version`` does not pay for the proxy. Statuses: 0 good, 1 a mismatch, an invalid file or a failed start, 2 could not
tell, 64 wrong usage (EX_USAGE of sysexits.h).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import click

import tcpmesh

EX_USAGE = 64

__all__ = ["EX_USAGE", "entry", "main"]


class _Entry(NamedTuple):
    """A command: the module and the name in it, and its line in ``tcpmesh --help``."""

    module: str
    name: str
    help: str


_COMMANDS = {
    "run": _Entry("tcpmesh.cli.run", "run", "Run the proxy in the foreground."),
    "check": _Entry("tcpmesh.cli.check", "check", "Read a configuration and say what is wrong with it."),
    "connections": _Entry("tcpmesh.cli.connections", "connections", "Show the connections of a running proxy."),
    "endpoints": _Entry("tcpmesh.cli.endpoints", "endpoints", "Show where services answer, and how that goes."),
    "explain": _Entry("tcpmesh.cli.explain", "explain", "Say what the policies decide, by which rule, and why."),
    "policy": _Entry("tcpmesh.cli.policy", "policy", "Try policies before they are applied."),
    "ca": _Entry("tcpmesh.cli.ca", "ca", "Make an authority and issue certificates."),
    "identity": _Entry(
        "tcpmesh.cli.identity", "identity", "Say who is who, and what keeps services from being reached."
    ),
    "svid": _Entry("tcpmesh.cli.svid", "svid", "Look into certificates, in files or as servers present them."),
    "bundle": _Entry("tcpmesh.cli.bundle", "bundle", "Compare trust bundles."),
    "plugins": _Entry("tcpmesh.cli.plugins", "plugins", "List, write and test plugins."),
    "version": _Entry("tcpmesh.cli.version", "version", "Show the versions of tcpmesh and of what it stands on."),
}


class _Commands(click.Group):
    """The commands, each imported at its first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            from difflib import get_close_matches

            if close := get_close_matches(cmd_name, _COMMANDS, 1):
                raise click.UsageError(f"there is no command {cmd_name!r}; did you mean {close[0]!r}?", ctx)
            return None
        command = getattr(importlib.import_module(place.module), place.name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in _COMMANDS.items()])


@click.version_option(tcpmesh.__version__, message="tcpmesh %(version)s")
@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 good; 1 mismatch, invalid or failed; 2 could not tell; 64 wrong usage.",
)
def entry() -> None:
    """Mutual TLS, SPIFFE identity and authorization for services that speak raw TCP."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process with its status."""
    sys.exit(_status(arguments))


def _status(arguments: Sequence[str] | None) -> int:
    from tcpmesh.cli.complaints import complain, complain_of_configuration, complain_of_usage
    from tcpmesh.errors import ConfigurationError, StartError

    try:
        own_process = {"own_process"} if arguments is None else set()
        result: Any = entry.main(arguments, prog_name="tcpmesh", standalone_mode=False, obj=own_process)
    except click.UsageError as error:
        complain_of_usage(error)
        return EX_USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except click.Abort:
        complain("aborted")
        return 1
    except ConfigurationError as error:
        complain_of_configuration(error)
        return 1
    except StartError as error:
        complain(str(error))
        return 1
    return result if isinstance(result, int) else 0
