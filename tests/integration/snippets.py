"""
The configurations that docs/foreign-peers.md shows, as the tests run them.

A fenced block whose opening line ends in a name (as in ``nginx nginx-client``) is found by that name. The example's
address, ports and directory are replaced by what a test has; nothing else is.
"""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

from tests.integration.processes import ROOT

__all__ = ["DOCUMENT", "fill", "names", "words"]

DOCUMENT = ROOT / "docs" / "foreign-peers.md"
_BLOCK = re.compile(r"^```(\w+) ([\w-]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What the document calls them.
_ADDRESS = "192.0.2.7"  # of whoever listens for TLS
_WIRE = re.compile(r"\b4143\b")  # its port
_PLAIN = re.compile(r"\b5432\b")  # the port, on loopback, of the end without TLS
_FILES = "/etc/peer/"  # where ``tcpmesh ca issue`` wrote


@functools.cache
def _blocks() -> dict[str, str]:
    found = [(match[2], match[3]) for match in _BLOCK.finditer(DOCUMENT.read_text())]
    blocks = dict(found)
    if len(blocks) != len(found):
        raise AssertionError(f"{DOCUMENT} has two blocks of one name: {sorted(name for name, _ in found)}")
    return blocks


def names() -> set[str]:
    """The names of all blocks."""
    return set(_blocks())


def fill(name: str, *, wire: int | None = None, plain: int | None = None, files: Path | None = None) -> str:
    """
    Give a block with these ports on loopback and this directory instead of the document's.

    :raises AssertionError: when the block does not have what is to be replaced.
    """
    text = _blocks()[name].replace(_ADDRESS, "127.0.0.1")
    if wire is not None:
        text = _replace(_WIRE, str(wire), text, name)
    if plain is not None:
        text = _replace(_PLAIN, str(plain), text, name)
    if files is not None:
        text = _replace(re.compile(re.escape(_FILES)), f"{files}/", text, name)
    return text


def _replace(pattern: re.Pattern[str], value: str, text: str, name: str) -> str:
    replaced, count = pattern.subn(value, text)
    if not count:
        raise AssertionError(f"block {name} has nothing like {pattern.pattern}:\n{text}")
    return replaced


def words(command: str) -> list[str]:
    """Take a command of the document apart, as a shell would."""
    return shlex.split(command.replace("\\\n", " "))
