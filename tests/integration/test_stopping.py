"""What a stop means for whoever is connected, or connecting."""

from __future__ import annotations

import socket
import threading

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from tcpmesh.codes import CLEAN, NO_RULE_ALLOWS, SHUTDOWN, STOPPING
from tcpmesh.dataplane.preface import ALPN, Preface
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.integration.applications import Outbox, broken
from tests.integration.foreign import ForeignTestCase, ForeignTLS
from tests.integration.mesh import PATIENCE, echo, in_thread, reactor, receive_all


@implementer(IAuthorizationPolicy)
class WhenTold:
    """A policy that allows once the test says so."""

    def __init__(self) -> None:
        self.asked: Deferred[None] = Deferred()
        self.answer: Deferred[Decision] = Deferred()

    def decide(self, request: AuthorizationRequest) -> Deferred[Decision]:
        self.asked.callback(None)
        return self.answer

    def describe(self) -> list[str]:
        return []


class StoppingTests(ForeignTestCase):
    """The inbound proxy stops."""

    async def test_lets_live_connections_finish(self) -> None:
        """Nobody is cut, new ones find nobody, and the reply that was under way arrives."""
        go = threading.Event()

        def answer_when_told(connection: socket.socket) -> None:
            question = receive_all(connection)
            go.wait(20)
            connection.sendall(question.upper())

        _outer, inner, port = self.start_two_hops(self.application(answer_when_told))
        client = self.connect(port)
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        await inner.opened()
        listening = inner.port("orders-in")
        stopped = inner.service.stopService()
        await deferLater(reactor, 0)  # Twisted closes a port in the turn after it was asked to
        with self.assertRaises(ConnectionRefusedError):
            await in_thread(socket.create_connection, ("127.0.0.1", listening))
        go.set()
        self.assertEqual(await in_thread(receive_all, client), b"QUESTION")
        await stopped
        self.assertEqual((inner.service.cut, (await inner.closed()).code), (0, CLEAN))

    async def test_cuts_what_does_not_finish_in_time(self) -> None:
        """The application sees a reset, and both proxies say why."""
        inner = self.start_inbound(self.application(echo), top="timeouts: {shutdown: 100ms}\n")
        outer = self.start_outbound(inner.port("orders-in"))
        client = self.connect(outer.port("to-orders"))
        await inner.opened()
        await inner.service.stopService()
        with self.assertRaises(ConnectionResetError):
            await in_thread(client.recv, 1)
        there, here = await inner.closed(), await outer.closed()
        self.assertEqual((there.code, there.closed_by, inner.service.cut), (SHUTDOWN, "proxy", 1))
        self.assertEqual((here.errno, here.closed_by), ("ECONNRESET", "dst"))

    async def test_does_not_wait_for_what_lingers_behind_a_failed_attempt(self) -> None:
        """Reported already, but its socket is open, so that the peer gets to read why: a cut ends that, too."""
        fate: Outbox[str] = Outbox()

        def serve(peer: ForeignTLS) -> None:
            peer.sendall(Preface(ok=False, code=NO_RULE_ALLOWS.id, text="no").encode())
            fate.put(broken(peer.socket))

        port = self.foreign_server(serve, alpn=ALPN)
        outer = self.start_outbound(port, top="timeouts: {linger: 5m}\n")
        client = self.connect(outer.port("to-orders"))
        self.assertEqual(await in_thread(broken, client), "ECONNRESET")
        self.assertIs((await outer.closed()).code, NO_RULE_ALLOWS)
        self.assertEqual([connection.is_closed for connection in outer.live], [True])
        stopped = outer.service.stopService()
        self.assertFalse(stopped.called)
        outer.service.stop_now()
        await stopped.addTimeout(PATIENCE, reactor)
        self.assertIn(await fate.take(), ("ECONNRESET", "EPIPE"))
        self.assertEqual((outer.service.cut, len(outer.tap.close)), (0, 1))

    async def test_refuses_what_was_not_established_so_that_it_is_tried_elsewhere(self) -> None:
        """A peer whose decision comes while we stop is told so in the preface, with a code that may be retried."""
        dialled: list[socket.socket] = []
        inner = self.start_inbound(self.application(dialled.append))
        policy = WhenTold()
        inner.service.composition.state.swap(policies=(NamedPolicy("when-told", policy),))
        other = self.start_inbound(self.application(echo))
        outer = self.start_outbound(
            inner.port("orders-in"),
            other.port("orders-in"),
            service=", retry: {plugin: exponential, attempts: 2, base: 1ms, max: 1ms}",
        )
        client = self.connect(outer.port("to-orders"))
        await policy.asked
        stopped = inner.service.stopService()
        policy.answer.callback(Decision(Effect.ALLOW, "when-told"))
        self.assertIs((await inner.closed()).code, STOPPING)
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(await in_thread(receive_all, client), b"hello")
        self.assertEqual([code for _record, code, _reason in outer.tap.attempts], [STOPPING])
        self.assertEqual(dialled, [])
        await stopped
