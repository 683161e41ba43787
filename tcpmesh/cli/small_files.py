"""
Reads the files that a command is about.

Ring 4.
"""

from __future__ import annotations

from pathlib import Path

from tcpmesh.cli.complaints import Failed

__all__ = ["read_file"]

_CANNOT_TELL = 2


def read_file(path: Path, limit: int) -> bytes:
    """
    The bytes of a file of at most ``limit`` bytes.

    :raises Failed: with status 2, when it cannot be read or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Failed(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}", _CANNOT_TELL) from None
    if len(data) > limit:
        raise Failed(f"{path}: is larger than {limit} bytes, too large for what it should hold", _CANNOT_TELL)
    return data
