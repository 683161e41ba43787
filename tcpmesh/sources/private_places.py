"""
What only its owner may get at: making such a directory, and checking who else can.

Ring 3.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError

__all__ = ["check_private", "make_private"]

_OTHERS = 0o077


def make_private(path: Path) -> None:
    """
    Create the directory and at most its parent: a mistyped path must not grow a tree somewhere.

    :raises StartError: STATE_UNUSABLE.
    """
    if path.is_dir():
        return
    grandparent = path.parent.parent
    if not grandparent.is_dir():
        raise StartError(
            STATE_UNUSABLE, f"{path} cannot be created: {grandparent} is not a directory; create it, or correct 'state'"
        )
    for directory, mode in ((path.parent, 0o755), (path, 0o700)):
        with suppress(FileExistsError):
            directory.mkdir(mode)
            _sync(directory.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_private(path: str, status: os.stat_result, wanted: str) -> None:
    """
    Insist that only this process's user can get at it.

    :param wanted: the mode to give it, for the message.
    :raises StartError: STATE_UNUSABLE.
    """
    me = os.geteuid()
    if status.st_uid != me:
        raise StartError(
            STATE_UNUSABLE,
            f"{path} belongs to user {status.st_uid}, and this process is user {me}: run it as that user, or "
            f"type: chown -R {me} {path}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        raise StartError(
            STATE_UNUSABLE,
            f"{path} has mode {mode:04o}, so that others than its owner can get at it; type: chmod {wanted} {path} "
            "(and ask who may have read or replaced what is in it)",
        )
