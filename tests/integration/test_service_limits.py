"""Limits of a service and its queue, over two hops with real sockets: who waits, who is refused, who is let go."""

from __future__ import annotations

import socket

from tcpmesh import codes
from tcpmesh.errors import Refusal
from tcpmesh.net.pool import Pool
from tcpmesh.observe.live import as_connection
from tcpmesh.values import Endpoint
from tests.integration.applications import RESET, broken, deaf_port, exchange, receive, reset, until, whole
from tests.integration.endings import EndingTestCase
from tests.integration.mesh import Proxy, echo, in_thread, unused_port


class LimitTestCase(EndingTestCase):
    def two_hops(self, service: str, *, times: str = "queue: 20s", endpoints: int = 1) -> Proxy:
        """An outbound proxy whose service has these keys; its endpoints lead to an application that echoes."""
        inner = [self.start_inbound(self.application(echo)).port("orders-in") for _ in range(endpoints)]
        return self.start_outbound(*inner, service=service, top=f"timeouts: {{{times}}}\n")

    def pool(self, proxy: Proxy) -> Pool:
        return proxy.service.composition.upstreams["orders"].pool

    async def hold(self, proxy: Proxy, count: int = 1) -> list[socket.socket]:
        """Connections that are established and stay."""
        opened = len(proxy.tap.open)
        held = [self.connect(proxy.port("to-orders")) for _ in range(count)]
        await proxy.opened(opened + count)
        return held

    async def wait(self, proxy: Proxy, count: int = 1) -> list[socket.socket]:
        """Connections that wait for room."""
        before = self.pool(proxy).waiting
        waiting = []
        for number in range(1, count + 1):
            waiting.append(self.connect(proxy.port("to-orders")))
            await until(lambda wanted=before + number: self.pool(proxy).waiting == wanted, "it waits")
        return waiting

    async def finish(self, client: socket.socket) -> None:
        self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"))

    def assert_idle(self, proxy: Proxy) -> None:
        """No place is taken any longer."""
        pool = self.pool(proxy)
        self.assertEqual((pool.counts.open, pool.counts.pending, pool.waiting, pool.unresolved), (0, 0, 0, 0))
        for counts in pool.addresses.values():
            self.assertEqual(counts.total, 0)


class QueueTests(LimitTestCase):
    async def test_who_waits_is_served_in_order(self) -> None:
        """One after the other, as places are given back; the record says how long it took."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 3}")
        [held] = await self.hold(outer)
        clients = await self.wait(outer, 3)
        for number, client in enumerate([held, *clients], 1):
            await self.finish(client)
            await outer.closed(number)
        await until(lambda: not outer.live, "everything is closed")
        first, *others = outer.tap.close
        self.assertEqual([record.id for record in others], sorted(record.id for record in others))
        self.assertIsNone(first.queue_ms)
        for record in others:
            assert record.queue_ms is not None
            self.assertGreater(record.queue_ms, 0)
            self.assertEqual((record.code, record.attempts, record.failures), (codes.CLEAN, 1, ()))
        self.assertEqual(self.pool(outer).counts.queued, 3)
        self.assert_idle(outer)

    async def test_what_was_sent_while_it_waited_arrives(self) -> None:
        """Payload, and an end, wait in the kernel."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 1}")
        [held] = await self.hold(outer)
        [client] = await self.wait(outer)
        client.sendall(b"early")
        client.shutdown(socket.SHUT_WR)
        await self.finish(held)
        self.assertEqual(await in_thread(receive, client), whole(b"early"))

    async def test_who_waits_too_long_is_refused(self) -> None:
        """TM-T109, with what it waited for."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 1}", times="queue: 100ms")
        await self.hold(outer)
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, codes.QUEUE_TIMEOUT, "proxy")
        record = outer.tap.close[0]
        self.assertRegex(
            record.reason, r"\Awaited .*ms for room: service 'orders' has 1 connections \(limits\.connections: 1\)\Z"
        )
        assert record.queue_ms is not None
        self.assertGreaterEqual(record.queue_ms, 99)
        self.assertEqual((record.attempts, self.pool(outer).counts.refused[codes.QUEUE_TIMEOUT]), (0, 1))

    async def test_a_full_queue_refuses_at_once(self) -> None:
        """TM-L108; those in it are not disturbed."""
        outer = self.two_hops(", limits: {per_endpoint: 1}, queue: {length: 1}")
        [held] = await self.hold(outer)
        [waiting] = await self.wait(outer)
        [shown] = [each.record for each in outer.live if not each.record.established]
        self.assertEqual(as_connection(shown, 0.0)["state"], "waiting")
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(
            outer,
            codes.QUEUE_FULL,
            "proxy",
            "service 'orders': each endpoint that could be used has 1 connections (limits.per_endpoint); "
            "and 1 wait already (queue.length)",
        )
        await self.finish(held)
        await self.finish(waiting)

    async def test_who_resets_while_it_waits_is_gone(self) -> None:
        """Its place in the queue is the next one's, and nobody dials for it."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 2}")
        [held] = await self.hold(outer)
        gone, last = await self.wait(outer, 2)
        reset(gone)
        await self.assert_ends(outer, codes.CANCELLED, "src")
        self.assertEqual((outer.tap.close[0].attempts, self.pool(outer).waiting), (0, 1))
        await self.finish(held)
        await self.finish(last)
        await until(lambda: not outer.live, "everything is closed")
        self.assert_idle(outer)

    async def test_whose_permission_ends_while_it_waits_is_refused(self) -> None:
        """As review of live connections ends it."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 1}")
        [held] = await self.hold(outer)
        [waiting] = await self.wait(outer)
        [connection] = [each for each in outer.live if not each.record.established]
        connection.withdraw(Refusal(codes.POLICY_CHANGED, "the policy of the hour"))
        self.assertEqual(await in_thread(broken, waiting), RESET)
        await self.assert_ends(outer, codes.POLICY_CHANGED, "proxy", "the policy of the hour")
        self.assertEqual(self.pool(outer).waiting, 0)
        await self.finish(held)

    async def test_who_waits_when_the_proxy_stops_is_better_served_elsewhere(self) -> None:
        """TM-O102 at once; who is established may finish."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 1}")
        [held] = await self.hold(outer)
        [waiting] = await self.wait(outer)
        stopped = outer.service.stopService()
        self.assertEqual(await in_thread(broken, waiting), RESET)
        await self.assert_ends(outer, codes.STOPPING, "proxy", "this proxy is stopping")
        await self.finish(held)
        await stopped
        self.assertEqual(outer.service.cut, 0)

    async def test_who_is_cut_while_it_waits_leaves_nothing_behind(self) -> None:
        """The stop's time is over."""
        outer = self.two_hops(", limits: {connections: 1}, queue: {length: 1}")
        await self.hold(outer)
        await self.wait(outer)
        outer.service.stop_now()
        await until(lambda: not outer.live, "everything is closed")
        self.assert_idle(outer)
        self.assertEqual([record.code for record in outer.tap.close], [codes.SHUTDOWN] * 2)

    async def test_a_burst_is_served_within_the_limits(self) -> None:
        """Forty at once where four fit: all are served, and never more than four are connected."""
        outer = self.two_hops(
            ", limits: {connections: 4, per_endpoint: 3, pending: 2}, queue: {length: 40}", endpoints=2
        )
        most: list[int] = []
        pool = self.pool(outer)
        serve = pool.room_changed

        def watch(endpoint: Endpoint) -> None:
            most.append(pool.counts.open + pool.counts.pending)
            serve(endpoint)

        pool.room_changed = watch  # type: ignore[method-assign]
        clients = [self.connect(outer.port("to-orders")) for _ in range(40)]
        for received in [in_thread(exchange, client, b"hello") for client in clients]:
            self.assertEqual(await received, whole(b"hello"))
        await until(lambda: len(outer.tap.close) == 40 and not outer.live, "everything is closed")
        self.assertLessEqual(max(most), 4)
        self.assert_idle(outer)


class FailFastTests(LimitTestCase):
    """Limits without a queue."""

    async def assert_refused(self, outer: Proxy, code: codes.Code, reason: str) -> None:
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        await self.assert_ends(outer, code, "proxy", reason)
        self.assertEqual(self.pool(outer).counts.refused, {code: 1})

    async def test_of_connections(self) -> None:
        """TM-L109, and room again when one ends."""
        outer = self.two_hops(", limits: {connections: 2}")
        held = await self.hold(outer, 2)
        reason = "service 'orders' has 2 connections (limits.connections: 2)"
        await self.assert_refused(outer, codes.SERVICE_CONNECTIONS, reason)
        await self.finish(held[0])
        await outer.closed(2)
        await self.finish(self.connect(outer.port("to-orders")))

    async def test_per_endpoint(self) -> None:
        """TM-L110 when all are full."""
        outer = self.two_hops(", limits: {per_endpoint: 1}", endpoints=2)
        await self.hold(outer, 2)
        reason = "service 'orders': each endpoint that could be used has 1 connections (limits.per_endpoint)"
        await self.assert_refused(outer, codes.ENDPOINT_CONNECTIONS, reason)

    async def test_of_pending_dials(self) -> None:
        """TM-L111 while an endpoint is silent; its client gives up, and there is room."""
        outer = self.start_outbound(deaf_port(self), service=", limits: {pending: 1}")
        first = self.connect(outer.port("to-orders"))
        await until(lambda: self.pool(outer).counts.pending == 1, "it is being dialled")
        reason = "1 dials of service 'orders' are under way (limits.pending: 1)"
        await self.assert_refused(outer, codes.PENDING_DIALS, reason)
        reset(first)
        await outer.closed(2)
        self.assert_idle(outer)

    async def test_a_failed_attempt_gives_its_place_back(self) -> None:
        """Before the next one is made."""
        outer = self.start_outbound(
            unused_port(),
            self.start_inbound(self.application(echo)).port("orders-in"),
            service=", limits: {connections: 1, pending: 1}, retry: {plugin: fixed, attempts: 2, wait: 1ms}",
        )
        await self.finish(self.connect(outer.port("to-orders")))
        record = await outer.closed()
        self.assertEqual((record.attempts, len(record.failures)), (2, 1))
        await until(lambda: not outer.live, "everything is closed")
        self.assert_idle(outer)
