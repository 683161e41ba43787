"""Limits, queue and retry budget of a service in the configuration, and times that do not go together."""

from __future__ import annotations

from tcpmesh.config import warnings
from tcpmesh.upstream_settings import QueueSettings, RetryBudgetSettings, ServiceLimits
from tests.unit.config_samples import SAMPLE, ConfigTestCase, located, variant

EXTRA = "    expect:"  # where a key of the service can be added


def with_service(line: str) -> str:
    return variant(EXTRA, f"    {line}\n{EXTRA}")


class LimitTests(ConfigTestCase):
    """services.*.limits, queue and retry_budget."""

    def test_are_read(self) -> None:
        """Each by its name; what is absent has its default."""
        text = with_service(
            "limits: {connections: 1, per_endpoint: 1000000, pending: 7}\n    queue: {length: 100000}\n"
            "    retry_budget: {share: 1, minimum: 0, window: 1h}"
        )
        orders = self.load(text).services["orders"]
        self.assertEqual(orders.limits, ServiceLimits(1, 1_000_000, 7))
        self.assertEqual(orders.queue, QueueSettings(100_000))
        self.assertEqual(orders.retry_budget, RetryBudgetSettings(1.0, 0, 3600.0))
        plain = self.load(SAMPLE).services["orders"]
        self.assertEqual(plain.limits, ServiceLimits(None, None, None))
        self.assertEqual(plain.queue, QueueSettings(0))
        self.assertEqual(plain.retry_budget, RetryBudgetSettings(0.2, 3, 10.0))

    def test_have_bounds(self) -> None:
        """Each says what it may be, at its place."""
        at = "services.orders"
        for line, message in (
            ("limits: {connections: ‸0}", "limits.connections: 0 is not between 1 and 1000000"),
            ("limits: {per_endpoint: ‸1000001}", "limits.per_endpoint: 1000001 is not between 1 and 1000000"),
            ("limits: {pending: ‸-1}", "limits.pending: -1 is not between 1 and 1000000"),
            (
                "limits: {pending: 1}\n    queue: {length: ‸100001}",
                "queue.length: 100001 is not between 0 and 100000",
            ),
            ("queue: {length: ‸-1}\n    limits: {pending: 1}", "queue.length: -1 is not between 0 and 100000"),
            ("retry_budget: {minimum: ‸-1}", "retry_budget.minimum: -1 is not between 0 and 100000"),
            ("retry_budget: {share: ‸1.1}", "retry_budget.share: 1.1 is not a share of the connections, from 0 to 1"),
            ("retry_budget: {window: ‸999ms}", "retry_budget.window: 999ms is not between 1s and 1h"),
            ("retry_budget: {window: ‸2h}", "retry_budget.window: 2h is not between 1s and 1h"),
        ):
            self.check_problems(with_service(line), f"{at}.{message}")

    def test_a_queue_needs_something_to_wait_for(self) -> None:
        """Without a limit there is room for everybody; a queue of no length is none."""
        self.check_problems(
            with_service("queue: ‸{length: 1}"),
            "services.orders.queue: without limits there is always room, and nobody waits; set one in limits",
        )
        self.load(with_service("queue: {length: 0}"))


class HastyListenerTests(ConfigTestCase):
    """timeouts.establish beside timeouts.connect."""

    def test_less_time_than_one_attempt_is_warned_of(self) -> None:
        """At the listener, with the times that hold there."""
        text = variant('"127.0.0.1:15000", service', '"127.0.0.1:15000", timeouts: {establish: 2s}, service')
        text, [mark] = located(text.replace("{name: out,", "‸{name: out,"))
        [found] = warnings(self.load(text))
        self.assertEqual(
            found.message,
            "outbound[0] (out): timeouts.establish, 2s, ends attempts before timeouts.connect, 3s, can: none is "
            "followed by another, and who is silent is never ejected",
        )
        self.assertEqual(found.mark, mark)

    def test_the_listener_s_own_times_win(self) -> None:
        """What the service says is not what holds here."""
        text = with_service("timeouts: {connect: 1h}")
        self.assertEqual(len(warnings(self.load(text))), 1)
        text = text.replace('"127.0.0.1:15000", service', '"127.0.0.1:15000", timeouts: {establish: 1h}, service')
        self.assertEqual(warnings(self.load(text)), [])
