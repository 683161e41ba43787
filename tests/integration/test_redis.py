"""Redis, unchanged, through two hops in this process."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
from typing import Any, NamedTuple

from tcpmesh.codes import CLEAN
from tests.integration import program
from tests.integration.mesh import MeshTestCase, Proxy, in_thread
from tests.integration.processes import Running, wait_until
from tests.integration.servers import Redis, run, temporary_directory

BIG = 10_000_000


class RedisTestCase(MeshTestCase):
    """A Redis behind an inbound proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.redis = Redis(self)
        self.place: tuple[str, ...] = ()

    def start_hops(self, **outbound: str) -> tuple[Proxy, Proxy]:
        """Start both proxies and remember where redis-cli finds the outbound one."""
        top = "timeouts: {keepalive: 1s}\n"
        inner = self.start_inbound(self.redis.port, top=top)
        outer = self.start_outbound(inner.port("orders-in"), top=top, **outbound)
        self.place = ("-h", "127.0.0.1", "-p", str(outer.port("to-orders")))
        return outer, inner

    async def cli(self, *words: str, feed: bytes = b"") -> bytes:
        """Run redis-cli through the hops and give what it printed."""
        ended = await in_thread(lambda: run(self.redis.cli, *self.place, *words, feed=feed))
        self.assertEqual(ended.stderr, b"")
        return ended.stdout


class RedisTests(RedisTestCase):
    """Commands, large values, pipelines and load."""

    async def test_sets_and_gets(self) -> None:
        """What one connection stores another one finds; each is recorded as clean, with both identities."""
        outer, inner = self.start_hops()
        self.assertEqual(await self.cli("SET", "greeting", "hello"), b"OK\n")
        self.assertEqual(await self.cli("GET", "greeting"), b"hello\n")
        self.assertEqual(await in_thread(self.redis.answers, "GET", "greeting"), b"hello\n")
        for number in (1, 2):
            there, here = await inner.closed(number), await outer.closed(number)
            self.assertEqual((there.code, here.code), (CLEAN, CLEAN))
            self.assertEqual(there.conn, here.conn)
            self.assertEqual((there.bytes_sent, there.bytes_recv), (here.bytes_sent, here.bytes_recv))
            self.assertEqual(
                (there.src_identity, here.dst_identity), (str(self.pki.id("web")), str(self.pki.id("orders")))
            )

    async def test_carries_a_value_of_10_mb(self) -> None:
        """A large value comes back with the SHA-256 that it had."""
        outer, _inner = self.start_hops()
        value = os.urandom(BIG)
        self.assertEqual(await self.cli("-x", "SET", "big", feed=value), b"OK\n")
        self.assertEqual(await self.cli("STRLEN", "big"), b"%d\n" % BIG)
        came = await self.cli("--raw", "GET", "big")
        self.assertEqual(came[-1:], b"\n")
        self.assertEqual(hashlib.sha256(came[:-1]).digest(), hashlib.sha256(value).digest())
        self.assertGreater((await outer.closed(1)).bytes_sent, BIG)
        self.assertGreater((await outer.closed(3)).bytes_recv, BIG)

    async def test_carries_pipelines(self) -> None:
        """20,000 commands are sent without waiting for answers; every one is answered."""
        self.start_hops()
        count = 20_000
        commands = b"".join(_command(b"SET", b"key:%d" % number, b"value:%d" % number) for number in range(count))
        printed = await self.cli("--pipe", feed=commands)
        self.assertIn(b"errors: 0, replies: %d\n" % count, printed)
        self.assertEqual(await self.cli("DBSIZE"), b"%d\n" % count)
        self.assertEqual(await self.cli("GET", f"key:{count - 1}"), b"value:%d\n" % (count - 1))

    async def test_bears_redis_benchmark(self) -> None:
        """Twenty connections, with and without pipelines: it ends well, and Redis counted what was sent."""
        self.start_hops()
        benchmark = program("redis-benchmark", "redis-server")
        before = int(await self.cli("DBSIZE"))
        for options in (("-n", "2000", "-c", "20"), ("-n", "20000", "-c", "20", "-P", "16")):
            arguments = (benchmark, *self.place, *options, "-q", "-t", "set,get,incr,lpush")
            ended: subprocess.CompletedProcess[bytes] = await in_thread(lambda arguments=arguments: run(*arguments))
            self.assertNotIn(b"rror", ended.stdout + ended.stderr)
            for name in (b"SET", b"GET", b"INCR", b"LPUSH"):
                self.assertRegex(ended.stdout, rb"\b%s: [\d.]+ requests per second" % name)
        self.assertEqual(before, 0)
        self.assertEqual(await self.cli("GET", "counter:__rand_int__"), b"22000\n")
        self.assertEqual(await self.cli("LLEN", "mylist"), b"22000\n")

    async def test_serves_redis_cli_on_a_unix_socket(self) -> None:
        """The outbound listener may be a unix socket, which redis-cli takes with -s."""
        path = temporary_directory(self) / "redis.sock"
        inner = self.start_inbound(self.redis.port)
        outer = self.start(
            self.identity("web")
            + f"""\
services: {{orders: {{expect: ["{self.pki.id("orders")}"], discovery: {{plugin: static, endpoints: ["127.0.0.1:{inner.port("orders-in")}"]}}}}}}
outbound: [{{name: to-orders, listen: "unix:{path}", service: orders, workload: web}}]
"""  # noqa: E501
        )
        self.place = ("-s", str(path))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(await self.cli("SET", "way", "unix"), b"OK\n")
        self.assertEqual(await self.cli("GET", "way"), b"unix\n")
        there, here = await inner.closed(2), await outer.closed(2)
        self.assertEqual((there.code, here.code, here.src_addr), (CLEAN, CLEAN, "unix:"))


class SubscriptionTests(RedisTestCase):
    """A subscriber that hears nothing for a while."""

    async def test_delivers_a_message_after_silence(self) -> None:
        """The wire is kept alive by keepalive probes that are answered, no payload moves, and then a message comes."""
        outer, _inner = self.start_hops()
        arguments = [self.redis.cli, *self.place, "SUBSCRIBE", "news"]
        subscriber = Running(self, arguments, directory=self.directory)
        await in_thread(subscriber.wait_until, lambda: subscriber.out == "subscribe\nnews\n1\n", "not subscribed")
        record = await outer.opened()
        moved = record.bytes_sent, record.bytes_recv
        wire = _wire_sockets(outer)
        self.assertEqual(len(wire), 1)
        # The time of the last acknowledgement goes back to 0 with each answered probe.
        await in_thread(
            wait_until,
            lambda: _silence(wire[0]).data >= 3500 and _silence(wire[0]).acknowledgement < 1500,
            lambda: f"no keepalive probe was answered: {_silence(wire[0])}",
        )
        self.assertEqual((record.bytes_sent, record.bytes_recv), moved)
        self.assertEqual(await in_thread(self.redis.answers, "PUBLISH", "news", "at last"), b"1\n")
        await in_thread(
            subscriber.wait_until, lambda: subscriber.out.endswith("message\nnews\nat last\n"), "no message"
        )
        subscriber.kill()
        self.assertEqual((await outer.closed()).closed_by, "src")


class _Silence(NamedTuple):
    """Milliseconds since payload was received, and since anything was acknowledged (tcp(7), TCP_INFO)."""

    data: int
    acknowledgement: int


def _silence(wire: socket.socket) -> _Silence:
    # struct tcp_info of linux/tcp.h: eight bytes, then 32-bit numbers.
    numbers = struct.unpack("=13I", wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)[8:])
    return _Silence(numbers[11], numbers[12])


def _wire_sockets(outer: Proxy) -> list[socket.socket]:
    plane: Any = outer.service.plane
    return [connection.dst.transport.socket for connection in plane.live]


def _command(*words: bytes) -> bytes:
    """One command as Redis's protocol (RESP2) writes it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
