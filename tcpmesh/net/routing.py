"""
The routes of an outbound listener, ready to be taken: which services a connection tries, in which order.

Ring 3.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import accumulate

import attrs

from tcpmesh.codes import (
    ALL_UNAVAILABLE,
    CIRCUIT_OPEN,
    ENDPOINT_CONNECTIONS,
    NO_ENDPOINT,
    NO_ROUTE,
    PENDING_DIALS,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    RESOLVE_TIMEOUT,
    SERVICE_CONNECTIONS,
    Code,
)
from tcpmesh.dataplane.client_hello import ClientHello
from tcpmesh.errors import Refusal
from tcpmesh.route_settings import OutboundRoute
from tcpmesh.route_table import RouteTable

__all__ = ["Way", "another_may_do", "another_name", "is_of_the_service", "no_route", "ways"]

# What is wrong with a service as a whole, and says nothing about another one.
_OF_THE_SERVICE = frozenset(
    {
        ALL_UNAVAILABLE,
        CIRCUIT_OPEN,
        ENDPOINT_CONNECTIONS,
        NO_ENDPOINT,
        PENDING_DIALS,
        QUEUE_FULL,
        QUEUE_TIMEOUT,
        RESOLVE_TIMEOUT,
        SERVICE_CONNECTIONS,
    }
)


@attrs.frozen(eq=False)
class Way:
    """
    One route.

    :ivar name: as records call it.
    :ivar services: those that it may lead to.
    :ivar shares: of a split: the sum of the weights up to each service; empty for services that are tried in order.
    """

    name: str
    services: tuple[str, ...]
    passthrough: bool
    shares: tuple[int, ...] = ()

    @classmethod
    def of(cls, route: OutboundRoute) -> Way:
        """As the configuration has it."""
        shares = tuple(accumulate(route.split.values())) if route.split is not None else ()
        return cls(route.name, route.services, route.passthrough, shares)

    def order(self, generator: random.Random) -> tuple[str, ...]:
        """Which services one connection tries, the first one first."""
        if not self.shares:
            return self.services
        return tuple(generator.choices(self.services, cum_weights=self.shares))


def ways(routes: Iterable[OutboundRoute]) -> RouteTable[Way]:
    """The table of a listener's routes."""
    return RouteTable((route.sni, Way.of(route)) for route in routes)


def another_may_do(code: Code) -> bool:
    """Whether a failure leaves hope for the next service of a failover, while no payload byte has left."""
    return code.retryable or code in _OF_THE_SERVICE


def is_of_the_service(code: Code) -> bool:
    """Whether a failure is that of a service, and not of one of its endpoints."""
    return code in _OF_THE_SERVICE


def no_route(hello: ClientHello) -> Refusal:
    """Say that a client asks for something that there is no route for."""
    asked = f"the server name {hello.server_name!a}" if hello.server_name else "a connection without a server name"
    hidden = "; it may hide the real one (ECH)" if hello.encrypted else ""
    return Refusal(NO_ROUTE, f"there is no route for {asked}{hidden}, and none for all others")


def another_name(first: str, last: str) -> Refusal:
    """
    Say that a client asked for two names: the first one in the ClientHello that its route was chosen by, the last one
    in the ClientHello after a HelloRetryRequest (RFC 8446 section 4.1.2, which forbids that), which TLS goes by.
    """
    return Refusal(
        NO_ROUTE,
        f"it asked for the server name {first!a}, by which its route was chosen, and for {last!a} when TLS asked again "
        "(HelloRetryRequest); policies about the one could be evaded by the other",
    )
