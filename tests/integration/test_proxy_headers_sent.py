"""PROXY headers that we send: to applications with who was verified, to foreign servers before TLS."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from tcpmesh.codes import CLEAN
from tcpmesh.dataplane.proxy_header import ProxyHeader, TlvType, encode_v2
from tcpmesh.dataplane.proxy_reader import ProxyHeaderReader
from tcpmesh.values import Address, TCPAddress, UnixAddress
from tests.integration.applications import Outbox, receive, reset
from tests.integration.foreign import ForeignTestCase, ForeignTLS, foreign_context
from tests.integration.mesh import PATIENCE, Proxy, in_thread, receive_all, unused_port
from tests.integration.unix import UnixTestCase

WEB = "spiffe://mesh.test/web"
SEND = ", proxy_protocol: {send: v2}"


def take_header(connection: socket.socket) -> tuple[ProxyHeader, bytes]:
    """Read a header and not a byte more: it is read byte by byte."""
    connection.settimeout(PATIENCE)
    reader, taken = ProxyHeaderReader(), b""
    while True:
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError(f"an end after {taken!r}")
        taken += byte
        header = reader.feed(byte)
        if header is not None:
            return header, taken


def address_of(connection: socket.socket) -> Address:
    return TCPAddress(*connection.getsockname())


class SentCase(ForeignTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.headers: Outbox[tuple[ProxyHeader, bytes]] = Outbox()

    def wanting(self, serve: Callable[[socket.socket], Any]) -> int:
        """An application that begins with a header; its port."""

        def begin(connection: socket.socket) -> None:
            self.headers.put(take_header(connection))
            serve(connection)

        return self.application(begin)


def upper(connection: socket.socket) -> None:
    """Answer what came up to the end, in capitals."""
    connection.sendall(receive_all(connection).upper())


def ask(client: socket.socket) -> bytes:
    """A question, a half-close, and the answer."""
    client.sendall(b"hello")
    client.shutdown(socket.SHUT_WR)
    return receive_all(client)


class ApplicationTests(SentCase):
    """``proxy_protocol.send`` of inbound listeners."""

    async def test_says_who_was_verified(self) -> None:
        """Over two hops: address, connection, TLS and SPIFFE ID; none of it is payload."""
        outer, inner, port = self.start_two_hops(self.wanting(upper), more=SEND)
        self.assertEqual(await in_thread(ask, self.connect(port)), b"HELLO")
        header, _ = await self.headers.take()
        record = await inner.closed()
        self.assertEqual((str(header.source), str(header.destination)), (record.src_addr, record.local_addr))
        self.assertEqual(header.tlv(TlvType.SPIFFE_ID), WEB.encode())
        self.assertEqual(header.tlv(TlvType.UNIQUE_ID), record.conn.encode())
        self.assertEqual(header.tlv(TlvType.ALPN), b"tcpmesh/1")
        self.assertIsNone(header.tlv(TlvType.AUTHORITY))
        client = header.client_tls
        assert client is not None
        self.assertEqual((client.over_tls, client.certificate, client.verified), (True, True, True))
        self.assertEqual((client.version, client.cipher), ("TLSv1.3", record.tls_cipher))
        self.assertEqual((record.code, record.bytes_sent, record.bytes_recv), (CLEAN, 5, 5))
        there = await outer.closed()
        self.assertEqual((there.conn, there.bytes_sent, there.bytes_recv), (record.conn, 5, 5))

    async def test_says_the_name_that_was_asked_for(self) -> None:
        """A foreign client's server name."""
        inner = self.start_inbound(self.wanting(upper), more=SEND)
        client = self.foreign_client(inner.port("orders-in"))
        client.tls.set_tlsext_host_name(b"orders.example.com")

        def talk() -> bytes:
            client.handshake()
            client.sendall(b"hello")
            client.close_notify()
            return client.recv(100)

        self.assertEqual(await in_thread(talk), b"HELLO")
        header, _ = await self.headers.take()
        self.assertEqual(header.tlv(TlvType.AUTHORITY), b"orders.example.com")
        self.assertEqual(header.source, address_of(client.socket))

    async def test_passes_on_whose_address_it_was_told(self) -> None:
        """Behind a load balancer: both addresses as it had them, the identity as we verified it."""
        source, front = TCPAddress("2001:db8::1", 56324), TCPAddress("2001:db8::2", 443)
        more = ", proxy_protocol: {accept_from: [127.0.0.1], send: v2}"
        inner = self.start_inbound(self.wanting(upper), more=more)
        connection = self.connect(inner.port("orders-in"))
        connection.sendall(encode_v2(source, front, [(TlvType.SPIFFE_ID, b"spiffe://mesh.test/intruder")]))
        client = ForeignTLS(connection, foreign_context(self.pki, "web"), server=False)

        def talk() -> bytes:
            client.handshake()
            client.sendall(b"hello")
            client.close_notify()
            return client.recv(100)

        self.assertEqual(await in_thread(talk), b"HELLO")
        header, _ = await self.headers.take()
        self.assertEqual((header.source, header.destination), (source, front))
        self.assertEqual([value for kind, value in header.tlvs if kind == TlvType.SPIFFE_ID], [WEB.encode()])

    async def test_version_1_is_a_line(self) -> None:
        """Addresses alone."""
        _, inner, port = self.start_two_hops(self.wanting(upper), more=", proxy_protocol: {send: v1}")
        self.assertEqual(await in_thread(ask, self.connect(port)), b"HELLO")
        _, taken = await self.headers.take()
        record = await inner.closed()
        source, own = record.src_addr.rpartition(":"), record.local_addr.rpartition(":")
        self.assertEqual(taken.decode(), f"PROXY TCP4 {source[0]} {own[0]} {source[2]} {own[2]}\r\n")

    async def test_comes_first_when_the_application_speaks_first(self) -> None:
        """A greeting crosses it; an application that closes at once is still the one that ended."""
        _, inner, port = self.start_two_hops(self.wanting(lambda each: each.sendall(b"220 hello\r\n")), more=SEND)
        client = self.connect(port)
        self.assertEqual(await in_thread(receive_all, client), b"220 hello\r\n")
        client.close()
        await self.headers.take()
        record = await inner.closed()
        self.assertEqual((record.bytes_sent, record.bytes_recv), (0, 11))

    async def test_an_application_that_resets_was_sent_no_payload(self) -> None:
        """The header is none, whatever became of it."""
        _, inner, port = self.start_two_hops(self.application(reset), more=SEND)
        await in_thread(receive, self.connect(port))
        record = await inner.closed()
        self.assertEqual(record.bytes_sent, 0)

    async def probed(self, version: str) -> tuple[ProxyHeader, Address]:
        """What the application is told while somebody runs identity check, and by whom."""
        peers: Outbox[Address] = Outbox()
        allow = f', proxy_protocol: {{send: {version}}}, probe: {{allow: ["{WEB}"]}}'
        inner = self.start_inbound(self.wanting(lambda each: peers.put(TCPAddress(*each.getpeername()))), more=allow)
        client = self.foreign_client(inner.port("orders-in"))
        client.tls.set_alpn_protos([b"tcpmesh-probe/1"])
        await in_thread(client.handshake)
        header, _ = await self.headers.take()
        return header, await peers.take()

    async def test_a_probe_says_that_it_is_nobody(self) -> None:
        """identity check connects to the application: LOCAL, then an end."""
        header, _ = await self.probed("v2")
        self.assertTrue(header.local)

    async def test_a_probe_of_version_1_has_its_own_addresses(self) -> None:
        """It has no LOCAL, and there are servers that refuse UNKNOWN."""
        header, peer = await self.probed("v1")
        self.assertEqual((header.version, header.source), (1, peer))


class ServerTests(SentCase):
    """``proxy_protocol`` of services."""

    def tls_server(self) -> int:
        """A foreign server that begins with a header, then TLS, and echoes one read."""
        context = foreign_context(self.pki, "orders")

        def serve(connection: socket.socket) -> None:
            peer = ForeignTLS(connection, context, server=True)
            peer.handshake()
            peer.sendall(peer.recv(100).upper())
            peer.close_notify()
            peer.recv(100)
            peer.fin()

        return self.wanting(serve)

    def outbound(self, *endpoints: int, version: str, listen: str = "127.0.0.1:0", more: str = "") -> Proxy:
        return self.start_outbound(*endpoints, service=f", proxy_protocol: {version}{more}", listen=listen)

    async def test_before_tls_with_the_applications_address(self) -> None:
        """Of both versions: from whom, and where it connected to."""
        for version in ("v1", "v2"):
            outer = self.outbound(self.tls_server(), version=version)
            client = self.connect(outer.port("to-orders"))
            self.assertEqual(await in_thread(ask, client), b"HELLO")
            header, _ = await self.headers.take()
            self.assertEqual(f"v{header.version}", version)
            self.assertEqual(header.source, address_of(client))
            self.assertEqual(header.destination, TCPAddress("127.0.0.1", outer.port("to-orders")))
            self.assertIsNone(header.client_tls)
            record = await outer.closed()
            self.assertEqual((record.code, record.bytes_sent, record.bytes_recv), (CLEAN, 5, 5))

    async def test_each_attempt_begins_with_its_own(self) -> None:
        """Whoever reads it and resets, ends, or is not there, and who takes the retry: the same header, once each."""

        def end(connection: socket.socket) -> None:
            connection.recv(100)
            connection.shutdown(socket.SHUT_WR)

        for version in ("v1", "v2"):
            ports = unused_port(), self.wanting(reset), self.wanting(end), self.tls_server()
            outer = self.outbound(
                *ports, version=version, more=", retry: {plugin: exponential, base: 1ms, attempts: 4}"
            )
            client = self.connect(outer.port("to-orders"))
            self.assertEqual(await in_thread(ask, client), b"HELLO")
            for _ in ports[1:]:
                header, _ = await self.headers.take()
                self.assertEqual(header.source, address_of(client))
            record = await outer.closed()
            self.assertEqual((record.code, record.attempts, len(record.failures)), (CLEAN, 4, 3))

    async def test_our_own_inbound_listener_reads_it(self) -> None:
        """One service, one listener, and the local program's address at the far end."""
        port = self.application(upper)
        inner = self.start_inbound(port, more=", proxy_protocol: {accept_from: [127.0.0.1]}")
        outer = self.outbound(inner.port("orders-in"), version="v2")
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(ask, client), b"HELLO")
        record = await inner.closed()
        self.assertEqual((record.src_addr, record.code), (str(address_of(client)), CLEAN))


class UnixTests(UnixTestCase):
    """Unix sockets have no addresses that a network knows."""

    async def test_a_program_on_a_unix_socket(self) -> None:
        """Version 1 has no word for it; version 2 gives the path that was connected to."""
        for version in ("v1", "v2"):
            headers: Outbox[tuple[ProxyHeader, bytes]] = Outbox()
            port = self.application(lambda connection, box=headers: box.put(take_header(connection)))
            path = self.unix_path(f"{version}.sock")
            self.start_outbound(port, service=f", proxy_protocol: {version}", listen=f"unix:{path}")
            self.connect_unix(path)
            header, taken = await headers.take()
            if version == "v1":
                self.assertEqual(taken, b"PROXY UNKNOWN\r\n")
            else:
                self.assertEqual(header.destination, UnixAddress(path))
