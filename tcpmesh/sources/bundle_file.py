"""
A trust bundle in a file that somebody else replaces: read at the start, and again when it has changed.

Ring 3, without a reactor.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tcpmesh.codes import BAD_CONFIGURATION
from tcpmesh.errors import StartError
from tcpmesh.identity.bundle_document import MAX_BUNDLE_BYTES, BundleDocument, BundleError, read_bundle
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.pem_files import fingerprint

__all__ = ["BundleFile"]


class BundleFile:
    """
    One file with the bundle of one trust domain: a SPIFFE bundle document, or PEM.

    What changed is read once it has stayed the same from one look to the next: a file that is being written may end
    between two certificates, and would seem to withdraw the second.
    """

    def __init__(self, path: Path, trust_domain: TrustDomain) -> None:
        self.path = path
        self._trust_domain = trust_domain
        self._read: tuple[int, ...] = ()
        self._seen: tuple[int, ...] = ()

    def load(self) -> BundleDocument:
        """
        Read it now.

        :raises StartError: naming the file and what is wrong with it.
        """
        self._read = self._seen = fingerprint(self.path)
        try:
            return read_bundle(_content(self.path), self._trust_domain)
        except BundleError as error:
            raise StartError(BAD_CONFIGURATION, f"{self.path} {error}") from None

    def look(self, *, again: bool) -> BundleDocument | None:
        """
        Read it if it has changed and settled since.

        :param again: read it also when it has not changed: what was wrong may have been somewhere else.
        :raises StartError: as :meth:`load`.
        """
        now = fingerprint(self.path)
        if now != self._seen or (now == self._read and not again):
            self._seen = now
            return None
        return self.load()


def _content(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError("is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_BUNDLE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise BundleError("does not exist") from None
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}") from error
