"""A peer asks an inbound listener how it is seen (``tcpmesh-probe/1``): who is told what, and what it costs."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import OWN_DENIED, PROBE_ANSWERED, PROBE_NOT_ALLOWED, STOPPING
from tcpmesh.dataplane.probe import PROBE_ALPN, ProbeAnswer, ProbeReader, ProbeRefusal
from tcpmesh.identity.certificates import name_text
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.net.probed import DialTurns
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.integration.applications import END, until
from tests.integration.mesh import Proxy, echo, in_thread, unused_port
from tests.integration.refusals import WEB, RefusalTestCase
from tests.integration.strangers import Seen
from tests.unit.crafted import uri

INTRUDER, OTHER = "spiffe://mesh.test/intruder", "spiffe://mesh.test/other"
PROBE = f', probe: {{allow: ["{WEB}", "{OTHER}"]}}'


@implementer(IAuthorizationPolicy)
class Slow:
    """A policy that waits for somebody."""

    def __init__(self, answer: Deferred[Decision]) -> None:
        self._answer = answer

    def decide(self, _request: AuthorizationRequest) -> Deferred[Decision]:
        """Later."""
        return self._answer


class DialTurnTests(SynchronousTestCase):
    """When probes may call the application."""

    def test_one_a_second(self) -> None:
        """Counted from the last that was let through, not from those that were not."""
        turns = DialTurns()
        self.assertEqual(
            [turns.take(now) for now in (5.0, 5.5, 5.9, 6.0, 6.9, 7.1)], [True, False, False, True, False, True]
        )


class ProbeTests(RefusalTestCase):
    """One inbound proxy, and strangers with certificates of its mesh."""

    async def ask(self, proxy: Proxy, name: str, alpn: tuple[bytes, ...] = (PROBE_ALPN,)) -> Seen:
        """Come as this identity and watch."""
        stranger = self.stranger(proxy.port("orders-in"), self.leaf(uri(name)), alpn=alpn)
        return await in_thread(stranger.watch)

    def read(self, seen: Seen) -> ProbeAnswer | ProbeRefusal:
        """What came, to its end: close_notify and FIN behind it."""
        self.assertEqual((seen.notified, seen.ending, seen.error), (True, END, ""))
        reader = ProbeReader()
        reader.feed(seen.data)
        return reader.finish()

    async def answer(self, proxy: Proxy, name: str) -> ProbeAnswer:
        answer = self.read(await self.ask(proxy, name))
        assert isinstance(answer, ProbeAnswer), answer
        return answer

    def accepting(self) -> tuple[int, list[bytes]]:
        """An application's port, and what each of its connections brought to its end."""
        brought: list[bytes] = []
        return self.application(lambda connection: brought.append(connection.recv(1))), brought

    async def test_tells_who_is_listed(self) -> None:
        """Whom this side sees, what the policies would say, and that the application answers; no byte reaches it."""
        port, brought = self.accepting()
        proxy = self.start_inbound(port, more=PROBE)
        answer = await self.answer(proxy, WEB)
        self.assertEqual((answer.peer, answer.listener, answer.own), (WEB, "orders-in", str(self.pki.id("orders"))))
        self.assertEqual((answer.allowed, answer.code, answer.policy), (True, "", "some-may"))
        self.assertEqual(answer.peer_source, "127.0.0.1")
        self.assertEqual((answer.target, answer.authorities), ("reachable", 1))
        state = proxy.service.composition.state.current
        (authority,) = state.bundles[self.pki.id("web").trust_domain].authorities
        self.assertEqual(answer.authority, name_text(authority.subject))
        self.assertEqual(answer.generation, state.generation)
        record = await proxy.closed()
        self.assert_record(record, PROBE_ANSWERED, "proxy", WEB, "it would be let in", src_identity=WEB, decision="")
        self.assertEqual((answer.peer_serial, answer.peer_not_after), (record.src_serial, record.src_not_after))
        self.assertTrue(answer.peer_serial)
        self.assertEqual(self.lines.take("orders-in"), [])
        await until(lambda: brought, "the application has seen the end")
        self.assertEqual(brought, [b""])

    async def test_tells_who_would_be_refused(self) -> None:
        """With code and reason; the application is not called, and the decision counts for no connection."""
        proxy = self.start_inbound(self.target.port, more=PROBE)
        answer = await self.answer(proxy, OTHER)
        self.assertEqual((answer.allowed, answer.code), (False, "TM-P102"))
        self.assertEqual((answer.target, answer.target_text), ("not tried", "it would be refused"))
        self.assertIn(OTHER, answer.reason)
        record = await proxy.closed()
        self.assert_record(record, PROBE_ANSWERED, "proxy", "TM-P102", decision="", connect_ms=None)
        self.assertFalse(self.target.was_dialled)
        self.assertNotIn("inbound_tcp_authz_deny_total{", self.metrics(proxy))
        self.assertIn('code="TM-D107"', self.metrics(proxy))

    async def test_says_nothing_to_who_is_not_listed(self) -> None:
        """Neither to whom the policies would let in nor to whom they would not: the same words."""
        proxy = self.start_inbound(self.target.port, more=f', probe: {{allow: ["{OTHER}"]}}')
        for number, name in enumerate((WEB, INTRUDER), 1):
            refusal = self.read(await self.ask(proxy, name))
            assert isinstance(refusal, ProbeRefusal)
            self.assertEqual((refusal.code, refusal.text), ("TM-P106", "you may not ask this listener how it sees you"))
            record = await proxy.closed(number)
            self.assert_record(record, PROBE_NOT_ALLOWED, "proxy", name, decision="", policy="", connect_ms=None)
            if number == 1:  # the second one is counted with it
                self.assert_line("orders-in", record)
        self.assertFalse(self.target.was_dialled)

    async def test_compares_whole_ids(self) -> None:
        """Neither a prefix of a listed ID, nor what goes on behind one, nor another case is that ID."""
        proxy = self.start_inbound(self.target.port, more=PROBE)
        for name in (WEB[:-1], WEB + "/x", WEB + "2", "spiffe://mesh.test/Web"):
            self.assertIsInstance(self.read(await self.ask(proxy, name)), ProbeRefusal, name)

    async def test_is_not_there_unless_configured(self) -> None:
        """A listener without probe selects no such protocol: the handshake is as with any unknown one."""
        proxy = self.start_inbound(self.application(echo))
        for number, offered in enumerate(((PROBE_ALPN,), (b"unknown/1",)), 1):
            stranger = self.stranger(proxy.port("orders-in"), self.leaf(uri(WEB)), alpn=offered)
            await in_thread(stranger.handshake)
            self.assertEqual(stranger.tls.get_alpn_proto_negotiated(), b"")
            await in_thread(stranger.sendall, b"hello")
            self.assertEqual(await in_thread(stranger.recv, 5), b"hello")
            record = await proxy.opened(number)
            self.assertEqual((record.alpn, record.decision), ("", "allow"))

    async def test_changes_nothing_for_others(self) -> None:
        """With probe configured, a client with payload comes through as ever, and who offers both asks."""
        proxy = self.start_inbound(self.application(echo), more=PROBE)
        outer = self.start_outbound(proxy.port("orders-in"))
        client = self.connect(outer.port("to-orders"))
        await in_thread(client.sendall, b"hello")
        self.assertEqual(await in_thread(client.recv, 5), b"hello")
        self.assertEqual((await proxy.opened()).alpn, "tcpmesh/1")
        seen = await self.ask(proxy, WEB, (b"tcpmesh/1", PROBE_ALPN))
        self.assertIsInstance(self.read(seen), ProbeAnswer)

    async def test_calls_the_application_once_a_second(self) -> None:
        """However many ask; who comes too soon is told that it was not tried."""
        port, brought = self.accepting()
        proxy = self.start_inbound(port, more=PROBE)
        answers = [await self.answer(proxy, WEB) for _ in range(3)]
        tried = [answer for answer in answers if answer.target == "reachable"]
        self.assertEqual(answers[0].target, "reachable")
        for answer in answers:
            if answer not in tried:
                self.assertEqual((answer.target, answer.allowed), ("not tried", True))
                self.assertIn("within the last second", answer.target_text)
        await proxy.closed(3)
        self.assertLessEqual(len(brought), len(tried))

    async def test_says_why_the_application_is_not_reached(self) -> None:
        """With the code of the attempt."""
        port = unused_port()
        answer = await self.answer(self.start_inbound(port, more=PROBE), WEB)
        self.assertEqual((answer.target, answer.allowed), ("unreachable", True))
        self.assertEqual(answer.target_text, f"TM-U101 connecting to 127.0.0.1:{port}: Connection refused")

    async def test_says_that_it_is_stopping(self) -> None:
        """As it would to a connection with payload, and the application is left alone."""
        proxy = self.start_inbound(self.target.port, more=PROBE)
        assert proxy.service.plane is not None
        proxy.service.plane.stopping = True
        answer = await self.answer(proxy, WEB)
        self.assertEqual((answer.allowed, answer.code, answer.target), (False, STOPPING.id, "not tried"))
        self.assertFalse(self.target.was_dialled)

    async def test_keeps_the_reason_of_a_denial_to_itself(self) -> None:
        """When our own certificate is denied while a policy thinks: the code and its meaning, not whose word it was."""
        proxy = self.start_inbound(self.target.port, more=PROBE)
        state = proxy.service.composition.state
        waiting: Deferred[Decision] = Deferred()
        state.swap(policies=(NamedPolicy("slow", Slow(waiting)),))
        asked = Deferred.fromCoroutine(self.ask(proxy, WEB))
        await self.until_secured(proxy)
        state.swap(denied_workloads={"orders": "entry 1: reported by name"})
        waiting.callback(Decision(Effect.ALLOW, "slow"))
        refusal = self.read(await asked)
        self.assertEqual(refusal, ProbeRefusal(OWN_DENIED.id, OWN_DENIED.summary))
        self.assertIn("reported by name", (await proxy.closed()).reason)
        self.assertFalse(self.target.was_dialled)

    async def test_ends_with_its_peer(self) -> None:
        """Who asks and goes leaves nothing behind: no dial, no place, no socket."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            # A queue that is full leaves the dial waiting.
            port = full.getsockname()[1]
            fillers: list[Any] = [self.connect(port)]
            filler = socket.socket()
            self.addCleanup(filler.close)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
            proxy = self.start_inbound(port, more=PROBE)
            stranger = self.stranger(proxy.port("orders-in"), self.leaf(uri(WEB)), alpn=(PROBE_ALPN,))
            await in_thread(stranger.handshake)
            await self.until_secured(proxy)
            stranger.socket.close()
            await proxy.closed()
            assert proxy.service.plane is not None
            await proxy.service.plane.when_idle()
            self.assertEqual((proxy.service.plane.gate.sockets, proxy.service.plane.gate.connections), (0, 0))

    def metrics(self, proxy: Proxy) -> str:
        reporting: Any = proxy.service._reporting
        return str(reporting._metrics.render()[1].decode())
