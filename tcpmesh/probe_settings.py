"""
The configuration's mapping ``probe`` of an inbound listener.

Ring 0, as ``tcpmesh.settings``, of which it is a part.
"""

from __future__ import annotations

import attrs

from tcpmesh.identity.spiffe import SpiffeId

__all__ = ["ProbeSettings"]


@attrs.frozen
class ProbeSettings:
    """Which peers may ask an inbound listener how it sees them (``tcpmesh.dataplane.probe``)."""

    allow: list[SpiffeId]
