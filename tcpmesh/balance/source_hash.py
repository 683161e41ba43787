"""
The load balancer ``source-hash``: the same endpoint for the same source, as long as it is there.

Ring 1. Weighted rendezvous hashing (Thaler and Ravishankar, A Name-Based Mapping Scheme for Rendezvous, 1996; the
weights as in Schindelhauer and Schomaker, Weighted Distributed Hash Tables, 2005): every endpoint draws a number from
the hash of its address and the source, and the best one wins. When an endpoint goes, only its own sources move, spread
over the others by weight; when it returns, they return. Every proxy with the same endpoints chooses the same.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any

from zope.interface import implementer

from tcpmesh.balance.draws import Draws
from tcpmesh.balance.heedless import Heedless
from tcpmesh.balance.recent import Recent
from tcpmesh.balance_interfaces import ISourceBalancer
from tcpmesh.interfaces import ILoadBalancerFactory, PluginContext
from tcpmesh.settings import NoSettings
from tcpmesh.values import Address, Endpoint, TCPAddress

__all__ = ["SourceHash", "SourceHashFactory"]

_REMEMBERED = 1024  # sources whose endpoint is not worked out again
_SEED_BYTES = 16
_NUMBER_BYTES = 8
_NUMBERS = 2.0 ** (8 * _NUMBER_BYTES)


class _Places:
    """One tuple of endpoints: their seeds, and where sources went."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.draws = Draws(endpoints)
        self._seeds = [_seed(endpoint) for endpoint in self.draws.endpoints]
        self._is_uniform = len({endpoint.weight for endpoint in self.draws.endpoints}) == 1
        self._known: dict[bytes, Endpoint] = {}

    def of(self, key: bytes, exclude: frozenset[Endpoint]) -> Endpoint | None:
        """The endpoint of a source; None when all are excluded."""
        found = self._known.get(key)
        if found is not None and found not in exclude:
            return found
        endpoints = self.draws.endpoints
        left = [position for position, endpoint in enumerate(endpoints) if endpoint not in exclude] if exclude else None
        if not endpoints or left == []:
            return None
        marks = self._marks(key)
        if left is not None:
            return endpoints[max(left, key=marks.__getitem__)]
        chosen = endpoints[marks.index(max(marks))]
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = chosen
        return chosen

    def _marks(self, key: bytes) -> list[Any]:
        """What each endpoint has drawn for this source; the highest mark wins."""
        hashed = hashlib.blake2b
        numbers = [hashed(seed + key, digest_size=_NUMBER_BYTES).digest() for seed in self._seeds]
        if self._is_uniform:
            return numbers
        # -log(u) / weight is exponentially distributed with the weight as its rate, and the least of such numbers is
        # each one's as often as its rate is in the sum of all.
        return [
            math.log((int.from_bytes(number, "big") + 0.5) / _NUMBERS) / endpoint.weight
            for number, endpoint in zip(numbers, self.draws.endpoints, strict=True)
        ]


def _seed(endpoint: Endpoint) -> bytes:
    return hashlib.blake2b(str(endpoint.address).encode("utf-8", "surrogateescape"), digest_size=_SEED_BYTES).digest()


@implementer(ISourceBalancer)
class SourceHash(Heedless):
    """
    Picks by the host of the source; its port does not count. A weight below 1 gets none.

    :param generator: for attempts of which no source is known.
    """

    def __init__(self, generator: random.Random) -> None:
        self._random = generator
        self._places = Recent(_Places)

    def pick_for(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint], source: Address) -> Endpoint | None:
        """Find the endpoint of this source. (ISourceBalancer)"""
        host = source.host if isinstance(source, TCPAddress) else f"unix:{source.path}"
        return self._places.of(endpoints).of(host.encode("utf-8", "surrogateescape"), exclude)

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """Draw one by weight: there is no source to go by. (ILoadBalancer)"""
        draws = self._places.of(endpoints).draws
        position = draws.draw(self._random, exclude)
        return None if position is None else draws.endpoints[position]


@implementer(ILoadBalancerFactory)
class SourceHashFactory:
    """Makes balancers that hash; each draws from ``generator`` when there is nothing to hash."""

    name = "source-hash"
    description = "the same endpoint for the same source host, by weight"
    settings = NoSettings

    def __init__(self, generator: random.Random | None = None) -> None:
        self._random = generator or random.Random()  # noqa: S311 - spreads load, guards nothing

    def create(self, settings: NoSettings, context: PluginContext) -> SourceHash:
        """Make the balancer of one service."""
        return SourceHash(self._random)
