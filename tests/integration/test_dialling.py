"""What becomes of a client while nobody has accepted its connection yet."""

from __future__ import annotations

import socket

from tcpmesh.codes import CANCELLED, CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT
from tests.integration.applications import (
    RESET,
    Outbox,
    Received,
    broken,
    deaf_port,
    receive,
    reset,
    until,
)
from tests.integration.endings import EndingTestCase
from tests.integration.mesh import in_thread


class DialTests(EndingTestCase):
    """The client's fate while nobody has accepted its connection yet."""

    def silent_endpoint(self) -> tuple[int, Outbox[Received]]:
        """It takes connections and ClientHellos, never answers, and tells how each connection ended."""
        fate: Outbox[Received] = Outbox()
        return self.application(lambda c: fate.put(receive(c))), fate

    async def test_a_reset_cancels_the_dial(self) -> None:
        """The silent endpoint sees the handshake broken off; no retry follows."""
        endpoint, fate = self.silent_endpoint()
        outer = self.start_outbound(endpoint, service=", retry: {plugin: exponential, attempts: 3}")
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"question")
        await until(lambda: [c for c in outer.live if c.record.connect_ms is not None], "the handshake has begun")
        reset(client)
        ended = await fate.take()
        self.assertEqual(ended.ending, RESET)
        self.assertGreater(ended.length, 100)  # a ClientHello
        await self.assert_ends(outer, CANCELLED, "src", "the client went away: reset by the peer")
        self.assertEqual((outer.tap.close[0].attempts, outer.tap.attempts, outer.tap.open), (1, [], []))
        await until(lambda: not outer.live, "all sockets are closed")
        self.assertEqual(len(fate), 0)

    async def test_an_end_does_not_cancel_the_dial(self) -> None:
        """A client that has only half-closed still waits for its answer; here it gets the handshake's time-out."""
        endpoint, _fate = self.silent_endpoint()
        outer = self.start_outbound(endpoint, more=", timeouts: {handshake: 300ms}")
        client = self.connect(outer.port("to-orders"))
        client.shutdown(socket.SHUT_WR)
        self.assertEqual((await in_thread(receive, client)).ending, RESET)
        await self.assert_ends(outer, HANDSHAKE_TIMEOUT, "proxy", "no complete handshake within 0.3 s")

    async def test_a_reset_cancels_a_connect_that_is_not_answered(self) -> None:
        """SYNs of which nobody takes notice: the attempt ends at once, not after timeouts.connect."""
        outer = self.start_outbound(deaf_port(self))
        client = self.connect(outer.port("to-orders"))
        await until(lambda: outer.live, "the connection is accepted")
        reset(client)
        await self.assert_ends(outer, CANCELLED, "src")
        self.assertIsNone(outer.tap.close[0].connect_ms)
        await until(lambda: not outer.live, "all sockets are closed")

    async def test_a_reset_travels_to_the_proxy_that_dials_the_target(self) -> None:
        """The target takes no connection: the inbound proxy stops trying when the client is gone."""
        inner = self.start_inbound(deaf_port(self))
        outer = self.start_outbound(inner.port("orders-in"))
        client = self.connect(outer.port("to-orders"))
        await until(lambda: [c for c in inner.live if c.record.decision], "the target is being dialled")
        reset(client)
        await self.assert_ends(outer, CANCELLED, "src")
        await self.assert_ends(inner, CANCELLED, "src")
        await until(lambda: not outer.live and not inner.live, "all sockets are closed")

    async def test_a_connect_that_is_not_answered_times_out(self) -> None:
        """After timeouts.connect the client sees a reset."""
        outer = self.start_outbound(deaf_port(self), more=", timeouts: {connect: 300ms}")
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(broken, client), RESET)
        await self.assert_ends(outer, CONNECT_TIMEOUT, "proxy")
