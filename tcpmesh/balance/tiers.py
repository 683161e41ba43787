"""
Which endpoints of a service come into question: those of the best priority, and of those the ones in the own zone.

Ring 1. Pure: it is told what is admitted and remembers nothing but tuples that it made before. Priority 0 is the best;
while it has an admitted endpoint, the next one gets no first attempts, and gets none any more when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from tcpmesh.values import Endpoint

__all__ = ["Tiers"]


@attrs.define(eq=False)
class _Circle:
    """Endpoints that are used alike: the weighted ones of a priority, or those of them in the own zone."""

    members: tuple[Endpoint, ...]
    _last: tuple[Endpoint, ...] = attrs.field(init=False, default=())

    def only(self, some: list[Endpoint]) -> tuple[Endpoint, ...]:
        """
        These of its members, in their order.

        The same object as in the call before while they stay the same: balancers prepare themselves for a tuple, and
        know it by its identity.
        """
        if len(some) == len(self.members):
            return self.members
        if len(some) != len(self._last) or tuple(some) != self._last:
            self._last = tuple(some)
        return self._last


@attrs.frozen(eq=False)
class _Tier:
    """One priority. ``near`` is None unless a part of it is in the own zone, and another part is not."""

    whole: _Circle
    near: _Circle | None
    zone: str | None
    near_weight: int


class Tiers:
    """
    Orders the endpoints of one service.

    :param zone: where this proxy is; None for no preference.
    """

    def __init__(self, zone: str | None = None) -> None:
        self._zone = zone
        self._endpoints: tuple[Endpoint, ...] = ()
        self._tiers: tuple[_Tier, ...] = ()
        self._circles: tuple[tuple[Endpoint, ...], ...] = ()

    def circles(
        self, endpoints: tuple[Endpoint, ...], admits: Callable[[Endpoint], bool] | None = None
    ) -> Iterable[tuple[Endpoint, ...]]:
        """
        The candidates of an attempt, and behind them, circle by circle, those for when all before have failed already.

        Of each priority, the best first: its endpoints in the own zone, as long as at least half of their weight is
        admitted; then all of it. Endpoints with a weight below 1 are in none; nothing admitted gives no circle. Equal
        questions are answered with the same tuples, and where the answer is ``endpoints`` unchanged, with that object.

        :param admits: called once for each endpoint of a priority that is reached; None when all are admitted.
        """
        if endpoints is not self._endpoints:
            self._tiers = tuple(_tiers(endpoints, self._zone))
            self._circles = tuple(_everything(self._tiers))
            self._endpoints = endpoints
        return self._circles if admits is None else _admitted(self._tiers, admits)


def _tiers(endpoints: tuple[Endpoint, ...], zone: str | None) -> Iterator[_Tier]:
    by_priority: dict[int, list[Endpoint]] = {}
    for endpoint in endpoints:
        if endpoint.weight >= 1:
            by_priority.setdefault(endpoint.priority, []).append(endpoint)
    for priority in sorted(by_priority):
        members = by_priority[priority]
        near = [endpoint for endpoint in members if endpoint.zone == zone] if zone else []
        yield _Tier(
            _Circle(endpoints if len(members) == len(endpoints) else tuple(members)),
            _Circle(tuple(near)) if 0 < len(near) < len(members) else None,
            zone,
            sum(endpoint.weight for endpoint in near),
        )


def _everything(tiers: Iterable[_Tier]) -> Iterator[tuple[Endpoint, ...]]:
    for tier in tiers:
        if tier.near is not None:
            yield tier.near.members
        yield tier.whole.members


def _admitted(tiers: Iterable[_Tier], admits: Callable[[Endpoint], bool]) -> Iterator[tuple[Endpoint, ...]]:
    for tier in tiers:
        found = [endpoint for endpoint in tier.whole.members if admits(endpoint)]
        if tier.near is not None:
            near = [endpoint for endpoint in found if endpoint.zone == tier.zone]
            if near and sum(endpoint.weight for endpoint in near) * 2 >= tier.near_weight:
                yield tier.near.only(near)
        if found:
            yield tier.whole.only(found)
