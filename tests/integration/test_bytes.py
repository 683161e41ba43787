"""Every byte arrives once and in order: whatever its amount, its pieces, its direction and who speaks first."""

from __future__ import annotations

import socket
import threading

from twisted.trial.unittest import SkipTest

from tcpmesh.codes import CLEAN
from tests.integration.applications import (
    END,
    MIB,
    Outbox,
    Received,
    exchange,
    push,
    receive,
    stream,
    until,
    whole,
)
from tests.integration.mesh import PATIENCE, MeshTestCase, Proxy, echo, in_thread, receive_all
from tests.integration.unix import UnixTestCase
from tests.integration.wire import Wire


class BytesTestCase(MeshTestCase):
    async def assert_clean(self, *proxies: Proxy, sent: int, received: int, closed_by: str = "src") -> None:
        """Both records: a clean end, who ended first, and the exact number of payload bytes."""
        for proxy in proxies:
            record = await proxy.closed()
            self.assertEqual((record.code, record.closed_by, record.reason), (CLEAN, closed_by, ""))
            self.assertEqual((record.bytes_sent, record.bytes_recv), (sent, received), record.direction)


class AmountTests(BytesTestCase, UnixTestCase):
    async def test_carries_large_streams_both_ways_at_once(self) -> None:
        """24 MiB and 16 MiB at the same time, hashed by both receivers."""
        there, back = stream(24 * MIB, 1), stream(16 * MIB, 2)
        at_server: Outbox[Received] = Outbox()
        outer, inner, port = self.start_two_hops(self.application(lambda c: at_server.put(exchange(c, back))))
        at_client = await in_thread(exchange, self.connect(port), there)
        self.assertEqual(at_client, whole(back))
        self.assertEqual(await at_server.take(), whole(there))
        # Who ended first is up to the streams; that both ended in order is not.
        for record in (await outer.closed(), await inner.closed()):
            self.assertIs(record.code, CLEAN)
            self.assertEqual((record.bytes_sent, record.bytes_recv), (len(there), len(back)))

    async def test_returns_64_mib_that_are_in_flight_when_the_client_half_closes(self) -> None:
        """The client ends right behind its last byte, while most of the echo is still to come."""
        data = stream(64 * MIB)
        outer, inner, port = self.start_two_hops(self.application(echo))
        self.assertEqual(await in_thread(exchange, self.connect(port), data), whole(data))
        await self.assert_clean(outer, inner, sent=len(data), received=len(data))

    async def test_carries_a_stream_that_only_the_server_sends(self) -> None:
        """A download: nothing at all from the client but its end, at once."""
        data = stream(20 * MIB, 3)

        def serve(connection: socket.socket) -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        outer, inner, port = self.start_two_hops(self.application(serve))
        self.assertEqual(await in_thread(exchange, self.connect(port), b""), whole(data))
        # The client's end is in the kernel before anything is read, but the server's may overtake it on the way.
        for record in (await outer.closed(), await inner.closed()):
            self.assertEqual((record.code, record.bytes_sent, record.bytes_recv), (CLEAN, 0, len(data)))

    async def test_carries_bytes_over_unix_sockets_on_both_plain_sides(self) -> None:
        """The application dials a unix socket, and another unix socket is the target."""
        data = stream(8 * MIB, 4)
        target, entry = self.unix_path("target"), self.unix_path("entry")
        self.unix_application(target, echo)
        inner = self.start_inbound(f"unix:{target}")
        outer = self.start_outbound(inner.port("orders-in"), listen=f"unix:{entry}")
        self.assertEqual(await in_thread(exchange, self.connect_unix(entry), data), whole(data))
        await self.assert_clean(outer, inner, sent=len(data), received=len(data))

    async def test_carries_bytes_over_ipv6(self) -> None:
        """On the plain sides and on the wire."""
        if not has_ipv6():
            raise SkipTest("this machine has no IPv6 loopback")
        data = stream(8 * MIB, 6)
        target = socket.create_server(("::1", 0), family=socket.AF_INET6)
        self.serve(target, echo)
        inner = self.start_inbound(f"[::1]:{target.getsockname()[1]}", listen="[::1]:0")
        outer = self.start_outbound(f"[::1]:{inner.port('orders-in')}", listen="[::1]:0")
        client = socket.create_connection(("::1", outer.port("to-orders")), timeout=PATIENCE)
        self.addCleanup(client.close)
        self.assertEqual(await in_thread(exchange, client, data), whole(data))
        await self.assert_clean(outer, inner, sent=len(data), received=len(data))
        self.assertEqual(outer.tap.close[0].src_addr, f"[::1]:{client.getsockname()[1]}")


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True


class PieceTests(BytesTestCase):
    async def test_carries_odd_sizes(self) -> None:
        """Around the record size, the read size and one byte: each answered before the next is sent."""
        sizes = [1, 2, 3, 255, 16383, 16384, 16385, 32769, 65535, 262143, 262144, 262145, 300001]
        outer, inner, port = self.start_two_hops(self.application(echo))

        def ask() -> list[Received]:
            client = self.connect(port)
            answers = []
            for size in sizes:
                client.sendall(stream(size, size))
                answers.append(receive(client, size))
            client.shutdown(socket.SHUT_WR)
            answers.append(receive(client))
            return answers

        answers = await in_thread(ask)
        self.assertEqual(answers, [*(whole(stream(size, size)) for size in sizes), whole(b"")])
        await self.assert_clean(outer, inner, sent=sum(sizes), received=sum(sizes))

    async def test_carries_byte_after_byte_both_ways(self) -> None:
        """2000 writes of one byte each in both directions at once, without Nagle's help."""
        there, back = stream(2000, 5), stream(2000, 6)
        at_server: Outbox[Received] = Outbox()

        def trickle(connection: socket.socket, data: bytes) -> Received:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def send() -> None:
                for byte in data:
                    connection.sendall(bytes((byte,)))
                connection.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            received = receive(connection)
            sender.join(PATIENCE)
            return received

        outer, inner, port = self.start_two_hops(self.application(lambda c: at_server.put(trickle(c, back))))
        self.assertEqual(await in_thread(trickle, self.connect(port), there), whole(back))
        self.assertEqual(await at_server.take(), whole(there))
        for record in (await outer.closed(), await inner.closed()):
            self.assertEqual((record.code, record.bytes_sent, record.bytes_recv), (CLEAN, 2000, 2000))

    async def test_carries_what_the_network_cuts_into_pieces(self) -> None:
        """Handshakes, preface and records that come byte by byte, or in sizes that fit nothing."""
        for piece, size in ((1, 20_000), (7, 100_000), (1449, 4 * MIB)):
            data = stream(size, piece)
            inner = self.start_inbound(self.application(echo))
            outer = self.start_outbound(Wire(self, inner.port("orders-in"), piece=piece).port)
            client = self.connect(outer.port("to-orders"))
            self.assertTrue(await in_thread(self.ask, client, data) == data, piece)
            await self.assert_clean(outer, inner, sent=size, received=size)

    @staticmethod
    def ask(client: socket.socket, data: bytes) -> bytes:
        """In steps: a wire with one thread cannot carry both ways at once."""
        answer = bytearray()
        for start in range(0, len(data), 10_000):
            client.sendall(data[start : start + 10_000])
            while len(answer) < min(start + 10_000, len(data)):
                answer += client.recv(10_000)
        client.shutdown(socket.SHUT_WR)
        return bytes(answer) + receive_all(client)

    async def test_plays_ping_pong_with_single_bytes(self) -> None:
        """300 round trips of one byte; each is another one, so that none can be answered by its predecessor."""
        outer, inner, port = self.start_two_hops(self.application(echo))

        def play() -> bytes:
            client = self.connect(port)
            answers = bytearray()
            for number in range(300):
                client.sendall(bytes((number % 256,)))
                answers += client.recv(10)
            client.shutdown(socket.SHUT_WR)
            return bytes(answers) + receive_all(client)

        self.assertEqual(await in_thread(play), bytes(number % 256 for number in range(300)))
        await self.assert_clean(outer, inner, sent=300, received=300)


class OrderTests(BytesTestCase):
    async def test_lets_the_server_speak_first(self) -> None:
        """A greeting reaches a client that has not sent a byte, and the talk goes on from there."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"220 ready\r\n")
            self.assertEqual(receive(connection, 6), whole(b"QUIT\r\n"))
            connection.sendall(b"221 bye\r\n")

        outer, inner, port = self.start_two_hops(self.application(serve))

        def talk() -> tuple[Received, Received]:
            client = self.connect(port)
            greeting = receive(client, 11)
            client.sendall(b"QUIT\r\n")
            farewell = receive(client)
            client.close()
            return greeting, farewell

        self.assertEqual(await in_thread(talk), (whole(b"220 ready\r\n"), whole(b"221 bye\r\n")))
        await self.assert_clean(outer, inner, sent=6, received=20, closed_by="dst")

    async def test_takes_request_and_end_before_anybody_is_dialled(self) -> None:
        """``echo q | nc``: request and FIN are there while the upstream handshake has not begun."""
        inner = self.start_inbound(self.application(lambda c: c.sendall(b"answer to " + receive_all(c))))
        wire = Wire(self, inner.port("orders-in"))
        wire.open.clear()
        outer = self.start_outbound(wire.port)
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"q\n")
        client.shutdown(socket.SHUT_WR)
        await until(lambda: [c for c in outer.live if c.record.connect_ms is not None], "the wire is connected")
        self.assertEqual((inner.tap.open, inner.tap.close), ([], []))
        wire.open.set()
        self.assertEqual(await in_thread(receive, client), whole(b"answer to q\n"))
        await self.assert_clean(outer, inner, sent=2, received=12)

    async def test_keeps_a_client_apart_from_the_next(self) -> None:
        """Eight streams at once through one pair of proxies; each client gets its own back."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        streams = [stream(MIB + number, number) for number in range(8)]
        answers = [in_thread(exchange, self.connect(port), data) for data in streams]
        self.assertEqual([await answer for answer in answers], [whole(data) for data in streams])
        await outer.closed(8)
        await inner.closed(8)
        for proxy in (outer, inner):
            self.assertEqual({record.code for record in proxy.tap.close}, {CLEAN})
            self.assertEqual(sorted(record.bytes_sent for record in proxy.tap.close), [len(data) for data in streams])
        self.assertEqual(
            sorted(record.conn for record in outer.tap.close), sorted(record.conn for record in inner.tap.close)
        )
        self.assertEqual(len({record.conn for record in outer.tap.close}), 8)


class SelfCheckTests(MeshTestCase):
    """The measuring functions see what they measure."""

    async def test_a_lost_a_doubled_and_a_swapped_byte_are_seen(self) -> None:
        """Else no hash above would mean anything."""
        data = stream(1000)
        for damaged in (data[:-1], data + data[-1:], data[:10] + data[11:12] + data[10:11] + data[12:]):
            port = self.application(lambda c, damaged=damaged: c.sendall(damaged))  # type: ignore[misc]
            received = await in_thread(receive, self.connect(port))
            self.assertEqual(received.ending, END)
            self.assertNotEqual(received, whole(data))

    async def test_a_failed_send_is_named(self) -> None:
        """``push`` says how the connection broke."""
        near, far = socket.socketpair()
        far.close()
        self.assertEqual(await in_thread(push, near, b"x"), "EPIPE")
        near.close()
