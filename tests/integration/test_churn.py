"""Hundreds of short connections, ended in every way, leave nothing behind: no descriptor, no object, no place taken."""

from __future__ import annotations

import gc
import os
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import attrs
from OpenSSL import SSL

from tcpmesh import codes
from tcpmesh.net.connection import MeshConnection
from tcpmesh.net.legs import Leg
from tcpmesh.net.relay import Relay
from tcpmesh.net.tcp import MeshStream
from tests.integration.applications import Received, exchange, receive, reset, stream, until, whole
from tests.integration.foreign import ForeignTestCase
from tests.integration.mesh import Proxy, echo, in_thread, reactor

AT_ONCE = 20
DATA = stream(70_000)


def is_ours(function: object) -> bool:
    """Whether it is a method of something in the data path."""
    return type(getattr(function, "__self__", None)).__module__.startswith("tcpmesh.net")


@attrs.frozen
class Holdings:
    """What a process holds, as far as connections could leave it behind."""

    descriptors: int
    objects: int  # connections, legs, relays, transports, TLS states
    timers: int  # of the data path

    @classmethod
    def now(cls) -> Holdings:
        gc.collect()
        kinds = (MeshConnection, Leg, Relay, MeshStream, SSL.Connection)
        return cls(
            descriptors=len(os.listdir("/proc/self/fd")),
            objects=sum(isinstance(each, kinds) for each in gc.get_objects()),
            timers=sum(is_ours(call.func) for call in reactor.getDelayedCalls()),
        )

    def at_most(self, other: Holdings) -> bool:
        """Whether nothing is held that the other does not hold."""
        return all(mine <= theirs for mine, theirs in zip(attrs.astuple(self), attrs.astuple(other), strict=True))


class ChurnTests(ForeignTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.inner = self.start_inbound(self.application(echo))
        self.outer = self.start_outbound(self.inner.port("orders-in"))

    async def run_all(self, count: int, *ways: Callable[[int], None]) -> None:
        """So many clients, each leaving in its way, a bounded number at once; back when all places are free."""

        def run() -> None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for outcome in [pool.submit(ways[number % len(ways)], number) for number in range(count)]:
                    outcome.result()

        await in_thread(run)
        for proxy in (self.outer, self.inner):
            await until(lambda proxy=proxy: not proxy.live, "every connection is over")  # type: ignore[misc]

    async def assert_returns_to(self, before: Holdings) -> None:
        """Nothing more is held than before; applications' threads may need a moment for their own sockets."""
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before.descriptors, "descriptors are released")
        now = Holdings.now()
        self.assertTrue(now.at_most(before), (now, before))
        for proxy in (self.outer, self.inner):
            plane = proxy.service.plane
            assert plane is not None
            self.assertEqual((plane.gate.connections, plane.gate.handshakes), (0, 0))
            self.assertEqual((plane.sockets.watch._watched, plane.liveness._wires), ({}, {}))
            self.assertEqual(self.still_counted(proxy), 0)

    @staticmethod
    def still_counted(proxy: Proxy) -> int:
        """How many connections ``/connections`` would list."""
        return len(proxy.tap._sink.live)  # type: ignore[attr-defined]

    def assert_one_record_each(self, proxy: Proxy) -> None:
        """Each connection that was accepted has exactly one close record."""
        plane = proxy.service.plane
        assert plane is not None
        self.assertEqual(sorted(record.id for record in proxy.tap.close), list(range(1, plane._numbers + 1)))
        self.assertLessEqual(len(proxy.tap.open), len(proxy.tap.close))

    async def test_600_orderly_connections(self) -> None:
        """Every one gets its own bytes back; records, bytes, descriptors, objects and timers add up."""
        await self.run_all(AT_ONCE, self.orderly)  # warm: contexts, thread pool, caches
        before = Holdings.now()
        await self.run_all(600, self.orderly)
        await self.assert_returns_to(before)
        for proxy in (self.outer, self.inner):
            self.assert_one_record_each(proxy)
            self.assertEqual(Counter(record.code for record in proxy.tap.close), {codes.CLEAN: 620})
            self.assertEqual(sum(record.bytes_sent for record in proxy.tap.close), 620 * len(DATA))
            self.assertEqual(sum(record.bytes_recv for record in proxy.tap.close), 620 * len(DATA))
        self.assertEqual({r.conn for r in self.outer.tap.close}, {r.conn for r in self.inner.tap.close})
        self.assertEqual(len({r.conn for r in self.outer.tap.close}), 620)

    async def test_rude_exits_and_abandoned_handshakes(self) -> None:
        """Resets at every point and handshakes that lead nowhere leak no place; the last client is served."""
        rude = (
            self.orderly,
            self.reset_at_once,
            self.close_at_once,
            self.reset_after_a_part,
            self.close_unread,
            self.connect_to_inbound_and_go,
            self.reset_in_handshake,
            self.stop_in_handshake,
            self.vanish_after_handshake,
            self.talk_nonsense,
        )
        await self.run_all(2 * len(rude), *rude)
        before = Holdings.now()
        await self.run_all(300, *rude)
        await self.assert_returns_to(before)
        self.assert_one_record_each(self.outer)
        self.assert_one_record_each(self.inner)
        at_inner = Counter(record.code for record in self.inner.tap.close)
        self.assertEqual(at_inner[codes.PLAINTEXT_PEER], 32)
        self.assertGreaterEqual(at_inner[codes.NO_BYTE], 32)
        self.assertGreaterEqual(at_inner[codes.HANDSHAKE_TRUNCATED], 32)
        self.assertNotIn(codes.INTERNAL, at_inner)
        self.assertNotIn(codes.INTERNAL, Counter(record.code for record in self.outer.tap.close))
        await in_thread(self.orderly, 0)

    async def test_a_connection_that_is_held_is_seen(self) -> None:
        """Else nothing above would mean that nothing is left: one connection is more of everything."""
        await self.run_all(1, self.orderly)
        before = Holdings.now()
        client = self.connect(self.outer.port("to-orders"))
        await self.inner.opened(2)
        client.shutdown(socket.SHUT_WR)
        held = Holdings.now()
        self.assertGreaterEqual(held.descriptors, before.descriptors + 5)
        self.assertGreaterEqual(held.objects, before.objects + 10)
        await until(lambda: not self.outer.live, "it is over")
        again = self.connect(self.outer.port("to-orders"))
        again.sendall(b"x")
        await until(lambda: Holdings.now().timers > before.timers, "a timer is seen")

    # --- ways to leave

    def outbound_client(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.outer.port("to-orders")), timeout=20)

    def inbound_client(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.inner.port("orders-in")), timeout=20)

    def orderly(self, _number: int) -> None:
        with self.outbound_client() as client:
            received: Received = exchange(client, DATA)
        assert received == whole(DATA), received

    def reset_at_once(self, _number: int) -> None:
        reset(self.outbound_client())

    def close_at_once(self, _number: int) -> None:
        self.outbound_client().close()

    def reset_after_a_part(self, number: int) -> None:
        client = self.outbound_client()
        client.sendall(DATA[: 1 + number * 100])
        reset(client)

    def close_unread(self, _number: int) -> None:
        client = self.outbound_client()
        client.sendall(DATA)
        receive(client, 1)
        client.close()

    def connect_to_inbound_and_go(self, number: int) -> None:
        client = self.inbound_client()
        (reset if number % 20 < 10 else socket.socket.close)(client)

    def reset_in_handshake(self, _number: int) -> None:
        client = self.inbound_client()
        client.sendall(b"\x16\x03\x01\x05\xb2\x01")
        reset(client)

    def stop_in_handshake(self, _number: int) -> None:
        client = self.inbound_client()
        client.sendall(b"\x16\x03\x01\x05\xb2\x01")
        client.close()

    def vanish_after_handshake(self, _number: int) -> None:
        client = self.foreign_client(self.inner.port("orders-in"))
        client.handshake()
        reset(client.socket)

    def talk_nonsense(self, _number: int) -> None:
        with self.inbound_client() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            receive(client)
