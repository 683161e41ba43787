"""How long it may take until a connection is established, and what is retried meanwhile."""

from __future__ import annotations

import socket
import threading

import attrs

from tcpmesh import codes
from tcpmesh.net.upstream import Upstream
from tests.integration.applications import RESET, broken, exchange, receive, reset, until, whole
from tests.integration.endings import EndingTestCase
from tests.integration.foreign import ForeignTestCase, ForeignTLS
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread, reactor, unused_port


class EstablishTestCase(ForeignTestCase, EndingTestCase):
    def outbound(self, *endpoints: int, service: str = "", times: str = "") -> Proxy:
        return self.start_outbound(*endpoints, service=service, top=f"timeouts: {{{times}}}\n" if times else "")

    def good(self) -> int:
        return self.start_inbound(self.application(echo)).port("orders-in")

    def upstream(self, proxy: Proxy) -> Upstream:
        return proxy.service.composition.upstreams["orders"]

    async def assert_served(self, outer: Proxy) -> None:
        self.assertEqual(await in_thread(exchange, self.connect(outer.port("to-orders")), b"hello"), whole(b"hello"))

    async def assert_refused(self, outer: Proxy) -> None:
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)


class DeadlineTests(EstablishTestCase):
    """timeouts.establish."""

    async def test_ends_an_attempt(self) -> None:
        """TM-T110 although the handshake had ten seconds: with what was waited for."""
        outer = self.outbound(self.application(receive), times="establish: 200ms")
        await self.assert_refused(outer)
        record = await outer.closed()
        self.assertIs(record.code, codes.ESTABLISH_TIMEOUT)
        self.assertRegex(
            record.reason,
            r"\Anot established within 200ms, attempts: 1; lastly no complete handshake within 0\.\d+ s\Z",
        )
        [failure] = record.failures
        self.assertIs(failure.code, codes.ESTABLISH_TIMEOUT)

    async def test_is_over_all_attempts(self) -> None:
        """The failure before is told, too."""
        outer = self.outbound(
            unused_port(),
            self.application(receive),
            service=", retry: {plugin: fixed, attempts: 3, wait: 1ms}",
            times="establish: 300ms",
        )
        await self.assert_refused(outer)
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts), (codes.ESTABLISH_TIMEOUT, 2))
        self.assertRegex(
            record.reason,
            r"\Anot established within 300ms, attempts: 2, one failed with TM-U101 connecting to \S+: Connection "
            r"refused; lastly no complete handshake within 0\.\d+ s\Z",
        )
        self.assertEqual(
            [failure.code for failure in record.failures], [codes.CONNECT_REFUSED, codes.ESTABLISH_TIMEOUT]
        )

    async def test_is_not_waited_out(self) -> None:
        """A retry that would come too late is none: the failure is final at once, and says so."""
        outer = self.outbound(
            unused_port(), service=", retry: {plugin: fixed, attempts: 2, wait: 1h}", times="establish: 20s"
        )
        await self.assert_refused(outer)
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts, outer.tap.attempts), (codes.CONNECT_REFUSED, 1, []))
        self.assertTrue(
            record.reason.endswith(
                "Connection refused; no retry: after a wait of 1h the time would be over (timeouts.establish)"
            ),
            record.reason,
        )

    async def test_says_that_a_wait_would_be_too_long(self) -> None:
        """Also a wait below the hour that is the longest."""
        outer = self.outbound(
            unused_port(), service=", retry: {plugin: fixed, attempts: 2, wait: 30s}", times="establish: 20s"
        )
        await self.assert_refused(outer)
        record = await outer.closed()
        self.assertTrue(
            record.reason.endswith(
                "Connection refused; no retry: after a wait of 30s the time would be over (timeouts.establish)"
            ),
            record.reason,
        )

    async def test_is_that_of_the_service_or_listener(self) -> None:
        """The most specific wins."""
        outer = self.start_outbound(
            self.application(receive),
            service=", timeouts: {establish: 1h}",
            more=", timeouts: {establish: 100ms}",
            top="timeouts: {establish: 1h}\n",
        )
        await self.assert_refused(outer)
        self.assertIn("not established within 100ms", (await outer.closed()).reason)

    async def test_a_connection_that_is_established_lives_on(self) -> None:
        """It counts until then and no longer."""
        outer = self.outbound(self.good(), times="establish: 2s")
        client = self.connect(outer.port("to-orders"))
        await outer.opened()
        plane = outer.service.plane
        assert plane is not None
        left = [call for call in plane.clock.getDelayedCalls() if "Attempt" in repr(call)]
        self.assertEqual(left, [])
        self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"))


class ResolveTests(EstablishTestCase):
    """A service of which discovery has said nothing yet."""

    def silence(self, outer: Proxy) -> dict[str, object]:
        """Discovery has said nothing; gives what it would say."""
        state = outer.service.composition.state
        endpoints = dict(state.current.endpoints)
        state.swap(endpoints={})
        return endpoints  # type: ignore[return-value]

    async def test_is_waited_for(self) -> None:
        """Payload waits too; the record says for how long."""
        outer = self.outbound(self.good(), times="resolve: 20s")
        endpoints = self.silence(outer)
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        await until(lambda: self.upstream(outer).pool.unresolved == 1, "it waits")
        outer.service.composition.state.swap(endpoints=endpoints)
        self.assertEqual(await in_thread(receive, client), whole(b"hello"))
        record = await outer.closed()
        assert record.queue_ms is not None
        self.assertGreater(record.queue_ms, 0)
        self.assertEqual((record.code, record.attempts), (codes.CLEAN, 1))

    async def test_is_not_waited_for_for_ever(self) -> None:
        """TM-T108."""
        outer = self.outbound(self.good(), times="resolve: 100ms")
        self.silence(outer)
        await self.assert_refused(outer)
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts), (codes.RESOLVE_TIMEOUT, 0))
        self.assertIn("the discovery of service 'orders' has said nothing for", record.reason)

    async def test_may_be_retried(self) -> None:
        """The wait was in vain; the retry finds endpoints."""
        outer = self.outbound(
            self.good(),
            service=", retry: {plugin: fixed, attempts: 2, wait: 1s}",
            times="resolve: 50ms",
        )
        endpoints = self.silence(outer)
        client = self.connect(outer.port("to-orders"))
        await until(lambda: outer.tap.attempts, "the first wait was in vain")
        self.assertIs(outer.tap.attempts[0][1], codes.RESOLVE_TIMEOUT)
        outer.service.composition.state.swap(endpoints=endpoints)
        self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"))
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts, record.failures), (codes.CLEAN, 1, ()))

    async def test_who_resets_meanwhile_is_gone(self) -> None:
        """TM-D104."""
        outer = self.outbound(self.good(), times="resolve: 20s")
        self.silence(outer)
        client = self.connect(outer.port("to-orders"))
        await until(lambda: self.upstream(outer).pool.unresolved == 1, "it waits")
        reset(client)
        await self.assert_ends(outer, codes.CANCELLED, "src")
        self.assertEqual(self.upstream(outer).pool.unresolved, 0)


class BudgetTests(EstablishTestCase):
    """services.*.retry_budget."""

    async def test_ends_the_retries_of_everybody(self) -> None:
        """What one connection has spent another one lacks: with the last failure, and why there is no more."""
        outer = self.outbound(
            unused_port(),
            service=", retry: {plugin: fixed, attempts: 3, wait: 1ms}, "
            "retry_budget: {share: 0, minimum: 3, window: 1h}",
        )
        for _ in range(3):
            await self.assert_refused(outer)
        await outer.closed(3)
        self.assertEqual([record.attempts for record in outer.tap.close], [3, 2, 1])
        reasons = [record.reason.partition("; no retry: ")[2] for record in outer.tap.close]
        self.assertEqual(
            reasons,
            [
                "",
                "the service's retry budget is spent: 3 of 3 retries within 1h, connections: 2 (retry_budget)",
                "the service's retry budget is spent: 3 of 3 retries within 1h, connections: 3 (retry_budget)",
            ],
        )
        self.assertEqual({record.code for record in outer.tap.close}, {codes.CONNECT_REFUSED})
        counts = self.upstream(outer).pool.counts
        self.assertEqual((counts.retries, counts.unbudgeted), (3, 2))

    async def test_holds_for_the_plugins_of_others(self) -> None:
        """exponential, and whatever else there is: the proxy enforces it."""
        outer = self.outbound(
            unused_port(),
            self.good(),
            service=", retry: {plugin: exponential, attempts: 9, base: 1ms}, retry_budget: {share: 0, minimum: 0}",
        )
        await self.assert_refused(outer)
        self.assertEqual((await outer.closed()).attempts, 1)


class RecordTests(EstablishTestCase):
    async def test_names_each_attempt_that_failed(self) -> None:
        """Where, why and for how long; the one that succeeded is not among them."""
        silent, closed, good = self.application(lambda peer: reset(peer)), unused_port(), self.good()
        outer = self.outbound(silent, closed, good, service=", retry: {plugin: fixed, attempts: 3, wait: 1ms}")
        await self.assert_served(outer)
        record = await outer.closed()
        self.assertEqual((record.attempts, record.dst_addr), (3, f"127.0.0.1:{good}"))
        first, second = record.failures
        self.assertEqual(first.endpoint, f"127.0.0.1:{silent}")
        self.assertIs(first.code, codes.HANDSHAKE_TRUNCATED)
        self.assertEqual(
            (second.endpoint, second.code, second.reason),
            (
                f"127.0.0.1:{closed}",
                codes.CONNECT_REFUSED,
                f"connecting to 127.0.0.1:{closed}: Connection refused",
            ),
        )
        self.assertGreater(first.ms, 0)
        self.assertEqual((record.code, record.errno), (codes.CLEAN, ""))

    async def test_goes_elsewhere_however_much_the_balancer_likes_who_failed(self) -> None:
        """An endpoint with nine times the weight is not tried twice while there is another one."""
        closed, good = unused_port(), self.good()
        outer = self.outbound(closed, good, service=", retry: {plugin: fixed, attempts: 2, wait: 1ms}")
        state = outer.service.composition.state
        heavy, light = state.current.endpoints["orders"]
        state.swap(endpoints={"orders": (attrs.evolve(heavy, weight=9), light)})
        await self.assert_served(outer)
        self.assertEqual((await outer.closed()).dst_addr, f"127.0.0.1:{good}")


class AcceptAndCloseTests(EstablishTestCase):
    async def test_who_resets_after_the_time_to_establish_has_ended_the_connection(self) -> None:
        """It was established for as long as anything may take: that is an end, and no failed attempt."""
        go = threading.Event()

        def slam_later(peer: ForeignTLS) -> None:
            go.wait(PATIENCE)
            reset(peer.socket)

        outer = self.outbound(
            self.foreign_server(slam_later),
            self.good(),
            service=", retry: {plugin: fixed, attempts: 2, wait: 1ms}",
            times="establish: 500ms",
        )
        accepted = reactor.seconds()
        client = self.connect(outer.port("to-orders"))
        await outer.opened()
        await until(lambda: reactor.seconds() > accepted + 1.0, "the time is over")
        go.set()
        self.assertEqual(await in_thread(broken, client), RESET)
        await self.assert_ends(outer, codes.RESET, "dst")
        self.assertEqual((outer.tap.close[0].attempts, outer.tap.attempts), (1, []))

    async def test_who_accepts_and_resets_is_ejected(self) -> None:
        """A foreign server that is established in no time and serves nobody does not attract everybody."""

        def slam(peer: ForeignTLS) -> None:
            reset(peer.socket)

        def greet(connection: socket.socket) -> None:
            connection.sendall(b"ready")
            receive(connection)

        bad = self.foreign_server(slam)
        outer = self.outbound(
            bad,
            self.start_inbound(self.application(greet)).port("orders-in"),
            service=", retry: {plugin: fixed, attempts: 2, wait: 1ms}, retry_budget: {minimum: 100}, "
            "health: {ejection: {failures: 3, time: 1h, max_time: 1h}}",
        )
        pool = self.upstream(outer).pool
        bad_endpoint = pool.endpoints[0]
        self.assertEqual(str(bad_endpoint.address), f"127.0.0.1:{bad}")
        for _ in range(10):
            client = self.connect(outer.port("to-orders"))
            self.assertEqual(await in_thread(receive, client, 5), whole(b"ready"))
        self.assertTrue(pool.health.impaired)
        counts = pool.counts_of(bad_endpoint)
        self.assertEqual((counts.established, sum(counts.failed.values()), counts.total), (3, 3, 0))
        self.assertEqual(pool.counts.open, 10)
