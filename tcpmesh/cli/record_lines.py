"""
Connections out of an access log: one JSON object a line, some of which may be damaged.

Ring 4.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import attrs

from tcpmesh.cli.complaints import Failed

__all__ = ["MAX_LINE", "ConnectionLines", "opened"]

MAX_LINE = 64 * 1024  # bytes; records have at most half of that
_CANNOT_TELL = 2


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """
    The bytes of a log; ``-`` is standard input.

    :raises Failed: with status 2, when it cannot be read.
    """
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        with path.open("rb") as file:
            file.peek(1)  # a directory is opened, and not read
            yield file
    except (OSError, ValueError) as error:
        raise Failed(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}", _CANNOT_TELL) from None


@attrs.define(eq=False)
class ConnectionLines:
    """
    Tells connections from lines: what opened is not counted again when it closes.

    :ivar damaged: lines that are no JSON object, or too long.
    :ivar others: lines that are no record of a connection that was decided.
    """

    damaged: int = 0
    others: int = 0
    _open: set[int] = attrs.field(factory=set)

    def read(self, file: IO[bytes]) -> Iterator[Mapping[str, Any]]:
        """Every connection once, by the names of records."""
        for line in _lines(file):
            record = _record(line)
            if record is None:
                self.damaged += 1
            elif record.get("event") not in ("open", "close"):
                self.others += 1
            elif self._is_new(record):
                if record.get("decision") in ("allow", "deny"):
                    yield record
                else:
                    self.others += 1

    def _is_new(self, record: Mapping[str, Any]) -> bool:
        number = record.get("id")
        if not isinstance(number, int):
            return True
        if record["event"] == "open":
            self._open.add(number)
            return True
        if number in self._open:
            self._open.discard(number)
            return False
        return True


def _lines(file: IO[bytes]) -> Iterable[bytes]:
    """Lines without their end; one that is too long comes as its first piece, which is no JSON."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE + 1)) and not rest.endswith(b"\n"):
                pass
            line = b"{"
        if line.strip():
            yield line


def _record(line: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
