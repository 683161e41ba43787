"""
The pool of a service: its endpoints, what is connected to them, and who waits for room.

Ring 3. Every attempt is booked here, so that limits hold, and every way in which it can end gives its place back, so
that they go on to hold. A newcomer never overtakes who waits: whenever room appears it is given away at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from tcpmesh.balance.tiers import Tiers
from tcpmesh.codes import ENDPOINT_CONNECTIONS, NO_ENDPOINT, PENDING_DIALS, SERVICE_CONNECTIONS
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.net.arms_length import GuardedBalancer
from tcpmesh.net.booking import Booking, EndpointCounts, ServiceCounts
from tcpmesh.net.candidates import Candidates
from tcpmesh.net.service_positions import ServicePositions
from tcpmesh.net.waiting import Waiter, Waiting
from tcpmesh.net.waiting_room import WaitingRoom
from tcpmesh.settings import ServiceSettings, Timeouts
from tcpmesh.upstream_settings import ServiceLimits
from tcpmesh.values import Address, Endpoint, format_duration

__all__ = ["Pool"]


class Pool:
    """
    One service.

    :param zone: where this proxy is; None when that is not known, or does not matter.
    :ivar counts: what happens at the service.
    :param positions: who has which number; by default that in the list that discovery gave.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        balancer: GuardedBalancer,
        health: ServiceHealth,
        cell: MeshStateCell,
        clock: Any,
        zone: str | None = None,
        positions: ServicePositions | None = None,
        generator: random.Random | None = None,
    ) -> None:
        self.name = name
        self.balancer = balancer
        self.health = health
        self.clock = clock
        self.counts = ServiceCounts()
        self._endpoint_at: Callable[[int], Endpoint] = self._listed if positions is None else positions.endpoint
        self._cell = cell
        self._limits = settings.limits
        self._is_limited = settings.limits != ServiceLimits()
        self._by_address: dict[Address, EndpointCounts] = {}
        self._gone: set[Address] = set()  # of these, what discovery has removed
        self._full: set[Address] = set()  # where limits.per_endpoint leaves no room
        self._candidates = Candidates(
            name,
            Tiers(zone if settings.same_zone == "prefer" else None),
            health,
            balancer,
            clock,
            self._full,
            generator or random.Random(),  # noqa: S311 - spreads load, guards nothing
        )
        self._room = WaitingRoom(self, settings.queue.length)
        self._known: tuple[Endpoint, ...] | None = None
        self._there: dict[Address, Endpoint] = {}  # the same, by address
        self._changed_at = clock.seconds()
        self._follow(cell.current)
        cell.observe(self._follow)

    # --- for connections

    def book(
        self, who: Waiting, exclude: frozenset[Endpoint], position: int | None, timeouts: Timeouts, until: float
    ) -> Booking | Waiter:
        """
        Take a place for an attempt, or wait for one: ``who`` is then told, unless :meth:`leave` is called.

        :param exclude: endpoints that have failed for this connection.
        :param position: insist on the endpoint with this number; None for any.
        :param until: by the clock, when the connection must be established.
        :raises Refusal: when there is none, with the reason.
        """
        if self._known is None:
            return self._room.await_discovery(Waiter(who, exclude, position, timeouts, until, self.clock.seconds()))
        if not self._is_limited:
            return self._open(self._choose(exclude, position, who), who)
        self._room.serve()
        found = self.take(exclude, position, who)
        if isinstance(found, Booking):
            return found
        return self._room.queue(Waiter(who, exclude, position, timeouts, until, self.clock.seconds()), found)

    def leave(self, waiter: Waiter) -> None:
        """Who waited does so no longer; a place that it was given goes to the next."""
        self._room.leave(waiter)

    def room_changed(self, endpoint: Endpoint) -> None:
        """A place at the endpoint was given back, or only its dial is over: it goes to who waits."""
        if endpoint.address in self._gone and not self._by_address[endpoint.address].total:
            self._gone.discard(endpoint.address)
            del self._by_address[endpoint.address]
        if self._is_limited:
            if endpoint.address in self._full and self._has_room(endpoint):
                self._full.discard(endpoint.address)
                self._candidates.room_changed()
            self._room.serve()

    def stop(self) -> None:
        """Whoever waits is better served elsewhere, and nobody waits from now on."""
        self._room.stop()

    # --- for who shows and counts

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """As discovery has them, in its order; none before it has said anything."""
        return self._known or ()

    @property
    def waiting(self) -> int:
        """How many connections wait for room."""
        return self._room.queued

    @property
    def unresolved(self) -> int:
        """How many connections wait for discovery to say something for the first time."""
        return self._room.unresolved

    @property
    def limits(self) -> ServiceLimits:
        """As configured."""
        return self._limits

    def counts_of(self, endpoint: Endpoint) -> EndpointCounts:
        """What happens, and happened, at its address."""
        return self._by_address.get(endpoint.address) or EndpointCounts()

    @property
    def addresses(self) -> Mapping[Address, EndpointCounts]:
        """Where anything happened: of the endpoints, and of such that are gone but still have connections."""
        return self._by_address

    # --- choosing

    def _open(self, endpoint: Endpoint, who: object) -> Booking:
        counts = self._by_address.get(endpoint.address)
        if counts is None:
            counts = self._by_address[endpoint.address] = EndpointCounts()
        booking = Booking(self, endpoint, counts, who)
        if self._limits.per_endpoint is not None and counts.total >= self._limits.per_endpoint:
            self._full.add(endpoint.address)
            self._candidates.room_changed()
        return booking

    def take(self, exclude: frozenset[Endpoint], position: int | None, who: Waiting) -> Booking | Refusal:
        """
        Take a place for an attempt, or say what there is no room under.

        :raises Refusal: when there is no endpoint, room or not.
        """
        limits, counts, name = self._limits, self.counts, self.name
        if not self._known:
            raise self._nowhere()
        if self.is_full:
            taken = counts.open + counts.pending
            if limits.connections is not None and taken >= limits.connections:
                reason = f"service {name!r} has {taken} connections (limits.connections: {limits.connections})"
                return Refusal(SERVICE_CONNECTIONS, reason)
            reason = f"{counts.pending} dials of service {name!r} are under way (limits.pending: {limits.pending})"
            return Refusal(PENDING_DIALS, reason)
        if position is None:
            endpoint = self._choose_any(exclude, who)
            if endpoint is not None:
                return self._open(endpoint, who)
            full = "each endpoint that could be used has"
        else:
            endpoint = self._endpoint_at(position)
            if limits.per_endpoint is None or self._has_room(endpoint):
                return self._open(endpoint, who)
            full = f"endpoint {position}, {endpoint.address}, has"
        reason = f"service {name!r}: {full} {limits.per_endpoint} connections (limits.per_endpoint)"
        return Refusal(ENDPOINT_CONNECTIONS, reason)

    def _choose(self, exclude: frozenset[Endpoint], position: int | None, who: Waiting) -> Endpoint:
        endpoint = self._choose_any(exclude, who) if position is None else self._endpoint_at(position)
        assert endpoint is not None, "without limits none is full"
        return endpoint

    def _choose_any(self, exclude: frozenset[Endpoint], who: Waiting) -> Endpoint | None:
        if not self._known:
            raise self._nowhere()
        if exclude:  # which may have been altered since
            exclude = frozenset(self._there.get(one.address, one) for one in exclude)
        return self._candidates.choose(self._known, exclude, who.source if self.balancer.wants_source else None)

    def _nowhere(self) -> Refusal:
        since = format_duration(round(self.clock.seconds() - self._changed_at, 1))
        return Refusal(NO_ENDPOINT, f"service {self.name!r} has had no endpoints for {since}{self.discovery_says()}")

    def _listed(self, position: int) -> Endpoint:
        endpoints = self._known or ()
        if not 0 <= position < len(endpoints):
            count = len(endpoints)
            reason = f"service {self.name!r} has no endpoint {position}, but {count}{self.discovery_says()}"
            raise Refusal(NO_ENDPOINT, reason)
        return endpoints[position]

    def _has_room(self, endpoint: Endpoint) -> bool:
        counts = self._by_address.get(endpoint.address)
        return counts is None or counts.total < (self._limits.per_endpoint or 0)

    @property
    def is_full(self) -> bool:
        """Whether a limit of the whole service leaves no room."""
        limits, counts = self._limits, self.counts
        return (limits.connections is not None and counts.open + counts.pending >= limits.connections) or (
            limits.pending is not None and counts.pending >= limits.pending
        )

    def discovery_says(self) -> str:
        """What else is to be said where no endpoint is known."""
        state = self._cell.current
        why, failure = state.no_endpoints.get(self.name), state.discovery_failures.get(self.name)
        said = f"; its discovery says: {why}" if why else ""
        return f"{said}; its discovery fails: {failure}" if failure else said

    # --- what discovery says

    def _follow(self, state: MeshState) -> None:
        endpoints = state.endpoints.get(self.name)
        if endpoints is self._known:
            return
        if endpoints is None or bool(endpoints) != bool(self._known) or self._known is None:
            self._changed_at = self.clock.seconds()
        self._known = endpoints
        self._forget_gone(endpoints or ())
        if endpoints is not None:
            self._room.discovered()
        self._room.serve()

    def _forget_gone(self, endpoints: tuple[Endpoint, ...]) -> None:
        there = self._there = {endpoint.address: endpoint for endpoint in endpoints}
        for address, counts in list(self._by_address.items()):
            if address not in there and not counts.total:
                del self._by_address[address]
        self._gone = self._by_address.keys() - there
