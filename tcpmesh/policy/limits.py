"""
Counts connections against the limits of policies.

Ring 1. Pure: the monotonic time is passed in, in seconds. What is asked for one connection takes the time of a few
dictionary look-ups for each limit that holds for it. Nothing is remembered of whoever has no connection and may have as
many new ones as ever; of those who have used up some, at most :data:`MAX_REMEMBERED` for each policy, and whoever
comes new behind that many is refused. So strangers can make it neither grow nor forget.

A rate is kept as the moment at which everything that may come at once may come again (the virtual scheduling form of
the leaky bucket, ITU-T I.371 annex A): one number, which nothing has to refill.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence

import attrs

from tcpmesh.codes import POLICY_CONNECTIONS, POLICY_RATE, Code
from tcpmesh.limit_interfaces import Limit, Part
from tcpmesh.policy.limit_words import Who, lets, new_ones, subject
from tcpmesh.policy.networks import network_start, source_number
from tcpmesh.values import format_duration

__all__ = ["MAX_REMEMBERED", "Applied", "Full", "Limits", "Places", "Who"]

MAX_REMEMBERED = 10_000  # of one policy, without a connection; some 200 bytes each
_FORGOTTEN_AT_ONCE = 8
_SLACK = 1e-9  # seconds, for what floating point makes of 1/3 and the like

_Key = tuple[Hashable, ...]
_Group = tuple[int, str, tuple[Part, ...], int, int]

#: A limit with the position of the policy plugin that named it.
Applied = tuple[int, Limit]


@attrs.frozen
class Full:
    """Why a limit has no room."""

    limit: Limit
    code: Code
    reason: str


class _Held:
    """Somebody's connections, and when the rate is as if there had never been any."""

    __slots__ = ("count", "full_at")

    def __init__(self, full_at: float) -> None:
        self.count = 0
        self.full_at = full_at


class _Counts:
    """What is counted for one limit, by who is counted together."""

    __slots__ = ("_cap", "_most", "group", "held", "in_use", "limit", "remembered", "retired")

    def __init__(self, group: _Group, limit: Limit, most: int) -> None:
        self.group = group
        self.limit = limit
        self.held: dict[_Key, _Held] = {}  # who has connections
        self.remembered: OrderedDict[_Key, float] = (
            OrderedDict()
        )  # others whose rate is not yet as ever, and when it will be
        self.in_use = 0
        self.retired = False  # no policy has this limit any longer
        self._cap = _cap(limit)
        self._most = most

    def use(self, limit: Limit, now: float) -> None:
        """Go on by a limit that has changed: nobody owes more time than it takes to fill the new one."""
        self.retired = False
        if limit is self.limit:
            return
        cap = _cap(limit)
        if cap != self._cap:
            latest = now + cap
            for held in self.held.values():
                held.full_at = min(held.full_at, latest)
            owing = [(key, min(at, latest)) for key, at in self.remembered.items() if at > now]
            self.remembered = OrderedDict(owing)
        self.limit, self._cap = limit, cap

    def why_full(self, key: _Key, who: Who, now: float) -> Full | None:
        """Whether there is no room for one more, and why."""
        limit = self.limit
        held = self.held.get(key)
        if limit.connections is not None and held is not None and held.count >= limit.connections:
            connections = "connection" if held.count == 1 else "connections"
            reason = f"{subject(limit, who, 'has', 'there are')} {held.count} {connections}, and {lets(limit)}"
            return Full(limit, POLICY_CONNECTIONS, f"{reason} {limit.connections}")
        if limit.rate is None:
            return None
        self.forget(now)
        full_at = held.full_at if held is not None else self.remembered.get(key)
        if full_at is None:
            if len(self.remembered) < self._most:
                return None
            reason = f"{subject(limit, who, 'is', 'somebody is')} new, and {lets(limit)} {new_ones(limit)}"
            return Full(limit, POLICY_RATE, f"{reason}, which it counts for {len(self.remembered)} others already")
        wait = max(full_at, now) + 1 / limit.rate - now - self._cap
        if wait <= _SLACK:
            return None
        reason = f"{subject(limit, who, 'comes', 'connections come')} too often: {lets(limit)} {new_ones(limit)}"
        return Full(limit, POLICY_RATE, f"{reason}; the next one in {format_duration(max(round(wait, 3), 0.001))}")

    def take(self, key: _Key, now: float, *, new: bool = True) -> None:
        """Count one connection; one that is not new leaves the rate alone."""
        held = self.held.get(key)
        if held is None:
            held = self.held[key] = _Held(self.remembered.pop(key, now))
        held.count += 1
        self.in_use += 1
        if new and self.limit.rate is not None:
            held.full_at = max(held.full_at, now) + 1 / self.limit.rate

    def release(self, key: _Key, now: float) -> None:
        """One connection ended."""
        held = self.held[key]
        held.count -= 1
        self.in_use -= 1
        if not held.count:
            del self.held[key]
            if held.full_at > now and self.limit.rate is not None and not self.retired:
                self.remembered[key] = held.full_at

    def forget(self, now: float) -> None:
        """
        Drop some of those whose rate is as ever again.

        They stand in the order in which their last connections ended, and each is due within the time that it takes to
        fill: whoever is not due at the front keeps others for that long at most.
        """
        for _ in range(_FORGOTTEN_AT_ONCE):
            first = next(iter(self.remembered.items()), None)
            if first is None or first[1] > now:
                break
            self.remembered.popitem(last=False)


#: Where a connection is counted; without a key, where it is not, because a limit that only notes had no room for it.
Places = tuple[tuple[_Counts, _Key | None], ...]


class Limits:
    """
    Everything that is counted.

    :param most: how many without connections are remembered for each policy.
    :ivar refused: by policy: how many connections were refused.
    :ivar noted: by policy: how many would have been, with ``mode: dry-run``.
    """

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._counts: dict[_Group, _Counts] = {}
        self._names: Counter[str] = Counter()  # how many counts each policy has
        self.refused: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many counters there are in all: what memory depends on."""
        return sum(len(counts.held) + len(counts.remembered) for counts in self._counts.values())

    def use(self, limits: Iterable[Applied], now: float) -> None:
        """From now on, these are all limits that there are; those of before go on where they are the same."""
        for counts in self._counts.values():
            counts.retired = True
        for position, limit in limits:
            group = _group(position, limit)
            if group not in self._counts:
                self._counts[group] = _Counts(group, limit, self._most)
                self._names[limit.policy] += 1
            self._counts[group].use(limit, now)
        for counts in [counts for counts in self._counts.values() if counts.retired]:
            counts.remembered.clear()
            if not counts.in_use:
                self._drop(counts)

    def take(self, applied: Sequence[Applied], who: Who, now: float) -> tuple[Places, list[Full]]:
        """
        Count a new connection, at all limits or at none.

        :return: where it is counted, to be given to :meth:`release` once, and which limits had no room: if any of them
            is enforced, the connection must be refused and is counted nowhere. Whoever is refused uses up no rate.
        :raises LookupError: for a limit that is not in use.
        """
        places: list[tuple[_Counts, _Key | None]] = []
        found: list[Full] = []
        for position, limit in applied:
            counts = self._find(position, limit)
            key = _key(limit, who)
            full = counts.why_full(key, who, now)
            if full is None:
                places.append((counts, key))
                continue
            found.append(full)
            if limit.enforced:
                self.refused[limit.policy] += 1
                return (), found
            self.noted[limit.policy] += 1
            places.append((counts, None))  # as if it had been refused
        for counts, place in places:
            if place is not None:
                counts.take(place, now)
        return tuple(places), found

    def retake(self, places: Places, applied: Sequence[Applied], who: Who, now: float) -> Places:
        """Count a live connection by other limits from now on; whether there is room is not asked."""
        left_out = {counts for counts, key in places if key is None}
        found = [(self._find(position, limit), _key(limit, who)) for position, limit in applied]
        wanted: Places = tuple((counts, None if counts in left_out else key) for counts, key in found)
        if wanted == places:
            return places
        for counts, key in wanted:
            if key is not None:
                counts.take(key, now, new=False)
        self.release(places, now)
        return wanted

    def release(self, places: Places, now: float) -> None:
        """The connection has ended."""
        for counts, key in places:
            if key is not None:
                counts.release(key, now)
                if counts.retired and not counts.in_use:
                    self._drop(counts)

    def in_use(self) -> Counter[str]:
        """By policy: how many connections are counted; 0 for those that limit and have none."""
        found: Counter[str] = Counter()
        for group, counts in self._counts.items():
            found[group[1]] += counts.in_use
        return found

    def _drop(self, counts: _Counts) -> None:
        del self._counts[counts.group]
        name = counts.limit.policy
        self._names[name] -= 1
        if not self._names[name]:
            for numbers in (self._names, self.refused, self.noted):
                del numbers[name]

    def _find(self, position: int, limit: Limit) -> _Counts:
        counts = self._counts.get(_group(position, limit))
        if counts is None:
            raise LookupError(f"the limit of policy {limit.policy!r} is not among those that its plugin said it has")
        return counts


def _group(position: int, limit: Limit) -> _Group:
    return position, limit.policy, limit.per, limit.ipv4_bits, limit.ipv6_bits


def _cap(limit: Limit) -> float:
    """Seconds that it takes until as many as ever may come at once."""
    return limit.burst / limit.rate if limit.rate is not None else 0.0


def _key(limit: Limit, who: Who) -> _Key:
    return tuple([_part(part, limit, who) for part in limit.per])


def _part(part: Part, limit: Limit, who: Who) -> Hashable:
    if part == "identity":
        return who.identity
    if part == "listener":
        return who.listener
    if part == "source":
        return source_number(who.source)
    return network_start(who.source, limit.ipv4_bits, limit.ipv6_bits)
