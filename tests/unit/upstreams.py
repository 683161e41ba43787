"""Services as the data path has them, without a network, on a clock that the test owns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.task import Clock

from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.codes import CONNECT_REFUSED, Code
from tcpmesh.endpoint_control import DiscoveryStatus
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.booking import Booking
from tcpmesh.net.service_positions import ServicePositions
from tcpmesh.net.upstream import Upstream, make_upstream
from tcpmesh.retry.none import NoRetry
from tcpmesh.settings import PluginChoice, ServiceSettings, Timeouts
from tcpmesh.upstream_settings import EjectionSettings, HealthSettings
from tcpmesh.values import AttemptFailure, Duration, Endpoint, TCPAddress, parse_expected_identity
from tests.unit.pools import Caller

WALL = 1_700_000_000.0  # what the wall clock says when the other says 0


def endpoint(number: int, **fields: Any) -> Endpoint:
    """An endpoint with an address of its own."""
    return Endpoint(TCPAddress("192.0.2.1", 1000 + number), **fields)


class Fleet:
    """Some services."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cell = MeshStateCell()
        self.upstreams: dict[str, Upstream] = {}
        self.statuses: list[DiscoveryStatus] = []
        self.changes: dict[tuple[str, str], int] = {}

    def add(self, name: str, *endpoints: Endpoint, ports: int = 0, balancer: Any = None, **settings: Any) -> Upstream:
        """One service, of which discovery has named these; ``ports`` is how long its range is, if it has one."""
        settings.setdefault("health", HealthSettings(ejection=EjectionSettings(failures=2, time=Duration(10.0))))
        made = ServiceSettings(
            expect=[parse_expected_identity("spiffe://a.test/orders")],
            discovery=PluginChoice("static", None),
            **settings,
        )
        health = ServiceHealth(name, made.health)
        positions = ServicePositions(name, ports, self.cell) if ports else None
        upstream = self.upstreams[name] = make_upstream(
            name, made, balancer or RoundRobin(), NoRetry(), self.cell, self.clock, health=health, positions=positions
        )
        self.discover(name, *endpoints)
        self.statuses.append(DiscoveryStatus(name, "static", len(endpoints), self.clock.seconds(), None, "", 1))
        return upstream

    def discover(self, name: str, *endpoints: Endpoint) -> None:
        """Discovery names all that there are."""
        self.upstreams[name].pool.health.retain(endpoints, self.clock.seconds())
        self.cell.swap(endpoints={**self.cell.current.endpoints, name: endpoints})

    def book(self, name: str, position: int | None = None) -> Booking:
        """A connection begins."""
        until = self.clock.seconds() + 30
        found = self.upstreams[name].pool.book(Caller(), frozenset(), position, Timeouts(), until)
        assert isinstance(found, Booking)
        return found

    def fail(self, name: str, code: Code = CONNECT_REFUSED, reason: str = "nobody listens") -> Booking:
        """A connection begins, and fails."""
        booking = self.book(name)
        booking.failed(AttemptFailure(code, reason, booking.endpoint, 0.001))
        return booking

    def discoveries(self) -> Iterator[DiscoveryStatus]:
        return iter(self.statuses)

    def wall_clock(self) -> float:
        return WALL + self.clock.seconds()
