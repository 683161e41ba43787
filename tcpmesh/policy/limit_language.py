"""
The key ``limit`` of a policy with ``action: limit``, as values.

Ring 1. docs/policy-limits.md is the description for users.
"""

from __future__ import annotations

import math
import re
from typing import Any

import attrs

from tcpmesh.addresses import shown
from tcpmesh.limit_interfaces import Part

__all__ = ["LimitSettings", "Rate", "parse_rate"]

_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MOST = 1_000_000_000


@attrs.frozen
class Rate:
    """So many in so many seconds, as it was written."""

    count: int
    seconds: int
    text: str = attrs.field(default="", eq=False)

    @property
    def per_second(self) -> float:
        """As one number."""
        return self.count / self.seconds

    def __str__(self) -> str:
        return self.text


def parse_rate(text: str) -> Rate:
    """
    Read ``10/s``, ``600/m`` or ``100/h``.

    :raises ValueError: for anything else.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a rate; write a whole number and a time: 10/s, 600/m or 100/h")
    return Rate(int(match.group(1)), _SECONDS[match.group(2)], text)


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and not 1 <= value <= _MOST:
        more = "; to let nobody in, write a policy with action: deny" if value == 0 else ""
        raise ValueError(f"{attribute.name} is {value}; expected 1 to {_MOST}{more}")


def _check_per(_instance: object, _attribute: object, value: list[Part] | None) -> None:
    if value is None:
        return
    if not value:
        raise ValueError("the list is empty; leave the key out to count all connections together")
    if len(set(value)) < len(value):
        raise ValueError("a word stands twice")
    if "source" in value and "network" in value:
        raise ValueError("whoever differs by network differs by source too; remove one of the two")


def _bits(most: int) -> Any:
    def check(_instance: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
        if value is not None and not 1 <= value <= most:
            raise ValueError(f"{attribute.name} is {value}; expected 1 to {most}")

    return check


@attrs.frozen
class LimitSettings:
    """How many connections at a time, how many new ones in a time, and which of them are counted together."""

    connections: int | None = attrs.field(default=None, validator=_positive)
    rate: Rate | None = None
    burst: int | None = attrs.field(default=None, validator=_positive)
    per: list[Part] | None = attrs.field(default=None, validator=_check_per)
    ipv4_bits: int | None = attrs.field(default=None, validator=_bits(32))
    ipv6_bits: int | None = attrs.field(default=None, validator=_bits(128))

    def __attrs_post_init__(self) -> None:
        """Refuse what limits nothing."""
        if self.connections is None and self.rate is None:
            raise ValueError("nothing is limited; give connections, rate or both")
        if self.burst is not None and self.rate is None:
            raise ValueError("burst is how many may come at once within rate; give rate too")
        bits = [key for key in ("ipv4_bits", "ipv6_bits") if getattr(self, key) is not None]
        if bits and "network" not in (self.per or ()):
            raise ValueError(f"{bits[0]} says how large a network is; add network to per")

    @property
    def at_once(self) -> int:
        """How many may come at once: as written, else those of one second, at least one."""
        if self.burst is not None or self.rate is None:
            return self.burst or 1
        return math.ceil(self.rate.per_second)

    def __str__(self) -> str:
        most = [f"{self.connections} connections"] if self.connections is not None else []
        most += [str(self.rate)] if self.rate is not None else []
        return ", ".join(most) + (f" per {' and '.join(self.per)}" if self.per else "")
