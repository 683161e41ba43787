"""
Records from several name servers, each remembered for as long as its TTL says, and served longer while none answers.

Ring 3, without a reactor: it asks through a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from tcpmesh.discovery.dns_answers import MAX_CHAIN, Answer, Found, RecordType, Unfinished, find
from tcpmesh.discovery.dns_settings import DnsSettings, is_askable
from tcpmesh.sources.dns_exchange import ExchangeError
from tcpmesh.values import TCPAddress

__all__ = ["ROUNDS", "Ask", "Lookup", "LookupFailedError"]

ROUNDS = 2  # times that each server is asked: a datagram may get lost
#: Asks one server: (server, name, type) gives a Deferred of an Answer.
Ask = Callable[[TCPAddress, str, str], Deferred[Answer]]


class LookupFailedError(Exception):
    """No server gave an answer that can be used; the message says what each did."""


@attrs.frozen
class _Known:
    found: Found
    until: float
    since: float
    server: TCPAddress | None


class Lookup:
    """
    :param servers: those to ask now, in order. The one that answered last is asked first.
    """

    def __init__(
        self, settings: DnsSettings, clock: Any, ask: Ask, servers: Callable[[], Sequence[TCPAddress]]
    ) -> None:
        self._refresh = settings.refresh
        self._clock = clock
        self._ask = ask
        self._servers = servers
        self._known: dict[tuple[str, str], _Known] = {}
        self._good: TCPAddress | None = None

    def forget_times(self) -> None:
        """Ask again for everything, whatever its TTL."""
        self._known = {key: attrs.evolve(known, until=0.0) for key, known in self._known.items()}

    def keep(self, keys: Collection[tuple[str, str]]) -> None:
        """Forget all others, which nobody needs any longer."""
        self._known = {key: known for key, known in self._known.items() if key in keys}

    def last(self, name: str, kind: RecordType) -> Found | None:
        """What was found last, however long ago."""
        known = self._known.get((name, kind))
        return known.found if known is not None else None

    def due_in(self) -> float:
        """Seconds until something that may still be used as it is has to be asked for again; infinite for nothing."""
        now = self._clock.seconds()
        return min((known.until - now for known in self._known.values() if known.until > now), default=math.inf)

    def fresh(self, name: str, kind: RecordType, stale: float | None) -> Found | None:
        """The same, if it may be used as it is or was found less than ``stale`` seconds ago (None: whenever)."""
        known, now = self._known.get((name, kind)), self._clock.seconds()
        return known.found if known and (stale is None or now < max(known.until, known.since + stale)) else None

    def server(self, name: str, kind: RecordType) -> TCPAddress | None:
        """Who said it; None for nobody, or somebody by the way."""
        known = self._known.get((name, kind))
        return known.server if known is not None else None

    def learn(self, name: str, kind: RecordType, found: Found) -> None:
        """Somebody told it by the way."""
        self._remember((name, kind), found)

    async def find(self, name: str, kind: RecordType) -> Found:
        """
        What there is of a type at a name; with an additional section only when it was asked for just now.

        :raises LookupFailedError: when nobody can say.
        """
        known = self._known.get((name, kind))
        if known is not None and self._clock.seconds() < known.until:
            return known.found
        asked, ttl, steps = name, None, 0
        while True:
            found = await self._from_any(asked, kind)
            if isinstance(found, Found):
                break
            steps += found.steps
            if steps > MAX_CHAIN:
                raise LookupFailedError(f"the CNAMEs of {name} lead in a circle, or there are more than {MAX_CHAIN}")
            ttl = found.ttl if ttl is None else min(ttl, found.ttl)
            asked = found.name
            if not is_askable(asked):
                raise LookupFailedError(f"a CNAME of {name} leads to {asked!a}, which is no name to ask for")
        if ttl is not None:
            found = attrs.evolve(found, ttl=ttl if found.ttl is None else min(ttl, found.ttl))
        if asked != name and not found.alias:
            found = attrs.evolve(found, alias=asked)
        self._remember((name, kind), found, self._good)
        return found

    def _remember(self, key: tuple[str, str], found: Found, server: TCPAddress | None = None) -> None:
        # Without a TTL nothing may be remembered (RFC 2308 section 5), which the least time is to us.
        wait = min(self._refresh.max, max(self._refresh.min, found.ttl or 0))
        # What came by the way has a TTL of its own: it must not be learnt again from an answer of before.
        now = self._clock.seconds()
        self._known[key] = _Known(attrs.evolve(found, additional=()), now + wait, now, server)

    async def _from_any(self, name: str, kind: RecordType) -> Found | Unfinished:
        servers = list(self._servers())
        if self._good in servers:
            servers.remove(self._good)
            servers.insert(0, self._good)
        complaints: dict[TCPAddress, str] = {}
        for _ in range(ROUNDS):
            for server in servers:
                try:
                    found = find(await self._ask(server, name, kind), name, kind)
                except (ExchangeError, ValueError) as error:
                    complaints[server] = str(error)
                else:
                    self._good = server
                    return found
        self._good = None
        told = "; ".join(f"{server}: {why}" for server, why in complaints.items())
        raise LookupFailedError(f"{name} ({kind}): {told}")
