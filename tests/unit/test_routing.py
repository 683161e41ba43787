"""Which services a connection tries, by the routes of its listener."""

from __future__ import annotations

import random
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import (
    ALL_UNAVAILABLE,
    CIRCUIT_OPEN,
    CONNECT_REFUSED,
    ENDPOINT_CONNECTIONS,
    ESTABLISH_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    ID_DIFFERS,
    INTERNAL,
    NO_ENDPOINT,
    NO_IDENTITY,
    NO_ROUTE,
    OUTBOUND_DENIED,
    OWN_EXPIRED,
    PENDING_DIALS,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    RESOLVE_TIMEOUT,
    SERVICE_CONNECTIONS,
    STOPPING,
)
from tcpmesh.dataplane.client_hello import ClientHello
from tcpmesh.net.routing import Way, another_may_do, no_route
from tcpmesh.route_settings import OutboundRoute
from tcpmesh.values import ServiceName

ORDERS, CANARY, SPARE = (ServiceName(name) for name in ("orders", "canary", "spare"))


class WayTests(SynchronousTestCase):
    """The order of services."""

    def test_a_failover_is_tried_in_its_order(self) -> None:
        """By every connection."""
        way = Way.of(OutboundRoute(failover=[ORDERS, SPARE]))
        for seed in range(20):
            self.assertEqual(way.order(random.Random(seed)), ("orders", "spare"))

    def test_a_split_is_one_service(self) -> None:
        """By weight; one of weight 0 gets nothing, and no other is tried behind the one that was chosen."""
        way = Way.of(OutboundRoute(split={ORDERS: 95, CANARY: 5, SPARE: 0}))
        generator = random.Random(6)
        chosen = Counter(way.order(generator) for _ in range(20_000))
        self.assertEqual(set(chosen), {("orders",), ("canary",)})
        # The share of the canary within five standard deviations of 5 %: sqrt(20000 * 0.05 * 0.95) = 30.8.
        self.assertLess(abs(chosen["canary",] - 1000), 154)

    def test_a_weight_of_zero_in_front_gets_nothing(self) -> None:
        """Whatever the generator gives, its least number among it."""

        class Least(random.Random):
            def random(self) -> float:
                return 0.0

        way = Way.of(OutboundRoute(split={SPARE: 0, ORDERS: 1}))
        self.assertEqual(way.order(Least()), ("orders",))

    def test_is_called_as_its_pattern(self) -> None:
        """Or default."""
        way = Way.of(OutboundRoute(service=ORDERS, passthrough=True))
        self.assertEqual((way.name, way.services, way.passthrough), ("default", ("orders",), True))


class FailoverTests(SynchronousTestCase):
    """After which failures the next service is tried."""

    def test_when_the_service_cannot_take_it(self) -> None:
        """It has nobody, nobody well, or no room; or its attempts failed as another endpoint might not have."""
        for code in (
            *(NO_ENDPOINT, ALL_UNAVAILABLE, CIRCUIT_OPEN, RESOLVE_TIMEOUT, QUEUE_FULL, QUEUE_TIMEOUT),
            *(SERVICE_CONNECTIONS, ENDPOINT_CONNECTIONS, PENDING_DIALS),
            *(CONNECT_REFUSED, HANDSHAKE_TIMEOUT, ID_DIFFERS),
        ):
            self.assertTrue(another_may_do(code), code)

    def test_not_when_the_fault_is_elsewhere(self) -> None:
        """In ourselves, in the policy, or the time for all of it is over."""
        for code in (NO_IDENTITY, OWN_EXPIRED, OUTBOUND_DENIED, ESTABLISH_TIMEOUT, INTERNAL):
            self.assertFalse(another_may_do(code), code)
        # That a peer stops says something about that peer only; when we stop, nothing is tried (net/outbound.py).
        self.assertTrue(another_may_do(STOPPING))


class NoRouteTests(SynchronousTestCase):
    """What is said of a name that nobody is for."""

    def test_names_what_was_asked_for(self) -> None:
        """Escaped, since a stranger chose it; and says when it may not be the real name."""
        for hello, said in (
            (ClientHello("a.test"), "the server name 'a.test'"),
            (ClientHello("a\x1b[31m"), r"the server name 'a\x1b[31m'"),
            (ClientHello(), "a connection without a server name"),
            (ClientHello("public.test", encrypted=True), "it may hide the real one (ECH)"),
        ):
            refusal = no_route(hello)
            self.assertIs(refusal.code, NO_ROUTE)
            self.assertIn(said, refusal.reason)
