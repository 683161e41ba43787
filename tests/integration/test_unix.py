"""A unix socket knows no reset: what takes its place on a plain side."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from tcpmesh.codes import CLEAN, TRUNCATED
from tcpmesh.codes import RESET as RESET_CODE
from tests.integration.applications import (
    MIB,
    RESET,
    Outbox,
    Received,
    broken,
    exchange,
    push,
    receive,
    reset,
    stream,
    until,
    whole,
)
from tests.integration.endings import EndingTestCase
from tests.integration.mesh import PATIENCE, Proxy, in_thread
from tests.integration.unix import UnixTestCase


def reset_after(size: int, connection: socket.socket) -> None:
    """Read so many bytes, then reset."""
    receive(connection, size)
    reset(connection)


class UnixTests(EndingTestCase, UnixTestCase):
    """A unix socket knows no reset: what takes its place."""

    def start_hops_from_unix(self, serve: Callable[[socket.socket], Any]) -> tuple[Proxy, Proxy, str]:
        """The client's side is a unix socket."""
        path = self.unix_path("entry")
        inner = self.start_inbound(self.application(serve))
        return self.start_outbound(inner.port("orders-in"), listen=f"unix:{path}"), inner, path

    async def test_a_client_that_closes_with_unread_data_is_a_reset(self) -> None:
        """unix(7) reports it to the other end as ECONNRESET, and so does the server see it."""
        fate: Outbox[str] = Outbox()

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"greeting")
            fate.put(broken(connection))

        outer, inner, path = self.start_hops_from_unix(serve)
        client = self.connect_unix(path)
        await until(lambda: [c for c in outer.live if c.record.bytes_recv == 8], "the greeting is with the client")
        client.close()
        self.assertEqual(await fate.take(), RESET)
        await self.assert_ends(outer, RESET_CODE, "src")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_a_client_that_vanishes_has_ended_and_its_answer_is_undeliverable(self) -> None:
        """close() in mid-upload is an end like any other; the answer to it then finds nobody."""
        data, result, fate = stream(MIB), Outbox[Received](), Outbox[str]()

        def serve(connection: socket.socket) -> None:
            result.put(receive(connection))
            connection.sendall(b"answer")
            fate.put(broken(connection))

        outer, inner, path = self.start_hops_from_unix(serve)

        def vanish() -> None:
            client = self.connect_unix(path)
            client.sendall(data)
            client.close()

        await in_thread(vanish)
        self.assertEqual(await result.take(), whole(data))
        self.assertEqual(await fate.take(), "EPIPE")
        await self.assert_ends(outer, RESET_CODE, "src")
        self.assertEqual(outer.tap.close[0].errno, "EPIPE")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_a_reset_by_the_server_ends_the_unix_client_and_the_record_tells_the_difference(self) -> None:
        """close() is all that there is: a client that has been read from completely sees the end of the stream."""
        outer, inner, path = self.start_hops_from_unix(lambda c: reset_after(8, c))
        client = self.connect_unix(path)
        client.sendall(b"question")
        self.assertEqual(await in_thread(receive, client), whole(b""))
        self.assertEqual(await in_thread(push, client, b"more"), "EPIPE")
        await self.assert_ends(outer, RESET_CODE, "dst")
        await self.assert_ends(inner, RESET_CODE, "dst")

    async def test_a_target_on_a_unix_socket_sees_a_reset_client_end(self) -> None:
        """The target's side is unix: its read ends, its writes fail, the record says that it was a reset."""
        path, fate = self.unix_path("target"), Outbox[tuple[Received, str]]()
        self.unix_application(path, lambda c: fate.put((receive(c), push(c, b"answer"))))
        outer, inner, port = self.start_two_hops(f"unix:{path}")
        client = self.connect(port)
        client.sendall(b"question")
        await until(lambda: [c for c in inner.live if c.record.bytes_sent == 8], "the question is with the target")
        reset(client)
        self.assertEqual(await fate.take(), (whole(b"question"), "EPIPE"))
        await self.assert_ends(outer, RESET_CODE, "src")
        await self.assert_ends(inner, RESET_CODE, "src")

    async def test_tls_over_a_unix_socket_carries_and_breaks(self) -> None:
        """The wire itself may be one: it carries half-closes, and a reset crosses it as a truncation."""
        path = self.unix_path("wire")
        some, result = threading.Event(), Outbox[Received]()

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"hello")
            receive(connection, 8)
            some.set()
            result.put(receive(connection))

        inner = self.start_inbound(self.application(serve), listen=f"unix:{path}")
        outer = self.start_outbound(f"unix:{path}")
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(exchange, client, b"question"), whole(b"hello"))
        self.assertEqual(await result.take(), whole(b""))
        await self.assert_ends(outer, CLEAN, "src")
        await self.assert_ends(inner, CLEAN, "src")
        some.clear()
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"question")
        await in_thread(some.wait, PATIENCE)
        reset(client)
        self.assertEqual((await result.take()).ending, RESET)
        self.assertIs((await outer.closed(2)).code, RESET_CODE)
        self.assertIs((await inner.closed(2)).code, TRUNCATED)
        self.assertEqual([proxy.tap.close[1].closed_by for proxy in (outer, inner)], ["src", "src"])
