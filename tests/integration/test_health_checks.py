"""Active checks against real listeners: inbound proxies that live, stop and come back, and servers of other kinds."""

from __future__ import annotations

import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from tcpmesh.codes import HEALTH_CHECKED, NO_BYTE, STOPPING
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.health.states import EndpointState
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.values import TCPAddress, TrustBundle
from tests.integration.applications import END, deaf_port, until
from tests.integration.mesh import PATIENCE, Proxy, echo, in_thread, unused_port
from tests.integration.refusals import WEB, RefusalTestCase
from tests.integration.strangers import Seen, Stranger
from tests.unit.crafted import authority, uri
from tests.unit.tls_pairs import foreign_context

CHECK_ALPN = b"tcpmesh-check/1"
ORDERS, OTHER = "spiffe://mesh.test/orders", "spiffe://mesh.test/other"


def checked(kind: str, time: str = "100ms") -> str:
    """Health of a service whose endpoints are checked all the time, and believed at once."""
    check = f"{{type: {kind}, interval: {time}, timeout: {time}, rise: 1, fall: 1}}"
    return f", health: {{ejection: {{failures: 0}}, check: {check}}}"


class HealthCheckTestCase(RefusalTestCase):
    """An outbound proxy that checks."""

    def health(self, proxy: Proxy) -> ServiceHealth:
        return proxy.service.composition.health.services["orders"]

    def state(self, proxy: Proxy, port: int) -> EndpointState:
        plane = proxy.service.plane
        assert plane is not None
        return self.health(proxy).state(TCPAddress("127.0.0.1", port), plane.clock.seconds())

    async def until_good(self, proxy: Proxy, port: int) -> EndpointState:
        """Wait for a check that succeeded."""

        def is_good() -> bool:
            check = self.state(proxy, port).check
            return check is not None and check.trouble is None

        await until(is_good, f"a good check of {port}")
        return self.state(proxy, port)

    async def until_down(self, proxy: Proxy, port: int, code: str) -> str:
        """Wait until the endpoint is down for this reason, whatever else a busy machine brings; give its words."""

        def reason() -> str:
            state = self.state(proxy, port)
            trouble = state.check.trouble if state.check is not None else None
            is_it = state.state == "down" and trouble is not None and trouble.code == code
            return trouble.reason if is_it and trouble is not None else ""

        await until(reason, f"{port} is down with {code}")
        return reason()


class AnsweredTests(HealthCheckTestCase):
    """What an inbound listener makes of a check."""

    async def ask(self, proxy: Proxy, name: str = WEB, alpn: tuple[bytes, ...] = (CHECK_ALPN,)) -> Seen:
        stranger = self.stranger(proxy.port("orders-in"), self.leaf(uri(name)), alpn=alpn)
        return await in_thread(stranger.watch)

    async def test_says_ok_without_policy_and_application(self) -> None:
        """Also to whom no policy allows anything; the record says who asked, and no line above DEBUG is written."""
        proxy = self.start_inbound(self.target.port, allow=())
        seen = await self.ask(proxy, OTHER)
        self.assertEqual((seen.data, seen.notified, seen.ending, seen.error), (b"\0\2\1\0", True, END, ""))
        record = await proxy.closed()
        self.assert_record(record, HEALTH_CHECKED, "proxy", src_identity=OTHER, decision="", policy="", connect_ms=None)
        self.assertEqual((record.alpn, record.presented), ("tcpmesh-check/1", ""))
        self.assertFalse(self.target.was_dialled)
        self.assertEqual(self.lines.take("orders-in"), [])
        reporting: Any = proxy.service._reporting
        self.assertIn('code="TM-D111"', reporting._metrics.render()[1].decode())

    async def test_says_that_it_is_stopping(self) -> None:
        """With the code that connections get, too."""
        proxy = self.start_inbound(self.target.port)
        assert proxy.service.plane is not None
        proxy.service.plane.stopping = True
        seen = await self.ask(proxy)
        self.assertIn(b"TM-O102", seen.data)
        self.assertEqual((seen.notified, seen.ending), (True, END))
        self.assert_record(await proxy.closed(), STOPPING, "proxy", src_identity=WEB)

    async def test_verifies_who_asks(self) -> None:
        """A stranger's certificate gets no answer."""
        proxy = self.start_inbound(self.target.port)
        unknown = self.leaf(uri(WEB), issuer=authority("nobody's"))
        stranger = self.stranger(proxy.port("orders-in"), unknown, alpn=(CHECK_ALPN,))
        seen = await in_thread(stranger.watch)
        self.assertEqual(seen.data, b"")
        record = await proxy.closed()
        self.assertEqual(record.code.id if record.code else "", "TM-I604")

    async def test_payload_comes_first_when_both_are_offered(self) -> None:
        """A client that could do both wants its application."""
        proxy = self.start_inbound(self.application(echo))
        stranger = self.stranger(proxy.port("orders-in"), self.leaf(uri(WEB)), alpn=(CHECK_ALPN, b"tcpmesh/1"))
        await in_thread(stranger.handshake)
        self.assertEqual(stranger.tls.get_alpn_proto_negotiated(), b"tcpmesh/1")
        self.assertEqual((await proxy.opened()).decision, "allow")


class TLSCheckTests(HealthCheckTestCase):
    """Checks of type tls."""

    async def test_an_inbound_proxy_that_lives_is_up(self) -> None:
        """Checked as the workload that uses the service; connections with payload are not disturbed."""
        inner = self.start_inbound(self.application(echo))
        port = inner.port("orders-in")
        outer = self.start_outbound(port, service=checked("tls", "1s"))
        state = await self.until_good(outer, port)
        self.assertEqual((state.state, self.health(outer).impaired), ("up", False))
        record = await inner.closed()
        self.assertEqual((record.code, record.src_identity), (HEALTH_CHECKED, WEB))
        client = self.connect(outer.port("to-orders"))
        await in_thread(client.sendall, b"hello")
        self.assertEqual(await in_thread(client.recv, 5), b"hello")
        await inner.closed(3)

    async def test_an_inbound_proxy_that_stops_is_down_until_it_is_back(self) -> None:
        """While it is down, and the only one, applications are refused at once."""
        port = unused_port()
        inner = self.start_inbound(self.application(echo), listen=f"127.0.0.1:{port}")
        outer = self.start_outbound(port, service=checked("tls"))
        await self.until_good(outer, port)
        await inner.service.stopService()
        await self.until_down(outer, port, "TM-U101")
        self.assertTrue(self.health(outer).impaired)
        self.start_inbound(self.application(echo), listen=f"127.0.0.1:{port}")
        await self.until_good(outer, port)
        await until(lambda: not self.health(outer).impaired, "it is up again")

    async def test_a_proxy_that_says_it_is_stopping_is_down(self) -> None:
        """Before anybody is sent there in vain."""
        inner = self.start_inbound(self.target.port)
        port = inner.port("orders-in")
        outer = self.start_outbound(port, service=checked("tls"))
        await self.until_good(outer, port)
        assert inner.service.plane is not None
        inner.service.plane.stopping = True
        self.assertIn("this proxy is stopping", await self.until_down(outer, port, "TM-O102"))

    async def test_somebody_else_is_down(self) -> None:
        """Verified as connections are, and nothing is sent to it."""
        inner = self.start_inbound(self.target.port)
        port = inner.port("orders-in")
        outer = self.start_outbound(port, expect=OTHER, service=checked("tls"))
        self.assertIn(ORDERS, await self.until_down(outer, port, "TM-I701"))

    async def test_whom_bundles_and_deny_list_no_longer_allow_is_down(self) -> None:
        """With the next check: what is held now counts, as for connections."""
        inner = self.start_inbound(self.target.port)
        port = inner.port("orders-in")
        outer = self.start_outbound(port, service=checked("tls"))
        await self.until_good(outer, port)
        state = outer.service.composition.state
        state.swap(deny_list=DenyList([DenyEntry(id=self.pki.id("orders"))]))
        await self.until_down(outer, port, "TM-I606")
        state.swap(deny_list=DenyList())
        await until(lambda: not self.health(outer).impaired, "it is up again")
        bundles = dict(state.current.bundles)
        state.swap(bundles={domain: TrustBundle(domain, ()) for domain in bundles})
        await self.until_down(outer, port, "TM-I601")
        state.swap(bundles=bundles)
        await until(lambda: not self.health(outer).impaired, "it is up again")

    async def test_who_is_denied_while_the_handshake_lasts_is_down(self) -> None:
        """The list of its end counts, not that of its beginning."""
        allowed = threading.Event()
        context = foreign_context(self.leaf(uri(ORDERS)))
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)

        def serve(connection: socket.socket) -> None:
            allowed.wait(PATIENCE)
            Stranger(connection, context, server=True).watch()

        port = self.application(serve)
        outer = self.start_outbound(port, service=", health: {check: {type: tls, interval: 1h, timeout: 10s, fall: 1}}")
        plane = outer.service.plane
        assert plane is not None
        await until(lambda: plane.gate.sockets == 1, "the check is connected")
        outer.service.composition.state.swap(deny_list=DenyList([DenyEntry(id=self.pki.id("orders"))]))
        allowed.set()
        await self.until_down(outer, port, "TM-I606")

    async def test_a_foreign_server_only_has_to_finish_the_handshake(self) -> None:
        """It is sent nothing, and an end in order."""
        port, seen = self.strange_server(self.leaf(uri(ORDERS)))
        outer = self.start_outbound(port, service=checked("tls"))
        await self.until_good(outer, port)
        first = await seen.take()
        self.assertEqual((first.data, first.notified, first.ending), (b"", True, END))

    async def test_a_server_that_knows_no_alpn_is_offered_none(self) -> None:
        """``preface: never`` holds for checks, too."""
        port, _ = self.strange_server(self.leaf(uri(ORDERS)), alpn=b"http/1.1")
        outer = self.start_outbound(port, service=", preface: never" + checked("tls"))
        await self.until_good(outer, port)

    async def test_who_accepts_and_closes_is_down(self) -> None:
        """The port is open, and nobody is there."""
        port = self.application(lambda _connection: None)
        outer = self.start_outbound(port, service=checked("tls"))
        await self.until_down(outer, port, "TM-I405")

    async def test_who_accepts_and_says_nothing_is_down(self) -> None:
        """The handshake is not finished within the timeout."""
        port = self.application(lambda connection: connection.recv(1 << 20) and connection.recv(1))
        outer = self.start_outbound(port, service=checked("tls"))
        self.assertEqual(await self.until_down(outer, port, "TM-T102"), "no complete handshake within 100ms")

    async def test_who_drops_every_syn_is_down(self) -> None:
        """Within the timeout of checks, whatever that of connections is."""
        port = deaf_port(self)
        outer = self.start_outbound(port, service=checked("tls"))
        await self.until_down(outer, port, "TM-T101")

    async def test_without_an_identity_nobody_is_checked(self) -> None:
        """And nobody is down for it."""
        inner = self.start_inbound(self.target.port)
        port = inner.port("orders-in")
        outer = self.start_outbound(port, service=checked("tls", "1s"))
        await self.until_good(outer, port)
        state = outer.service.composition.state
        svids = dict(state.current.svids)
        assert outer.service.plane is not None
        plane = outer.service.plane
        state.swap(svids={})
        await until(lambda: plane.gate.sockets == 0, "the last check is over")
        before = self.state(outer, port)
        state.swap(svids=svids)
        await until(lambda: self.state(outer, port).check != before.check, "it is checked again")
        self.assertEqual(before.state, "up")


class TCPCheckTests(HealthCheckTestCase):
    """Checks of type tcp."""

    async def test_connects_and_closes_in_order(self) -> None:
        """A server sees an end, an inbound proxy one of its connections without a byte."""
        received: list[bytes] = []
        port = self.application(lambda connection: received.append(connection.recv(1)))
        inner = self.start_inbound(self.target.port)
        outer = self.start_outbound(port, inner.port("orders-in"), service=checked("tcp"))
        await self.until_good(outer, port)
        await self.until_good(outer, inner.port("orders-in"))
        await until(lambda: received, "the server has seen the end")
        self.assertEqual(received[0], b"")
        record = await inner.closed()
        self.assertEqual(record.code, NO_BYTE)
        self.assertEqual(self.lines.take("orders-in"), [])

    async def test_nobody_and_a_black_hole_are_down(self) -> None:
        """Refused at once, or not answered in time."""
        refusing, deaf = unused_port(), deaf_port(self)
        outer = self.start_outbound(refusing, deaf, service=checked("tcp"))
        await self.until_down(outer, refusing, "TM-U101")
        await self.until_down(outer, deaf, "TM-T101")

    async def test_who_accepts_and_resets_is_up(self) -> None:
        """That is all that a TCP check can tell."""

        def slam(connection: socket.socket) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        port = self.application(slam)
        outer = self.start_outbound(port, service=checked("tcp"))
        await self.until_good(outer, port)

    async def test_a_unix_socket_can_be_checked(self) -> None:
        """As any other address."""
        directory = tempfile.TemporaryDirectory()  # sun_path holds 108 bytes, unix(7)
        self.addCleanup(directory.cleanup)
        path = Path(directory.name) / "application.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self.addCleanup(listener.close)
        outer = self.start_outbound(f"unix:{path}", service=checked("tcp"))
        health = self.health(outer)
        assert outer.service.plane is not None
        [endpoint] = outer.service.composition.state.current.endpoints["orders"]
        clock: Any = outer.service.plane.clock
        await until(lambda: health.state(endpoint.address, clock.seconds()).check, "it was checked")
        self.assertEqual(health.state(endpoint.address, clock.seconds()).state, "up")


class ProxyHeaderTests(HealthCheckTestCase):
    """A server that wants a PROXY header is told that a check is for nobody."""

    async def test_both_types_begin_with_it(self) -> None:
        """Both versions; an inbound listener that reads them writes no line about checks."""
        accepts = ', proxy_protocol: {accept_from: ["127.0.0.0/8"]}'
        for version in ("v1", "v2"):
            for kind, code in (("tls", HEALTH_CHECKED), ("tcp", NO_BYTE)):
                inner = self.start_inbound(self.target.port, more=accepts)
                port = inner.port("orders-in")
                outer = self.start_outbound(port, service=f", proxy_protocol: {version}" + checked(kind, "1s"))
                await self.until_good(outer, port)
                self.assertEqual((await inner.closed()).code, code, (version, kind))
                self.assertEqual(self.lines.take("orders-in"), [])
                outer.service.composition.health.stop()


class PlaceTests(HealthCheckTestCase):
    """Checks count among the proxy's connections, and leave nothing behind."""

    async def test_every_place_is_given_back(self) -> None:
        """Of checks that end well, that fail, and that are cut by the stop."""
        inner = self.start_inbound(self.target.port)
        good, deaf, refusing = inner.port("orders-in"), deaf_port(self), unused_port()
        for kind in ("tcp", "tls"):
            outer = self.start_outbound(good, deaf, refusing, service=checked(kind))
            plane = outer.service.plane
            assert plane is not None
            await self.until_good(outer, good)
            await self.until_down(outer, deaf, "TM-T101")
            await self.until_down(outer, refusing, "TM-U101")
            await outer.service.stopService()
            await until(lambda plane=plane: not (plane.gate.connections or plane.gate.sockets), "all places are free")

    async def test_checks_leave_room_for_applications(self) -> None:
        """However many endpoints do not answer, a quarter of the connections is all that checks take at a time."""
        deaf = deaf_port(self)
        outer = self.start_outbound(
            *(f"127.0.0.{host}:{deaf}" for host in range(1, 9)),
            service=checked("tcp", "10s"),
            top="limits: {connections: 8}\n",
        )
        plane = outer.service.plane
        assert plane is not None
        self.assertEqual(plane.gate.connections, 2)

    async def test_no_check_is_made_without_room(self) -> None:
        """A proxy at its limit of connections does not call its endpoints dead."""
        inner = self.start_inbound(self.application(echo))
        port = inner.port("orders-in")
        outer = self.start_outbound(port, service=checked("tls", "1s"), top="limits: {connections: 1}\n")
        await self.until_good(outer, port)
        client = self.connect(outer.port("to-orders"))
        await in_thread(client.sendall, b"hello")
        self.assertEqual(await in_thread(client.recv, 5), b"hello")
        before = self.state(outer, port)
        client.close()
        await until(lambda: self.state(outer, port).check != before.check, "it is checked again")
        self.assertEqual(before.state, "up")
