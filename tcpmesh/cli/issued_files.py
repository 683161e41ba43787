"""
Writes what ``tcpmesh ca issue`` made: certificate, key and bundle in one directory.

Ring 4. The key's file is never readable by others, not even for a moment, and nothing is replaced unasked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from tcpmesh.errors import TcpmeshError
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.material import pem_of_key
from tcpmesh.values import Svid

__all__ = ["TargetExists", "require_free", "write_issued"]


class TargetExists(TcpmeshError):
    """A file is there already, and nobody said to replace it."""


_NAMES = ("key.pem", "certificate.pem", "bundle.pem")


def require_free(directory: Path) -> None:
    """
    Ask before something is signed, which the audit log would keep, whether there is a place for it.

    :raises TargetExists: one of the files is there already.
    """
    for name in _NAMES:
        if os.path.lexists(directory / name):
            raise TargetExists(f"{directory / name} is there already; choose another directory, or say --force")


def write_issued(directory: Path, svid: Svid, roots: Sequence[x509.Certificate], *, replace: bool) -> None:
    """
    Write ``certificate.pem`` (leaf and intermediates), ``key.pem`` (0600) and ``bundle.pem``.

    :raises TargetExists: before anything is written.
    :raises OSError: as the system says; what was written before it is removed again, unless it replaced something.
    """
    contents = (
        (pem_of_key(svid.private_key), 0o600),
        (pem_of(svid.chain), 0o644),
        (pem_of(list(roots)), 0o644),
    )
    files = dict(zip(_NAMES, contents, strict=True))
    directory.mkdir(exist_ok=True)
    if not replace:
        require_free(directory)
    written: list[Path] = []
    try:
        for name, (data, mode) in files.items():
            _write(directory / name, data, mode, replace=replace)
            written.append(directory / name)
    except OSError:
        for path in written if not replace else ():
            with suppress(OSError):
                path.unlink()
        raise


def _write(path: Path, data: bytes, mode: int, *, replace: bool) -> None:
    """Write the file whole: aside first, then under its name, which with ``replace`` false must be free."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, fails when the name is taken
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
