"""Where connections go: by server name, by weight, and by which service can be reached."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Sequence

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh.codes import (
    CIRCUIT_OPEN,
    CLEAN,
    CONNECT_REFUSED,
    ESTABLISH_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    NO_ENDPOINT,
    NO_IDENTITY,
    NO_ROUTE,
    NOT_TLS,
    OUTBOUND_DENIED,
    POLICY_CONNECTIONS,
    SERVICE_CONNECTIONS,
    STOPPING,
    TARGET_FAILED,
)
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.observe.access_log import as_text_line
from tcpmesh.policy.rules import Rules
from tcpmesh.policy_interfaces import IOutboundPolicy
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.integration.applications import push, receive, reset, until
from tests.integration.mesh import Proxy, echo, in_thread, unused_port
from tests.integration.own_tls import OwnTLSTestCase, first_bytes
from tests.unit.policy_samples import read
from tests.unit.tls_pairs import take

ALL = "authorization: [{plugin: rules, policies: [{name: all, action: allow, from: [{any: authenticated}]}]}]\n"


@implementer(IOutboundPolicy)
class DbLater:
    """Answers about the service ``db`` when the test does."""

    decides_outbound = True

    def __init__(self) -> None:
        self.asked: list[Deferred[Decision]] = []

    def decide(self, request: AuthorizationRequest) -> Decision | Deferred[Decision]:
        if request.service != "db":
            return Decision(Effect.ABSTAIN)
        self.asked.append(Deferred())
        return self.asked[-1]

    def describe(self) -> Sequence[str]:
        return ()


class RoutesTestCase(OwnTLSTestCase):
    """Inbound proxies for ``orders`` and ``web``, and routes to them."""

    def inbound(self, target: int, workload: str = "orders", *, listen: str = "127.0.0.1:0") -> Proxy:
        self.pki.issue(workload)
        return self.start(
            self.identity(workload)
            + f'inbound: [{{name: in, listen: "{listen}", target: "127.0.0.1:{target}", workload: {workload}}}]\n'
            + ALL
        )

    def service(self, name: str, *ports: int, workload: str = "orders", more: str = "") -> str:
        return f'{name}: {{expect: ["{self.pki.id(workload)}"], {self.static(*ports)}{more}}}'

    def saying(self, word: bytes) -> int:
        """An application that says who it is and then echoes; its port."""

        def serve(connection: socket.socket) -> None:
            connection.sendall(word)
            echo(connection)

        return self.application(serve)

    async def said(self, port: int, length: int = 1) -> bytes:
        """What an application hears first, without a word of its own; then both end."""

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                said = connection.recv(length)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(100):
                    pass
                return said

        return await in_thread(talk)


class Load:
    """Clients that connect, hear one byte and go, again and again."""

    CLIENTS = 4

    def __init__(self, port: int) -> None:
        self.heard: Counter[bytes] = Counter()
        self.lost = 0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(port,), daemon=True) for _ in range(self.CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int) -> None:
        while not self._stopped.is_set():
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                try:
                    said = connection.recv(1)
                except ConnectionResetError:
                    said = b""
            with self._lock:
                if said:
                    self.heard[said] += 1
                else:
                    self.lost += 1

    def stop(self) -> None:
        """End all of them."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class ServerNameTests(RoutesTestCase):
    """The application's ClientHello says where it goes; its TLS goes there inside of the mesh's."""

    async def test_two_names_on_one_port(self) -> None:
        """Each to its own service, over mutual TLS to its own identity; the application's own TLS inside."""
        first, second = self.inbound(self.tls_application("a")), self.inbound(self.tls_application("b"), "web")
        outer = self.start_routes(
            self.service("one", first.port("in")) + "\n" + self.service("two", second.port("in"), workload="web"),
            "{sni: a.test, service: one}, {sni: b.test, service: two}",
        )
        for count, (name, identity) in enumerate((("a", "orders"), ("b", "web"), ("a", "orders")), 1):
            self.assertEqual(await in_thread(self.ask, outer.port("out"), f"{name}.test"), name)
            record = await outer.closed(count)
            self.assertEqual((record.code, record.route, record.sni), (CLEAN, f"{name}.test", f"{name}.test"))
            self.assertEqual((record.dst_identity, record.alpn), (f"spiffe://mesh.test/{identity}", "tcpmesh/1"))
            self.assertFalse(record.passthrough)
        await until(lambda: not (outer.live or first.live or second.live), "every socket is closed")

    async def test_all_others_have_a_route(self) -> None:
        """Other names, names in whatever spelling, and none."""
        inner = self.inbound(self.tls_application("a"))
        outer = self.start_routes(
            self.service("one", inner.port("in")) + "\n" + self.service("two", self.target.port),
            '{sni: "*.b.test", service: two}, {service: one}',
        )
        self.assertEqual(await in_thread(self.ask, outer.port("out"), "X.A.TEST"), "a")
        record = await outer.closed()
        self.assertEqual((record.route, record.sni.lower()), ("default", "x.a.test"))

    async def test_a_foreign_server_gets_the_whole_hello_again(self) -> None:
        """Whoever breaks before payload moved: what was read of the application waits for the next endpoint."""
        inner = self.inbound(self.tls_application("a"))
        outer = self.start_routes(
            self.service(
                "one",
                self.application(reset),
                inner.port("in"),
                more=", retry: {plugin: exponential, attempts: 3, base: 1ms}",
            ),
            "{sni: a.test, service: one}",
        )
        self.assertEqual(await in_thread(self.ask, outer.port("out"), "a.test"), "a")
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts), (CLEAN, 2))

    async def test_plaintext_has_no_route(self) -> None:
        """Not even the one for all other names: that is for TLS without one of those that are listed."""
        outer = self.start_routes(self.service("one", self.target.port), "{sni: a.test, service: one}, {service: one}")
        received = await in_thread(self.plain, outer.port("out"), b"SELECT 1\n")
        self.assertEqual((received.length, received.ending), (0, "ECONNRESET"))
        self.assertEqual((await outer.closed()).code, NOT_TLS)
        self.assertFalse(self.target.was_dialled)

    async def test_a_hello_that_comes_while_the_proxy_stops(self) -> None:
        """Is better sent elsewhere: nobody is dialled for it."""
        outer = self.start_routes(self.service("one", self.target.port), "{sni: a.test, service: one}")
        client = self.connect(outer.port("out"))
        await until(lambda: bool(outer.live), "it is accepted")
        stopping = outer.service.stopService()
        client.sendall(first_bytes(self.client_context(), "a.test"))
        self.assertEqual((await in_thread(receive, client)).ending, "ECONNRESET")
        self.assertEqual((await outer.closed()).code, STOPPING)
        await stopping
        self.assertFalse(self.target.was_dialled)

    async def test_without_names_nobody_is_waited_for(self) -> None:
        """A server that speaks first is heard behind routes that need no name."""
        inner = self.inbound(self.saying(b"!"))
        for route in ("{service: one}", "{split: {one: 1}}", "{failover: [one]}"):
            outer = self.start_routes(self.service("one", inner.port("in")), route)
            self.assertEqual(await self.said(outer.port("out")), b"!")
            self.assertEqual((await outer.closed()).route, "default")


class InboundTests(RoutesTestCase):
    """A peer's ClientHello says which application it wants, and who we are for it."""

    def inner(self, *, more: str = "", keys: str = "") -> Proxy:
        return self.start(
            self.identity("orders", "web")
            + 'inbound: [{name: in, listen: "127.0.0.1:0", workload: orders, routes: ['
            + f'{{sni: web.test, target: "127.0.0.1:{self.saying(b"w")}", workload: web}}, '
            + f'{{sni: "**.orders.test", target: "127.0.0.1:{self.saying(b"o")}"}}{more}]{keys}}}]\n'
            + ALL
        )

    def outer(self, inner: Proxy, name: str, workload: str) -> Proxy:
        sni = f", sni: {name}" if name else ""
        return self.start_routes(self.service("one", inner.port("in"), workload=workload, more=sni), "{service: one}")

    async def test_each_name_has_its_application_and_identity(self) -> None:
        """Which the peer verifies."""
        inner = self.inner()
        for count, (name, workload, word) in enumerate(
            (("web.test", "web", b"w"), ("a.b.orders.test", "orders", b"o")), 1
        ):
            outer = self.outer(inner, name, workload)
            self.assertEqual(await self.said(outer.port("out")), word)
            record = await inner.closed(count)
            self.assertEqual((record.code, record.workload, record.sni), (CLEAN, workload, name))
            self.assertEqual(record.src_identity, "spiffe://mesh.test/web")

    async def test_a_hello_in_single_bytes(self) -> None:
        """Is as good: the handshake goes on behind it, with the identity of its route."""
        inner = self.inner()
        stranger = self.stranger(inner.port("in"), self.leaf(), sni=b"web.test")
        hello = first_bytes(self.client_context(), "web.test")

        def speak() -> bytes:
            stranger.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(len(hello)):
                stranger.socket.sendall(hello[place : place + 1])
            answer = stranger.socket.recv(6)
            stranger.socket.close()
            return answer

        answer = await in_thread(speak)
        self.assertEqual((answer[:2], answer[5:]), (b"\x16\x03", b"\x02"))  # a ServerHello
        record = await inner.closed()
        self.assertEqual((record.route, record.workload), ("web.test", "web"))

    async def test_who_asks_for_another_name_when_asked_again(self) -> None:
        """Is refused: its route is that of the first name, and policies would be asked about the second."""
        inner = self.inner(keys=", tls: {groups: [P-384]}")
        stranger = self.stranger(inner.port("in"), self.leaf(), sni=b"web.test")
        self.assertRaises(SSL.WantReadError, stranger.tls.do_handshake)  # its key share is not for P-384
        stranger.socket.sendall(take(stranger.tls))
        stranger.tls.set_tlsext_host_name(b"a.orders.test")
        seen = await in_thread(stranger.watch)
        self.assertEqual((seen.data, seen.ending), (b"", "ECONNRESET"))
        record = await inner.closed()
        self.assertEqual((record.code, record.route, record.sni), (NO_ROUTE, "web.test", "a.orders.test"))
        self.assertIn("it asked for the server name 'web.test', by which its route was chosen", record.reason)
        self.assertEqual((record.decision, record.established), ("", False))

    async def test_without_the_identity_of_its_route(self) -> None:
        """Nothing is shown, whichever others there are."""
        inner = self.inner()
        state = inner.service.composition.state
        state.swap(svids={name: svid for name, svid in state.current.svids.items() if name != "web"})
        received = await in_thread(self.plain, inner.port("in"), first_bytes(self.client_context(), "web.test"))
        self.assertEqual((received.length, received.ending), (0, "ECONNRESET"))
        self.assertEqual((await inner.closed()).code, NO_IDENTITY)
        self.assertEqual(await self.said(self.outer(inner, "a.orders.test", "orders").port("out")), b"o")

    async def test_a_name_without_a_route(self) -> None:
        """Is nobody's, and no identity is shown; the other proxy may try elsewhere."""
        inner = self.inner()
        for count, name in enumerate(("orders.test", ""), 1):
            outer = self.outer(inner, name, "orders")
            received = await in_thread(receive, self.connect(outer.port("out")))
            self.assertEqual((received.length, received.ending), (0, "ECONNRESET"))
            record = await inner.closed(count)
            self.assertEqual((record.code, record.sni, record.workload), (NO_ROUTE, name, ""))
            there = await outer.closed()
            self.assertEqual((there.code, there.dst_identity), (HANDSHAKE_TRUNCATED, ""))
            self.assert_documented("inbound", "RST", outbound=HANDSHAKE_TRUNCATED, inbound=NO_ROUTE)

    async def test_the_others_have_a_route(self) -> None:
        """Peers of the mesh ask for no name unless their service says sni."""
        inner = self.inner(more=f', {{target: "127.0.0.1:{self.saying(b"d")}"}}')
        self.assertEqual(await self.said(self.outer(inner, "", "orders").port("out")), b"d")
        record = await inner.closed()
        self.assertEqual((record.route, record.workload), ("default", "orders"))

    async def test_some_names_are_passed_through(self) -> None:
        """Beside others that are verified; the policies tell one from the other."""
        inner = self.inner(
            more=f', {{sni: a.test, target: "127.0.0.1:{self.tls_application("a")}", passthrough: true}}'
        )
        self.assertEqual(await self.said(self.outer(inner, "web.test", "web").port("out")), b"w")
        received = await in_thread(self.plain, inner.port("in"), first_bytes(self.client_context(), "a.test"))
        self.assertEqual(received.ending, "ECONNRESET")
        record = await inner.closed(2)
        self.assertEqual((record.decision, record.passthrough, record.route), ("deny", True, "a.test"))


class SplitTests(RoutesTestCase):
    """A canary."""

    async def test_shares_are_those_of_the_weights(self) -> None:
        """As far as chance allows; measured at the services themselves."""
        old, new = self.inbound(self.saying(b"o")), self.inbound(self.saying(b"n"), "web")
        outer = self.start_routes(
            self.service("old", old.port("in")) + "\n" + self.service("new", new.port("in"), workload="web"),
            "{split: {old: 80, new: 20}}",
        )
        heard: Counter[bytes] = Counter()
        for _ in range(20):
            heard.update(await in_thread(self.several, outer.port("out"), 20))
        # 400 draws, one in five: 80, and five standard deviations of 8.
        self.assertEqual(heard.total(), 400)
        self.assertLess(abs(heard[b"n"] - 80), 40, heard)
        await outer.closed(400)
        recorded = Counter(record.dst_service for record in outer.tap.close)
        self.assertEqual((recorded["old"], recorded["new"]), (heard[b"o"], heard[b"n"]))

    @staticmethod
    def several(port: int, count: int) -> list[bytes]:
        """What that many connections hear first. A thread's function."""
        connections = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(count)]
        heard = [connection.recv(1) for connection in connections]
        for connection in connections:
            connection.close()
        return heard

    async def test_a_canary_that_fails_is_not_hidden(self) -> None:
        """A split is no failover."""
        old = self.inbound(self.saying(b"o"))
        outer = self.start_routes(
            self.service("old", old.port("in")) + "\n" + self.service("new", unused_port()),
            "{split: {old: 0, new: 1}}",
        )
        received = await in_thread(receive, self.connect(outer.port("out")))
        self.assertEqual(received.ending, "ECONNRESET")
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service), (CONNECT_REFUSED, "new"))


class FailoverTests(RoutesTestCase):
    """The next service when one cannot be reached."""

    def services(self, first: int, second: int, *, more: str = "") -> str:
        return self.service("first", first, more=more) + "\n" + self.service("second", second)

    async def test_the_next_service_takes_it(self) -> None:
        """And the record names it, with what failed before."""
        inner = self.inbound(self.saying(b"2"))
        outer = self.start_routes(self.services(unused_port(), inner.port("in")), "{failover: [first, second]}")
        self.assertEqual(await self.said(outer.port("out")), b"2")
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service, record.attempts), (CLEAN, "second", 2))
        self.assertEqual([failure.code for failure in record.failures], [CONNECT_REFUSED])
        self.assertEqual([code for _, code, _ in outer.tap.attempts], [CONNECT_REFUSED])

    async def test_when_all_fail_the_last_one_says_why(self) -> None:
        """With every attempt in the record."""
        outer = self.start_routes(
            self.services(unused_port(), unused_port(), more=", retry: {plugin: exponential, attempts: 2, base: 1ms}"),
            "{failover: [first, second]}",
        )
        received = await in_thread(receive, self.connect(outer.port("out")))
        self.assertEqual((received.length, received.ending), (0, "ECONNRESET"))
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service, record.attempts), (CONNECT_REFUSED, "second", 3))
        self.assertEqual(len(record.failures), 3)

    async def test_a_service_without_endpoints_is_passed_over(self) -> None:
        """It costs no attempt."""
        inner = self.inbound(self.saying(b"2"))
        outer = self.start_routes(self.services(unused_port(), inner.port("in")), "{failover: [first, second]}")
        state = outer.service.composition.state
        state.swap(endpoints={**state.current.endpoints, "first": ()})
        self.assertEqual(await self.said(outer.port("out")), b"2")
        record = await outer.closed()
        self.assertEqual((record.dst_service, record.attempts), ("second", 1))
        self.assertEqual([code for _, code, _ in outer.tap.attempts], [NO_ENDPOINT])
        self.assertEqual([(one.endpoint, one.code) for one in record.failures], [("service first", NO_ENDPOINT)])
        self.assertIn('attempts=1 failed="TM-U103 at service first"', as_text_line(record, "open", 0.0))

    async def test_the_last_service_is_not_blamed_for_the_endpoint_of_another(self) -> None:
        """It has none; what was tried before is among the failures."""
        dead = unused_port()
        outer = self.start_routes(self.services(dead, unused_port()), "{failover: [first, second]}")
        state = outer.service.composition.state
        state.swap(endpoints={**state.current.endpoints, "second": ()})
        await in_thread(receive, self.connect(outer.port("out")))
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service, record.dst_addr), (NO_ENDPOINT, "second", ""))
        self.assertEqual([one.endpoint for one in record.failures], [f"127.0.0.1:{dead}"])

    async def test_the_last_endpoint_is_not_given_the_certificate_of_another(self) -> None:
        """Who was verified and refused is not who was tried last."""
        inner = self.inbound(unused_port())  # its application is not there
        dead = unused_port()
        outer = self.start_routes(self.services(inner.port("in"), dead), "{failover: [first, second]}")
        await in_thread(receive, self.connect(outer.port("out")))
        record = await outer.closed()
        self.assertEqual([one.code for one in record.failures], [TARGET_FAILED, CONNECT_REFUSED])
        self.assertEqual((record.dst_addr, record.dst_identity), (f"127.0.0.1:{dead}", ""))
        self.assertEqual((record.dst_serial, record.dst_not_after), ("", None))

    async def test_a_service_with_an_open_circuit_is_passed_over(self) -> None:
        """Once it has failed often enough; until then each connection pays for an attempt."""
        inner = self.inbound(self.saying(b"2"))
        circuit = ", health: {ejection: {failures: 0}, circuit: {failures: 1, time: 1m}}"
        outer = self.start_routes(
            self.services(unused_port(), inner.port("in"), more=circuit), "{failover: [first, second]}"
        )
        for count, (attempts, code) in enumerate(((2, CONNECT_REFUSED), (1, CIRCUIT_OPEN)), 1):
            self.assertEqual(await self.said(outer.port("out")), b"2")
            record = await outer.closed(count)
            self.assertEqual((record.dst_service, record.attempts), ("second", attempts))
            self.assertIs(outer.tap.attempts[-1][1], code)

    async def test_a_service_that_is_full_is_passed_over(self) -> None:
        """By its own limits; who has a place keeps it."""
        first, second = self.inbound(self.saying(b"1")), self.inbound(self.saying(b"2"))
        outer = self.start_routes(
            self.services(first.port("in"), second.port("in"), more=", limits: {connections: 1}"),
            "{failover: [first, second]}",
        )
        held = self.connect(outer.port("out"))
        self.assertEqual(await in_thread(held.recv, 1), b"1")
        self.assertEqual(await self.said(outer.port("out")), b"2")
        self.assertIs(outer.tap.attempts[-1][1], SERVICE_CONNECTIONS)
        held.close()
        await outer.closed(2)
        self.assertEqual(await self.said(outer.port("out")), b"1")

    async def test_a_denial_is_the_last_word(self) -> None:
        """Policies are asked for each service that is tried, and no other one is tried instead of a denied one."""
        inner = self.inbound(self.saying(b"2"))
        deny = (
            "authorization: [{plugin: rules, policies: [{name: none, action: deny, "
            'from: [{ids: ["spiffe://mesh.test/web"]}], to: {services: [WHICH]}}]}]\n'
        )
        for which, attempts in (("first", 0), ("second", 1)):
            outer = self.start_routes(
                self.services(unused_port(), inner.port("in")),
                "{failover: [first, second]}",
                top=deny.replace("WHICH", which),
            )
            received = await in_thread(receive, self.connect(outer.port("out")))
            self.assertEqual((received.length, received.ending), (0, "ECONNRESET"))
            record = await outer.closed()
            self.assertEqual((record.code, record.dst_service, record.attempts), (OUTBOUND_DENIED, which, attempts))
        self.assertEqual(inner.tap.close, [])

    async def test_limits_of_policies_count_the_service_that_is_tried(self) -> None:
        """What was counted for the one before is given back."""
        inner = self.inbound(self.saying(b"2"))
        limit = (
            "authorization: [{plugin: rules, policies: [{name: few, action: limit, limit: {connections: 1}, "
            'from: [{ids: ["spiffe://mesh.test/web"]}], to: {services: [first]}}]}]\n'
        )
        outer = self.start_routes(
            self.services(unused_port(), inner.port("in")), "{failover: [first, second]}", top=limit
        )
        held = self.connect(outer.port("out"))
        self.assertEqual(await in_thread(held.recv, 1), b"2")
        plane = outer.service.plane
        assert plane is not None
        self.assertEqual(dict(plane.limiting.in_use), {"few": 0})
        self.assertEqual(await self.said(outer.port("out")), b"2")

    async def test_limits_that_change_while_the_next_service_is_asked_about(self) -> None:
        """Nothing is counted for a service that is not yet allowed, so that nothing stays counted for ever."""
        inner = self.inbound(self.saying(b"2"))
        services = self.service("mail", unused_port()) + "\n" + self.service("db", inner.port("in"))
        outer = self.start_routes(services, "{failover: [mail, db]}")
        slow, state, plane = DbLater(), outer.service.composition.state, outer.service.plane
        assert plane is not None
        state.swap(policies=(NamedPolicy("slow", slow),))
        client = self.connect(outer.port("out"))
        await until(lambda: slow.asked, "it is asked about the second service")
        few = (
            "- {name: few, action: limit, limit: {connections: 5}, from: [{prefixes: [spiffe://mesh.test/]}], "
            "to: {services: [db]}}"
        )
        state.swap(policies=(NamedPolicy("slow", slow), NamedPolicy("rules", Rules(read(few)))))
        await until(lambda: len(slow.asked) == 2, "it is asked about again")
        for answer in slow.asked:
            answer.callback(Decision(Effect.ABSTAIN))
        self.assertEqual(await in_thread(client.recv, 1), b"2")
        self.assertEqual(dict(plane.limiting.in_use), {"few": 1})
        client.close()
        await outer.closed()
        self.assertEqual(dict(plane.limiting.in_use), {"few": 0})

    async def test_a_limit_of_a_policy_is_the_last_word(self) -> None:
        """It is about the service that was to be used, as a denial is."""
        first, second = self.inbound(self.saying(b"1")), self.inbound(self.saying(b"2"))
        limit = (
            "authorization: [{plugin: rules, policies: [{name: few, action: limit, limit: {connections: 1}, "
            'from: [{ids: ["spiffe://mesh.test/web"]}], to: {services: [first]}}]}]\n'
        )
        outer = self.start_routes(
            self.services(first.port("in"), second.port("in")), "{failover: [first, second]}", top=limit
        )
        held = self.connect(outer.port("out"))
        self.assertEqual(await in_thread(held.recv, 1), b"1")
        received = await in_thread(receive, self.connect(outer.port("out")))
        self.assertEqual((received.length, received.ending), (0, "ECONNRESET"))
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service, record.attempts), (POLICY_CONNECTIONS, "first", 0))

    async def test_one_time_is_over_all_of_them(self) -> None:
        """timeouts.establish: a service that hangs uses it up for the next."""
        hanging = socket.create_server(("127.0.0.1", 0))  # accepts and says nothing
        self.addCleanup(hanging.close)
        inner = self.inbound(self.saying(b"2"))
        outer = self.start_routes(
            self.services(hanging.getsockname()[1], inner.port("in")),
            "{failover: [first, second]}",
            more=", timeouts: {establish: 200ms}",
        )
        received = await in_thread(receive, self.connect(outer.port("out")))
        self.assertEqual(received.ending, "ECONNRESET")
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service), (ESTABLISH_TIMEOUT, "first"))

    async def test_a_foreign_server_that_hangs_up_at_once_is_passed_over(self) -> None:
        """Before a payload byte has left; the relay had begun."""
        inner = self.inbound(self.saying(b"2"))
        outer = self.start_routes(
            self.services(self.application(reset), inner.port("in")), "{failover: [first, second]}"
        )
        self.assertEqual(await self.said(outer.port("out")), b"2")
        record = await outer.closed()
        self.assertEqual((record.code, record.dst_service), (CLEAN, "second"))

    async def test_the_first_has_it_again_when_it_is_back(self) -> None:
        """While four clients connect as fast as they can: whom nobody takes is whom the first had when it went away."""
        port = unused_port()
        second = self.inbound(self.saying(b"2"))
        outer = self.start_routes(
            self.services(port, second.port("in"), more=", health: {ejection: {failures: 0}}"),
            "{failover: [first, second]}",
        )
        load = Load(outer.port("out"))
        self.addCleanup(load.stop)
        await until(lambda: load.heard[b"2"] > 20, "the second has them")
        self.assertEqual(set(load.heard), {b"2"})
        first = self.inbound(self.saying(b"1"), listen=f"127.0.0.1:{port}")
        await until(lambda: load.heard[b"1"] > 20, "the first has them")
        self.assertEqual(load.lost, 0)
        held = self.connect(outer.port("out"))
        self.assertEqual(await in_thread(held.recv, 1), b"1")
        await self._stop(first.service)
        self.assertEqual((await in_thread(receive, held)).ending, "ECONNRESET")  # what lived there has ended
        before = load.heard[b"2"]
        await until(lambda: load.heard[b"2"] > before + 20, "the second has them again")
        await in_thread(load.stop)
        self.assertEqual(set(load.heard), {b"1", b"2"})
        self.assertLessEqual(load.lost, load.CLIENTS)

    async def test_a_large_payload_goes_to_one_service(self) -> None:
        """Whole, and only once, whichever was tried before."""
        received: list[bytes] = []

        def take(connection: socket.socket) -> None:
            data = b""
            while more := connection.recv(262144):
                data += more
            received.append(data)
            connection.shutdown(socket.SHUT_WR)

        inner = self.inbound(self.application(take))
        outer = self.start_routes(
            self.services(self.application(reset), inner.port("in")), "{failover: [first, second]}"
        )
        data = bytes(range(256)) * 4096

        def send() -> str:
            with socket.create_connection(("127.0.0.1", outer.port("out")), timeout=20) as connection:
                push(connection, data)
                connection.shutdown(socket.SHUT_WR)
                return receive(connection).ending

        self.assertEqual(await in_thread(send), "end")
        self.assertEqual(received, [data])
