"""
What the identity source ``embedded`` and its workloads can be told.

Ring 3.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from tcpmesh.identity.authority import MAX_TTL, MIN_TTL
from tcpmesh.sources.authority_schedule import RotationSettings
from tcpmesh.values import DNSName, Duration, format_duration

__all__ = ["EmbeddedSettings", "EmbeddedWorkload"]


def _check_ttl(_instance: object, _attribute: object, value: float) -> None:
    if not MIN_TTL <= value <= MAX_TTL:
        raise ValueError(
            f"a ttl of {format_duration(value)} is outside {format_duration(MIN_TTL)} to {format_duration(MAX_TTL)}"
        )


@attrs.frozen
class EmbeddedSettings:
    """
    ``state``: the directory of the authority, made at the first start. ``ttl``: how long a certificate lasts.
    ``rotation``: when the root is replaced by itself; None: by ``tcpmesh ca`` only.
    """

    state: Path
    ttl: Duration = attrs.field(default=Duration(3600.0), validator=_check_ttl)
    rotation: RotationSettings | None = None


@attrs.frozen
class EmbeddedWorkload:
    """``dns``: names that the certificate carries beside the SPIFFE ID, for clients that verify by DNS name."""

    dns: list[DNSName] = attrs.field(factory=list)
