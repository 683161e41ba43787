"""Metrics of services and endpoints."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import CIRCUIT_OPEN, CONNECT_REFUSED, CONNECT_TIMEOUT
from tcpmesh.errors import Refusal
from tcpmesh.observe.queue_waits import QueueWaits
from tcpmesh.observe.upstream_metrics import UpstreamMetrics
from tcpmesh.upstream_settings import (
    CheckSettings,
    CircuitSettings,
    EjectionSettings,
    HealthSettings,
    QueueSettings,
    ServiceLimits,
)
from tcpmesh.values import AttemptFailure, Duration
from tests.unit.record_samples import a_record
from tests.unit.upstreams import Fleet, endpoint


class UpstreamMetricsTests(SynchronousTestCase):
    """``UpstreamMetrics``."""

    def setUp(self) -> None:
        self.fleet = Fleet()
        self.metrics = UpstreamMetrics(self.fleet.upstreams, lambda: self.fleet.changes, self.fleet.clock, most=3)

    def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a family by its labels' values, in the order of their names."""
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for metric in self.metrics.collect()
            for sample in metric.samples
            if sample.name == name
        }

    def test_say_nothing_without_services(self) -> None:
        """An inbound proxy has none."""
        self.assertEqual(list(self.metrics.collect()), [])

    def test_name_each_family_once(self) -> None:
        """As the exposition demands; counters end in _total."""
        self.fleet.add("orders", endpoint(1), health=HealthSettings(circuit=CircuitSettings()))
        self.fleet.fail("orders")
        families = list(self.metrics.collect())
        self.assertEqual(len({metric.name for metric in families}), len(families))
        for metric in families:
            for sample in metric.samples:
                self.assertEqual(sample.name, metric.name + ("_total" if metric.type == "counter" else ""))

    def test_count_endpoints_by_state(self) -> None:
        """Every state is there, also those that no endpoint is in; Linkerd's has two."""
        health = HealthSettings(
            ejection=EjectionSettings(failures=1, time=Duration(10.0), max_share=1.0),
            check=CheckSettings("tcp", fall=1),
        )
        upstream = self.fleet.add(
            "orders", *(endpoint(number) for number in range(4)), health=health, limits=ServiceLimits(per_endpoint=1)
        )
        self.assertEqual(
            self.samples("tcpmesh_service_endpoints"),
            {
                ("orders", state): float(4 if state == "up" else 0)
                for state in ("up", "slow-start", "probation", "ejected", "down", "full", "drain")
            },
        )
        bad = self.fleet.fail("orders").endpoint.address
        full = self.fleet.book("orders").endpoint.address
        down = next(one.address for one in upstream.pool.endpoints if one.address not in (bad, full))
        upstream.pool.health.checked(down, Refusal(CONNECT_REFUSED, "nobody listens"), 0.1, 0.0)
        found = {state: count for (_, state), count in self.samples("tcpmesh_service_endpoints").items() if count}
        self.assertEqual(found, {"up": 1, "ejected": 1, "full": 1, "down": 1})
        self.assertEqual(
            self.samples("outbound_tcp_balancer_endpoints"), {("ready", "orders"): 1, ("pending", "orders"): 3}
        )
        self.fleet.clock.advance(10)
        found = {state: count for (_, state), count in self.samples("tcpmesh_service_endpoints").items() if count}
        self.assertEqual(found, {"up": 1, "probation": 1, "full": 1, "down": 1})

    def test_count_who_drains(self) -> None:
        """Once, full or not, unless something is wrong with it; Linkerd's two words call it not ready."""
        upstream = self.fleet.add("orders", endpoint(1), limits=ServiceLimits(per_endpoint=1))
        self.fleet.book("orders")
        self.fleet.discover("orders", endpoint(1, weight=0), endpoint(2, weight=0), endpoint(3))
        upstream.pool.health.checked(endpoint(2).address, Refusal(CONNECT_REFUSED, "nobody listens"), 0.1, 0.0)
        found = {state: count for (_, state), count in self.samples("tcpmesh_service_endpoints").items() if count}
        self.assertEqual(found, {"up": 1, "down": 1, "drain": 1})
        self.assertEqual(
            self.samples("outbound_tcp_balancer_endpoints"), {("ready", "orders"): 1, ("pending", "orders"): 2}
        )

    def test_count_changes_and_checks(self) -> None:
        """Each kind of change from the beginning; checks where there are some."""
        self.fleet.add("orders", endpoint(1))
        checked = self.fleet.add("cache", endpoint(2), health=HealthSettings(check=CheckSettings("tcp")))
        self.fleet.changes["orders", "ejected"] = 3
        changes = self.samples("tcpmesh_service_health_changes_total")
        self.assertEqual(changes["ejected", "orders"], 3)
        self.assertEqual(
            changes.keys(), {(word, name) for word in ("ejected", "back", "down", "up") for name in ("orders", "cache")}
        )
        checked.pool.health.checked(endpoint(2).address, None, 0.1, 0.0)
        checked.pool.health.checked(endpoint(2).address, Refusal(CONNECT_TIMEOUT, "no answer"), 0.1, 0.0)
        checked.pool.health.checked(endpoint(2).address, None, 0.1, 0.0)
        self.assertEqual(self.samples("tcpmesh_service_checks_total"), {("good", "cache"): 2, ("failed", "cache"): 1})

    def test_count_what_happens_at_a_service(self) -> None:
        """Open, pending, waiting, refused, retried."""
        upstream = self.fleet.add("orders", endpoint(1), limits=ServiceLimits(connections=2), queue=QueueSettings(2))
        self.fleet.book("orders").established(0.1)
        self.fleet.book("orders")
        self.assertRaises(AssertionError, self.fleet.book, "orders")  # it waits
        counts = upstream.pool.counts
        counts.refused[CIRCUIT_OPEN] += 2
        counts.retries, counts.unbudgeted = 5, 1
        upstream.retries.budget.take(0.0)
        for name, value in (
            ("tcpmesh_service_open", 1),
            ("tcpmesh_service_pending", 1),
            ("outbound_tcp_balancer_queue_length", 1),
            ("tcpmesh_service_unresolved", 0),
            ("tcpmesh_service_queued_total", 1),
            ("tcpmesh_service_retries_total", 5),
            ("tcpmesh_service_retries_unbudgeted_total", 1),
            ("tcpmesh_service_retry_budget_left", 2),
        ):
            self.assertEqual(self.samples(name), {("orders",): value}, name)
        self.assertEqual(self.samples("tcpmesh_service_refused_total"), {("TM-U107", "orders"): 2})

    def test_show_circuits_where_there_are_some(self) -> None:
        """1 for the state that it is in."""
        self.fleet.add("cache", endpoint(2))
        health = HealthSettings(circuit=CircuitSettings(failures=1, time=Duration(5.0)))
        upstream = self.fleet.add("orders", endpoint(1), health=health)
        self.assertEqual(
            self.samples("tcpmesh_service_circuit"),
            {("orders", "closed"): 1, ("orders", "open"): 0, ("orders", "half-open"): 0},
        )
        booking = self.fleet.fail("orders")
        upstream.pool.health.connection_failed(CONNECT_REFUSED, "nobody listens", 0.0, booking)
        self.assertEqual(self.samples("tcpmesh_service_circuit")["orders", "open"], 1)
        self.assertEqual(self.samples("tcpmesh_service_circuit_opened_total"), {("orders",): 1})
        self.fleet.clock.advance(5)
        self.assertEqual(self.samples("tcpmesh_service_circuit")["orders", "half-open"], 1)

    def test_count_what_happens_at_endpoints(self) -> None:
        """Those at which something happened, by address and code."""
        self.fleet.add("orders", endpoint(1), endpoint(2))
        booking = self.fleet.book("orders")
        booking.established(0.1)
        name = str(booking.endpoint.address)
        self.assertEqual(self.samples("tcpmesh_endpoint_open"), {(name, "orders"): 1})
        self.assertEqual(self.samples("tcpmesh_endpoint_established_total"), {(name, "orders"): 1})
        other = str(self.fleet.fail("orders").endpoint.address)
        self.fleet.book("orders")
        self.assertEqual(self.samples("tcpmesh_endpoint_failed_total"), {("TM-U101", other, "orders"): 1})
        self.assertEqual(sum(self.samples("tcpmesh_endpoint_pending").values()), 1)

    def test_forget_an_endpoint_with_its_last_connection(self) -> None:
        """Discovery has removed it, and says nothing more for weeks; one that is back begins anew."""
        self.fleet.add("orders", endpoint(1))
        bookings = [self.fleet.book("orders") for _ in range(2)]
        for booking in bookings:
            booking.established(0.01)
        self.fleet.discover("orders", endpoint(2))
        bookings[0].closed()
        self.assertEqual(self.samples("tcpmesh_endpoint_open"), {("192.0.2.1:1001", "orders"): 1})
        bookings[1].closed()
        self.assertEqual(self.samples("tcpmesh_endpoint_open"), {})
        self.fleet.discover("orders", endpoint(1))
        again = self.fleet.book("orders")
        self.fleet.discover("orders", endpoint(2))
        self.fleet.discover("orders", endpoint(1))
        again.failed(AttemptFailure(CONNECT_REFUSED, "nobody listens", again.endpoint, 0.01))
        self.assertEqual(
            self.samples("tcpmesh_endpoint_failed_total"), {(CONNECT_REFUSED.id, "192.0.2.1:1001", "orders"): 1}
        )

    def test_have_labels_for_so_many_endpoints(self) -> None:
        """All others of a service are one, whose counters never go back, whoever goes."""
        self.fleet.add("orders", *(endpoint(number) for number in range(10)))
        bookings = [self.fleet.book("orders") for _ in range(10)]
        for booking in bookings:
            booking.established(0.1)
        opened = self.samples("tcpmesh_endpoint_open")
        self.assertEqual((len(opened), opened["other", "orders"]), (4, 7))
        self.assertEqual(self.samples("tcpmesh_endpoint_established_total")["other", "orders"], 7)
        labelled = {name for name, _ in opened if name != "other"}
        for booking in bookings:
            if str(booking.endpoint.address) not in labelled:
                booking.closed()
        kept = [booking.endpoint for booking in bookings if str(booking.endpoint.address) in labelled]
        self.fleet.discover("orders", *kept, endpoint(20))
        self.fleet.clock.advance(1)
        while (booking := self.fleet.book("orders")).endpoint != endpoint(20):
            booking.failed(AttemptFailure(CONNECT_REFUSED, "", booking.endpoint, 0.0))
        self.assertEqual({name for name, _ in self.samples("tcpmesh_endpoint_open")}, {*labelled, "other"})
        self.assertEqual(self.samples("tcpmesh_endpoint_established_total")["other", "orders"], 7)
        self.assertEqual(self.samples("tcpmesh_endpoint_open")["other", "orders"], 0)


class QueueWaitsTests(SynchronousTestCase):
    """``QueueWaits``."""

    def test_counts_those_that_waited(self) -> None:
        """By service, in Linkerd's bounds; who did not wait is not counted."""
        waits = QueueWaits()
        for milliseconds in (0.2, 5.0, 40.0, 900.0, 9000.0, None):
            waits.note(a_record(direction="outbound", dst_service="orders", queue_ms=milliseconds))
        waits.note(a_record(direction="outbound", dst_service="cache", queue_ms=1.0))
        metric = waits.collect()
        found = {
            tuple(sample.labels.values()): sample.value
            for sample in metric.samples
            if "orders" in sample.labels.values()
        }
        buckets = {labels[1]: value for labels, value in found.items() if len(labels) == 2}
        self.assertEqual(buckets, {"0.0005": 1, "0.005": 2, "0.05": 3, "0.5": 3, "1": 4, "3": 4, "+Inf": 5})
        sums = {sample.name: sample.value for sample in metric.samples if sample.labels == {"service": "orders"}}
        self.assertEqual(sums["tcpmesh_service_queue_seconds_count"], 5)
        self.assertAlmostEqual(sums["tcpmesh_service_queue_seconds_sum"], 9.9452)
