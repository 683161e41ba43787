"""The life of an identity over a real wire: rotation touches no connection, what is no longer allowed ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import pem_of, serial_text
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.moments import Moment
from tcpmesh.net.dialling import Dial
from tcpmesh.net.expiry import LOOK, Expiries
from tcpmesh.values import AuthorizationRequest, Decision, IdentityState, TrustBundle
from tcpmesh.wall_clock import wall_clock
from tests.integration.applications import RESET, broken, deaf_port, until
from tests.integration.mesh import MeshTestCase, Pki, Proxy, echo, in_thread, reactor, receive_all
from tests.integration.refusals import RefusalTestCase
from tests.unit.crafted import uri
from tests.unit.tls_pairs import now_authority

PARTNER = "partner.test"


def state_of(proxy: Proxy) -> Any:
    return proxy.service.composition.state


class LifeTestCase(MeshTestCase):
    """Two proxies, and applications that talk through them for long."""

    def ask(self, connection: socket.socket) -> bytes:
        """A word there and back; empty when the connection is no more."""
        try:
            connection.sendall(b"x")
            return connection.recv(1)
        except OSError:
            return b""

    async def lasting(self, port: int) -> socket.socket:
        """A connection that has carried something."""
        connection = self.connect(port)
        self.assertEqual(await in_thread(self.ask, connection), b"x")
        return connection

    async def assert_lives(self, *connections: socket.socket) -> None:
        for connection in connections:
            self.assertEqual(await in_thread(self.ask, connection), b"x")

    async def assert_reset(self, connection: socket.socket) -> None:
        with self.assertRaises(ConnectionResetError):
            await in_thread(connection.recv, 1)

    def deny(self, proxy: Proxy, *entries: DenyEntry) -> None:
        state_of(proxy).swap(deny_list=DenyList(entries))

    async def assert_next(self, proxy: Proxy, number: int, code: Code, *words: str) -> None:
        """The NUMBER-th close record of a proxy."""
        record = await proxy.closed(number)
        self.assertEqual(record.code, code, record.reason)
        for word in words:
            self.assertIn(word, record.reason)
        self.assertEqual(record.closed_by, "proxy")


class RotationTests(LifeTestCase):
    """What is new comes in, and nothing that lives is touched."""

    async def test_new_certificates_and_a_new_root_under_live_connections(self) -> None:
        """Leaves are renewed; a root comes, signs, and the old one stays in the bundle."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        first = await self.lasting(port)
        old = self.pki.root.certificate
        self.pki.issue("web")
        self.pki.issue("orders")
        for proxy in (outer, inner):
            proxy.service.reload_identities()
        second = await self.lasting(port)
        new = Pki(self.directory / "new")
        self.pki.bundle.write_bytes(pem_of([old, new.root.certificate]))
        for proxy in (outer, inner):
            proxy.service.reload_identities()
        for name in ("web", "orders"):
            certificate, key = new.issue(name)
            certificate.rename(self.pki.directory / f"{name}.pem")
            key.rename(self.pki.directory / f"{name}.key")
        for proxy in (outer, inner):
            proxy.service.reload_identities()
        third = await self.lasting(port)
        await self.assert_lives(first, second, third)
        serials = {record.src_serial for record in inner.tap.open}
        self.assertEqual(len(serials), 3)

        # The old root goes: those that it vouched for go with it, at both ends, and nobody else.
        self.pki.bundle.write_bytes(pem_of([new.root.certificate]))
        inner.service.reload_identities()
        await self.assert_reset(first)
        await self.assert_reset(second)
        await self.assert_lives(third)
        for number in (1, 2):
            await self.assert_next(inner, number, codes.VOUCHER_GONE, "has left the bundle of mesh.test", "/web")

    async def test_a_thousand_states_under_live_connections(self) -> None:
        """Certificates, endpoints, growing bundles, entries about others: nobody is cut, nothing is kept."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        lasting = [await self.lasting(port) for _ in range(3)]
        for number in range(500):
            for proxy in (outer, inner):
                cell = state_of(proxy)
                cell.swap(svids=dict(cell.current.svids), bundles=dict(cell.current.bundles))
                self.deny(proxy, DenyEntry(serial=f"{number + 1:08x}"))
            if number % 50 == 0:
                passing = await self.lasting(port)
                passing.close()
        await self.assert_lives(*lasting)
        await until(lambda: len(outer.live) == len(inner.live) == 3, "those that passed have gone")
        for proxy in (outer, inner):
            review = proxy.service._review
            assert review is not None
            await until(lambda: review.waiting == 0, "everybody was looked at")  # noqa: B023
            self.assertEqual(review.ended, {})
            self.assertEqual(review._own, {})


class WithdrawalTests(LifeTestCase):
    """What was allowed is allowed no longer."""

    async def test_a_bundle_that_goes_ends_those_of_its_authorities_only(self) -> None:
        """Inbound and outbound: partner.test leaves, mesh.test stays."""
        partner = Pki(self.directory / "partner", PARTNER)
        partner.issue("web")
        target = self.application(echo)
        rules = ", ".join(f'"{pki.id("web")}"' for pki in (self.pki, partner))
        inner = self.start(
            self.identity("orders", bundles=(self.pki, partner))
            + f'inbound: [{{name: orders-in, listen: "127.0.0.1:0", target: "127.0.0.1:{target}", workload: orders}}]\n'
            + "authorization: [{plugin: rules, policies: "
            + f"[{{name: some, action: allow, from: [{{ids: [{rules}]}}]}}]}}]\n"
        )
        ours = self.start_outbound(inner.port("orders-in"))
        theirs = self.start(
            self.identity("web", pki=partner, bundles=(self.pki, partner))
            + f'services: {{orders: {{expect: ["{self.pki.id("orders")}"], '
            + f'discovery: {{plugin: static, endpoints: ["127.0.0.1:{inner.port("orders-in")}"]}}}}}}\n'
            + 'outbound: [{name: to-orders, listen: "127.0.0.1:0", service: orders, workload: web}]\n',
            trust_domain=PARTNER,
        )
        here, there, second = [await self.lasting(proxy.port("to-orders")) for proxy in (ours, theirs, theirs)]
        bundles = dict(state_of(inner).current.bundles)
        del bundles[TrustDomain(PARTNER)]
        state_of(inner).swap(bundles=bundles)
        await self.assert_reset(there)
        await self.assert_reset(second)
        await self.assert_next(inner, 1, codes.VOUCHER_GONE, "there is no trust bundle for partner.test")
        await self.assert_lives(here)

        # And the client's side, whose server's authority goes.
        domain = self.pki.trust_domain
        state_of(ours).swap(bundles={domain: TrustBundle(domain, (now_authority("another").certificate,))})
        await self.assert_reset(here)
        await self.assert_next(ours, 1, codes.VOUCHER_GONE, "spiffe://mesh.test/orders", "has left the bundle")

    async def test_a_certificate_that_is_denied_and_the_next_one(self) -> None:
        """Issued before the moment: cut off and refused, on both sides; issued after it: taken."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        before = await self.lasting(port)
        moment = Moment(wall_clock() + 3600)
        self.deny(inner, DenyEntry(id=self.pki.id("web"), issued_before=moment, reason="laptop stolen"))
        await self.assert_reset(before)
        await self.assert_next(inner, 1, codes.PEER_DENIED, "issued before", "because: 'laptop stolen'")
        refused = self.connect(port)
        await self.assert_reset(refused)
        await self.assert_next(inner, 2, codes.PEER_DENIED, "laptop stolen")
        await self.assert_next(outer, 2, codes.PEER_ALERT)
        self.assertNotIn("laptop", (await outer.closed(2)).reason)
        # Certificates that begin now are new enough: the issuing authority sets them back by a minute.
        self.deny(inner, DenyEntry(id=self.pki.id("web"), issued_before=Moment(wall_clock() - 120)))
        after = await self.lasting(port)
        self.deny(inner, DenyEntry(id=self.pki.id("web"), issued_before=Moment(wall_clock() - 90)))
        await self.assert_lives(after)

    async def test_a_server_that_is_denied(self) -> None:
        """By its key, by the proxy that dials it."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        live = await self.lasting(port)
        leaf = state_of(inner).current.svids["orders"].leaf
        self.deny(outer, DenyEntry(spki=str(key_pin(leaf))))
        await self.assert_reset(live)
        await self.assert_next(outer, 1, codes.PEER_DENIED, "spiffe://mesh.test/orders", serial_text(leaf))
        refused = self.connect(port)
        await self.assert_reset(refused)
        await self.assert_next(outer, 2, codes.PEER_DENIED, "spki sha256:")

    async def test_our_own_certificate_is_denied(self) -> None:
        """Those who saw it are cut off, and nobody is shown it; the next one serves."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        for proxy, workload in ((outer, "web"), (inner, "orders")):
            live = await self.lasting(port)
            count = len(proxy.tap.close)
            self.deny(proxy, DenyEntry(serial=serial_text(state_of(proxy).current.svids[workload].leaf)))
            await self.assert_reset(live)
            await self.assert_next(proxy, count + 1, codes.OWN_DENIED, f"workload {workload!r}", "that was shown here")
            await self.assert_reset(self.connect(port))
            await self.assert_next(proxy, count + 2, codes.OWN_DENIED, f"own certificate of workload {workload!r}")
            self.pki.issue(workload)
            proxy.service.reload_identities()
            (await self.lasting(port)).close()
            await until(lambda: not outer.live and not inner.live, "they are gone")

    async def test_our_own_identity_is_withdrawn(self) -> None:
        """By its source; after the grace it costs the connections of that workload."""
        outer, inner, port = self.start_two_hops(self.application(echo))
        live = await self.lasting(port)
        state_of(outer).swap(svids={}, identity_states={"web": IdentityState.REVOKED})
        await self.assert_lives(live)
        await self.assert_reset(live)
        await self.assert_next(outer, 1, codes.OWN_REVOKED, "withdrew the identity of workload 'web'")
        await inner.closed()

    async def test_half_closed_connections(self) -> None:
        """By either side: whoever still waits sees a reset, the record has the denial's code."""
        fates: list[str] = []

        def serve(connection: socket.socket) -> None:
            if connection.recv(1) == b"s":
                connection.shutdown(socket.SHUT_WR)
            fates.append(broken(connection))

        outer, inner, port = self.start_two_hops(self.application(serve))
        client, server = self.connect(port), self.connect(port)
        client.sendall(b"c")
        client.shutdown(socket.SHUT_WR)
        server.sendall(b"s")
        self.assertEqual(await in_thread(server.recv, 1), b"")
        await until(lambda: sorted(each.record.bytes_sent for each in inner.live) == [1, 1], "both are through")
        self.deny(inner, DenyEntry(id=self.pki.id("web")))
        await self.assert_reset(client)
        for number in (1, 2):
            await self.assert_next(inner, number, codes.PEER_DENIED, "spiffe://mesh.test/web")
            await outer.closed(number)
        await until(lambda: len(fates) == 2, "the application has heard of it")
        await until(lambda: not outer.live and not inner.live, "all sockets are closed")

    async def test_expiry(self) -> None:
        """Where the listener or the service says close, at the first look after it; elsewhere never."""
        target = self.application(echo)
        closing = self.start_inbound(target, more=", on_expiry: close")
        keeping = self.start_inbound(target)
        outers = [
            self.start_outbound(closing.port("orders-in")),
            self.start_outbound(keeping.port("orders-in"), service=", on_expiry: close"),
            self.start_outbound(keeping.port("orders-in")),
        ]
        times = [self.controlled(proxy) for proxy in (closing, keeping, *outers)]
        first, second, third = [await self.lasting(proxy.port("to-orders")) for proxy in outers]
        for ahead in (3500, 3700):  # an hour is what they last
            for timers, set_forward in times:
                set_forward(ahead)
                timers.advance(LOOK)
            if ahead < 3600:
                await self.assert_lives(first, second, third)
        await self.assert_reset(first)
        await self.assert_reset(second)
        await self.assert_next(closing, 1, codes.EXPIRED_SINCE, "spiffe://mesh.test/web expired at ")
        await self.assert_next(outers[1], 1, codes.EXPIRED_SINCE, "spiffe://mesh.test/orders expired at ")
        await self.assert_lives(third)
        self.assertEqual(outers[2].tap.close, [])

    @staticmethod
    def controlled(proxy: Proxy) -> tuple[Clock, Callable[[float], None]]:
        """The timer of the looks at expiry, and a way to set the wall clock of connections forward."""
        plane, review, timers = proxy.service.plane, proxy.service._review, Clock()
        assert plane is not None
        assert review is not None
        plane.expiries = Expiries(timers, lambda: plane.wall_clock())
        plane.expiries.due = review.examine

        def set_forward(seconds: float) -> None:
            plane.wall_clock = lambda: wall_clock() + seconds

        return timers, set_forward


@implementer(IAuthorizationPolicy)
class Thinking:
    """A policy that never comes to an end by itself."""

    def __init__(self) -> None:
        self.answers: list[Deferred[Decision]] = []
        self.cancelled = 0

    def decide(self, _request: AuthorizationRequest) -> Deferred[Decision]:
        def count(_answer: Deferred[Decision]) -> None:
            self.cancelled += 1

        self.answers.append(Deferred(count))
        return self.answers[-1]

    def describe(self) -> list[str]:
        return []


class ChangeAtEachStepTests(RefusalTestCase):
    """The state changes while a connection is on its way: before, within and after its handshake."""

    def denial(self, proxy: Proxy) -> None:
        state_of(proxy).swap(deny_list=DenyList([DenyEntry(id=self.pki.id("web"), reason="at last")]))

    async def test_before_the_first_byte(self) -> None:
        """The handshake began under the old list and ends under the new one; the reason stays with us."""
        inner = self.start_inbound(self.target.port)
        stranger = self.stranger(inner.port("orders-in"), self.leaf(), alpn=[b"tcpmesh/1"])
        await self.accepted(inner)
        self.denial(inner)
        seen = await in_thread(stranger.watch)
        here = await inner.closed()
        self.assert_record(here, codes.PEER_DENIED, "proxy", "at last")
        self.assertIn(codes.PEER_DENIED.id.encode(), seen.data)
        self.assertNotIn(b"at last", seen.data)
        self.assertFalse(self.target.was_dialled)
        self.assert_documented("inbound", "preface, close_notify, FIN", outbound=here.code, inbound=here.code)

    async def test_before_the_connection(self) -> None:
        """Refused in the handshake, as a client and as a server: an alert, and the reason in one log."""
        inner = self.start_inbound(self.target.port)
        outer = self.start_outbound(inner.port("orders-in"))
        self.denial(inner)
        await self.assert_reset(outer)
        there, here = await outer.closed(), await inner.closed()
        self.assert_record(here, codes.PEER_DENIED, "proxy", "at last", presented="spiffe://mesh.test/web")
        self.assert_line("orders-in", here)
        self.assert_documented("inbound", "alert, FIN", outbound=there.code or "", inbound=here.code or "")
        state_of(inner).swap(deny_list=DenyList())
        state_of(outer).swap(deny_list=DenyList([DenyEntry(id=self.pki.id("orders"))]))
        await self.assert_reset(outer)
        there, here = await outer.closed(2), await inner.closed(2)
        self.assert_record(there, codes.PEER_DENIED, "proxy", presented="spiffe://mesh.test/orders")
        self.assert_documented("outbound", "alert, FIN", outbound=there.code or "", inbound=here.code or "")
        self.assertFalse(self.target.was_dialled)

    async def test_while_a_policy_thinks(self) -> None:
        """Its answer is not waited for, and counts for nothing when it comes."""
        inner = self.start_inbound(self.target.port)
        thinking = Thinking()
        state_of(inner).swap(policies=(NamedPolicy("thinking", thinking),))
        stranger = self.stranger(inner.port("orders-in"), self.leaf())
        watching = in_thread(stranger.watch)
        await until(lambda: thinking.answers, "it was asked")
        self.denial(inner)
        seen = await watching
        self.assertEqual((seen.secured, seen.data, seen.ending), (True, b"", RESET))
        self.assert_record(await inner.closed(), codes.PEER_DENIED, "proxy", "at last")
        self.assertEqual(thinking.cancelled, 1)
        self.assertFalse(self.target.was_dialled)

    async def test_while_the_application_is_dialled(self) -> None:
        """It has not accepted yet, and need not any more."""
        inner = self.start_inbound(deaf_port(self))
        stranger = self.stranger(inner.port("orders-in"), self.leaf())
        watching = in_thread(stranger.watch)
        await until(lambda: [each for each in inner.live if each.record.decision], "the target is being dialled")
        self.denial(inner)
        self.assertEqual((await watching).ending, RESET)
        self.assertEqual((await inner.closed()).code, codes.PEER_DENIED)
        await until(lambda: not inner.live, "all sockets are closed")

    async def test_another_endpoint_takes_over_from_one_that_is_denied(self) -> None:
        """While nothing was sent yet; the application notices nothing."""
        made = self.leaf(uri("spiffe://mesh.test/orders"), serial=0x77)
        port, _seen = self.strange_server(made, alpn=b"tcpmesh/1", then=lambda peer: peer.socket.recv(1))
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(
            port, inner.port("orders-in"), service=", retry: {plugin: exponential, attempts: 2, base: 1ms}"
        )
        application = self.connect(outer.port("to-orders"))
        application.sendall(b"hello")
        application.shutdown(socket.SHUT_WR)
        await self.until_secured(outer)
        state_of(outer).swap(deny_list=DenyList([DenyEntry(serial="77")]))
        self.assertEqual(await in_thread(receive_all, application), b"hello")
        there = await outer.closed()
        self.assertEqual((there.code, there.attempts), (codes.CLEAN, 2))
        [(_record, code, _reason)] = outer.tap.attempts
        self.assertIs(code, codes.PEER_DENIED)

    async def test_an_endpoint_that_is_still_being_dialled(self) -> None:
        """A judge that knows of it before any peer is seen: its dial ends, another endpoint takes over."""
        deaf, inner = deaf_port(self), self.start_inbound(self.application(echo))
        outer = self.start_outbound(
            deaf, inner.port("orders-in"), service=", retry: {plugin: exponential, attempts: 2, base: 1ms}"
        )
        review = outer.service._review
        assert review is not None
        review.judges.append(
            lambda live, _state: (
                Refusal(codes.VOUCHER_GONE, "a judge's word") if live.record.dst_addr.endswith(f":{deaf}") else None
            )
        )
        application = self.connect(outer.port("to-orders"))
        application.sendall(b"hello")
        application.shutdown(socket.SHUT_WR)
        await until(lambda: [each for each in outer.live if each.record.dst_addr], "it is being dialled")
        review.examine_all()
        self.assertEqual(await in_thread(receive_all, application), b"hello")
        there = await outer.closed()
        self.assertEqual((there.code, there.attempts), (codes.CLEAN, 2))
        self.assertEqual([each for each in reactor.getWriters() if isinstance(each, Dial)], [])

    async def test_while_the_client_waits_for_the_server_to_accept(self) -> None:
        """The attempt fails as if the server had been refused at once: another endpoint may do better."""
        made = self.leaf(uri("spiffe://mesh.test/orders"))
        port, _seen = self.strange_server(made, alpn=b"tcpmesh/1", then=lambda peer: peer.socket.recv(1))
        outer = self.start_outbound(port)
        application = self.connect(outer.port("to-orders"))
        await self.until_secured(outer)
        state_of(outer).swap(deny_list=DenyList([DenyEntry(id=self.pki.id("orders"))]))
        with self.assertRaises(ConnectionResetError):
            await in_thread(application.recv, 1)
        there = await outer.closed()
        self.assertEqual((there.code, there.established), (codes.PEER_DENIED, False), there.reason)
