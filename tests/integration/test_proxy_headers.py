"""PROXY headers before TLS at an inbound listener: whose address counts, and what is refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

from tcpmesh import codes
from tcpmesh.codes import CLEAN, Code
from tcpmesh.dataplane.proxy_header import encode_local, encode_v1, encode_v2
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.net.prelude import Prelude
from tcpmesh.net.tls import TLSLeg
from tcpmesh.values import TCPAddress, UnixAddress
from tests.integration.applications import END, RESET, Received, receive, reset, until
from tests.integration.endings import ControlledTime
from tests.integration.foreign import ForeignTLS, foreign_context, hello
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread
from tests.integration.refusals import RefusalTestCase
from tests.integration.unix import UnixTestCase
from tests.unit.tls_pairs import client_hello

CLIENT, FRONT = TCPAddress("192.0.2.1", 56324), TCPAddress("192.0.2.11", 443)
FROM_HERE = ", proxy_protocol: {accept_from: [127.0.0.1]}"
NETWORK = """\
authorization:
- {plugin: rules, policies: [{name: near, action: allow, from: [{any: authenticated, networks: [192.0.2.0/24]}]}]}
"""
LIMIT = """\
authorization:
- plugin: rules
  policies:
  - {name: all, action: allow, from: [{any: authenticated}]}
  - {name: few, action: limit, from: [{any: authenticated}], limit: {connections: 1, per: [source]}}
"""


class HeaderTestCase(RefusalTestCase):
    def behind(self, proxy: Proxy, header: bytes, *, name: str = "web", source: str = "127.0.0.1") -> ForeignTLS:
        """A client whose connection begins with this header."""
        where = ("127.0.0.1", proxy.port("orders-in"))
        connection = socket.create_connection(where, timeout=PATIENCE, source_address=(source, 0))
        self.addCleanup(connection.close)
        connection.sendall(header)
        return ForeignTLS(connection, foreign_context(self.pki, name), server=False)

    def peer_of(self, client: ForeignTLS) -> str:
        host, port = client.socket.getsockname()
        return f"{host}:{port}"


class AcceptedTests(HeaderTestCase):
    """Headers of a load balancer."""

    async def test_its_address_is_the_clients(self) -> None:
        """Of both versions and every family; the load balancer's own is src.via."""
        inner = self.start_inbound(self.application(echo), more=FROM_HERE)
        for count, (header, expected) in enumerate(
            [
                (encode_v1(CLIENT, FRONT), str(CLIENT)),
                (encode_v2(CLIENT, FRONT, [(0xE0, b"spiffe://mesh.test/intruder")]), str(CLIENT)),
                (encode_v2(TCPAddress("2001:db8::1", 7), TCPAddress("2001:db8::2", 443)), "[2001:db8::1]:7"),
                (encode_v2(UnixAddress("/run/client"), UnixAddress("/run/front")), "unix:/run/client"),
            ],
            1,
        ):
            client = self.behind(inner, header)
            said = await in_thread(hello, client)
            self.assertEqual(said, b"hello")
            record = await inner.closed(count)
            self.assertEqual((record.src_addr, record.src_via), (expected, self.peer_of(client)))
            self.assertEqual((record.code, record.bytes_sent, record.bytes_recv), (CLEAN, 5, 5))
            self.assertEqual(record.src_identity, "spiffe://mesh.test/web")  # whatever a TLV says

    async def test_without_an_address_the_connections_own_counts(self) -> None:
        """LOCAL, UNKNOWN and UNSPEC."""
        inner = self.start_inbound(self.application(echo), more=FROM_HERE)
        headers = (encode_local(), b"PROXY UNKNOWN\r\n", encode_v2(UnixAddress(""), FRONT))
        for count, header in enumerate(headers, 1):
            client = self.behind(inner, header)
            await in_thread(hello, client)
            record = await inner.closed(count)
            self.assertEqual((record.src_addr, record.src_via), (self.peer_of(client), ""))

    async def test_split_anywhere(self) -> None:
        """Header and ClientHello byte by byte, and everything in one write."""
        inner = self.start_inbound(self.application(echo), more=FROM_HERE)
        header = encode_v2(CLIENT, FRONT)
        for count, piece in enumerate((1, 65536), 1):
            client = self.behind(inner, b"")
            self.assertRaises(SSL.WantReadError, client.tls.do_handshake)
            first = header + client.tls.bio_read(65536)
            for begin in range(0, len(first), piece):
                client.socket.sendall(first[begin : begin + piece])
            await in_thread(hello, client)
            record = await inner.closed(count)
            self.assertEqual((record.code, record.src_addr), (CLEAN, str(CLIENT)))

    async def test_others_begin_with_tls(self) -> None:
        """Who is not listed is heard as ever, and what it says of its address is no TLS."""
        inner = self.start_inbound(self.application(echo), more=FROM_HERE)
        client = self.behind(inner, b"", source="127.0.0.2")
        await in_thread(hello, client)
        record = await inner.closed()
        self.assertEqual((record.code, record.src_addr, record.src_via), (CLEAN, self.peer_of(client), ""))
        for count, header in enumerate((encode_v1(CLIENT, FRONT), encode_v2(CLIENT, FRONT)), 2):
            client = self.behind(inner, header, source="127.0.0.2")
            received = await in_thread(receive, client.socket)
            self.assertEqual((received.length, received.ending), (0, END))
            record = await inner.closed(count)
            self.assertEqual((record.code, record.src_addr), (codes.PLAINTEXT_PEER, self.peer_of(client)))
            self.assertIn("PROXY header", record.reason)

    async def test_without_the_key_nobody_is_believed(self) -> None:
        """A listener that knows of no load balancer."""
        inner = self.start_inbound(self.target.port)
        client = self.behind(inner, encode_v1(CLIENT, FRONT))
        await in_thread(receive, client.socket)
        record = await inner.closed()
        self.assertEqual((record.code, record.src_addr), (codes.PLAINTEXT_PEER, self.peer_of(client)))

    async def test_who_wants_no_header_pays_for_none(self) -> None:
        """The first leg of a connection is the one that speaks TLS; only elsewhere something comes before it."""
        for more, kind in (("", TLSLeg), (FROM_HERE, Prelude)):
            inner = self.start_inbound(self.target.port, more=more)
            self.connect(inner.port("orders-in"))
            await self.accepted(inner)
            [connection] = inner.live
            self.assertIsInstance(connection.src, kind)

    async def test_two_headers_are_one_too_many(self) -> None:
        """The second one is no TLS."""
        inner = self.start_inbound(self.target.port, more=FROM_HERE)
        client = self.behind(inner, encode_v2(CLIENT, FRONT) + encode_v2(FRONT, CLIENT))
        await in_thread(receive, client.socket)
        record = await inner.closed()
        self.assertEqual((record.code, record.src_addr), (codes.PLAINTEXT_PEER, str(CLIENT)))
        self.assertIn("PROXY header", record.reason)


class PolicyTests(HeaderTestCase):
    """What policies and limits are asked about."""

    async def test_networks_mean_the_carried_address(self) -> None:
        """Inside it may come in, outside not, wherever the load balancer is."""
        inner = self.start_inbound(self.application(echo), allow=(), more=FROM_HERE, top=NETWORK)
        await in_thread(hello, self.behind(inner, encode_v2(CLIENT, FRONT)))
        self.assertEqual((await inner.closed()).policy, "near")
        for count, header in enumerate((encode_v2(TCPAddress("198.51.100.1", 1), FRONT), encode_local()), 2):
            client = self.behind(inner, header)
            await in_thread(client.handshake)
            self.assertEqual((await in_thread(receive, client.socket)).ending, RESET)
            self.assertEqual((await inner.closed(count)).code, codes.NO_RULE_ALLOWS)

    async def test_limits_count_the_carried_address(self) -> None:
        """Two clients of one load balancer are two sources, one client of two connections is one."""
        inner = self.start_inbound(self.application(echo), allow=(), more=FROM_HERE, top=LIMIT)
        clients = [self.behind(inner, encode_v2(TCPAddress(host, 1), FRONT)) for host in ("192.0.2.1", "192.0.2.2")]
        for count, client in enumerate(clients, 1):
            await in_thread(client.handshake)
            await inner.opened(count)
        third = self.behind(inner, encode_v2(TCPAddress("192.0.2.1", 2), FRONT))
        await in_thread(third.handshake)
        self.assertEqual((await inner.closed()).code, codes.POLICY_CONNECTIONS)


class RefusedTests(HeaderTestCase):
    """Headers that are none, bad, late or cut."""

    async def send(self, *pieces: bytes, then: Callable[[socket.socket], Any] | None = None) -> Received:
        """Connect, send, do ``then``, and read to the end."""
        self.inner = self.start_inbound(self.target.port, more=FROM_HERE)
        client = self.connect(self.inner.port("orders-in"))
        for piece in pieces:
            client.sendall(piece)
        if then is not None:
            then(client)
        return await in_thread(receive, client) if client.fileno() >= 0 else Received(0, "", "")

    async def assert_refused(self, code: Code, closed_by: str, *words: str, wire: str = "", **values: Any) -> None:
        """Record and line, and the row of the documentation."""
        record = await self.inner.closed()
        self.assert_record(record, code, closed_by, *words, src_identity="", src_via="", decision="", **values)
        self.assert_line("orders-in", record)
        self.assertFalse(self.target.was_dialled)
        if wire:
            self.assert_documented("inbound", wire, application="-", inbound=code)
        plane = self.inner.service.plane
        assert plane is not None
        await until(lambda: not plane.gate.connections, "its place is given back")
        self.assertEqual((plane.gate.handshakes, plane.gate.sockets), (0, 0))

    async def test_missing(self) -> None:
        """TLS at once, or anything else that can be no header: reset without a byte."""
        for sent, word in ((client_hello(), "got the TLS handshake"), (b"GET / HTTP/1.1\r\n\r\n", "got 'GET /")):
            received = await self.send(sent)
            self.assertEqual((received.length, received.ending), (0, RESET))
            await self.assert_refused(codes.PROXY_HEADER_MISSING, "proxy", word, wire="RST")

    async def test_malformed(self) -> None:
        """A line of 107 bytes without its end, lengths that lie, TLVs that are too long: reset at once."""
        good = encode_v2(CLIENT, FRONT)
        for sent in (
            b"PROXY TCP4 192.0.2.01 192.0.2.11 1 2\r\n" + client_hello(),
            b"PROXY " + b"x" * 101,
            good[:14] + b"\xff\xff",
            good[:14] + (len(good) - 17).to_bytes(2, "big") + good[16:],
            good[:-1] + bytes([good[-1] ^ 1]),
        ):
            received = await self.send(sent)
            self.assertEqual((received.length, received.ending), (0, RESET))
            await self.assert_refused(codes.PROXY_HEADER_MALFORMED, "proxy", "malformed PROXY header", wire="RST")

    async def test_half_a_header(self) -> None:
        """Then FIN, or RST: it was cut."""
        half = encode_v2(CLIENT, FRONT)[:20]
        await self.send(half, then=lambda client: client.shutdown(socket.SHUT_WR))
        await self.assert_refused(codes.PROXY_HEADER_MALFORMED, "proxy", "after 20 bytes of it")
        await self.send(half, then=reset)
        await self.assert_refused(codes.PROXY_HEADER_MALFORMED, "src", "reset by the peer", errno="ECONNRESET")

    async def test_a_header_and_an_end(self) -> None:
        """A health check that says LOCAL, or nothing at all: a record, no warning."""
        for sent in (b"", encode_local(), b"PROXY UNKNOWN\r\n", encode_v2(CLIENT, FRONT)):
            for then in (lambda client: client.shutdown(socket.SHUT_WR), reset):
                await self.send(sent, then=then)
                record = await self.inner.closed()
                self.assert_record(record, codes.NO_BYTE, "src")
                self.assertEqual(self.lines.take("orders-in"), [])
        self.assertFalse(self.target.was_dialled)

    async def test_junk_behind_a_header(self) -> None:
        """From there on it is a client like any other: no TLS, or half of a ClientHello and an end."""
        header = encode_v2(CLIENT, FRONT)
        for sent, code, shown in (
            (b"junk\r\n", codes.PLAINTEXT_PEER, "got 'junk"),
            (client_hello()[:100], codes.HANDSHAKE_TRUNCATED, "during the TLS handshake"),
        ):
            received = await self.send(header + sent, then=lambda client: client.shutdown(socket.SHUT_WR))
            self.assertEqual((received.length, received.ending), (0, END))
            record = await self.inner.closed()
            self.assertEqual((record.code, record.src_addr), (code, str(CLIENT)))
            self.assertIn(shown, record.reason)
            [(line, fields)] = self.lines.take("orders-in")
            self.assertEqual((fields["src"], fields["via"]), (str(CLIENT), record.src_via), line)
        self.assertFalse(self.target.was_dialled)

    async def test_withheld(self) -> None:
        """Reset when its time is over, whatever dribbles in until then."""
        for sent in (b"", b"PROXY TCP4 "):
            self.inner = self.start_inbound(self.target.port, more=FROM_HERE)
            time = ControlledTime(self.inner)
            client = self.connect(self.inner.port("orders-in"))
            client.sendall(sent)
            fate = in_thread(receive, client)
            await self.accepted(self.inner)
            time.pass_by(2)
            self.assertEqual(self.inner.tap.close, [])
            time.pass_by(1)
            received = await fate
            self.assertEqual((received.length, received.ending), (0, RESET))
            await self.assert_refused(codes.PROXY_HEADER_TIMEOUT, "proxy", "within 3 s", wire="RST")

    async def test_a_handshake_after_it_has_its_own_time(self) -> None:
        """The header's deadline is over with the header."""
        self.inner = self.start_inbound(self.target.port, more=FROM_HERE)
        time = ControlledTime(self.inner)
        client = self.behind(self.inner, encode_v2(CLIENT, FRONT))
        fate = in_thread(receive, client.socket)
        await until(lambda: [each for each in self.inner.live if each.record.src_via], "the header is read")
        time.pass_by(9)
        self.assertEqual(self.inner.tap.close, [])
        time.pass_by(1)
        self.assertEqual((await fate).ending, RESET)
        record = await self.inner.closed()
        self.assertEqual((record.code, record.src_addr), (codes.HANDSHAKE_TIMEOUT, str(CLIENT)))

    async def test_hundreds_that_withhold_it(self) -> None:
        """They are pending handshakes: as many as there may be, and a listener of its own is not disturbed."""
        port = self.application(echo)
        inner = self.start_inbound(port, more=FROM_HERE, top="limits: {handshakes: 100}\n")
        time = ControlledTime(inner)
        waiting = [self.connect(inner.port("orders-in")) for _ in range(300)]
        await inner.closed(200)
        self.assertEqual({record.code for record in inner.tap.close}, {codes.HANDSHAKE_LIMIT})
        plane = inner.service.plane
        assert plane is not None
        self.assertEqual(plane.gate.handshakes, 100)
        time.pass_by(3)
        await inner.closed(300)
        self.assertEqual({record.code for record in inner.tap.close[200:]}, {codes.PROXY_HEADER_TIMEOUT})
        self.assertEqual(plane.gate.handshakes, 0)
        await in_thread(hello, self.behind(inner, encode_v2(CLIENT, FRONT)))
        self.assertEqual((await inner.closed(301)).code, CLEAN)
        del waiting

    async def test_while_the_proxy_has_no_identity(self) -> None:
        """The header is read first, so that the record knows who it was."""
        self.inner = self.start_inbound(self.target.port, more=FROM_HERE)
        state = self.inner.service.composition.state
        state.swap(svids={})
        client = self.behind(self.inner, encode_v2(CLIENT, FRONT) + client_hello())
        self.assertEqual((await in_thread(receive, client.socket)).ending, RESET)
        record = await self.inner.closed()
        self.assertEqual((record.code, record.src_addr), (codes.NO_IDENTITY, str(CLIENT)))

    async def test_who_is_denied_meanwhile(self) -> None:
        """The state counts that there is when the header is complete, not that of the accept."""
        self.inner = self.start_inbound(self.target.port, more=FROM_HERE)
        header = encode_v2(CLIENT, FRONT)
        client = self.behind(self.inner, header[:20])
        await self.accepted(self.inner)
        self.inner.service.composition.state.swap(deny_list=DenyList([DenyEntry(id=self.pki.id("web"))]))
        client.socket.sendall(header[20:])
        with self.assertRaises((SSL.Error, ConnectionResetError)):
            await in_thread(hello, client)
        record = await self.inner.closed()
        self.assertEqual((record.code, record.src_addr), (codes.PEER_DENIED, str(CLIENT)))
        self.assertFalse(self.target.was_dialled)

    async def test_when_the_proxy_stops(self) -> None:
        """A header that is awaited then is not waited for."""
        self.inner = self.start_inbound(self.target.port, more=FROM_HERE)
        client = self.connect(self.inner.port("orders-in"))
        await self.accepted(self.inner)
        stopping = self.inner.service.stopService()
        self.inner.service.stop_now()
        self.assertEqual((await in_thread(receive, client)).ending, RESET)
        await stopping
        self.assertEqual(len(self.inner.tap.close), 1)


class UnixTLS(ForeignTLS):
    """A TLS client on a unix socket, which has no options of TCP."""

    def __init__(self, connection: socket.socket, context: SSL.Context) -> None:
        self.socket = connection
        self.piece = 65536
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()


class UnixTests(UnixTestCase):
    """A listener on a unix socket."""

    async def test_whoever_connects_there_sends_one(self) -> None:
        """``unix`` stands for all of them."""
        path = self.unix_path("in.sock")
        inner = self.start_inbound(
            self.application(echo), listen=f"unix:{path}", more=", proxy_protocol: {accept_from: [unix]}"
        )
        connection = self.connect_unix(path)
        connection.sendall(encode_v2(CLIENT, FRONT))
        await in_thread(hello, UnixTLS(connection, foreign_context(self.pki, "web")))
        record = await inner.closed()
        self.assertEqual((record.code, record.src_addr), (CLEAN, str(CLIENT)))
        self.assertTrue(record.src_via.startswith("unix:"))
