"""What each plugin is for."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from registry_failover.by_code import ByCode, ByCodeSettings
from registry_failover.http_registry import MAX_ANSWER, HTTPRegistry, HTTPRegistrySettings, instances
from registry_failover.last_good import LastGood
from registry_failover.tests.registry import FakeRegistry, instance
from tcpmesh.codes import CONNECT_REFUSED, CONNECT_TIMEOUT, POLICY_CONNECTIONS, Code
from tcpmesh.testing import FakeDiscoveryObserver, endpoint, plugin_context
from tcpmesh.values import AttemptFailure, Duration, Endpoint, RetryContext, TCPAddress


class HTTPRegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = FakeRegistry(instance(1), instance(2, Address="198.51.100.7", Port=6432))
        self.observer = FakeDiscoveryObserver()

    def start(self) -> HTTPRegistry:
        settings = HTTPRegistrySettings("http://127.0.0.1:8500/", "orders db", Duration(10.0), Duration(5.0))
        discovery = HTTPRegistry(settings, plugin_context(clock=self.clock), self.registry)
        discovery.start(self.observer)
        self.addCleanup(discovery.stop)
        return discovery

    def test_asks_as_consul_wants_it(self) -> None:
        """The name is quoted; an instance without an address of its own has its node's."""
        self.start()
        self.assertEqual(
            self.registry.requests, [b"GET http://127.0.0.1:8500/v1/health/service/orders%20db?passing=true"]
        )
        self.assertEqual(
            self.observer.deliveries[-1],
            (Endpoint(TCPAddress("192.0.2.1", 5432), 1), Endpoint(TCPAddress("198.51.100.7", 6432), 2)),
        )

    def test_asks_again_after_the_interval(self) -> None:
        """What has changed by then is delivered, an empty list among it."""
        self.start()
        self.registry.body = []
        self.clock.advance(9.9)
        self.assertEqual(len(self.registry.requests), 1)
        self.clock.advance(0.2)
        self.assertEqual(self.observer.deliveries[-1], ())

    def test_an_answer_that_cannot_be_used_changes_nothing(self) -> None:
        """Each is reported, and the registry is asked again."""
        self.start()
        for body, code, message in [
            (b"{", 200, "the answer is not JSON"),
            ({"Service": {}}, 200, "is not a list of at most 1000"),
            ([instance(1), instance(2, Port="5432")], 200, "instance 1 cannot be used"),
            ([instance(1, Port=70000)], 200, "instance 0 cannot be used"),
            ([instance(1, Address="db.example.test")], 200, "instance 0 cannot be used"),
            ([instance(1, Weights={"Passing": -1})], 200, "with the weight -1"),
            (b"[" * 100_000, 200, "the answer is not JSON"),
            (b" " * (MAX_ANSWER + 1), 200, "longer than 1048576 bytes"),
            (b"no leader", 500, "status 500"),
        ]:
            self.registry.body, self.registry.code = body, code
            self.clock.advance(10)
            self.assertIn(message, self.observer.failures[-1])
        self.assertEqual((len(self.observer.deliveries), len(self.observer.failures)), (1, 9))

    def test_a_silent_registry_is_given_up_and_asked_again(self) -> None:
        """After the time-out; one request at a time."""
        self.registry.body = None
        self.start()
        self.clock.advance(5)
        self.assertEqual((len(self.observer.failures), len(self.registry.requests), self.registry.cancelled), (1, 1, 1))
        self.registry.body = [instance(3)]
        self.clock.advance(10)
        self.assertEqual(self.observer.deliveries[-1], (Endpoint(TCPAddress("192.0.2.3", 5432), 3),))

    def test_stop_ends_a_request(self) -> None:
        """Its answer is nobody's any more."""
        self.registry.body = None
        self.start().stop()
        self.assertEqual((self.registry.cancelled, self.observer.failures, self.clock.getDelayedCalls()), (1, [], []))

    def test_an_instance_that_is_listed_twice_is_one(self) -> None:
        """The first one counts."""
        (found,) = instances(
            b'[{"Service": {"Address": "::1", "Port": 1}}, {"Service": {"Address": "::1", "Port": 1}}]'
        )
        self.assertEqual(found, Endpoint(TCPAddress("::1", 1)))

    def test_needs_https_for_another_machine(self) -> None:
        """And an address at all."""
        for url, message in [
            ("http://registry.example.test", "needs https"),
            ("127.0.0.1:8500", "is not an address like"),
            ("https://registry.example.test/?token=x", "is not an address like"),
        ]:
            self.assertIn(message, str(self.assertRaises(ValueError, HTTPRegistrySettings, url, "orders")))


class LastGoodTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.balancer = LastGood()
        self.all = (endpoint(1), endpoint(2), endpoint(3))

    def test_stays_where_it_was_accepted(self) -> None:
        """The first one to begin with; then who accepted last, also when an earlier one is well again."""
        self.assertEqual(self.balancer.pick(self.all, frozenset()), endpoint(1))
        self.balancer.established(endpoint(2), 0.01)
        self.assertEqual(self.balancer.pick(self.all, frozenset()), endpoint(2))
        self.balancer.closed(endpoint(2))
        self.assertEqual(self.balancer.pick(self.all, frozenset()), endpoint(2))

    def test_moves_on_in_the_order_of_the_list(self) -> None:
        """Behind the one that failed for this connection, and round."""
        self.balancer.established(endpoint(2), 0.01)
        self.assertEqual(self.balancer.pick(self.all, frozenset({endpoint(2)})), endpoint(3))
        self.assertEqual(self.balancer.pick(self.all, frozenset({endpoint(2), endpoint(3)})), endpoint(1))

    def test_begins_anew_when_the_good_one_is_gone(self) -> None:
        """What is not in the list is not dialled; nor is what has no weight."""
        self.balancer.established(endpoint(2), 0.01)
        self.assertEqual(self.balancer.pick((endpoint(1, weight=0), endpoint(3)), frozenset()), endpoint(3))


class ByCodeTests(SynchronousTestCase):
    def waits(self, *codes: Code, silent: int = 1) -> list[float]:
        """What it says to these failures, one after the other."""
        context = RetryContext("orders")
        attempts = ByCode(ByCodeSettings(5, silent, Duration(0.1))).attempts(context)
        waits = []
        for code in codes:
            context.failures.append(AttemptFailure(code, "because", endpoint(), 0.01))
            wait = next(attempts, None)
            if wait is None:
                break
            waits.append(wait)
        return waits

    def test_what_is_refused_at_once_is_retried_at_once(self) -> None:
        """Four times, with five attempts."""
        self.assertEqual(self.waits(*[CONNECT_REFUSED] * 6), [0.0] * 4)

    def test_who_has_no_room_is_given_time(self) -> None:
        """Twice as long each time; another failure between them does not count."""
        self.assertEqual(
            self.waits(POLICY_CONNECTIONS, POLICY_CONNECTIONS, CONNECT_REFUSED, POLICY_CONNECTIONS),
            [0.1, 0.2, 0.0, 0.4],
        )

    def test_silence_is_waited_for_once(self) -> None:
        """The second time-out ends it, whatever is between them."""
        self.assertEqual(self.waits(CONNECT_TIMEOUT, CONNECT_REFUSED, CONNECT_TIMEOUT, CONNECT_REFUSED), [0.0, 0.0])
        self.assertEqual(self.waits(CONNECT_TIMEOUT, silent=0), [])

    def test_refuses_numbers_that_make_no_sense(self) -> None:
        """While the configuration is read."""
        self.assertIn("between 1 and 10", str(self.assertRaises(ValueError, ByCodeSettings, 0)))
        self.assertIn("silent is less", str(self.assertRaises(ValueError, ByCodeSettings, 1, -1)))
