"""
Reading one file, as somebody else may have left it: absent, half written, a directory, readable by everybody.

PEM, but for a bundle, which may also be a SPIFFE bundle document.

Ring 3, without a reactor. Whatever is wrong with a file is an error that names it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from tcpmesh.codes import BAD_CONFIGURATION
from tcpmesh.errors import Refusal, StartError
from tcpmesh.identity.bundle_document import BundleError, is_document, parse_bundle
from tcpmesh.identity.certificates import moment, not_after, span
from tcpmesh.identity.material import MaterialError, load_certificates, load_private_key
from tcpmesh.identity.profile import check_authority, readable
from tcpmesh.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["fingerprint", "read_authorities", "read_certificates", "read_key"]

_MAX_FILE = 1 << 20  # bytes


def fingerprint(path: Path) -> tuple[int, ...]:
    """
    What tells one state of a file from another without reading it; the error's number when there is nothing to ask.

    Every link on the way is followed, so that the swap of a directory's link shows as another inode; the times are
    those of content and of mode, so that a ``chmod`` shows too.
    """
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    kind = (status.st_dev, status.st_ino, status.st_mode, status.st_uid)
    return (*kind, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """
    Read the certificates of a file, in its order.

    :raises StartError: naming the file.
    """
    try:
        return load_certificates(_read(path)[0])
    except MaterialError as error:
        raise _unusable(path, str(error)) from None


def read_authorities(path: Path, trust_domain: TrustDomain, now: float) -> tuple[x509.Certificate, ...]:
    """
    Read a bundle: certificates that are all authorities, each once, or a SPIFFE bundle document.

    :param now: wall-clock seconds.
    :raises StartError: naming the file.
    """
    data = _read(path)[0]
    try:
        if is_document(data):
            return parse_bundle(data, trust_domain).authorities
        authorities = tuple(dict.fromkeys(load_certificates(data)))
    except (BundleError, MaterialError) as error:
        raise _unusable(path, str(error)) from None
    for authority in authorities:
        try:
            with readable("an authority"):
                check_authority(authority, anchor=True)
                ended = now - not_after(authority)
        except Refusal as refusal:
            raise StartError(BAD_CONFIGURATION, f"bundle {path}: {refusal.reason}") from refusal
        if ended > 0 and len(authorities) == 1:
            reason = f"bundle {path}: its only authority expired {span(ended)} ago, at {moment(not_after(authority))}"
            raise StartError(BAD_CONFIGURATION, reason)
    return authorities


def read_key(path: Path) -> CertificateIssuerPrivateKeyTypes:
    """
    Read a private key that only its owner can read, or that root lends to our group.

    :raises StartError: naming the file.
    """
    data, status = _read(path)
    mode = stat.S_IMODE(status.st_mode)
    # A group may read a key that root lends to it (Debian's ssl-cert); in all other cases the owner alone.
    if mode & 0o037 or (mode & 0o040 and (status.st_uid != 0 or os.geteuid() == 0)):
        raise _unusable(path, f"has mode {mode:04o}, so that others can get at the private key; type: chmod 600 {path}")
    try:
        return load_private_key(data)
    except MaterialError as error:
        raise _unusable(path, str(error)) from None


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """What is in the file, with the status of the very file that was read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _unusable(path, "is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_MAX_FILE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise _unusable(path, "does not exist") from None
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise _unusable(path, f"is larger than {_MAX_FILE} bytes")
    return data, status


def _unusable(path: Path, what: str) -> StartError:
    return StartError(BAD_CONFIGURATION, f"{path} {what}")
