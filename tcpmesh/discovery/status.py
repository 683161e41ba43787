"""
Where one service's discovery stands, for who shows and counts it.

Ring 1.
"""

from __future__ import annotations

import attrs

__all__ = ["DiscoveryStatus"]


@attrs.frozen
class DiscoveryStatus:
    """
    Times are by :meth:`tcpmesh.endpoint_control.EndpointControl.seconds`.

    :ivar said: when it last said which endpoints there are; None before the first time.
    :ivar failing: since when it has failed; None while it does not.
    :ivar reason: why it fails; while it does not, why there are no endpoints, if it says so.
    """

    service: str
    plugin: str
    endpoints: int | None  # None before anything was said
    said: float | None
    failing: float | None
    reason: str
    changes: int  # of the endpoints
    failures: int = 0
