"""
Points in time as an operator writes them.

Ring 0.
"""

from __future__ import annotations

import datetime
import re
from typing import NewType

from tcpmesh.addresses import shown

__all__ = ["Moment", "parse_moment"]

Moment = NewType("Moment", float)  # seconds since the epoch

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def parse_moment(text: str) -> Moment:
    """
    Read ``2026-11-22T10:00:00Z`` or ``2026-11-22T11:00:00+01:00`` (RFC 3339 section 5.6).

    :raises ValueError: for anything else, a time without its zone among it: whose time it is would be a guess.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError(f"{shown(text)} is not a point in time; write it as 2026-11-22T10:00:00Z, with its zone")
    day, time, zone = found.groups()
    zone = "+00:00" if zone in "Zz" else zone
    try:
        return Moment(datetime.datetime.fromisoformat(f"{day}T{time}{zone}").timestamp())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shown(text)} is not a point in time: {error}") from None
