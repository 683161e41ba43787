"""
Who wants a connection to a service, as the connector sees it.

Ring 3.
"""

from __future__ import annotations

from typing import Protocol

from tcpmesh.errors import Refusal
from tcpmesh.net.endpoint_attempt import UpstreamConnection
from tcpmesh.net.legs import Leg
from tcpmesh.values import Address

__all__ = ["EstablishmentOwner"]


class EstablishmentOwner(UpstreamConnection, Protocol):
    """Who wants the connection."""

    @property
    def source(self) -> Address:
        """Where it comes from, for balancers that choose by that."""

    def upstream_established(self, leg: Leg) -> None:
        """The peer is verified and has accepted; nothing was read from it beyond its preface."""

    def upstream_refused(self, refusal: Refusal) -> None:
        """No attempt succeeded and none follows. Another service may be tried now, by an Establishment of its own."""
