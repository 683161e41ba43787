"""Sockets are counted, not connections alone: attempts that failed keep theirs for as long as they linger."""

from __future__ import annotations

import threading

from tcpmesh.codes import CLEAN, OUT_OF_DESCRIPTORS, TARGET_FAILED
from tcpmesh.dataplane.preface import ALPN, Preface
from tests.integration.applications import RESET, broken, exchange, receive, until, whole
from tests.integration.endings import EndingTestCase
from tests.integration.foreign import ForeignTestCase, ForeignTLS
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread

ATTEMPTS = 3


class SocketLimitTests(ForeignTestCase, EndingTestCase):
    @staticmethod
    def sockets(proxy: Proxy) -> int:
        """How many the gate counts."""
        assert proxy.service.plane is not None
        return proxy.service.plane.gate.sockets

    @staticmethod
    def limit(proxy: Proxy, count: int) -> None:
        assert proxy.service.plane is not None
        proxy.service.plane.gate.max_sockets = count

    async def test_a_connection_has_two_and_gives_them_back(self) -> None:
        """On either side; one that was accepted and is not carried on yet has one."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"))
        silent = self.connect(inner.port("orders-in"))
        await until(lambda: self.sockets(inner) == 1, "a silent peer is counted")
        client = self.connect(outer.port("to-orders"))
        await outer.opened()
        self.assertEqual((self.sockets(outer), self.sockets(inner)), (2, 3))
        silent.close()
        self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"))
        await until(lambda: self.sockets(outer) == self.sockets(inner) == 0, "all are given back")

    async def test_sockets_of_failed_attempts_take_the_room_of_new_connections(self) -> None:
        """TM-L103 and a reset while they linger; with them the room comes back."""
        leave = threading.Event()
        self.addCleanup(leave.set)

        def serve(peer: ForeignTLS) -> None:
            peer.sendall(Preface(ok=False, code=TARGET_FAILED.id, text="down").encode())
            leave.wait(PATIENCE)
            peer.fin()
            receive(peer.socket)

        bad = self.foreign_server(serve, alpn=ALPN)
        retry = f", retry: {{plugin: exponential, attempts: {ATTEMPTS}, base: 1ms, max: 1ms}}"
        outer = self.start_outbound(bad, service=retry, top="timeouts: {linger: 5m}\n")
        self.limit(outer, ATTEMPTS + 1)
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        self.assertIs((await outer.closed()).code, TARGET_FAILED)
        await until(lambda: self.sockets(outer) == ATTEMPTS, "the attempts' sockets linger, the client's is closed")
        late = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(broken, late), RESET)
        record = await outer.closed(2)
        self.assertEqual((record.code, record.closed_by), (OUT_OF_DESCRIPTORS, "proxy"))
        self.assertEqual(record.reason, f"{ATTEMPTS + 1} sockets are open")
        self.assertEqual(record.src_addr, "{}:{}".format(*late.getsockname()))
        leave.set()
        await until(lambda: self.sockets(outer) == 0 and not outer.live, "the peers have gone")
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        self.assertIs((await outer.closed(3)).code, TARGET_FAILED)

    async def test_who_is_served_already_is_served_on(self) -> None:
        """Only new connections are turned away, on an inbound listener as well."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"))
        self.limit(inner, 2)
        client = self.connect(outer.port("to-orders"))
        await inner.opened()
        self.assertEqual(await in_thread(broken, self.connect(inner.port("orders-in"))), RESET)
        await self.assert_ends(inner, OUT_OF_DESCRIPTORS, "proxy", "2 sockets are open")
        self.assertEqual(await in_thread(exchange, client, b"hello"), whole(b"hello"))
        self.assertIs((await inner.closed(2)).code, CLEAN)
