"""
Bundles of other trust domains that are kept over a restart, each with when and from whom it was received.

Ring 3. Public keys only. What is read back is judged as strictly as what an endpoint serves; what is old is doubted.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path

import attrs

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.identity.bundle_document import BundleDocument, BundleError, parse_bundle
from tcpmesh.identity.certificates import moment, span
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.private_directory import PrivateDirectory

__all__ = ["MAX_AGE", "BundleCache", "Kept"]

MAX_AGE = 7 * 86400.0  # seconds; what is older may list what was withdrawn long ago: doubtful
_TOLERANCE = 300.0  # seconds by which a clock may have been set back
_VERSION = 1
_LAST = 253402300799.0  # the end of the year 9999: no clock says more
_MAX_NAME = 200  # characters of a trust domain that a file's name has room for
_MAX_FILE = 1 << 20  # bytes, as many as are read back


@attrs.frozen
class Kept:
    """
    A document, and when it was received, in wall-clock seconds.

    :ivar doubt: why it should not be used where there is something better, for its time; continues "it".
    """

    document: BundleDocument
    received: float
    doubt: str = ""


class BundleCache:
    """
    A directory of mode 0700, made when it is needed; one process writes to it.

    :ivar path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> PrivateDirectory:
        """
        Open the directory, and make it if it is missing.

        :raises StartError: STATE_UNUSABLE when it cannot be opened or others can get at it.
        """
        return PrivateDirectory.open(self.path, create=True)

    def load(self, trust_domain: TrustDomain, endpoint: str, now: float) -> Kept | None:
        """
        Read what was kept; None when there is nothing.

        :param endpoint: from whom it must be.
        :param now: wall-clock seconds.
        :raises BundleError: when it cannot be used; the message continues "it".
        """
        try:
            with closing(self.open()) as directory:
                data = directory.read(_name(trust_domain))
        except StartError as error:
            raise BundleError(f"cannot be read: {error.reason}") from None
        if data is None:
            return None
        try:
            fields = json.loads(data)
            version, domain, source = fields["version"], fields["trust_domain"], fields["endpoint"]
            received, text = fields["received"], fields["document"]
            if version != _VERSION or type(received) is not float or not 0 <= received <= _LAST:
                raise ValueError
            document = text.encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise BundleError(f"is damaged: {self.path / _name(trust_domain)}") from None
        if (domain, source) != (str(trust_domain), endpoint):
            raise BundleError("is of another endpoint")
        doubt = ""
        if received > now + _TOLERANCE:
            doubt = f"was received at {moment(received)}, in the future by this clock"
        elif now - received > MAX_AGE:
            doubt = f"was received {span(now - received)} ago, and {span(MAX_AGE)} are the limit"
        return Kept(parse_bundle(document, trust_domain), received, doubt)

    def keep(self, trust_domain: TrustDomain, endpoint: str, document: bytes, now: float) -> None:
        """
        Write a document down, as it was received and judged good, in place of the one before.

        :raises StartError: STATE_UNUSABLE; the one before is as it was.
        """
        fields = {
            "version": _VERSION,
            "trust_domain": str(trust_domain),
            "endpoint": endpoint,
            "received": float(now),
            "document": document.decode(errors="replace"),
        }
        data = json.dumps(fields, indent=1).encode() + b"\n"
        if len(data) > _MAX_FILE:
            raise StartError(STATE_UNUSABLE, f"it has {len(document)} bytes, too many for a file of {_MAX_FILE}")
        with closing(self.open()) as directory:
            directory.write(_name(trust_domain), data)


def _name(trust_domain: TrustDomain) -> str:
    """A file's name for it: a trust domain may be as long as a name can be, or be called ``..``."""
    text = str(trust_domain)
    return f"bundle-{text if len(text) <= _MAX_NAME else hashlib.sha256(text.encode()).hexdigest()}.json"
