"""Connections whose endpoint discovery has removed: who ends, when, and who is spared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import ENDPOINT_REMOVED
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.plane import DataPlane, Gate, LiveConnection
from tcpmesh.net.removal import RETURN, Removal
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import OnRemoved, Timeouts
from tcpmesh.testing import endpoint
from tcpmesh.values import Duration, Endpoint

A, B, C = endpoint(1), endpoint(2), endpoint(3)
SHUTDOWN = 30.0


class Connection:
    """As far as removal knows one."""

    def __init__(self, plane: DataPlane, to: Endpoint, service: str = "orders", *, established: bool = True) -> None:
        self.plane = plane
        self.record = ConnectionRecord(plane.next_number(), "outbound", "out", "", 0.0, established=established)
        self.record.dst_service, self.record.dst_addr = service, str(to.address)
        self.timeouts = Timeouts(shutdown=Duration(SHUTDOWN))
        self.withdrawn: Refusal | None = None
        plane.live.add(cast(LiveConnection, self))

    @property
    def is_closed(self) -> bool:
        return self.withdrawn is not None

    def withdraw(self, refusal: Refusal) -> None:
        assert self.withdrawn is None
        self.withdrawn = refusal
        self.plane.live.discard(cast(LiveConnection, self))


class RemovalTests(SynchronousTestCase):
    def begin(self, how: OnRemoved) -> None:
        nothing: Any = None
        self.clock, self.cell = Clock(), MeshStateCell()
        self.plane = DataPlane(
            clock=self.clock, wall_clock=lambda: 0.0, sockets=nothing, state=self.cell, contexts=nothing,
            sink=nothing, gate=Gate(10**6, 10**6), liveness=nothing,
        )  # fmt: skip
        self.examined: list[Any] = []
        self.say(A, B)
        self.removal = Removal(self.plane, {"orders": how, "other": "keep"}, self.examine)
        self.addCleanup(lambda: self.removal.stop())
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def examine(self, connections: Iterable[LiveConnection]) -> None:
        """As the review does, without its turns."""
        for connection in connections:
            self.examined.append(connection)
            refusal = self.removal.judge(connection, self.cell.current)
            if refusal is not None:
                connection.withdraw(refusal)

    def say(self, *endpoints: Endpoint, service: str = "orders") -> None:
        self.cell.swap(endpoints={**self.cell.current.endpoints, service: endpoints})

    def connection(self, to: Endpoint = A, service: str = "orders", **more: Any) -> Connection:
        return Connection(self.plane, to, service, **more)

    def test_drain_spreads_the_ends(self) -> None:
        """Not before the endpoint might have come back, all within timeouts.shutdown, and not all at once."""
        self.begin("drain")
        gone, there = [self.connection() for _ in range(100)], self.connection(B)
        self.say(B)
        self.clock.advance(RETURN - 0.001)
        self.assertEqual(self.examined, [])
        self.clock.advance(0.001)
        self.assertEqual(
            [formatEvent(event) for event in self.events],
            [
                "TM-U114 endpoint 127.0.0.1:1 of service 'orders' is gone; its connections (100) end within 30s "
                "(on_removed: drain)"
            ],
        )
        self.clock.advance(SHUTDOWN / 2)
        ended = sum(one.is_closed for one in gone)
        self.assertTrue(10 < ended < 90, ended)
        self.clock.advance(SHUTDOWN / 2)
        self.assertTrue(all(one.is_closed for one in gone))
        assert gone[0].withdrawn is not None
        self.assertEqual(gone[0].withdrawn.code, ENDPOINT_REMOVED)
        self.assertEqual(gone[0].withdrawn.reason, "discovery of service 'orders' removed the endpoint 127.0.0.1:1")
        self.assertFalse(there.is_closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_ends_them_after_the_grace(self) -> None:
        """All in the review's turns."""
        self.begin("close")
        gone = self.connection()
        self.say(B)
        self.clock.advance(RETURN)
        self.assertTrue(gone.is_closed)

    def test_keep_does_nothing(self) -> None:
        """Nor is anything scheduled."""
        self.begin("keep")
        gone = self.connection()
        self.say(B)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(10 * SHUTDOWN)
        self.assertFalse(gone.is_closed)

    def test_back_within_the_grace_is_no_removal(self) -> None:
        """Also again and again."""
        for how in ("drain", "close"):
            self.begin(cast(OnRemoved, how))
            gone = self.connection()
            for _ in range(100):
                self.say(B)
                self.clock.advance(RETURN - 0.1)
                self.say(B, A)
                self.clock.advance(0.1)
            self.clock.advance(10 * SHUTDOWN)
            self.assertFalse(gone.is_closed)
            self.assertEqual((self.examined, self.events, self.clock.getDelayedCalls()), ([], [], []))

    def test_back_while_they_drain_spares_the_rest(self) -> None:
        """Only those that have not ended yet."""
        self.begin("drain")
        gone = [self.connection() for _ in range(50)]
        self.say(B)
        self.clock.advance(RETURN)
        self.clock.advance(SHUTDOWN / 2)
        self.say(A, B)
        ended = sum(one.is_closed for one in gone)
        self.clock.advance(SHUTDOWN)
        self.assertEqual(sum(one.is_closed for one in gone), ended)
        self.assertTrue(0 < ended < 50, ended)
        self.assertIsNone(self.removal.judge(cast(LiveConnection, self.connection()), self.cell.current))

    def test_another_weight_is_no_removal(self) -> None:
        """An endpoint is its address."""
        self.begin("close")
        one = self.connection()
        self.say(endpoint(1, weight=9))
        self.clock.advance(10 * SHUTDOWN)
        self.assertFalse(one.is_closed)

    def test_other_services_are_not_concerned(self) -> None:
        """The same address may be another service's."""
        self.begin("close")
        one = self.connection(service="other")
        self.say(B)
        self.say(B, service="other")
        self.clock.advance(10 * SHUTDOWN)
        self.assertFalse(one.is_closed)

    def test_nobody_drains_while_there_is_no_endpoint_at_all(self) -> None:
        """They could not connect again; with the first endpoint that comes, those of others go."""
        self.begin("drain")
        one, other = self.connection(), self.connection(B)
        self.say()
        self.clock.advance(10 * SHUTDOWN)
        self.assertFalse(one.is_closed)
        self.say(B, C)
        self.clock.advance(RETURN)
        self.clock.advance(SHUTDOWN)
        self.assertTrue(one.is_closed)
        self.assertFalse(other.is_closed)

    def test_nobody_ends_when_the_last_endpoint_goes_meanwhile(self) -> None:
        """Neither in the grace of those that went before it, nor while their connections drain."""
        for wait in (RETURN / 2, RETURN + 0.001):
            self.begin("drain")
            gone = [self.connection() for _ in range(50)]
            self.say(B)
            self.clock.advance(wait)
            self.say()
            ended = sum(one.is_closed for one in gone)
            self.assertLess(ended, 5)
            self.clock.pump([1] * 600)
            self.assertEqual(sum(one.is_closed for one in gone), ended)
            self.say(B)
            self.clock.pump([1] * int(2 * RETURN + 2 * SHUTDOWN))
            self.assertTrue(all(one.is_closed for one in gone))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_thousand_that_go_together_are_one_step(self) -> None:
        """Connections are gone through once, whoever comes back meanwhile, and the lines are few."""
        self.begin("drain")
        endpoints = [endpoint(port) for port in range(1000, 2000)]
        self.say(A, *endpoints)
        gone = [self.connection(one) for one in endpoints]
        self.say(A)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.say(A, endpoints[0])
        looks = 0

        class Counted(set[LiveConnection]):
            def __iter__(self) -> Any:
                nonlocal looks
                looks += 1
                return super().__iter__()

        self.plane.live = Counted(self.plane.live)
        self.clock.advance(RETURN)
        self.assertEqual((looks, len(self.examined)), (1, 999))
        self.assertEqual(len(self.events), 11)
        self.assertEqual(
            formatEvent(self.events[-1]),
            "TM-U114 989 more endpoints of service 'orders' are gone; their connections (989) end within 30s "
            "(on_removed: drain)",
        )
        self.clock.advance(SHUTDOWN)
        self.assertEqual([one.is_closed for one in gone], [False] + 999 * [True])

    def test_close_means_it_also_when_there_is_none(self) -> None:
        """Whoever says close wants them closed."""
        self.begin("close")
        one = self.connection()
        self.say()
        self.clock.advance(RETURN)
        self.assertTrue(one.is_closed)

    def test_what_is_not_established_yet_goes_at_once(self) -> None:
        """Another endpoint may take it: the code says so."""
        self.begin("drain")
        one = self.connection(established=False)
        self.say(B)
        self.clock.advance(RETURN)
        self.assertTrue(one.is_closed)
        self.assertTrue(ENDPOINT_REMOVED.retryable)

    def test_endpoints_without_connections_cost_nothing(self) -> None:
        """Ten thousand that come and go leave no timer, and nothing to remember."""
        self.begin("drain")
        one = self.connection()
        for number in range(20):
            self.say(*(endpoint(port) for port in range(number * 1000 + 10, number * 1000 + 1010)))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(RETURN)
        self.clock.advance(SHUTDOWN)
        self.assertTrue(one.is_closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_ended_by_itself_is_not_ended_again(self) -> None:
        """While it waited for its turn."""
        self.begin("drain")
        one = self.connection()
        self.say(B)
        self.clock.advance(RETURN)
        one.withdrawn = Refusal(ENDPOINT_REMOVED, "by itself")
        self.clock.advance(SHUTDOWN)
        self.assertEqual(one.withdrawn.reason, "by itself")

    def test_after_stop_nobody_ends(self) -> None:
        """Nothing is scheduled any longer, whatever discovery says."""
        self.begin("drain")
        one, other = self.connection(), self.connection(B)
        self.say(B)
        self.clock.advance(RETURN)
        self.say(C)
        self.removal.stop()
        self.say(A)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(one.is_closed or other.is_closed)
