"""
What a command writes to standard error when it cannot do what it was asked to.

Ring 4. Imports nothing but click and the vocabulary. Every line begins with "tcpmesh: ", except one that is about a
place in a file: that begins with the place, as compilers write it, so that editors can go there.
"""

from __future__ import annotations

import click

from tcpmesh.errors import ConfigurationError

__all__ = ["Failed", "complain", "complain_of_configuration", "complain_of_usage"]


class Failed(click.ClickException):
    """
    Ends a command.

    :param message: one line: what was expected, what came, what to do.
    :param status: the exit status.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click reads it from the instance


def complain(message: str) -> None:
    """Write one line."""
    click.echo(f"tcpmesh: {message}", err=True)


def complain_of_configuration(error: ConfigurationError) -> None:
    """Write a line for each problem."""
    for problem in error.problems:
        if problem.mark is None:
            complain(str(problem))
        else:
            click.echo(str(problem), err=True)


def complain_of_usage(error: click.UsageError) -> None:
    """Write how the command is used, and last, where it is read first, what was wrong; or the whole help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    if error.ctx is not None:
        click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True)
    complain(" ".join(error.format_message().split()))  # click lists choices over several lines
