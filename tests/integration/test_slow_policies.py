"""Policies of others that hang, raise, answer nothing or are slow, under many real connections at once."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh import codes
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.policy import decision_cache, evaluate
from tcpmesh.policy.decision_cache import LaterAnswers
from tcpmesh.timeouts import DECISION_BUDGET
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.integration.applications import until
from tests.integration.mesh import MeshTestCase, in_thread, reactor

# Connections at once, which select can watch; tests/unit/test_decision_cache.py asks about a thousand.
MANY = 100
ALLOW = Decision(Effect.ALLOW, "p", "r", "because", valid_for=0.0)


@implementer(IAuthorizationPolicy)
class Misbehaving:
    """Does what the test wants."""

    def __init__(self, answer: Callable[[AuthorizationRequest], Any]) -> None:
        self._answer = answer
        self.asked = 0

    def decide(self, request: AuthorizationRequest) -> Any:
        self.asked += 1
        return self._answer(request)

    def describe(self) -> Sequence[str]:
        return []


def raises(_request: AuthorizationRequest) -> Decision:
    raise ValueError("broken")


def slowly(_request: AuthorizationRequest) -> Deferred[Decision]:
    answer: Deferred[Decision] = Deferred()
    reactor.callLater(0.05, lambda: None if answer.called else answer.callback(ALLOW))
    return answer


class SlowPolicyTests(MeshTestCase):
    """Two hops, and a policy that is put into the inner one."""

    def setUp(self) -> None:
        super().setUp()
        self.dialled = 0
        # However busy the machine is, who answers in time is in time.
        self.inner = self.start_inbound(self.application(self.note), top="timeouts: {decision: 1m}\n")
        self.outer = self.start_outbound(self.inner.port("orders-in"))

    def note(self, connection: socket.socket) -> None:
        self.dialled += 1
        connection.recv(1)

    async def connect_many(self, answer: Callable[[AuthorizationRequest], Any]) -> Misbehaving:
        """As many as there are at once, until the inner proxy has nothing more to do with any of them."""
        policy = Misbehaving(answer)
        named = NamedPolicy("misbehaving", policy, LaterAnswers(reactor))
        cell = self.inner.service.composition.state
        cell.swap(policies=(named,), decision_budget=60.0 if answer is slowly else DECISION_BUDGET)
        done = len(self.inner.tap.close) + MANY
        port = self.outer.port("to-orders")
        clients = await in_thread(lambda: [socket.create_connection(("127.0.0.1", port)) for _ in range(MANY)])
        if answer is slowly:
            await self.inner.tap.when(lambda: len(self.inner.tap.open) >= MANY)
            for client in clients:
                client.close()
        await self.inner.tap.when(lambda: len(self.inner.tap.close) >= done)
        for client in clients:
            client.close()
        await until(lambda: not self.inner.live and not self.outer.live, "all sockets are closed")
        return policy

    def codes(self) -> set[str]:
        """Of the newest connections."""
        return {str(record.code) for record in self.inner.tap.close[-MANY:]}

    async def test_has_the_time_that_is_configured(self) -> None:
        """``timeouts.decision`` is in the state that connections are decided by."""
        self.assertEqual(self.inner.service.composition.state.current.decision_budget, 60.0)

    async def test_hangs(self) -> None:
        """Everybody is denied after the budget, and the application never hears of anybody."""
        policy = await self.connect_many(lambda _: Deferred())
        self.assertEqual(self.codes(), {codes.POLICY_TIMED_OUT.id})
        self.assertEqual(self.dialled, 0)
        self.assertLessEqual(policy.asked, MANY)

    async def test_raises(self) -> None:
        """Everybody is denied, each with the traceback in the log."""
        policy = await self.connect_many(raises)
        self.assertEqual(self.codes(), {codes.POLICY_FAILED.id})
        self.assertEqual((self.dialled, policy.asked), (0, MANY))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), MANY)

    async def test_answers_with_nothing(self) -> None:
        """None is no Decision, at once or later."""
        for answer in (None, "allow", True):
            await self.connect_many(lambda _, answer=answer: answer)
            self.assertEqual(self.codes(), {codes.POLICY_FAILED.id})
        self.assertEqual(self.dialled, 0)

    async def test_is_slow(self) -> None:
        """Who waits within the budget comes in; those who ask the same wait together."""
        policy = await self.connect_many(slowly)
        self.assertEqual(self.codes() - {codes.CLEAN.id, codes.CANCELLED.id}, set())
        self.assertGreater(self.dialled, 0)
        self.assertLess(policy.asked, MANY)

    async def test_keeps_nothing(self) -> None:
        """Of all those that hung or failed no question, inquiry or answer is left in memory."""
        before = in_memory()
        for _ in range(2):
            await self.connect_many(lambda _: Deferred())
            await self.connect_many(lambda _: None)
        self.inner.service.composition.state.swap(policies=())
        self.assertEqual(in_memory() - before, 0)


def in_memory() -> int:
    """How many inquiries and questions there are, those of other tests too."""
    gc.collect()
    return sum(type(each) in (decision_cache._Question, evaluate._Inquiry) for each in gc.get_objects())
