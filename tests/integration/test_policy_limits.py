"""Limits of policies, held against real connections: who gets in, what a refusal looks like, that every end counts."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from tcpmesh import codes
from tcpmesh.codes import POLICY_CONNECTIONS, POLICY_RATE
from tcpmesh.dataplane.preface import ALPN, Preface
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.policy.rules import Rules
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.integration import test_internal_errors
from tests.integration.applications import END, RESET, broken, deaf_port, exchange, receive, reset, until, whole
from tests.integration.mesh import Proxy, echo, in_thread
from tests.integration.refusals import RefusalTestCase
from tests.integration.strangers import Seen
from tests.integration.test_refused_peers import preface_of
from tests.unit.crafted import uri
from tests.unit.policy_samples import read

WEB, INTRUDER = "spiffe://mesh.test/web", "spiffe://mesh.test/intruder"
ONCE = ", retry: {plugin: exponential, attempts: 1}"


def limit(what: str, *, name: str = "few", more: str = "", who: str = "any: authenticated") -> str:
    return f"  - {{name: {name}, action: limit, from: [{{{who}}}], limit: {{{what}}}{more}}}\n"


def policies(*limits: str) -> str:
    return "policies:\n  - {name: all-may, action: allow, from: [{any: authenticated}]}\n" + "".join(limits)


def in_use(proxy: Proxy) -> dict[str, int]:
    assert proxy.service.plane is not None
    return dict(proxy.service.plane.limiting.in_use)


class LimitTestCase(RefusalTestCase):
    def limited(self, target: int, *limits: str, more: str = "") -> Proxy:
        """An inbound proxy whose policies are in a file."""
        self.file = self.directory / "policies.yaml"
        self.file.write_text(policies(*limits))
        top = "authorization: [{plugin: rules, files: [policies.yaml]}]\n"
        return self.start_inbound(target, allow=(), top=top, more=more)

    async def change(self, proxy: Proxy, *limits: str) -> None:
        state = proxy.service.composition.state
        before = state.current.policies
        self.file.write_text(policies(*limits))
        proxy.service.reload_identities()
        await until(lambda: state.current.policies is not before, "the policies are others")

    async def served(self, port: int) -> socket.socket:
        """A connection that got through, and stays."""
        client = self.connect(port)
        client.sendall(b"hello")
        self.assertEqual((await in_thread(receive, client, 5)).length, 5)
        return client

    async def refused(self, port: int) -> None:
        client = self.connect(port)
        client.sendall(b"secret")
        received = await in_thread(receive, client)
        self.assertEqual((received.length, received.ending), (0, RESET))


class InboundTests(LimitTestCase):
    async def test_one_too_many_is_told_why(self) -> None:
        """In the preface; the record names policy, file, line, count and limit, and the application is not called."""
        inner = self.limited(self.application(echo), limit("connections: 2, per: [identity]"))
        outer = self.start_outbound(inner.port("orders-in"), service=ONCE)
        port = outer.port("to-orders")
        first = await self.served(port)
        await self.served(port)
        await self.refused(port)
        here, there = await inner.closed(), await outer.closed()
        reason = f"{WEB} has 2 connections, and policy 'few' lets each identity have 2"
        self.assert_record(here, POLICY_CONNECTIONS, "proxy", reason, src_identity=WEB, decision="deny", policy="few")
        self.assertRegex(here.rule, r"\Apolicies\[1\] \(.*policies\.yaml:3:5\)\Z")
        self.assertIsNone(here.connect_ms)
        self.assert_line("orders-in", here)
        told = f"refused by the peer: {POLICY_CONNECTIONS.summary}"
        self.assert_record(there, POLICY_CONNECTIONS, "proxy", told)
        self.assertEqual(there.reason, told)
        self.assert_line("to-orders", there)
        self.assert_documented(
            "inbound", "preface, close_notify, FIN", outbound=POLICY_CONNECTIONS, inbound=POLICY_CONNECTIONS
        )
        self.assertEqual(await in_thread(exchange, first, b"more"), whole(b"more"))
        await until(lambda: in_use(inner) == {"few": 1}, "its place is given back")
        await self.served(port)

    async def test_too_fast_is_told_why(self) -> None:
        """The burst, then nobody: also a foreign client, which sees a reset."""
        inner = self.limited(self.target.port, limit("rate: 2/h, burst: 2, per: [identity]", name="slow"))
        port = inner.port("orders-in")
        for number, alpn in enumerate(([ALPN], [ALPN], [ALPN], []), 1):
            stranger = self.stranger(port, self.leaf(uri(WEB)), alpn=alpn)
            if number <= 2:
                await in_thread(stranger.handshake)
                await inner.opened(number)
                stranger.socket.close()
                await inner.closed(number)
                continue
            seen = await in_thread(stranger.watch)
            here = await inner.closed(number)
            reason = (
                f"{WEB} comes too often: policy 'slow' lets each identity have 2/h new ones (burst 2); the next one"
            )
            self.assert_record(here, POLICY_RATE, "proxy", reason, decision="deny", policy="slow")
            if alpn:
                self.assertEqual(preface_of(seen), Preface(ok=False, code="TM-L107", text=POLICY_RATE.summary))
                self.assert_line("orders-in", here)
            else:
                self.assertEqual(seen, Seen(secured=True, ending=RESET))
        self.assert_documented("inbound", "preface, close_notify, FIN", outbound=POLICY_RATE, inbound=POLICY_RATE)
        self.assert_documented("inbound", "RST", inbound=POLICY_RATE)

    async def test_another_endpoint_may_have_room(self) -> None:
        """A refusal by a limit is retried, as the service's strategy says."""
        inners = [self.limited(self.application(echo), limit("connections: 1")) for _ in range(2)]
        retry = ", retry: {plugin: exponential, attempts: 2, base: 1ms, max: 1ms}"
        outer = self.start_outbound(*(inner.port("orders-in") for inner in inners), service=retry)
        await self.served(outer.port("to-orders"))
        await self.served(outer.port("to-orders"))
        await self.refused(outer.port("to-orders"))
        self.assertEqual([in_use(inner) for inner in inners], [{"few": 1}, {"few": 1}])
        self.assertEqual((await outer.closed()).attempts, 2)

    async def test_a_dry_run_refuses_nobody(self) -> None:
        """It is noted in the record, and counted."""
        inner = self.limited(self.application(echo), limit("connections: 1", more=", mode: dry-run"))
        outer = self.start_outbound(inner.port("orders-in"))
        for _ in range(3):
            await self.served(outer.port("to-orders"))
        await inner.opened(3)
        said = [[(note.policy, note.says) for note in record.notes] for record in inner.tap.open]
        self.assertEqual(said, [[], [("few", "would-limit")], [("few", "would-limit")]])
        assert inner.service._reporting is not None
        text = inner.service._reporting._metrics.render()[1].decode()
        for line in (
            'tcpmesh_policy_notes_total{authz_name="few",direction="inbound",says="would-limit"} 2.0',
            'tcpmesh_policy_limit_noted_total{policy="few"} 2.0',
            'tcpmesh_policy_limit_refused_total{policy="few"} 0.0',
            'tcpmesh_policy_limit_in_use{policy="few"} 1.0',
        ):
            self.assertIn(line, text)


class FloodTests(LimitTestCase):
    async def test_two_identities_of_a_thousand_connections(self) -> None:
        """Each has 20 at any time, never one more; when they have gone, nothing is left."""
        inner = self.limited(self.application(echo), limit("connections: 20, per: [identity]"))
        most: Counter[str] = Counter()
        live: Counter[str] = Counter()
        sink = inner.tap

        def opened(record: Any, then: Any = sink.opened) -> None:
            live[record.src_identity] += 1
            most[record.src_identity] = max(most[record.src_identity], live[record.src_identity])
            then(record)

        sink.opened = opened  # type: ignore[method-assign]
        ports = [
            self.start_outbound(inner.port("orders-in"), workload=name, service=ONCE).port("to-orders")
            for name in ("web", "intruder")
        ]

        def attempt(number: int) -> tuple[int, socket.socket | None]:
            client = socket.create_connection(("127.0.0.1", ports[number % 2]), timeout=60)
            try:
                client.sendall(b"x")
                if client.recv(1) == b"x":
                    return number % 2, client
            except OSError:
                pass
            client.close()
            return number % 2, None

        def flood() -> list[tuple[int, socket.socket | None]]:
            with ThreadPoolExecutor(32) as threads:
                return list(threads.map(attempt, range(1000)))

        found = await in_thread(flood)
        held = [client for _, client in found if client is not None]
        for client in held:
            self.addCleanup(client.close)
        self.assertEqual(Counter(which for which, client in found if client is not None), {0: 20, 1: 20})
        self.assertEqual(most, {WEB: 20, INTRUDER: 20})
        self.assertEqual(in_use(inner), {"few": 40})
        await inner.closed(960)
        self.assertEqual(Counter(record.code for record in inner.tap.close), {POLICY_CONNECTIONS: 960})
        assert inner.service._reporting is not None
        text = inner.service._reporting._metrics.render()[1].decode()
        self.assertIn('tcpmesh_policy_limit_refused_total{policy="few"} 960.0', text)
        self.assertEqual([line for line in text.splitlines() if "policy_limit" in line and "spiffe:" in line], [])
        for client in held:
            client.close()
        await inner.closed(1000)
        assert inner.service.plane is not None
        self.assertEqual((in_use(inner), inner.service.plane.limiting.counters), ({"few": 0}, 0))


class ReloadTests(LimitTestCase):
    """Files that change while connections live."""

    async def test_the_new_number_holds_for_those_who_live(self) -> None:
        """Lower: nobody new, nobody ended. Higher: room at once. Gone: nobody is counted."""
        inner = self.limited(self.application(echo), limit("connections: 3, per: [identity]"))
        port = self.start_outbound(inner.port("orders-in"), service=ONCE).port("to-orders")
        clients = [await self.served(port) for _ in range(3)]
        await self.change(inner, limit("connections: 1, per: [identity]"))
        await self.refused(port)
        record = await inner.closed()
        self.assertEqual(record.reason, f"{WEB} has 3 connections, and policy 'few' lets each identity have 1")
        for client in clients[:2]:
            self.assertEqual(await in_thread(exchange, client, b"still"), whole(b"still"))
        await inner.closed(3)
        await self.refused(port)
        await self.change(inner, limit("connections: 2, per: [identity]"))
        await self.served(port)
        await self.refused(port)
        await self.change(inner)
        for _ in range(3):
            await self.served(port)
        await until(lambda: in_use(inner) == {}, "nobody is counted")

    async def test_live_connections_count_for_a_limit_that_is_new(self) -> None:
        """Also one that counts others together; they are counted in the turns of the review."""
        inner = self.limited(self.application(echo))
        port = self.start_outbound(inner.port("orders-in"), service=ONCE).port("to-orders")
        clients = [await self.served(port) for _ in range(2)]
        await self.change(inner, limit("connections: 2, per: [identity]"))
        await until(lambda: in_use(inner) == {"few": 2}, "they are counted")
        await self.refused(port)
        await self.change(inner, limit("connections: 2, rate: 1/h, per: [source]"))
        await until(lambda: in_use(inner) == {"few": 2}, "they are counted anew, and no longer by identity")
        await self.refused(port)
        self.assertIn("127.0.0.1 has 2 connections", (await inner.closed(2)).reason)
        self.assertEqual(await in_thread(exchange, clients.pop(), b"bye"), whole(b"bye"))
        await until(lambda: in_use(inner) == {"few": 1}, "its place is given back")
        await self.served(port)  # those that lived before used up nothing of the rate
        self.assertEqual(await in_thread(exchange, clients.pop(), b"bye"), whole(b"bye"))
        await until(lambda: in_use(inner) == {"few": 1}, "its place is given back, too")
        await self.refused(port)
        self.assertIs((await inner.closed(5)).code, POLICY_RATE)

    async def test_a_hundred_reloads_while_connections_come_and_go(self) -> None:
        """Whatever they were counted by when they came, nothing is left when they have gone, and nobody is lost."""
        inner = self.limited(self.application(echo))
        port = self.start_outbound(inner.port("orders-in"), service=ONCE).port("to-orders")
        state = inner.service.composition.state
        variants = [
            tuple(NamedPolicy("rules", Rules(read(text + limits))) for _ in range(count))
            for text in ["- {name: all-may, action: allow, from: [{any: authenticated}]}\n"]
            for limits, count in (
                ("", 1),
                ("- {name: a, action: limit, from: [{any: authenticated}], limit: {connections: 6}}", 1),
                ("- {name: a, action: limit, from: [{any: authenticated}], limit: {connections: 9, per: [source]}}", 2),
                ("- {name: a, action: limit, from: [{any: authenticated}], limit: {rate: 900/s, per: [identity]}}", 1),
                ("- {name: b, action: limit, mode: dry-run, from: [{any: authenticated}], limit: {connections: 1}}", 1),
            )
        ]
        left = [100]

        def swap() -> None:
            state.swap(policies=variants[left[0] % len(variants)])
            left[0] -= 1

        def come_and_go(_: int) -> str:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                return exchange(client, b"x" * 1000).ending

        def churn() -> list[str]:
            with ThreadPoolExecutor(12) as threads:
                return list(threads.map(come_and_go, range(300)))

        swapping = LoopingCall(swap)
        swapping.start(0.005)
        try:
            endings = await in_thread(churn)
        finally:
            swapping.stop()
        self.assertLess(left[0], 1)
        self.assertEqual(set(endings) - {END, RESET}, set())
        await inner.closed(300)
        found = Counter(record.code for record in inner.tap.close)
        self.assertEqual(set(found) - {codes.CLEAN, codes.RESET, POLICY_CONNECTIONS, POLICY_RATE}, set())
        self.assertGreater(found[codes.CLEAN], 0)
        self.assertEqual(sum(in_use(inner).values()), 0)
        state.swap(policies=variants[0])
        assert inner.service.plane is not None
        self.assertEqual((in_use(inner), inner.service.plane.limiting.counters), ({}, 0))


@implementer(IAuthorizationPolicy)
class Thoughtful:
    """Allows when it is told to."""

    def __init__(self) -> None:
        self.answers: list[Deferred[Decision]] = []

    def decide(self, request: AuthorizationRequest) -> Deferred[Decision]:
        self.answers.append(Deferred())
        return self.answers[-1]

    def describe(self) -> Sequence[str]:
        return ()


class LaterTests(LimitTestCase):
    async def test_counts_when_it_is_decided_and_not_when_it_is_asked(self) -> None:
        """Of three that wait for a policy, the first that is allowed gets in; who has left counts for nothing."""
        inner = self.limited(self.application(echo), limit("connections: 1"))
        slow = Thoughtful()
        state = inner.service.composition.state
        state.swap(policies=(NamedPolicy("thoughtful", slow), *state.current.policies))
        port = self.start_outbound(inner.port("orders-in"), service=ONCE).port("to-orders")
        clients = []
        for number in (1, 2, 3):
            clients.append(self.connect(port))
            await until(lambda number=number: len(slow.answers) == number, "it is asked")  # type: ignore[misc]
        self.assertEqual(in_use(inner), {"few": 0})
        reset(clients[0])
        await inner.closed()
        for answer in slow.answers[2:0:-1]:
            answer.callback(Decision(Effect.ALLOW))
        self.assertEqual(in_use(inner), {"few": 1})
        self.assertEqual(await in_thread(broken, clients[1]), RESET)
        self.assertEqual(await in_thread(exchange, clients[2], b"hello"), whole(b"hello"))
        await inner.closed(3)
        self.assertEqual(
            [record.code for record in inner.tap.close], [codes.CANCELLED, POLICY_CONNECTIONS, codes.CLEAN]
        )
        self.assertEqual(in_use(inner), {"few": 0})


class EndTests(LimitTestCase):
    """However a connection ends, its place is given back, once."""

    async def only(self, inner: Proxy) -> None:
        await until(lambda: in_use(inner) == {"few": 1}, "it is counted")

    async def nobody(self, inner: Proxy, code: codes.Code, count: int = 1) -> None:
        record = await inner.closed(count)
        self.assertIs(record.code, code, record.reason)
        self.assertEqual(in_use(inner), {"few": 0})
        assert inner.service.plane is not None
        self.assertEqual(inner.service.plane.limiting.counters, 0)

    async def test_ends_of_established_connections(self) -> None:
        """In order, by reset, by a cut, by a timeout, by a mistake of our own, by the deny-list."""
        inner = self.limited(self.application(echo), limit("connections: 1"))
        port = self.start_outbound(inner.port("orders-in"), service=ONCE).port("to-orders")
        state = inner.service.composition.state

        def denied(_client: socket.socket) -> None:
            state.swap(deny_list=DenyList((DenyEntry(id=SpiffeId.parse(WEB), reason="gone"),)))

        def mistake(client: socket.socket) -> None:
            inner.live[0].src.owner = test_internal_errors.Mistaken(inner.live[0].src.owner)
            client.sendall(b"x")

        for number, (end, code) in enumerate(
            (
                (lambda client: exchange(client, b"x"), codes.CLEAN),
                (reset, codes.RESET),
                (lambda _: inner.live[0].cut(codes.SHUTDOWN, "cut"), codes.SHUTDOWN),
                (lambda _: inner.live[0].relay.expire(codes.IDLE_TIMEOUT, "idle"), codes.IDLE_TIMEOUT),
                (mistake, codes.INTERNAL),
                (denied, codes.PEER_DENIED),
            ),
            1,
        ):
            client = await self.served(port)
            await self.only(inner)
            if code is codes.CLEAN:
                await in_thread(end, client)
            else:
                end(client)
            await self.nobody(inner, code, number)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_an_application_that_is_not_there(self) -> None:
        """It was counted before it was dialled."""
        inner = self.limited(self.unused(), limit("connections: 1"))
        outer = self.start_outbound(inner.port("orders-in"), service=ONCE)
        for number in (1, 2):
            await self.refused(outer.port("to-orders"))
            await self.nobody(inner, codes.TARGET_FAILED, number)

    def unused(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return int(listener.getsockname()[1])

    async def test_whoever_leaves_while_the_application_is_dialled(self) -> None:
        """It counts while it is dialled, and others have no room."""
        inner = self.limited(deaf_port(self), limit("connections: 1"))
        stranger = self.stranger(inner.port("orders-in"), self.leaf(uri(WEB)), alpn=[ALPN])
        await in_thread(stranger.handshake)
        await self.only(inner)
        other = self.stranger(inner.port("orders-in"), self.leaf(uri(INTRUDER)), alpn=[ALPN])
        await in_thread(other.watch)
        self.assertIs((await inner.closed()).code, POLICY_CONNECTIONS)
        reset(stranger.socket)
        await self.nobody(inner, codes.CANCELLED, 2)

    async def test_the_stop_of_the_proxy(self) -> None:
        """Established or not."""
        inner = self.limited(deaf_port(self), limit("connections: 1"))
        stranger = self.stranger(inner.port("orders-in"), self.leaf(uri(WEB)), alpn=[ALPN])
        await in_thread(stranger.handshake)
        await self.only(inner)
        plane = inner.service.plane
        assert plane is not None
        stopping = inner.service.stopService()
        inner.service.stop_now()
        await stopping
        self.assertEqual((plane.limiting.in_use, plane.limiting.counters), ({"few": 0}, 0))


class OutboundTests(LimitTestCase):
    """Limits about services."""

    def outbound(self, *endpoints: int, what: str = "connections: 1", service: str = ONCE) -> Proxy:
        policy = limit(what, more=", to: {services: [orders]}").strip(" -\n")
        return self.start_outbound(
            *endpoints, service=service, top=f"authorization: [{{plugin: rules, policies: [{policy}]}}]\n"
        )

    async def test_one_too_many_is_reset_and_nothing_is_dialled(self) -> None:
        """Though no policy decides about services."""
        inner = self.start_inbound(self.application(echo))
        outer = self.outbound(inner.port("orders-in"), what="connections: 1, per: [identity]")
        self.assertFalse(outer.service.composition.state.current.decides_outbound)
        client = await self.served(outer.port("to-orders"))
        await self.refused(outer.port("to-orders"))
        record = await outer.closed()
        reason = f"{WEB} has 1 connection, and policy 'few' lets each identity have 1"
        self.assert_record(record, POLICY_CONNECTIONS, "proxy", reason, decision="deny", policy="few", attempts=0)
        self.assert_line("to-orders", record)
        self.assert_documented("outbound", "nothing", outbound=POLICY_CONNECTIONS, inbound="-")
        self.assertEqual(await in_thread(exchange, client, b"more"), whole(b"more"))
        await until(lambda: in_use(outer) == {"few": 0}, "its place is given back")
        self.assertEqual(len(inner.tap.close), 1)
        await self.served(outer.port("to-orders"))

    async def test_too_fast_is_reset_too(self) -> None:
        """TM-L107."""
        inner = self.start_inbound(self.application(echo))
        outer = self.outbound(inner.port("orders-in"), what="rate: 1/h")
        await self.served(outer.port("to-orders"))
        await self.refused(outer.port("to-orders"))
        self.assert_record(await outer.closed(), POLICY_RATE, "proxy", "connections come too often", attempts=0)
        self.assert_documented("outbound", "nothing", outbound=POLICY_RATE, inbound="-")

    async def test_several_attempts_are_one_connection(self) -> None:
        """Counted once, and until the last has failed."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = int(listener.getsockname()[1])
        retry = ", retry: {plugin: exponential, attempts: 3, base: 1ms, max: 1ms}, retry_budget: {minimum: 4}"
        outer = self.outbound(nobody, service=retry)
        for number in (1, 2):
            await self.refused(outer.port("to-orders"))
            record = await outer.closed(number)
            self.assertEqual((record.code, record.attempts), (codes.CONNECT_REFUSED, 3))
            self.assertEqual(in_use(outer), {"few": 0})

    async def test_an_application_that_leaves_while_the_service_is_dialled(self) -> None:
        """Its place is free for the next one."""
        outer = self.outbound(deaf_port(self))
        client = self.connect(outer.port("to-orders"))
        await until(lambda: in_use(outer) == {"few": 1}, "it is counted")
        self.assertEqual(await in_thread(broken, self.connect(outer.port("to-orders"))), RESET)
        reset(client)
        record = await outer.closed(2)
        self.assertIs(record.code, codes.CANCELLED)
        self.assertEqual(in_use(outer), {"few": 0})

    async def test_live_connections_count_for_a_limit_that_is_new(self) -> None:
        """Though nobody had to be asked when they began."""
        inner = self.start_inbound(self.application(echo))
        free, limited = self.start_outbound(inner.port("orders-in")), self.outbound(inner.port("orders-in"))
        await self.served(free.port("to-orders"))
        free.service.composition.state.swap(policies=limited.service.composition.state.current.policies)
        await until(lambda: in_use(free) == {"few": 1}, "it is counted")
        await self.refused(free.port("to-orders"))
