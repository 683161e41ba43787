"""
What ``tcpmesh identity check`` finds: for each pair of a workload and an endpoint, one finding a layer.

Ring 3. Values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import attrs

from tcpmesh.codes import Code
from tcpmesh.values import Endpoint

__all__ = ["LAYERS", "Finding", "Outcome", "Pair", "as_mapping"]

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
    :ivar place: what the fix is for, as a place in the configuration: ``services.orders.expect``.
    :ivar where: what it is for when it is not the configuration: the peer.
    :ivar unfinished: whether the time for the question was over before the layer's.
    """

    layer: int
    outcome: Outcome
    text: str
    code: Code | None = None
    expected: str = ""
    place: str = ""
    where: str = ""
    unfinished: bool = False


@attrs.frozen
class Pair:
    """
    Who wants to reach whom.

    :ivar service: None for an address that no service lists.
    :ivar endpoint: None when there is nobody to reach.
    :ivar unclear: why nobody can say whether it is this workload that would reach it; empty when it is.
    """

    workload: str
    service: str | None = None
    endpoint: Endpoint | None = None
    listener: str = ""
    unclear: str = ""


def as_mapping(pair: Pair, identity: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """
    Describe what was found of a pair, as plain JSON values.

    :param identity: the workload's SPIFFE ID.
    """
    return {
        "workload": pair.workload,
        "id": identity,
        "service": pair.service,
        "endpoint": str(pair.endpoint.address) if pair.endpoint is not None else None,
        "layers": [_finding_as_mapping(finding) for finding in findings],
        "not_looked_at": list(LAYERS[len(findings) :]),
    }


def _finding_as_mapping(finding: Finding) -> dict[str, Any]:
    values = {
        "layer": finding.layer,
        "name": LAYERS[finding.layer - 1],
        "outcome": finding.outcome.value,
        "text": finding.text,
        "code": finding.code.id if finding.code is not None else "",
        "expected": finding.expected,
        "next": finding.code.next_step if finding.code is not None else "",
        "place": finding.place,
        "where": finding.where,
        "unfinished": finding.unfinished,
    }
    return {name: value for name, value in values.items() if value or name == "text"}
