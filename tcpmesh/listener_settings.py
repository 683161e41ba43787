"""
The configuration's mapping ``limits`` of a listener.

Ring 0, as ``tcpmesh.settings``, of which it is a part.
"""

from __future__ import annotations

import attrs

__all__ = ["ListenerLimits"]


@attrs.frozen
class ListenerLimits:
    """How many connections one listener has at most, on all of its ports together; None for no limit of its own."""

    connections: int | None = None
