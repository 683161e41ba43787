"""
Text that is safe to show: whatever a peer wrote stays inside its line and its field.

Ring 3, pure. Everything that goes to a log or a terminal as text goes through here; JSON output is safe by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tcpmesh.observe.records import MAX_TEXT, bounded

__all__ = ["as_fields", "as_value", "printable"]

Value = str | int | float | bool

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_BARE = re.compile(r"[A-Za-z0-9._:/@%\[\],+-]+\Z")


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """
    Replace everything that is not printable ASCII by its escape, and cut after ``limit`` characters.

    ASCII, because a terminal acts on more than newlines and ESC: C1 controls, U+2028, direction overrides, surrogates.
    """
    text = bounded(text, limit)
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)


def as_value(value: Value) -> str:
    """Write a value so that nobody can mistake its end: bare if it is a plain word, else as a JSON string."""
    text = bounded(str(value))
    return text if _BARE.match(text) else json.dumps(text)


def as_fields(values: Mapping[str, Value]) -> str:
    """Write ``name=value`` pairs on one line; names are ours, values anybody's."""
    return " ".join(f"{name}={as_value(value)}" for name, value in values.items())
