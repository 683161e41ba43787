"""
Limits of policies: how many connections somebody may have, and how many new ones in a time.

Ring 0, public, stable like ``tcpmesh.interfaces``. A policy says which limits hold for a connection, and the data path
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from zope.interface import Attribute

from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.values import AuthorizationRequest

__all__ = ["ILimitingPolicy", "Limit", "Part"]

#: What may tell connections apart: those that agree in all parts that a limit names are counted together.
Part = Literal["identity", "network", "source", "listener"]


@attrs.frozen
class Limit:
    """
    One limit; a limit that changes goes on with the counts of the one with the same policy, ``per`` and bits.

    :ivar policy: its name, unique among those of one plugin; for records and metrics.
    :ivar rule: where it is written, for records.
    :ivar connections: at a time; None for any number.
    :ivar rate: new connections per second; None for any number.
    :ivar burst: how many may come at once after a pause; with ``rate`` only.
    :ivar per: what is counted apart; empty for all connections together.
    :ivar ipv4_bits: how many leading bits of an address are its network.
    :ivar ipv6_bits: the same for IPv6.
    :ivar enforced: False only notes what it would have refused.
    """

    policy: str
    rule: str = ""
    connections: int | None = None
    rate: float | None = None
    burst: int = 1
    per: tuple[Part, ...] = ()
    ipv4_bits: int = 24
    ipv6_bits: int = 64
    enforced: bool = True


class ILimitingPolicy(IAuthorizationPolicy):
    """A policy that limits connections: optional, asked about connections that were allowed."""

    limits: Sequence[Limit] = Attribute("All limits that it may name, each once; none, and it is never asked.")

    def limits_of(request: AuthorizationRequest) -> Sequence[Limit]:
        """
        Those of ``limits`` that hold for a connection, all of which must have room. Must answer at once.

        Asked about outbound connections too, which have ``request.service``, and again about each live connection when
        policies change.
        """
