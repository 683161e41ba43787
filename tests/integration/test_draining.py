"""The stop that SIGTERM asks for: what lives may finish, streams and all; the rest is cut, recorded and counted."""

from __future__ import annotations

import socket
import threading
from errno import ECONNREFUSED
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred

from tcpmesh.codes import CLEAN, SHUTDOWN
from tcpmesh.codes import RESET as RESET_CODE
from tests.integration.applications import MIB, RESET, Outbox, Received, broken, exchange, receive, stream, until, whole
from tests.integration.endings import ControlledTime, EndingTestCase
from tests.integration.foreign import ForeignTestCase
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread


def stop(proxy: Proxy) -> Deferred[Any]:
    """Begin the orderly stop that SIGTERM asks for."""
    return ensureDeferred(as_coroutine(proxy.service.stopService()))


async def as_coroutine(deferred: Deferred[Any]) -> None:
    await deferred


def is_refused(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == ECONNREFUSED


class DrainTests(ForeignTestCase, EndingTestCase):
    async def test_lets_a_live_stream_finish(self) -> None:
        """Stopped in mid-transfer: no byte is lost, both ends are clean, nothing is cut, nobody new gets in."""
        data, half, go = stream(8 * MIB), threading.Event(), threading.Event()
        at_server: Outbox[Received] = Outbox()
        outer, inner, port = self.start_two_hops(self.application(lambda c: at_server.put(receive(c))))
        entry = inner.port("orders-in")

        def send() -> Received:
            client = self.connect(port)
            client.sendall(data[: 4 * MIB])
            half.set()
            go.wait(PATIENCE)
            client.sendall(data[4 * MIB :])
            return exchange(client, b"")

        sending = in_thread(send)
        await in_thread(half.wait, PATIENCE)
        await inner.opened()
        stops = [stop(outer), stop(inner)]
        await until(lambda: not outer.service.bound_ports() and not inner.service.bound_ports(), "ports are closing")
        self.assertTrue(outer.service.stopping)
        await until(lambda: is_refused(port) and is_refused(entry), "nobody listens any more")
        self.assertEqual([each.called for each in stops], [False, False])
        go.set()
        self.assertEqual(await sending, whole(b""))
        self.assertEqual(await at_server.take(), whole(data))
        for each in stops:
            await each
        for proxy in (outer, inner):
            await self.assert_ends(proxy, CLEAN, "src")
            self.assertEqual((len(proxy.tap.close), proxy.service.cut), (1, 0))

    async def test_cuts_what_does_not_finish_in_time(self) -> None:
        """After timeouts.shutdown: reset, recorded as TM-O101, counted; both applications see a reset."""
        fates: Outbox[str] = Outbox()
        inner = self.start_inbound(self.application(lambda c: fates.put(broken(c))))
        outer = self.start_outbound(inner.port("orders-in"), top="timeouts: {shutdown: 200ms}")
        clients = [self.connect(outer.port("to-orders")) for _ in range(3)]
        await inner.opened(3)
        await outer.opened(3)
        await stop(outer)
        for client in clients:
            self.assertEqual(await in_thread(broken, client), RESET)
            self.assertEqual(await fates.take(), RESET)
        self.assertEqual(outer.service.cut, 3)
        self.assertEqual(
            {(record.code, record.closed_by, record.reason) for record in outer.tap.close},
            {(SHUTDOWN, "proxy", "cut by the stop; timeouts.shutdown is 200ms")},
        )
        await inner.closed(3)
        self.assertEqual({(r.code, r.closed_by) for r in inner.tap.close}, {(RESET_CODE, "src")})

    async def test_cuts_only_those_that_have_not_finished(self) -> None:
        """One ends by itself while the stop waits, one is cut by the second signal."""
        outer, _inner, port = self.start_two_hops(self.application(echo))
        ends, stays = self.connect(port), self.connect(port)
        await outer.opened(2)
        stopping = stop(outer)
        self.assertEqual(await in_thread(exchange, ends, b"hello"), whole(b"hello"))
        await self.assert_ends(outer, CLEAN, "src")
        self.assertFalse(stopping.called)
        outer.service.stop_now()
        self.assertEqual(await in_thread(broken, stays), RESET)
        await stopping
        self.assertEqual([record.code for record in outer.tap.close], [CLEAN, SHUTDOWN])
        self.assertEqual(outer.service.cut, 1)

    async def test_cuts_connections_that_are_not_established_yet(self) -> None:
        """A pending handshake and a pending dial hold the stop up, too, and are recorded like the others."""
        silent: Outbox[str] = Outbox()
        outer = self.start_outbound(self.application(lambda c: silent.put(receive(c).ending)))
        inner = self.start_inbound(self.application(echo))
        dialling = self.connect(outer.port("to-orders"))
        handshaking = self.connect(inner.port("orders-in"))
        await until(lambda: outer.live and inner.live, "both are under way")
        await until(lambda: outer.live[0].record.connect_ms is not None, "the dialled endpoint is connected")
        stops = [stop(outer), stop(inner)]
        outer.service.stop_now()
        inner.service.stop_now()
        for each in stops:
            await each
        for proxy, client in ((outer, dialling), (inner, handshaking)):
            await self.assert_ends(proxy, SHUTDOWN, "proxy")
            self.assertEqual(await in_thread(broken, client), RESET)
            self.assertEqual(proxy.service.cut, 1)
        self.assertEqual(await silent.take(), RESET)

    async def test_a_lingering_socket_is_not_counted_as_cut(self) -> None:
        """Its connection ended well before; the stop only does not wait for a silent peer."""
        inner = self.start_inbound(self.application(lambda c: receive(c).length))
        ControlledTime(inner)  # the linger never ends by itself

        def ask() -> Received:
            client = self.foreign_client(inner.port("orders-in"))
            client.handshake()
            client.close_notify()
            return receive(client)

        self.assertEqual(await in_thread(ask), whole(b""))
        await self.assert_ends(inner, CLEAN, "src")
        self.assertEqual(len(inner.live), 1)
        stopping = stop(inner)
        inner.service.stop_now()
        await stopping
        self.assertEqual((inner.service.cut, len(inner.tap.close)), (0, 1))
