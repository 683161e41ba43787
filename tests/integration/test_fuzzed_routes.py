"""Whatever comes in place of a ClientHello: all of it goes through, or nothing, and no connection is left behind."""

from __future__ import annotations

import random
import socket

from tcpmesh.codes import CLEAN, NO_BYTE, NO_ROUTE, NOT_TLS
from tests.integration.applications import name_of, until
from tests.integration.mesh import PATIENCE, Proxy, in_thread
from tests.integration.own_tls import OwnTLSTestCase, first_bytes
from tests.unit.mutations import Mutation, mutated
from tests.unit.tls_pairs import pieces

ROUNDS = 150
KINDS = ("replace", "insert", "remove", "repeat", "cut")


class FuzzedRoutesTests(OwnTLSTestCase):
    """Listeners that look at a ClientHello, and one behind the other."""

    def setUp(self) -> None:
        super().setUp()
        self.arrived: list[bytes] = []
        self.random = random.Random(60)

        def take(connection: socket.socket) -> None:
            data = b""
            try:
                while more := connection.recv(65536):
                    data += more
            finally:
                self.arrived.append(data)

        self.port = self.application(take)

    def changed(self, hello: bytes) -> bytes:
        """One to four changes, with something behind it sometimes."""
        changes = [
            Mutation(
                self.random.choice(KINDS),
                self.random.randrange(1 << 16),
                self.random.randbytes(self.random.randint(1, 8)),
            )
            for _ in range(self.random.randint(0, 4))
        ]
        return mutated(hello, changes) + self.random.choice((b"", b"", b"more"))

    def send(self, port: int, data: bytes) -> str:
        """In pieces of some size, then FIN; how it ended. A thread's function."""
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            try:
                for piece in pieces(data, self.random.choice((1, 7, 100, 1 << 16))):
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError as problem:
                return name_of(problem)
            return "end"

    async def check(self, proxies: list[Proxy], port: int) -> None:
        context = self.client_context()
        whole = 0
        for count in range(1, ROUNDS + 1):
            data = self.changed(first_bytes(context, self.random.choice(("a.test", "b.test", "x.invalid"))))
            self.arrived.clear()
            ending = await in_thread(self.send, port, data)
            record = await proxies[0].closed(count)
            if record.code is CLEAN:
                whole += 1
                await until(lambda: self.arrived, "the application has ended, too")
                self.assertEqual((self.arrived, ending), ([data], "end"))
                self.assertEqual(record.bytes_sent, len(data))
            else:
                self.assertIn(record.code, (NOT_TLS, NO_ROUTE, NO_BYTE))
                self.assertEqual((self.arrived, record.bytes_sent, record.established), ([], 0, False))
        self.assertTrue(ROUNDS / 10 < whole < ROUNDS, whole)
        for proxy in proxies:
            await until(lambda p=proxy: not p.live, "every socket is closed")
            gate = proxy.service.plane.gate  # type: ignore[union-attr]
            self.assertEqual((gate.connections, gate.sockets, gate.handshakes), (0, 0, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_inbound(self) -> None:
        """Peers that nobody knows."""
        inner = self.start_passing(self.port)
        await self.check([inner], inner.port("in"))

    async def test_through_both(self) -> None:
        """What one lets through the other does, too."""
        inner = self.start_passing(self.port)
        outer = self.start_routes(
            f"legacy: {{{self.static(inner.port('in'))}}}", '{sni: "*.test", service: legacy, passthrough: true}'
        )
        await self.check([outer, inner], outer.port("out"))
        passed = [record for record in outer.tap.close if record.code is CLEAN]
        self.assertEqual({record.code for record in inner.tap.close}, {CLEAN})
        self.assertEqual(len(inner.tap.close), len(passed))
