"""How connections end that Envoy carries: by a reset, by a FIN alone, and because it ends them itself."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from OpenSSL import SSL

from tcpmesh.codes import CLEAN, RESET
from tcpmesh.observe.records import Side
from tests.integration.applications import BROKEN, Outbox, Received, push, receive, reset, whole
from tests.integration.applications import RESET as RESET_SEEN
from tests.integration.envoy import Change, unchanged
from tests.integration.envoy_case import HELLO, EnvoyTestCase
from tests.integration.foreign import ForeignTLS
from tests.integration.foreign_case import Hop
from tests.integration.foreign_programs import ForeignServer, changed, issued_files
from tests.integration.mesh import in_thread

SIDES: tuple[Side, ...] = ("src", "dst")


class ResetTests(EnvoyTestCase):
    """A reset of either end becomes a reset at the other, through Envoy and us."""

    async def test_of_the_client(self) -> None:
        """The application has what was sent before, and an error."""
        for side in SIDES:
            seen: Outbox[Received] = Outbox()

            def serve(connection: socket.socket, seen: Outbox[Received] = seen) -> None:
                got = receive(connection, len(HELLO))
                push(connection, HELLO)
                seen.put(got)
                seen.put(receive(connection))

            hop = await self.envoy_hop(side, serve)

            def ask(hop: Hop = hop) -> None:
                client = hop.connect()
                push(client, HELLO)
                receive(client, len(HELLO))
                reset(client)

            await in_thread(ask)
            self.assertEqual(await seen.take(), whole(HELLO))
            self.assertEqual((await seen.take()).ending, RESET_SEEN)
            record = await hop.proxy.closed()
            self.assertEqual((record.code, record.closed_by), (RESET, "src"), record)

    async def test_of_the_application(self) -> None:
        """The client has what was sent before, and an error."""
        for side in SIDES:

            def serve(connection: socket.socket) -> None:
                receive(connection, len(HELLO))
                push(connection, HELLO)
                receive(connection, len(HELLO))
                reset(connection)

            hop = await self.envoy_hop(side, serve)

            def ask(hop: Hop = hop) -> tuple[Received, Received]:
                with hop.connect() as client:
                    push(client, HELLO)
                    first = receive(client, len(HELLO))
                    push(client, HELLO)
                    return first, receive(client)

            first, second = await in_thread(ask)
            self.assertEqual(first, whole(HELLO))
            self.assertIn(second.ending, BROKEN)
            record = await hop.proxy.closed()
            self.assertEqual((record.code, record.closed_by), (RESET, "dst"), record)


class LeavingTests(EnvoyTestCase):
    """Envoy ends a connection that nobody else ends: both applications see an orderly end."""

    async def assert_ends(self, side: Side, change: Change, cause: Callable[[Hop], object]) -> None:
        seen: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            push(connection, HELLO)
            seen.put(receive(connection))

        hop = await self.envoy_hop(side, serve, change)
        client = hop.connect()
        self.assertEqual(await in_thread(receive, client, len(HELLO)), whole(HELLO))
        cause(hop)
        self.assertEqual(await in_thread(receive, client), whole(b""))
        client.close()
        self.assertEqual(await seen.take(), whole(b""))
        record = await hop.proxy.closed()
        self.assertEqual((record.code, record.closed_by), (CLEAN, side), record)

    async def test_idle_connection(self) -> None:
        """By default that is an hour."""
        idle = changed(r"^( *)stat_prefix: orders$", r"\1stat_prefix: orders\n\1idle_timeout: 2s")
        await self.assert_ends("src", idle, lambda _hop: None)
        await self.assert_ends("dst", idle, lambda _hop: None)

    async def test_stopped(self) -> None:
        """It waits for nobody."""

        def stop(hop: Hop) -> None:
            assert hop.peer.server is not None
            hop.peer.server.signal(signal.SIGTERM)

        await self.assert_ends("src", unchanged, stop)
        await self.assert_ends("dst", unchanged, stop)


class TruncationTests(EnvoyTestCase):
    """What Envoy makes of a FIN without close_notify, which ours never sends."""

    async def test_as_a_server(self) -> None:
        """An end like any other: the application cannot tell that something may be missing."""
        seen: Outbox[Received] = Outbox()
        application = self.application(lambda connection: seen.put(receive(connection)))
        peer = await in_thread(lambda: ForeignServer(self, self.kind, issued_files(self, "orders"), application))
        files = issued_files(self, "web")
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_chain_file(str(files / "certificate.pem"))
        context.use_privatekey_file(str(files / "key.pem"))

        def cut() -> None:
            with socket.create_connection(("127.0.0.1", peer.wire)) as connection:
                tls = ForeignTLS(connection, context, server=False)
                tls.handshake()
                tls.sendall(HELLO)
                tls.fin()
                connection.recv(1)

        await in_thread(cut)
        self.assertEqual(await seen.take(), whole(HELLO))
