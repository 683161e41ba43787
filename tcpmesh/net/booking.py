"""
One attempt's place at an endpoint: what is told of it to balancer, health and counters, each exactly once.

Ring 3. A booking is open from the choice of the endpoint until the attempt failed or its connection ended; what it
holds under the service's limits it gives back then.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from tcpmesh.codes import CANCELLED, Code
from tcpmesh.values import AttemptFailure, Endpoint

if TYPE_CHECKING:
    from tcpmesh.net.pool import Pool

__all__ = ["Booking", "EndpointCounts", "ServiceCounts"]


@attrs.define(eq=False)
class EndpointCounts:
    """
    What happens at one address, and happened since it is known.

    :ivar pending: attempts under way.
    :ivar open: connections that are established.
    :ivar established: how many ever were.
    :ivar failed: attempts that failed or were given up, and connections lost before a payload byte, by code.
    """

    pending: int = 0
    open: int = 0
    established: int = 0
    failed: Counter[Code] = attrs.field(factory=Counter)

    @property
    def total(self) -> int:
        """How many places are taken."""
        return self.pending + self.open


@attrs.define(eq=False)
class ServiceCounts:
    """
    What happens at one service, and happened since the start.

    :ivar open: connections that are established.
    :ivar pending: attempts under way.
    :ivar queued: connections that ever waited for room.
    :ivar refused: connections that a limit, the queue, the circuit, discovery or health refused, by code.
    :ivar retries: attempts that followed a failed one.
    :ivar unbudgeted: retries that there was no budget for.
    """

    open: int = 0
    pending: int = 0
    queued: int = 0
    refused: Counter[Code] = attrs.field(factory=Counter)
    retries: int = 0
    unbudgeted: int = 0


class Booking:
    """
    One attempt and, if it succeeds, its connection: ``failed``, or ``established`` and then ``lost`` or ``closed``.

    :ivar who: the connection that it is for.
    """

    __slots__ = ("_counts", "_is_established", "_is_over", "_pool", "endpoint", "who")

    def __init__(self, pool: Pool, endpoint: Endpoint, counts: EndpointCounts, who: object) -> None:
        self._pool = pool
        self._counts = counts
        self.endpoint = endpoint
        self.who = who
        self._is_established = False
        self._is_over = False
        counts.pending += 1
        pool.counts.pending += 1
        pool.balancer.opened(endpoint)
        health = pool.health
        if health.impaired:
            health.opened(endpoint, pool.clock.seconds(), who)

    def established(self, duration: float) -> None:
        """The endpoint accepted, after so many seconds."""
        assert not self._is_established
        assert not self._is_over
        self._is_established = True
        pool, counts = self._pool, self._counts
        counts.pending -= 1
        counts.open += 1
        counts.established += 1
        pool.counts.pending -= 1
        pool.counts.open += 1
        pool.balancer.established(self.endpoint, duration)
        pool.health.established(self.endpoint, pool.clock.seconds(), self.who)
        pool.room_changed(self.endpoint)

    def failed(self, failure: AttemptFailure, *, hurried: bool = False) -> None:
        """
        The attempt failed, or was given up.

        :param hurried: its connection had no time left for a whole attempt, which says nothing of the endpoint.
        """
        assert not self._is_established
        if self._is_over:
            return
        self._is_over = True
        pool, counts = self._pool, self._counts
        counts.pending -= 1
        counts.failed[failure.code] += 1
        pool.counts.pending -= 1
        pool.balancer.failed(self.endpoint, failure)
        code = CANCELLED if hurried else failure.code
        pool.health.failed(self.endpoint, code, failure.reason, pool.clock.seconds(), self.who)
        pool.room_changed(self.endpoint)

    def lost(self, failure: AttemptFailure) -> None:
        """The established connection broke before any payload byte had moved, and is to be made anew."""
        if self._is_over:
            return
        self._counts.failed[failure.code] += 1
        self._pool.balancer.lost(self.endpoint, failure)
        self._pool.health.lost(self.endpoint, failure.code, failure.reason, self._pool.clock.seconds())
        self.closed()

    def closed(self) -> None:
        """The established connection ended."""
        assert self._is_established
        if self._is_over:
            return
        self._is_over = True
        pool = self._pool
        self._counts.open -= 1
        pool.counts.open -= 1
        pool.balancer.closed(self.endpoint)
        pool.room_changed(self.endpoint)
