"""
Endpoints by lot: each as often as its weight says.

Ring 1.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tcpmesh.values import Endpoint

__all__ = ["Draws"]

_TRIES = 8  # to draw one that is not excluded, before all are looked at


class Draws:
    """
    Draws from one set of endpoints; those with a weight below 1 are not among them.

    :ivar endpoints: those that can be drawn; a draw is a position in it.
    """

    __slots__ = ("_bounds", "endpoints", "total")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoint for endpoint in endpoints if endpoint.weight >= 1)
        weights = [endpoint.weight for endpoint in self.endpoints]
        self.total = sum(weights)
        #: Where each one's share of the total ends; None when all shares are equal.
        self._bounds = list(accumulate(weights)) if len(set(weights)) > 1 else None

    def draw(self, generator: random.Random, exclude: frozenset[Endpoint]) -> int | None:
        """One that is not excluded, None if all are; each as likely as its weight is in the weight of them all."""
        endpoints = self.endpoints
        if not endpoints:
            return None
        if not exclude:
            return self.any(generator)
        for _ in range(_TRIES):
            position = self.any(generator)
            if endpoints[position] not in exclude:
                return position
        return self._choose(
            generator, [position for position, endpoint in enumerate(endpoints) if endpoint not in exclude]
        )

    def any(self, generator: random.Random) -> int:
        """One of all; there must be one."""
        if self._bounds is None:
            return int(generator.random() * len(self.endpoints))
        return bisect_right(self._bounds, generator.random() * self.total)

    def other(self, generator: random.Random, than: int, exclude: frozenset[Endpoint]) -> int | None:
        """One that is neither excluded nor ``than``, None if there is none."""
        for _ in range(_TRIES):
            position = self.any(generator)
            if position != than and self.endpoints[position] not in exclude:
                return position
        return self._choose(
            generator,
            [
                position
                for position, endpoint in enumerate(self.endpoints)
                if position != than and endpoint not in exclude
            ],
        )

    def _choose(self, generator: random.Random, left: list[int]) -> int | None:
        if not left:
            return None
        return generator.choices(left, [self.endpoints[position].weight for position in left])[0]
