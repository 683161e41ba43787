"""Connections that are not established yet when discovery removes the endpoint that they tried last."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.round_robin import RoundRobin
from tcpmesh.codes import CONNECT_REFUSED, ENDPOINT_REMOVED
from tcpmesh.discovery.static import StaticFactory
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.connector import Establishment
from tcpmesh.net.plane import DataPlane, Gate
from tcpmesh.net.upstream import make_upstream
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.retry.fixed import Fixed, FixedSettings
from tcpmesh.settings import PluginChoice, ServiceSettings, Timeouts
from tcpmesh.testing import endpoint
from tcpmesh.values import Duration, Endpoint, TCPAddress, parse_expected_identity
from tests.unit.pools import NEVER_EJECTED

A, B = endpoint(1), endpoint(2)


class Sink:
    """Nobody listens."""

    def attempt_failed(self, *_what: object) -> None:
        """One of several."""


class Owner:
    """Who wants the connection."""

    source = TCPAddress("127.0.0.1", 40000)

    def __init__(self) -> None:
        self.record = ConnectionRecord(1, "outbound", "out", "", 0.0)
        self.refusals: list[Refusal] = []

    def upstream_refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


class Attempt:
    """Under way until a test or a withdrawal ends it."""

    made: list[Attempt]
    started = 0.0
    wire = None

    def __init__(self, owner: Establishment, *what: Any) -> None:
        self._owner = owner
        self.endpoint: Endpoint = what[2]
        Attempt.made.append(self)

    def start(self) -> None:
        """Nothing comes of it yet."""

    def cancel(self) -> None:
        """Nothing is there to be given back."""

    def withdraw(self, refusal: Refusal) -> None:
        self._owner.attempt_failed(refusal)


class RemovedAttemptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.cell = Clock(), MeshStateCell()
        nothing: Any = None
        plane = DataPlane(
            clock=self.clock, wall_clock=lambda: 0.0, sockets=nothing, state=self.cell, contexts=nothing,
            sink=Sink(), gate=Gate(10**6, 10**6), liveness=nothing,
        )  # fmt: skip
        settings = ServiceSettings(
            expect=[parse_expected_identity("spiffe://a.test/orders")],
            discovery=PluginChoice(StaticFactory.name, None),
            health=NEVER_EJECTED,
        )
        upstream = make_upstream(
            "orders", settings, RoundRobin(), Fixed(FixedSettings(3, Duration(1.0))), self.cell, self.clock,
            health=ServiceHealth("orders", NEVER_EJECTED),
        )  # fmt: skip
        self.cell.swap(endpoints={"orders": (A, B)})
        self.owner = Owner()
        Attempt.made = []
        owner: Any = self.owner
        self.establishment = Establishment(owner, upstream, "web", Timeouts(), plane, make_attempt=Attempt)
        self.addCleanup(self.establishment.cancel)
        self.establishment.attempt()
        [first] = Attempt.made
        self.gone = first.endpoint
        self.other = B if self.gone == A else A
        self.removed = Refusal(ENDPOINT_REMOVED, f"discovery removed {self.gone.address}")

    def remove(self) -> bool:
        self.cell.swap(endpoints={"orders": (self.other,)})
        return self.establishment.withdraw(self.removed)

    def check_other(self) -> None:
        """The other endpoint is tried, and nobody was refused."""
        self.clock.advance(1)
        self.assertEqual([attempt.endpoint for attempt in Attempt.made], [self.gone, self.other])
        self.assertEqual(self.owner.refusals, [])

    def test_an_attempt_under_way_goes_on_elsewhere(self) -> None:
        """It has failed there."""
        self.assertTrue(self.remove())
        self.check_other()
        self.assertEqual(self.owner.record.failures[0].code, ENDPOINT_REMOVED)

    def test_one_that_waits_for_its_next_attempt_goes_on_waiting(self) -> None:
        """It is at no endpoint, and will not come to that one again."""
        self.establishment.attempt_failed(Refusal(CONNECT_REFUSED, "nobody listens"))
        self.assertTrue(self.remove())
        self.check_other()
        self.assertEqual([failure.code for failure in self.owner.record.failures], [CONNECT_REFUSED])
