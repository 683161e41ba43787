"""
Which endpoint an attempt is made at: tiers, health and limits leave candidates, and the balancer chooses among them.

Ring 3. While nothing is wrong and nothing is limited, the balancer gets the very tuples that are in the state.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Any

from tcpmesh.balance.tiers import Tiers
from tcpmesh.codes import ALL_UNAVAILABLE, NO_ENDPOINT
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.net.arms_length import GuardedBalancer
from tcpmesh.values import Address, Endpoint

__all__ = ["Candidates"]

_NOBODY: frozenset[Endpoint] = frozenset()
_OFFERS = 8  # of endpoints that begin slowly, for one attempt
_SWEEP = 1.0  # seconds between looks at all of these
_SAID = 0.1  # for so many seconds it stays said why there is none: the times in it have one decimal


class Candidates:
    """
    The endpoints of one service, as an attempt finds them.

    :param full: where no further connection may go, as of each moment; None when all may take any number.
    :param generator: decides whether an endpoint that begins slowly takes part.
    """

    def __init__(
        self,
        name: str,
        tiers: Tiers,
        health: ServiceHealth,
        balancer: GuardedBalancer,
        clock: Any,
        full: Collection[Address] | None,
        generator: random.Random,
    ) -> None:
        self._name = name
        self._tiers = tiers
        self._health = health
        self._balancer = balancer
        self._clock = clock
        self._full = full if full is not None else ()
        self._random = generator
        self._admitted: tuple[tuple[Endpoint, ...], ...] = ()
        self._admitted_of: tuple[Endpoint, ...] = ()
        self._away: frozenset[Address] = frozenset()  # of the admitted ones
        self._free: tuple[Endpoint, ...] = ()
        self._swept = clock.seconds()
        self._said: Refusal  # of these endpoints, at that time
        self._said_of: tuple[tuple[Endpoint, ...], frozenset[Address]] = ((), self._away)
        self._said_at = 0.0
        self._roomy: tuple[tuple[Endpoint, ...], ...] = ()
        self._roomy_of: tuple[tuple[Endpoint, ...], ...] | None = None

    def choose(
        self, endpoints: tuple[Endpoint, ...], exclude: frozenset[Endpoint], source: Address | None
    ) -> Endpoint | None:
        """
        Choose an endpoint, or None when those that could be used are full.

        :param endpoints: all of the service, and not none.
        :param exclude: those that have failed for this connection: taken only if there are no others.
        :raises Refusal: ALL_UNAVAILABLE, NO_ENDPOINT or BALANCER_FAILED.
        """
        away = self._health.away(self._clock.seconds()) if self._health.impaired else None
        circles = self._without(endpoints, away) if away else self._tiers.circles(endpoints)
        if self._full:
            circles = tuple(circles)
            if circles is not self._roomy_of:
                self._roomy, self._roomy_of = self._with_room(circles), circles
            if circles and not self._roomy:
                return None
            circles = self._roomy
        endpoint = self._pick(circles, exclude, source)
        if endpoint is None and exclude:
            endpoint = self._pick(circles, _NOBODY, source)
        if endpoint is None:
            raise self._none(endpoints)
        return endpoint

    def room_changed(self) -> None:
        """Others are full now than were before."""
        self._roomy_of = None

    def _without(self, endpoints: tuple[Endpoint, ...], away: frozenset[Address]) -> tuple[tuple[Endpoint, ...], ...]:
        """The circles of those that are not away; made anew when these have changed."""
        if endpoints is not self._admitted_of or away != self._away:
            self._admitted = tuple(self._tiers.circles(endpoints, lambda endpoint: endpoint.address not in away))
            self._admitted_of, self._away = endpoints, away
        return self._admitted

    def _pick(
        self, circles: Iterable[tuple[Endpoint, ...]], exclude: frozenset[Endpoint], source: Address | None
    ) -> Endpoint | None:
        for circle in circles:
            endpoint = self._balancer.pick(circle, exclude, source)
            if endpoint is not None:
                return self._unless_early(endpoint, circle, exclude, source) if self._health.impaired else endpoint
        return None

    def _unless_early(
        self, first: Endpoint, circle: tuple[Endpoint, ...], exclude: frozenset[Endpoint], source: Address | None
    ) -> Endpoint:
        """
        Take who was picked first, or pass over, by chance, who is to get less than its share, if there are others.

        The balancer is asked again about the tuple that it knows: it would have to prepare itself for every other one.
        """
        now = self._clock.seconds()
        if now >= self._swept + _SWEEP:
            self._swept = now
            self._health.starting(now)  # forgets whose slow start is over, picked or not
        endpoint = first
        for _ in range(_OFFERS):
            share = self._health.share(endpoint, now)
            if share >= 1.0 or self._random.random() < share:
                return endpoint
            exclude |= {endpoint}
            another = self._balancer.pick(circle, exclude, source)
            if another is None:
                return first
            endpoint = another
        return endpoint

    def _with_room(self, circles: Iterable[tuple[Endpoint, ...]]) -> tuple[tuple[Endpoint, ...], ...]:
        """What is left of them. A standby stands by for those that fail and not for those that are full."""
        found = []
        full = self._full
        full_at: int | None = None
        for circle in circles:
            if full_at is not None and circle[0].priority != full_at:
                break
            free = tuple(endpoint for endpoint in circle if endpoint.address not in full)
            if len(free) < len(circle):
                full_at = circle[0].priority
                if free == self._free:
                    free = self._free  # balancers know a tuple by its identity
                self._free = free
            else:
                free = circle
            if free:
                found.append(free)
        return tuple(found)

    def _none(self, endpoints: tuple[Endpoint, ...]) -> Refusal:
        """Say why. When nobody can be tried, thousands may ask at the same time, and it takes a look at everybody."""
        now = self._clock.seconds()
        if (endpoints, self._away) != self._said_of or now >= self._said_at + _SAID:
            self._said, self._said_of, self._said_at = self._why_none(endpoints), (endpoints, self._away), now
        return Refusal(self._said.code, self._said.reason)  # raised: an exception of its own for each

    def _why_none(self, endpoints: tuple[Endpoint, ...]) -> Refusal:
        health, name, count = self._health, self._name, len(endpoints)
        if health.impaired:
            why = health.why_none(endpoints, self._clock.seconds())
            if why:
                return Refusal(ALL_UNAVAILABLE, f"none of {count} endpoints of service {name!r} can be used: {why}")
        if all(endpoint.weight < 1 for endpoint in endpoints):
            return Refusal(NO_ENDPOINT, f"all endpoints of service {name!r} have weight 0 ({count})")
        return Refusal(NO_ENDPOINT, f"the balancer {self._balancer.plugin!r} offers none of {count} endpoints")
