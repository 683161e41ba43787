"""What the admin interface says of services and endpoints."""

from __future__ import annotations

import json
import random
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.p2c_ewma import P2cEwma, P2cEwmaSettings
from tcpmesh.codes import CONNECT_REFUSED, ENDPOINT_CONNECTIONS
from tcpmesh.endpoint_report import EndpointReport
from tcpmesh.errors import Refusal
from tcpmesh.upstream_settings import (
    CheckSettings,
    CircuitSettings,
    EjectionSettings,
    HealthSettings,
    QueueSettings,
    RetryBudgetSettings,
    ServiceLimits,
)
from tcpmesh.values import Duration, parse_expected_identity
from tests.unit.upstreams import Fleet, endpoint


class EndpointReportTests(SynchronousTestCase):
    """``EndpointReport``."""

    def setUp(self) -> None:
        self.fleet = Fleet()

    def report(self) -> EndpointReport:
        fleet = self.fleet
        return EndpointReport(fleet.upstreams, fleet.discoveries, fleet.clock, fleet.wall_clock)

    def said(self, *names: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(b"".join(self.report().pieces(names)))
        return answer

    def service(self, name: str = "orders") -> dict[str, Any]:
        [service] = self.said(name)["services"]
        found: dict[str, Any] = service
        return found

    def test_is_one_json_object_whatever_there_is(self) -> None:
        """No service, one without endpoints, several; in the order of the configuration."""
        self.assertEqual(self.said(), {"v": 1, "time": "2023-11-14T22:13:20.000Z", "unknown": [], "services": []})
        self.fleet.add("empty")
        self.fleet.add("orders", endpoint(1))
        self.fleet.add("cache", endpoint(2), endpoint(3))
        self.assertEqual([one["service"] for one in self.said()["services"]], ["empty", "orders", "cache"])
        self.assertEqual([len(one["endpoints"]) for one in self.said()["services"]], [0, 1, 2])

    def test_is_of_the_services_that_are_named(self) -> None:
        """Names that there are none of are told apart."""
        self.fleet.add("orders", endpoint(1))
        self.fleet.add("cache", endpoint(2))
        answer = self.said("cache", "nosuch", "\x1b[31m")
        self.assertEqual([one["service"] for one in answer["services"]], ["cache"])
        self.assertEqual(answer["unknown"], ["nosuch", "\x1b[31m"])
        self.assertEqual(self.said("nosuch")["services"], [])

    def test_is_made_a_slice_at_a_time(self) -> None:
        """A thousand endpoints are more than ten pieces, none of them large."""
        self.fleet.add("orders", *(endpoint(number) for number in range(1000)))
        pieces = list(self.report().pieces())
        self.assertGreater(len(pieces), 10)
        self.assertLess(max(map(len, pieces)), 100_000)
        self.assertEqual(len(json.loads(b"".join(pieces))["services"][0]["endpoints"]), 1000)

    def test_names_what_discovery_says(self) -> None:
        """Everything of an endpoint; what is absent is not invented."""
        self.fleet.add(
            "orders",
            endpoint(1),
            endpoint(
                2,
                weight=3,
                zone="eu-1b",
                priority=1,
                expect=(parse_expected_identity("spiffe://a.test/standby"),),
                metadata=(("rack", "7"),),
            ),
        )
        plain, full = self.service()["endpoints"]
        self.assertEqual(
            plain,
            {
                "address": "192.0.2.1:1001",
                "zone": "",
                "priority": 0,
                "weight": 1,
                "state": "up",
                "left_s": None,
                "share": 1.0,
                "open": 0,
                "pending": 0,
                "established": 0,
                "failed": {},
                "failures_in_row": 0,
                "ejections": 0,
                "error": None,
                "check": None,
            },
        )
        self.assertEqual((full["weight"], full["zone"], full["priority"]), (3, "eu-1b", 1))
        self.assertEqual((full["expect"], full["metadata"]), (["spiffe://a.test/standby"], {"rack": "7"}))

    def test_says_where_discovery_stands(self) -> None:
        """When it last spoke, since when it fails, and why; before the first time nothing."""
        self.fleet.add("orders", endpoint(1))
        self.fleet.clock.advance(60)
        self.assertEqual(
            self.service()["discovery"],
            {
                "plugin": "static",
                "said": "2023-11-14T22:13:20.000Z",
                "changes": 1,
                "failing_since": None,
                "reason": "",
            },
        )
        self.fleet.statuses = [
            attrs.evolve(self.fleet.statuses[0], said=None, failing=50.0, reason="no name server answers")
        ]
        found = self.service()["discovery"]
        self.assertEqual(
            (found["said"], found["failing_since"], found["reason"]),
            (None, "2023-11-14T22:14:10.000Z", "no name server answers"),
        )
        self.fleet.statuses = []
        self.assertIsNone(self.service()["discovery"])

    def test_counts_what_happens(self) -> None:
        """At the service and at each endpoint; failures by code."""
        self.fleet.add("orders", endpoint(1), endpoint(2))
        first, second = self.fleet.book("orders"), self.fleet.book("orders")
        first.established(0.01)
        self.fleet.fail("orders")
        found = self.service()
        self.assertEqual((found["open"], found["pending"]), (1, 1))
        counted = [(one["open"], one["pending"], one["established"], one["failed"]) for one in found["endpoints"]]
        self.assertEqual(sum(open_ for open_, *_ in counted), 1)
        self.assertEqual(sum(pending for _, pending, *_ in counted), 1)
        self.assertEqual([failed for *_, failed in counted if failed], [{"TM-U101": 1}])
        first.closed()
        second.established(0.01)
        second.closed()
        found = self.service()
        self.assertEqual((found["open"], found["pending"]), (0, 0))
        self.assertEqual([one["established"] for one in found["endpoints"]], [1, 1])

    def test_says_why_an_endpoint_is_left_alone(self) -> None:
        """The last error with its moment, for how long yet, and then that the next connection decides."""
        self.fleet.add("orders", endpoint(1), endpoint(2))
        for _ in range(4):
            self.fleet.fail("orders")
        self.fleet.clock.advance(4)
        [bad] = [one for one in self.service()["endpoints"] if one["state"] == "ejected"]
        self.assertEqual((bad["left_s"], bad["share"], bad["ejections"]), (6.0, 0.0, 1))
        self.assertEqual(
            bad["error"],
            {
                "code": "TM-U101",
                "reason": "nobody listens",
                "time": "2023-11-14T22:13:20.000Z",
                "age_s": 4.0,
            },
        )
        self.fleet.clock.advance(6)
        [bad] = [one for one in self.service()["endpoints"] if one["ejections"]]
        self.assertEqual((bad["state"], bad["left_s"]), ("probation", None))

    def test_says_what_checks_find(self) -> None:
        """How the last one ended, when, and how long it took."""
        health = HealthSettings(check=CheckSettings("tcp", fall=1, rise=1))
        upstream = self.fleet.add("orders", endpoint(1), health=health)
        refusal = Refusal(ENDPOINT_CONNECTIONS, "\x07 no")
        upstream.pool.health.checked(endpoint(1).address, refusal, 0.25, self.fleet.clock.seconds())
        self.fleet.clock.advance(3)
        [found] = self.service()["endpoints"]
        self.assertEqual(found["state"], "down")
        self.assertEqual(
            found["check"],
            {
                "time": "2023-11-14T22:13:20.000Z",
                "age_s": 3.0,
                "duration_ms": 250.0,
                "error": "TM-L110 \x07 no",
            },
        )
        upstream.pool.health.checked(endpoint(1).address, None, 0.001, self.fleet.clock.seconds())
        [found] = self.service()["endpoints"]
        self.assertEqual((found["state"], found["check"]["error"]), ("up", None))

    def test_says_who_is_full(self) -> None:
        """As long as nothing worse is to be said of it."""
        self.fleet.add("orders", endpoint(1), endpoint(2), limits=ServiceLimits(per_endpoint=1))
        self.assertEqual([one["state"] for one in self.service()["endpoints"]], ["up", "up"])
        booking = self.fleet.book("orders")
        states = {one["address"]: one["state"] for one in self.service()["endpoints"]}
        self.assertEqual(states.pop(str(booking.endpoint.address)), "full")
        self.assertEqual(list(states.values()), ["up"])

    def test_says_who_drains(self) -> None:
        """Weight 0 means no new connections, but for ports that lead to one endpoint whatever it weighs."""
        self.fleet.add("orders", endpoint(1, weight=0), endpoint(2))
        self.assertEqual([one["state"] for one in self.service()["endpoints"]], ["drain", "up"])
        self.fleet.add("kafka", endpoint(1, weight=0), ports=1)
        self.assertEqual([one["state"] for one in self.service("kafka")["endpoints"]], ["up"])

    def test_says_the_limits_and_what_waits(self) -> None:
        """As configured; and the budget as it is spent."""
        self.fleet.add(
            "orders",
            endpoint(1),
            limits=ServiceLimits(connections=1, pending=5),
            queue=QueueSettings(2),
            retry_budget=RetryBudgetSettings(minimum=7, window=Duration(20.0)),
        )
        found = self.service()
        self.assertEqual(found["limits"], {"connections": 1, "per_endpoint": None, "pending": 5, "queue": 2})
        self.assertEqual(found["retry_budget"], {"retries": 0, "most": 7, "window_s": 20.0})
        self.assertEqual((found["balance"], found["retry"], found["circuit"]), ("round-robin", "none", None))
        self.fleet.book("orders")
        upstream = self.fleet.upstreams["orders"]
        self.assertRaises(AssertionError, self.fleet.book, "orders")  # it waits
        found = self.service()
        self.assertEqual((found["waiting"], found["queued"], upstream.pool.waiting), (1, 1, 1))

    def test_says_where_the_circuit_stands(self) -> None:
        """How long it stays open, and how often it was."""
        health = HealthSettings(
            ejection=EjectionSettings(failures=0), circuit=CircuitSettings(failures=1, time=Duration(5.0))
        )
        upstream = self.fleet.add("orders", endpoint(1), health=health)
        self.assertEqual(
            self.service()["circuit"], {"state": "closed", "since": None, "left_s": None, "failures": 0, "opened": 0}
        )
        booking = self.fleet.fail("orders")
        upstream.pool.health.connection_failed(CONNECT_REFUSED, "nobody listens", 0.0, booking)
        self.fleet.clock.advance(2)
        self.assertEqual(
            self.service()["circuit"],
            {"state": "open", "since": "2023-11-14T22:13:20.000Z", "left_s": 3.0, "failures": 1, "opened": 1},
        )

    def test_says_what_the_balancer_expects(self) -> None:
        """Where it says so: nothing of an endpoint that was never tried, and nothing when it raises."""
        balancer = P2cEwma(P2cEwmaSettings(), self.fleet.clock, random.Random(6))
        self.fleet.add("orders", endpoint(1), endpoint(2), balancer=balancer)
        booking = self.fleet.book("orders")
        booking.established(0.25)
        found = {one["address"]: one.get("expected_ms") for one in self.service()["endpoints"]}
        self.assertEqual(found.pop(str(booking.endpoint.address)), 250.0)
        self.assertEqual(list(found.values()), [None])
        self.patch(P2cEwma, "expected", lambda _self, _endpoint: 1 / 0)
        self.assertEqual([one.get("expected_ms") for one in self.service()["endpoints"]], [None, None])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_says_which_port_an_endpoint_has(self) -> None:
        """Where a listener has one for each; none is none."""
        self.fleet.add("orders", endpoint(1), endpoint(2), endpoint(3), ports=2)
        self.assertEqual([one["position"] for one in self.service()["endpoints"]], [0, 1, None])

    def test_names_who_is_gone_and_still_has_connections(self) -> None:
        """Until the last of them has ended."""
        self.fleet.add("orders", endpoint(1))
        booking = self.fleet.book("orders")
        booking.established(0.01)
        self.fleet.discover("orders", endpoint(2))
        found = self.service()
        self.assertEqual(found["gone"], [{"address": "192.0.2.1:1001", "open": 1, "pending": 0}])
        self.assertEqual([one["address"] for one in found["endpoints"]], ["192.0.2.1:1002"])
        booking.closed()
        self.assertEqual(self.service()["gone"], [])

    def test_names_so_many_who_are_gone(self) -> None:
        """Of those that still have connections, however many have none any more."""
        self.fleet.add("orders", *(endpoint(number) for number in range(250)))
        bookings = [self.fleet.book("orders") for _ in range(250)]
        self.fleet.discover("orders")
        for booking in bookings[:120]:
            booking.established(0.01)
            booking.closed()
        self.assertEqual(len(self.service()["gone"]), 100)
        for booking in bookings[120:]:
            booking.established(0.01)
            booking.closed()
        self.assertEqual(self.service()["gone"], [])
