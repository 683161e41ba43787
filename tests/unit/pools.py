"""Pools of services without a network: endpoints, a clock, and connections that write down what they are told."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from zope.interface import implementer

from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.interfaces import ILoadBalancer
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.arms_length import GuardedBalancer
from tcpmesh.net.booking import Booking
from tcpmesh.net.pool import Pool
from tcpmesh.net.waiting import Waiter
from tcpmesh.settings import PluginChoice, ServiceSettings, Timeouts
from tcpmesh.upstream_settings import EjectionSettings, HealthSettings, QueueSettings, ServiceLimits
from tcpmesh.values import Address, AttemptFailure, Duration, Endpoint, TCPAddress, parse_expected_identity

SERVICE = "orders"
TIMES = Timeouts(resolve=Duration(5.0), queue=Duration(1.0), establish=Duration(30.0))
NO_LIMITS = ServiceLimits()
NEVER_EJECTED = HealthSettings(ejection=EjectionSettings(failures=0))
ONE_STRIKE = HealthSettings(ejection=EjectionSettings(failures=1, max_share=1.0))


def endpoint(number: int, **fields: Any) -> Endpoint:
    """An endpoint with an address of its own."""
    return Endpoint(TCPAddress("192.0.2.1", 1000 + number), **fields)


@implementer(ILoadBalancer)
class Ledger(RoundRobin):
    """Round robin that keeps what it is told and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Endpoint]] = []
        self.asked: list[tuple[Any, frozenset[Endpoint]]] = []

    def pick(self, endpoints: Any, exclude: frozenset[Endpoint]) -> Endpoint | None:
        self.asked.append((endpoints, exclude))
        return super().pick(endpoints, exclude)

    def opened(self, endpoint: Endpoint) -> None:
        self.told.append(("opened", endpoint))

    def established(self, endpoint: Endpoint, duration: float) -> None:
        self.told.append(("established", endpoint))

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        self.told.append(("failed", endpoint))

    def closed(self, endpoint: Endpoint) -> None:
        self.told.append(("closed", endpoint))


class Caller:
    """A connection that wants an endpoint."""

    source: Address = TCPAddress("127.0.0.1", 40000)

    def __init__(self, name: int = 0) -> None:
        self.name = name
        self.booking: Booking | None = None
        self.refusal: Refusal | None = None
        self.waiter: Waiter | None = None
        self.told = 0

    def __repr__(self) -> str:
        return f"#{self.name}"

    def room_found(self, booking: Booking) -> None:
        self.waiter = None
        self.booking = booking
        self.told += 1

    def room_refused(self, refusal: Refusal) -> None:
        self.waiter = None
        self.refusal = refusal
        self.told += 1


class Service:
    """One pool and what it lives on; discovery has said nothing yet."""

    def __init__(
        self,
        *,
        limits: ServiceLimits = NO_LIMITS,
        queue: int = 0,
        health: HealthSettings = NEVER_EJECTED,
        balancer: ILoadBalancer | None = None,
        zone: str | None = None,
    ) -> None:
        self.clock = Clock()
        self.cell = MeshStateCell()
        self.ledger = Ledger()
        settings = ServiceSettings(
            expect=[parse_expected_identity("spiffe://a.test/orders")],
            discovery=PluginChoice("static", None),
            health=health,
            limits=limits,
            queue=QueueSettings(queue),
        )
        self.health = ServiceHealth(SERVICE, health)
        guarded = GuardedBalancer(SERVICE, "the-balancer", balancer or self.ledger)
        self.pool = Pool(SERVICE, settings, guarded, self.health, self.cell, self.clock, zone)

    def discover(self, *endpoints: Endpoint) -> tuple[Endpoint, ...]:
        """Discovery says that these are all."""
        self.health.retain(endpoints, self.clock.seconds())
        self.cell.swap(endpoints={SERVICE: endpoints})
        return endpoints

    def call(
        self,
        caller: Caller | None = None,
        *,
        exclude: frozenset[Endpoint] = frozenset(),
        position: int | None = None,
        times: Timeouts = TIMES,
    ) -> Caller:
        """A connection asks for a place; what comes of it is in what is given back."""
        caller = caller or Caller()
        try:
            until = self.clock.seconds() + times.establish
            found = self.pool.book(caller, exclude, position, times, until)
        except Refusal as refusal:
            caller.refusal = refusal
            return caller
        if isinstance(found, Booking):
            caller.booking = found
        else:
            caller.waiter = found
        return caller

    def turn(self) -> None:
        """One turn of the reactor."""
        self.clock.advance(0)
