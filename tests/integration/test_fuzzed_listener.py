"""Any bytes at all to a listener on a real socket: one close record each, no error in the log, nothing left behind."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import blockingCallFromThread

from tcpmesh.codes import HANDSHAKE_TRUNCATED, NO_BYTE, PEER_ALERT, PLAINTEXT_PEER, TLS_FAILED
from tcpmesh.observe.records import ConnectionRecord
from tests.integration.applications import receive, reset, until
from tests.integration.mesh import PATIENCE, Proxy, in_thread, reactor
from tests.integration.refusals import RefusalTestCase
from tests.unit.mutations import MUTATIONS, SIZES, Mutation, mutated
from tests.unit.tls_pairs import client_hello, pieces

FUZZ = settings(max_examples=150, deadline=None)


class FuzzTests(RefusalTestCase):
    """Trial fails a test in which anything was logged as an error."""

    async def play(self, make: Callable[[Callable[[bytes, int, bool], None]], Callable[[], None]]) -> None:
        """
        Let a property test send to an inbound listener, and look at what became of each connection.

        :param make: makes the property test, from what sends bytes in pieces and then ends or resets the connection.
        """
        inner = self.start_inbound(self.target.port)
        numbers = itertools.count(1)

        def send(data: bytes, size: int, cut: bool) -> None:
            number = next(numbers)
            client = socket.create_connection(("127.0.0.1", inner.port("orders-in")), timeout=PATIENCE)
            with client, contextlib.suppress(ConnectionError):
                for piece in pieces(data, size):
                    client.sendall(piece)
                if cut:
                    reset(client)
                else:
                    client.shutdown(socket.SHUT_WR)
                    receive(client)
            record: ConnectionRecord = self.wait_for(inner, number)
            self.check(record, data, cut)

        await in_thread(make(send))
        await self.check_proxy(inner, next(numbers) - 1)

    @staticmethod
    def wait_for(proxy: Proxy, number: int) -> Any:
        """In a thread: wait for a close record by its number."""
        return blockingCallFromThread(reactor, lambda: ensureDeferred(proxy.closed(number)))  # type: ignore[arg-type]

    def check(self, record: ConnectionRecord, data: bytes, cut: bool) -> None:
        expected = {PLAINTEXT_PEER, TLS_FAILED, HANDSHAKE_TRUNCATED, PEER_ALERT} if data else {NO_BYTE}
        if cut:  # a reset can overtake what was sent before it
            expected.add(NO_BYTE)
        self.assertIn(record.code, expected, record.reason)
        self.assertEqual((record.src_identity, record.presented, record.decision), ("", "", ""))
        self.assertEqual((record.established, record.bytes_sent, record.bytes_recv), (False, 0, 0))

    async def check_proxy(self, proxy: Proxy, connections: int) -> None:
        self.assertTrue(connections > 10, connections)
        await until(lambda: not proxy.live, "all sockets are closed")
        self.assertEqual((len(proxy.tap.close), proxy.tap.open), (connections, []))
        assert proxy.service.plane is not None
        gate = proxy.service.plane.gate
        self.assertEqual((gate.connections, gate.handshakes), (0, 0))
        self.assertFalse(self.target.was_dialled)

    async def test_random_bytes(self) -> None:
        """Of any length, in any pieces."""

        def make(send: Callable[[bytes, int, bool], None]) -> Callable[[], None]:
            return FUZZ(given(st.binary(max_size=200), SIZES, st.booleans())(send))

        await self.play(make)

    async def test_damaged_hellos(self) -> None:
        """A ClientHello with pieces changed, added, removed, repeated or cut off."""
        hello = client_hello()

        def make(send: Callable[[bytes, int, bool], None]) -> Callable[[], None]:
            def damaged(mutations: list[Mutation], size: int, cut: bool) -> None:
                send(mutated(hello, mutations), size, cut)

            return FUZZ(given(MUTATIONS, SIZES, st.booleans())(damaged))

        await self.play(make)
