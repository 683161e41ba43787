"""
What ``tcpmesh identity check`` finds: for each pair of a workload and an endpoint, one finding a layer.

Ring 4. Values only.
"""

from __future__ import annotations

from enum import Enum

import attrs

from tcpmesh.codes import Code
from tcpmesh.values import Endpoint

__all__ = ["LAYERS", "Finding", "Outcome", "Pair"]

#: In their order; a finding's ``layer`` counts from 1.
LAYERS = ("source", "self", "map", "reach", "present", "trust", "match", "accept")


class Outcome(Enum):
    """What is known of one layer."""

    GOOD = "good"
    ODD = "odd"  # works, and deserves a look
    BROKEN = "broken"
    UNKNOWN = "unknown"


@attrs.frozen
class Finding:
    """
    One layer of one pair.

    :ivar expected: what should be, of a broken layer; ``text`` is then what came.
    :ivar where: the place that the fix is for: in the configuration, or the peer.
    """

    layer: int
    outcome: Outcome
    text: str
    code: Code | None = None
    expected: str = ""
    where: str = ""


@attrs.frozen
class Pair:
    """
    Who wants to reach whom.

    :ivar service: None for an address that no service lists.
    :ivar endpoint: None when there is nobody to reach.
    """

    workload: str
    service: str | None = None
    endpoint: Endpoint | None = None
    listener: str = ""
