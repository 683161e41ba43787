"""One tcpmesh proxy in this process, and behind or before it a foreign TLS peer as docs/foreign-peers.md sets it up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tcpmesh.codes import CLEAN, TRUNCATED, Code
from tcpmesh.observe.records import ConnectionRecord, Side
from tests.integration.applications import MIB, Outbox, Received, push, receive, stream, whole
from tests.integration.field import TRUST_DOMAIN
from tests.integration.foreign_programs import Change, ForeignClient, ForeignServer, issued_files, unchanged
from tests.integration.mesh import MeshTestCase, Proxy, in_thread
from tests.integration.snippets import fill

__all__ = ["REPLY", "REQUEST", "ExchangeTests", "ForeignMixin", "ForeignProgramTestCase", "Hop", "Serve"]

REQUEST, REPLY = stream(3 * MIB + 1, 1), stream(2 * MIB + 3, 2)
Serve = Callable[[socket.socket], object]
_RULES = (
    "authorization: [{plugin: rules, policies: [{name: web-may, action: allow, "
    f'from: [{{ids: ["spiffe://{TRUST_DOMAIN}/web"]}}]}}]}}]\n'
)


@attrs.frozen
class Hop:
    """A proxy of ours and a foreign peer between a client and an application."""

    proxy: Proxy
    peer: ForeignClient | ForeignServer
    connect: Callable[[], socket.socket]  # what the client does; blocks


class ForeignProgramTestCase(MeshTestCase):
    """Starts either side; certificates come from the authority of ``tcpmesh ca``."""

    trust_domain = TRUST_DOMAIN  # ours

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)

    def acting_as(self, name: str, *dns: str) -> str:
        """The ``identity`` part of a configuration, with issued files."""
        files = issued_files(self, name, *dns)
        return (
            f"identity:\n  sources: {{disk: {{plugin: files, bundles: {{{TRUST_DOMAIN}: {files}/bundle.pem}}}}}}\n"
            f'  workloads: {{{name}: {{id: "spiffe://{TRUST_DOMAIN}/{name}", '
            f"certificate: {files}/certificate.pem, key: {files}/key.pem}}}}\n"
        )

    def start_block_inbound(self, block: str, application: int, *dns: str) -> Proxy:
        """Our inbound proxy as a block of the document configures it, with these DNS names in its certificate."""
        names = dns or ("orders.example.org",)
        text = self.acting_as("orders", *names) + fill(block, wire=0, plain=application) + _RULES
        return self.start(text, trust_domain=self.trust_domain)

    def start_block_outbound(self, block: str, endpoint: int, *, files: Path | None = None) -> Proxy:
        """Our outbound proxy as a block of the document configures it."""
        text = self.acting_as("web") + fill(block, wire=endpoint, plain=0, files=files)
        return self.start(text, trust_domain=self.trust_domain)

    async def client_hop(
        self, kind: str, block: str, serve: Serve, *, files: Path | None = None, change: Change = unchanged
    ) -> Hop:
        """A foreign client, with web's certificate unless it has other files, before our inbound proxy."""
        inner = self.start_block_inbound(block, self.application(serve))
        own = files or issued_files(self, "web")
        peer = await in_thread(lambda: ForeignClient(self, kind, own, inner.port("orders-in"), change))
        return Hop(inner, peer, peer.connect)

    async def server_hop(
        self,
        kind: str,
        block: str,
        serve: Serve,
        *,
        files: Path | None = None,
        change: Change = unchanged,
        trust: Path | None = None,
    ) -> Hop:
        """
        A foreign server, with orders' certificate unless it has other files, behind our outbound proxy.

        :param trust: the directory of the bundle.pem that our block names, if it names one.
        """
        own, application = files or issued_files(self, "orders"), self.application(serve)
        peer = await in_thread(lambda: ForeignServer(self, kind, own, application, change))
        outer = self.start_block_outbound(block, peer.wire, files=trust)

        def connect() -> socket.socket:
            if peer.own_end is not None:
                threading.Thread(target=serve, args=(peer.own_end,), daemon=True).start()
            return self.connect(outer.port("to-orders"))

        return Hop(outer, peer, connect)


if TYPE_CHECKING:
    ForeignMixin = ForeignProgramTestCase
else:
    ForeignMixin = object  # else trial would take a mixin for a test case of its own


class ExchangeTests(ForeignMixin):
    """
    What a foreign peer must carry, in whichever role; mixed into test cases, behind which it stands.

    Each test sends a request and a reply of some MiB and ends the connection in another way.
    """

    kind: str
    block: str  # of our own configuration
    clean: Code = CLEAN  # how a connection is recorded on which nothing went wrong
    peer_side: Side  # where the foreign peer is in our records

    async def hop(self, serve: Serve) -> Hop:
        """Set it up."""
        raise NotImplementedError

    def assert_identified(self, record: ConnectionRecord, peer: ForeignClient | ForeignServer) -> None:
        """The record says who the peer is."""
        raise NotImplementedError

    def assert_record(self, hop: Hop, record: ConnectionRecord, closed_by: Side) -> None:
        """Everything was counted, the peer is known, and the end is the one that was to be."""
        ended_by = self.peer_side if self.clean is TRUNCATED else closed_by
        self.assertEqual((record.code, record.closed_by), (self.clean, ended_by), record)
        self.assertEqual((record.bytes_sent, record.bytes_recv), (len(REQUEST), len(REPLY)))
        self.assertEqual((record.alpn, record.tls_version), ("", "TLSv1.3"))
        self.assert_identified(record, hop.peer)

    async def test_client_ends_first(self) -> None:
        """Request and reply arrive whole; the client closes and the application sees that end."""
        seen: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            seen.put(receive(connection, len(REQUEST)))
            push(connection, REPLY)
            seen.put(receive(connection))

        hop = await self.hop(serve)

        def ask() -> Received:
            with hop.connect() as client:
                push(client, REQUEST)
                return receive(client, len(REPLY))

        self.assertEqual(await in_thread(ask), whole(REPLY))
        self.assertEqual(await seen.take(), whole(REQUEST))
        self.assert_record(hop, await hop.proxy.closed(), "src")
        await self.assert_application_saw_the_end(seen)

    async def assert_application_saw_the_end(self, seen: Outbox[Received]) -> None:
        """Nothing came behind the request, and then an orderly end."""
        self.assertEqual(await seen.take(), whole(b""))

    async def test_server_ends_first(self) -> None:
        """The application sends its reply and ends; the client gets all of it and that end, then closes."""
        seen: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            seen.put(receive(connection, len(REQUEST)))
            push(connection, REPLY)
            connection.shutdown(socket.SHUT_WR)
            seen.put(receive(connection))

        hop = await self.hop(serve)

        def ask() -> Received:
            with hop.connect() as client:
                push(client, REQUEST)
                return receive(client)

        self.assertEqual(await in_thread(ask), whole(REPLY))
        self.assertEqual(await seen.take(), whole(REQUEST))
        self.assert_record(hop, await hop.proxy.closed(), "dst")
        await self.assert_application_saw_the_end(seen)

    async def half_close(self) -> tuple[Hop, Received, Outbox[Received]]:
        """Send the request and end; give what the client then received, and what the application did."""
        seen: Outbox[Received] = Outbox()

        def serve(connection: socket.socket) -> None:
            seen.put(receive(connection))
            push(connection, REPLY)

        hop = await self.hop(serve)

        def ask() -> Received:
            with hop.connect() as client:
                if push(client, REQUEST) == "":
                    client.shutdown(socket.SHUT_WR)
                return receive(client)

        return hop, await in_thread(ask), seen

    async def test_half_close(self) -> None:
        """A client that ends its request lets the application see that end, and still gets the reply."""
        hop, reply, seen = await self.half_close()
        self.assertEqual(await seen.take(), whole(REQUEST))
        self.assertEqual(reply, whole(REPLY))
        self.assert_record(hop, await hop.proxy.closed(), "src")
