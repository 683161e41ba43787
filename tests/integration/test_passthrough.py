"""TLS of applications that goes through both proxies, or one of them, as it is."""

from __future__ import annotations

import socket
import ssl  # noqa: TID251  an application's own TLS, not ours
from collections.abc import Callable

from tcpmesh.codes import (
    CANCELLED,
    CLEAN,
    CLIENT_HELLO_TIMEOUT,
    CONNECT_REFUSED,
    DENIED_BY_RULE,
    NO_BYTE,
    NO_ROUTE,
    NO_RULE_ALLOWS,
    NOT_TLS,
    POLICY_CHANGED,
    RESET,
    TARGET_FAILED,
)
from tcpmesh.dataplane.proxy_header import encode_v2
from tcpmesh.observe.records import as_mapping
from tcpmesh.policy.rules import Rules
from tcpmesh.values import TCPAddress
from tests.integration.applications import receive, reset, until
from tests.integration.mesh import PATIENCE, Proxy, in_thread, unused_port
from tests.integration.own_tls import OPEN, OwnTLSTestCase, first_bytes, is_end
from tests.unit.test_client_hello import openssl_hello

RESET_SEEN = "ECONNRESET"


def until_hello(hello: bytes, seen: list[bytes]) -> Callable[[socket.socket], None]:
    """A server that notes what comes up to the end of the ClientHello, and says a byte."""

    def serve(connection: socket.socket) -> None:
        received = b""
        while not received.endswith(hello):
            received += connection.recv(65536)
        seen.append(received)
        connection.sendall(b"x")

    return serve


class OutboundTests(OwnTLSTestCase):
    """From an application to a server, which need not know of any mesh."""

    def passing(self, *ports: int, service: str = "", more: str = "") -> Proxy:
        return self.start_routes(
            f"legacy: {{{self.static(*ports)}{service}}}",
            '{sni: "*.test", service: legacy, passthrough: true}',
            more=more,
        )

    async def test_the_server_is_verified_by_the_client_alone(self) -> None:
        """It sees the server's own certificate; we see a name, and numbers."""
        outer = self.passing(self.tls_application("a"))
        said = await in_thread(self.ask, outer.port("out"), "a.test")
        self.assertEqual(said, "a")
        record = await outer.closed()
        self.assertEqual((record.code, record.decision, record.attempts), (CLEAN, "allow", 1))
        self.assertEqual((record.sni, record.route, record.passthrough), ("a.test", "*.test", True))
        self.assertEqual(
            (record.dst_service, record.dst_identity, record.tls_version, record.conn), ("legacy", "", "", "")
        )
        self.assertGreater(record.bytes_sent, 300)
        self.assertGreater(record.bytes_recv, 1000)
        told = as_mapping(record, "close", 0.0)
        self.assertEqual((told["passthrough"], told["route"], told["sni"]), (True, "*.test", "a.test"))

    async def test_a_client_that_expects_another_server_says_so_itself(self) -> None:
        """Nothing in between hides who answers."""
        outer = self.passing(self.tls_application("b"))

        def wrong() -> str:
            try:
                return self.ask(outer.port("out"), "a.test")
            except ssl.SSLCertVerificationError as error:
                return error.verify_message

        self.assertIn("Hostname mismatch", await in_thread(wrong))

    async def test_nothing_but_tls_is_passed_through(self) -> None:
        """Plaintext, and TLS that begins otherwise, never reach an endpoint."""
        outer = self.passing(self.target.port)
        hello = first_bytes(self.client_context(), "a.test")
        for count, data in enumerate(
            (
                b"GET / HTTP/1.1\r\n\r\n",
                b"\x15\x03\x01\0\x02\x02\x28",
                b"\x17\x03\x03\0\x01x",
                b"\x16\x03\x01\0\x01\x02",
            ),
            1,
        ):
            received = await in_thread(self.plain, outer.port("out"), data)
            self.assertEqual(received.ending, RESET_SEEN)
            record = await outer.closed(count)
            self.assertEqual((record.code, record.bytes_sent, record.attempts), (NOT_TLS, 0, 0))
            self.assertIn("routes with sni or passthrough", record.reason)
        received = await in_thread(lambda: self.plain(outer.port("out"), hello[:100], fin=True))
        self.assertEqual(received.ending, RESET_SEEN)
        self.assertIn("it ended after 100 bytes of a ClientHello", (await outer.closed(5)).reason)
        self.assert_documented("outbound", "nothing", outbound=NOT_TLS, inbound="-")
        self.assertFalse(self.target.was_dialled)

    async def test_who_says_nothing_is_not_waited_for(self) -> None:
        """Longer than for a handshake; and a server that speaks first is named as a cause."""
        outer = self.passing(self.target.port, more=", timeouts: {handshake: 50ms}")
        received = await in_thread(self.plain, outer.port("out"), b"")
        self.assertEqual(received.ending, RESET_SEEN)
        record = await outer.closed()
        self.assertEqual(record.code, CLIENT_HELLO_TIMEOUT)
        self.assertIn("nothing came; this listener waits for TLS", record.reason)
        self.assertIn("above all those whose server speaks first", record.reason)
        self.assert_documented("outbound", "nothing", outbound=CLIENT_HELLO_TIMEOUT, inbound="-")
        self.assertFalse(self.target.was_dialled)

    async def test_who_comes_and_goes_is_no_failure(self) -> None:
        """A health check, or a client that changed its mind."""
        outer = self.passing(self.target.port)
        received = await in_thread(lambda: self.plain(outer.port("out"), b"", fin=True))
        self.assertIn(received.ending, (RESET_SEEN, "end"))
        self.assertEqual((await outer.closed()).code, NO_BYTE)
        reset(self.connect(outer.port("out")))
        self.assertEqual((await outer.closed(2)).code, CANCELLED)
        await until(lambda: not outer.live, "every socket is closed")

    async def test_a_name_without_a_route_goes_nowhere(self) -> None:
        """Nor does who asks for none, while there is no route for all others."""
        outer = self.passing(self.target.port)
        for count, (name, said) in enumerate((("a.invalid", "'a.invalid'"), (None, "without a server name")), 1):
            context = ssl._create_unverified_context()
            hello = first_bytes(context, name)
            received = await in_thread(self.plain, outer.port("out"), hello)
            self.assertEqual(received.ending, RESET_SEEN)
            record = await outer.closed(count)
            self.assertEqual((record.code, record.sni, record.route), (NO_ROUTE, name or "", ""))
            self.assertIn(said, record.reason)
        self.assert_documented("outbound", "nothing", outbound=NO_ROUTE, inbound="-")
        self.assertFalse(self.target.was_dialled)

    async def test_a_dead_endpoint_costs_an_attempt(self) -> None:
        """What was tried for a connection is TCP alone; the next endpoint gets the whole ClientHello."""
        outer = self.passing(
            unused_port(), self.tls_application("a"), service=", retry: {plugin: exponential, attempts: 2, base: 1ms}"
        )
        self.assertEqual(await in_thread(self.ask, outer.port("out"), "a.test"), "a")
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts), (CLEAN, 2))
        self.assertEqual([failure.code for failure in record.failures], [CONNECT_REFUSED])

    async def test_an_endpoint_that_got_the_hello_is_the_only_one(self) -> None:
        """It may have acted on it: a break is a break, whatever the retries say."""
        accepted = []

        def refuse(connection: socket.socket) -> None:
            accepted.append(connection.recv(65536))
            reset(connection)

        outer = self.passing(
            self.application(refuse),
            self.application(refuse),
            service=", retry: {plugin: exponential, attempts: 5, base: 1ms}",
        )
        hello = first_bytes(self.client_context(), "a.test")
        received = await in_thread(self.plain, outer.port("out"), hello)
        self.assertEqual(received.ending, RESET_SEEN)
        record = await outer.closed()
        self.assertEqual((record.code, record.attempts, accepted), (RESET, 1, [hello]))

    async def test_a_server_may_be_told_whom_it_is_for(self) -> None:
        """A PROXY header before the ClientHello; it is no payload."""
        seen: list[bytes] = []
        hello = first_bytes(self.client_context(), "a.test")
        outer = self.passing(self.application(until_hello(hello, seen)), service=", proxy_protocol: v1")
        received = await in_thread(lambda: self.plain(outer.port("out"), hello, fin=True))
        self.assertEqual(received.length, 1)
        record = await outer.closed()
        host, _, port = record.src_addr.rpartition(":")
        head, tail = seen[0].split(b"\r\n", 1)
        self.assertEqual(head, f"PROXY TCP4 {host} 127.0.0.1 {port} {outer.port('out')}".encode())
        self.assertEqual((tail, record.bytes_sent), (hello, len(hello)))

    async def test_a_client_that_goes_while_the_server_is_dialled(self) -> None:
        """Its reset is heard, although it has said something already."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            # The kernel takes one connection for it and answers no further one.
            waiting = socket.create_connection(full.getsockname())
            self.addCleanup(waiting.close)
            outer = self.passing(full.getsockname()[1])
            client = self.connect(outer.port("out"))
            client.sendall(first_bytes(self.client_context(), "a.test"))
            await until(lambda: [one for one in outer.live if one.record.attempts], "it is dialled")
            reset(client)
            record = await outer.closed()
            self.assertEqual((record.code, record.bytes_sent), (CANCELLED, 0))
            await until(lambda: not outer.live, "every socket is closed")

    async def test_a_hello_in_single_bytes_arrives_whole(self) -> None:
        """However slowly an application speaks."""
        seen: list[bytes] = []

        def serve(connection: socket.socket) -> None:
            received = b""
            while len(received) < len(hello) + 4:
                received += connection.recv(65536)
            seen.append(received)
            connection.sendall(b"done")

        hello = first_bytes(self.client_context(), "a.test")
        outer = self.passing(self.application(serve))

        def speak() -> bytes:
            with socket.create_connection(("127.0.0.1", outer.port("out")), timeout=PATIENCE) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for place in range(len(hello)):
                    connection.sendall(hello[place : place + 1])
                connection.sendall(b"more")
                return connection.recv(100)

        self.assertEqual(await in_thread(speak), b"done")
        self.assertEqual(seen, [hello + b"more"])
        self.assertEqual((await outer.closed()).bytes_sent, len(hello) + 4)

    async def test_ends_and_resets_are_those_of_the_ends(self) -> None:
        """FIN by itself is half-closed; a reset on one side is one on the other."""
        hello = first_bytes(self.client_context(), "a.test")

        def count(connection: socket.socket) -> None:
            length = 0
            while data := connection.recv(65536):
                length += len(data)
            connection.sendall(str(length).encode())

        outer = self.passing(self.application(count))
        received = await in_thread(lambda: self.plain(outer.port("out"), hello + bytes(100_000), fin=True))
        self.assertEqual((received.length, received.ending), (len(str(len(hello) + 100_000)), "end"))
        self.assertEqual((await outer.closed()).code, CLEAN)


class InboundTests(OwnTLSTestCase):
    """From a peer, whom nobody verifies, to an application."""

    async def test_goes_through_both_proxies(self) -> None:
        """Two hops, no mesh TLS in between; each records what it knows."""
        inner = self.start_passing(self.tls_application("a"))
        outer = self.start_routes(
            f"legacy: {{{self.static(inner.port('in'))}}}", "{sni: a.test, service: legacy, passthrough: true}"
        )
        self.assertEqual(await in_thread(self.ask, outer.port("out"), "a.test"), "a")
        there, here = await outer.closed(), await inner.closed()
        self.assertEqual((here.code, here.decision, here.policy), (CLEAN, "allow", "open"))
        self.assertEqual((here.src_identity, here.workload, here.sni, here.passthrough), ("", "", "a.test", True))
        self.assertEqual((there.bytes_sent, there.bytes_recv), (here.bytes_sent, here.bytes_recv))
        await until(lambda: not (inner.live or outer.live), "every socket is closed")
        gate = inner.service.plane.gate  # type: ignore[union-attr]
        self.assertEqual((gate.connections, gate.sockets, gate.handshakes), (0, 0, 0))

    async def test_no_other_policy_lets_it_in(self) -> None:
        """Not every authenticated peer's, not a network's, not the default."""
        for top in (
            OPEN.replace("unauthenticated", "authenticated"),
            OPEN.replace("any: unauthenticated", "networks: [0.0.0.0/0]"),
            "defaults: {inbound: allow}\n",
            "",
        ):
            inner = self.start_passing(self.target.port, top=top)
            hello = first_bytes(self.client_context(), "a.test")
            received = await in_thread(self.plain, inner.port("in"), hello)
            self.assertEqual((received.length, received.ending), (0, RESET_SEEN))
            record = await inner.closed()
            self.assertEqual((record.code, record.decision), (NO_RULE_ALLOWS, "deny"))
            self.assertIn("a peer without an identity at inbound listener 'in'", record.reason)
        self.assertFalse(self.target.was_dialled)

    async def test_policies_see_the_name_and_the_address(self) -> None:
        """Which narrow whom they mean."""
        policies = (
            "authorization: [{plugin: rules, policies: [{name: open, action: allow, "
            "from: [{any: unauthenticated, networks: [127.0.0.1]}], to: {sni: [a.test]}}]}]\n"
        )
        inner = self.start_passing(self.tls_application("a"), top=policies)
        self.assertEqual(await in_thread(self.ask, inner.port("in"), "a.test"), "a")
        hello = first_bytes(self.client_context(), "x.a.test")
        await in_thread(self.plain, inner.port("in"), hello)
        self.assertEqual((await inner.closed(2)).code, NO_RULE_ALLOWS)

    async def test_no_spelling_of_a_name_evades_a_policy(self) -> None:
        """Routes and policies compare the same name, or none for what can be none."""
        policies = "".join(
            f"{{name: {name}, action: {action}, from: [{{any: unauthenticated}}], to: {{inbound: [in]{sni}}}}}, "
            for name, action, sni in (
                ("shut", "deny", ", sni: [a.test]"),
                ("open", "allow", ', sni: ["*.test", "**.c.test"]'),
            )
        )
        inner = self.start_passing(
            self.target.port, top=f"authorization: [{{plugin: rules, policies: [{policies}]}}]\n"
        )
        too_long = b"c" * 63 + b"." + b"c" * 63 + b"." + b"c" * 63 + b"." + b"c" * 55 + b".c.test"
        for count, (name, code, policy) in enumerate(
            (
                (b"a.test", DENIED_BY_RULE, "shut"),
                (b"A.Test.", DENIED_BY_RULE, "shut"),
                (b"a.test..", NO_RULE_ALLOWS, ""),
                (too_long, NO_RULE_ALLOWS, ""),
            ),
            1,
        ):
            received = await in_thread(self.plain, inner.port("in"), openssl_hello(name))
            self.assertEqual(received.ending, RESET_SEEN)
            record = await inner.closed(count)
            self.assertEqual((record.code, record.policy, record.sni), (code, policy, name.decode()))
        self.assertFalse(self.target.was_dialled)

    async def test_nothing_but_tls_is_passed_through(self) -> None:
        """Whatever the policies say."""
        inner = self.start_passing(self.target.port)
        for count, data in enumerate((b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\x01\x02"), 1):
            received = await in_thread(self.plain, inner.port("in"), data)
            self.assertEqual((received.length, received.ending), (0, RESET_SEEN))
            self.assertEqual((await inner.closed(count)).code, NOT_TLS)
        received = await in_thread(lambda: self.plain(inner.port("in"), b"", fin=True))
        self.assertTrue(is_end(received), received)
        self.assertEqual((await inner.closed(3)).code, NO_BYTE)
        self.assert_documented("inbound", "RST", application="-", inbound=NOT_TLS)
        self.assertFalse(self.target.was_dialled)

    async def test_who_says_nothing_is_not_waited_for(self) -> None:
        """And holds a place among the handshakes only for as long."""
        inner = self.start_passing(self.target.port, more=", timeouts: {handshake: 50ms}")
        received = await in_thread(self.plain, inner.port("in"), b"")
        self.assertEqual(received.ending, RESET_SEEN)
        self.assertEqual((await inner.closed()).code, CLIENT_HELLO_TIMEOUT)
        self.assert_documented("inbound", "RST", application="-", inbound=CLIENT_HELLO_TIMEOUT)
        gate = inner.service.plane.gate  # type: ignore[union-attr]
        self.assertEqual(gate.handshakes, 0)

    async def test_an_application_that_is_not_there(self) -> None:
        """The peer sees a reset."""
        inner = self.start_passing(unused_port())
        hello = first_bytes(self.client_context(), "a.test")
        received = await in_thread(self.plain, inner.port("in"), hello)
        self.assertEqual(received.ending, RESET_SEEN)
        self.assertEqual((await inner.closed()).code, TARGET_FAILED)

    async def test_is_asked_about_again_when_policies_change(self) -> None:
        """What is no longer allowed is cut, as with everybody."""
        inner = self.start_passing(self.tls_application("a"))
        client = self.connect(inner.port("in"))
        client.sendall(first_bytes(self.client_context(), "a.test"))
        await in_thread(client.recv, 1)  # of the application's own handshake
        state = inner.service.composition.state
        (named,) = state.current.policies
        state.swap(policies=(type(named)(named.name, Rules(())),))
        record = await inner.closed()
        self.assertEqual((record.code, record.established), (POLICY_CHANGED, True))
        received = await in_thread(receive, client)
        self.assertEqual(received.ending, RESET_SEEN)

    async def test_a_proxy_header_comes_before_the_hello(self) -> None:
        """From a load balancer; its address is the one that policies are asked about."""
        policies = OPEN.replace("{any: unauthenticated}", "{any: unauthenticated, networks: [192.0.2.0/24]}")
        inner = self.start_passing(
            self.tls_application("a"), more=", proxy_protocol: {accept_from: [127.0.0.1]}", top=policies
        )
        header = encode_v2(TCPAddress("192.0.2.1", 4711), TCPAddress("192.0.2.9", 443))

        def behind() -> bytes:
            with socket.create_connection(("127.0.0.1", inner.port("in")), timeout=PATIENCE) as connection:
                connection.sendall(header)
                with self.client_context().wrap_socket(connection, server_hostname="a.test") as tls:
                    said = tls.recv(100)
                    tls.unwrap()
                    return said

        self.assertEqual(await in_thread(behind), b"a")
        record = await inner.closed()
        self.assertEqual((record.src_addr, record.sni, record.code), ("192.0.2.1:4711", "a.test", CLEAN))

    async def test_an_application_may_be_told_the_address(self) -> None:
        """Before the peer's ClientHello, of which no byte is missing."""
        seen: list[bytes] = []
        hello = first_bytes(self.client_context(), "a.test")
        inner = self.start_passing(self.application(until_hello(hello, seen)), more=", proxy_protocol: {send: v1}")
        received = await in_thread(lambda: self.plain(inner.port("in"), hello, fin=True))
        self.assertEqual(received.length, 1)
        record = await inner.closed()
        host, _, port = record.src_addr.rpartition(":")
        head, tail = seen[0].split(b"\r\n", 1)
        self.assertTrue(head.startswith(f"PROXY TCP4 {host} 127.0.0.1 {port} ".encode()), head)
        self.assertEqual((tail, record.bytes_sent), (hello, len(hello)))
