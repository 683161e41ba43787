"""
Options whose text one of our own parsers reads.

Ring 4. Imports click only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["parsed"]


def parsed(name: str, parse: Callable[[str], Any]) -> click.ParamType:  # type: ignore[type-arg]
    """
    Make an option's type of a parser.

    :param name: what the text is, for the message.
    :param parse: raises ValueError, whose text becomes the usage error.
    """
    return _Parsed(name, parse)


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # older releases of click have it without arguments
    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """(click.ParamType)."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)
