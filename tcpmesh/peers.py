"""
Who is at the other end of a connection, as far as it was proven.

Ring 0, a part of ``tcpmesh.values``.
"""

from __future__ import annotations

import attrs

from tcpmesh.addresses import KeyPin
from tcpmesh.identity.spiffe import SpiffeId

__all__ = ["UNAUTHENTICATED", "PeerIdentity"]


@attrs.frozen
class PeerIdentity:
    """
    What a verified certificate says of its holder.

    ``spiffe_id`` is None only for a server that was verified by DNS name, which then is ``dns_name``, or by the pin of
    its key, which then is ``key_pin``; and for :data:`UNAUTHENTICATED`.
    """

    spiffe_id: SpiffeId | None
    serial: str  # lower-case hex
    not_before: float  # seconds since the epoch
    not_after: float
    dns_name: str = ""
    key_pin: KeyPin | None = None

    @property
    def is_authenticated(self) -> bool:
        """Whether anything was proven at all."""
        return self.spiffe_id is not None or bool(self.dns_name) or self.key_pin is not None

    def __str__(self) -> str:
        if self.spiffe_id is None and self.key_pin is None:
            return f"dns:{self.dns_name}" if self.dns_name else "unauthenticated"
        return str(self.spiffe_id or self.key_pin)


#: Whoever came over TLS that is passed through to the application: its certificate, if it has one, is not ours to see.
UNAUTHENTICATED = PeerIdentity(None, "", 0.0, 0.0)
