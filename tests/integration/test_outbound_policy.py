"""Policies about services: decided before anything is dialled."""

from __future__ import annotations

import json
from collections.abc import Sequence

from zope.interface import implementer

from tcpmesh.codes import CANCELLED, OUTBOUND_DENIED, OUTBOUND_NOT_ALLOWED, POLICY_FAILED, POLICY_TIMED_OUT
from tcpmesh.mesh_state import NamedPolicy
from tcpmesh.observe.records import as_mapping
from tcpmesh.policy_interfaces import IOutboundPolicy
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.integration.applications import receive, reset, until
from tests.integration.mesh import Proxy, echo, in_thread
from tests.integration.refusals import RefusalTestCase
from tests.unit.outbound_policies import Later

WEB, INTRUDER = "spiffe://mesh.test/web", "spiffe://mesh.test/intruder"


def rules(*policies: str) -> str:
    return f"authorization: [{{plugin: rules, policies: [{', '.join(policies)}]}}]\n"


def policy(action: str, identity: str = WEB, *, name: str = "some", more: str = "") -> str:
    return f'{{name: {name}, action: {action}, from: [{{ids: ["{identity}"]}}], to: {{services: [orders]}}{more}}}'


@implementer(IOutboundPolicy)
class ForAMinute:
    """Allows everybody, for a minute."""

    decides_outbound = True

    def decide(self, request: AuthorizationRequest) -> Decision:
        return Decision(Effect.ALLOW, "p", "r", valid_for=60.0)

    def describe(self) -> Sequence[str]:
        return ()


class OutboundPolicyTests(RefusalTestCase):
    """An outbound listener, and what policies and defaults say of its pair of workload and service."""

    async def assert_passes(self, top: str) -> Proxy:
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"), top=top)
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"hello")
        self.assertEqual(await in_thread(client.recv, 5), b"hello")
        return outer

    async def test_a_pair_is_allowed_without_a_policy(self) -> None:
        """The outbound listener itself says who may use which service."""
        outer = await self.assert_passes("")
        self.assertEqual((await outer.opened()).policy, "")

    async def test_a_policy_may_deny_a_pair(self) -> None:
        """No SYN leaves, the application sees a reset, the record names rule, file and line."""
        outer = self.start_outbound(self.target.port, top=rules(policy("deny")))
        await self.assert_reset(outer)
        record = await outer.closed()
        self.assert_record(
            record,
            OUTBOUND_DENIED,
            "proxy",
            f"policy 'some' denies {WEB}",
            decision="deny",
            policy="some",
            attempts=0,
            dst_addr="",
        )
        self.assertRegex(record.rule, r"\Apolicies\[0\]\.from\[0\]\.ids\[0\] \(.*tcpmesh\.yaml:\d+:\d+\)\Z")
        self.assertFalse(self.target.was_dialled)
        self.assert_line("to-orders", record)

    async def test_a_policy_about_others_denies_nobody(self) -> None:
        """Another workload's denial, and one about inbound listeners."""
        everywhere = f'{{name: everywhere, action: deny, from: [{{ids: ["{WEB}"]}}]}}'
        await self.assert_passes(rules(policy("deny", INTRUDER), everywhere))

    async def test_the_default_may_be_to_deny(self) -> None:
        """Then a policy must allow the pair."""
        top = "defaults: {outbound: deny}\n"
        outer = self.start_outbound(self.target.port, top=top + rules(policy("allow", INTRUDER)))
        await self.assert_reset(outer)
        record = await outer.closed()
        reason = f"no policy allows {WEB} to use service 'orders'"
        self.assert_record(record, OUTBOUND_NOT_ALLOWED, "proxy", reason, decision="deny", attempts=0)
        self.assertFalse(self.target.was_dialled)
        outer = await self.assert_passes(top + rules(policy("allow")))
        self.assertEqual((await outer.opened()).policy, "some")

    async def test_the_default_denies_without_any_policy_too(self) -> None:
        """What is missing allows nobody."""
        outer = self.start_outbound(self.target.port, top="defaults: {outbound: deny}\n")
        await self.assert_reset(outer)
        self.assert_record(await outer.closed(), OUTBOUND_NOT_ALLOWED, "proxy")
        self.assertFalse(self.target.was_dialled)

    async def test_what_only_watches_changes_nothing(self) -> None:
        """A dry-run's denial and an audit are in the record and counted, and the connection passes."""
        watching = [policy("deny", name="try", more=", mode: dry-run"), policy("audit", name="watch")]
        outer = await self.assert_passes(rules(*watching))
        record = await outer.opened()
        self.assertEqual(
            [(note.policy, note.says) for note in record.notes], [("try", "would-deny"), ("watch", "audit")]
        )
        written = json.loads(json.dumps(as_mapping(record, "open", 0.0)))["notes"]
        self.assertEqual([note["says"] for note in written], ["would-deny", "audit"])
        self.assertEqual(written[0]["rule"], record.notes[0].rule)
        assert outer.service._reporting is not None
        _, metrics = outer.service._reporting._metrics.render()
        self.assertIn(
            'tcpmesh_policy_notes_total{authz_name="try",direction="outbound",says="would-deny"} 1.0', metrics.decode()
        )

    def decide_by(self, outer: Proxy, answer: IOutboundPolicy) -> None:
        """From now on the proxy asks this policy."""
        outer.service.composition.state.swap(policies=(NamedPolicy("later", answer),))

    async def test_waits_for_a_policy_that_answers_later(self) -> None:
        """Nothing is dialled before; then it is as if it had been said at once."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"))
        policy = Later()
        self.decide_by(outer, policy)
        client = self.connect(outer.port("to-orders"))
        client.sendall(b"hello")
        request = await policy.asked
        self.assertEqual(
            (str(request.peer), request.service, request.inbound, request.workload), (WEB, "orders", "", "web")
        )
        self.assertEqual([each.record.attempts for each in outer.live], [0])
        policy.answer.callback(Decision(Effect.ALLOW, "p", "r"))
        self.assertEqual(await in_thread(client.recv, 5), b"hello")

    async def test_a_policy_that_fails_denies(self) -> None:
        """By an exception that comes later, or by no answer at all."""
        for fails, code in ((True, POLICY_FAILED), (False, POLICY_TIMED_OUT)):
            outer = self.start_outbound(self.target.port)
            policy = Later()
            self.decide_by(outer, policy)
            client = self.connect(outer.port("to-orders"))
            await policy.asked
            if fails:
                policy.answer.errback(ValueError("broken"))
            received = await in_thread(receive, client)
            self.assertEqual(received.length, 0)
            self.assert_record(await outer.closed(), code, "proxy")
            self.flushLoggedErrors(ValueError)
        self.assertFalse(self.target.was_dialled)

    async def test_an_application_that_leaves_cancels_the_question(self) -> None:
        """Nobody waits for the answer any longer."""
        outer = self.start_outbound(self.target.port)
        policy = Later()
        self.decide_by(outer, policy)
        client = self.connect(outer.port("to-orders"))
        await policy.asked
        reset(client)
        self.assertIs((await outer.closed()).code, CANCELLED)
        self.assertTrue(policy.cancelled)
        self.assertFalse(self.target.was_dialled)

    async def test_a_late_answer_by_policies_of_before_does_not_outlast_that_of_now(self) -> None:
        """What was allowed for a time meanwhile is looked at again when that is over, in both directions."""
        inner = self.start_inbound(self.application(echo))
        outer = self.start_outbound(inner.port("orders-in"))
        for proxy in (outer, inner):
            policy = Later()
            self.decide_by(proxy, policy)
            client = self.connect(outer.port("to-orders"))
            client.sendall(b"hello")
            await policy.asked
            self.decide_by(proxy, ForAMinute())
            plane = proxy.service.plane
            assert plane is not None
            await until(lambda plane=plane: len(plane.verdicts) == 1, "the policies of now were asked")  # type: ignore[misc]
            policy.answer.callback(Decision(Effect.ALLOW, "p", "r"))
            self.assertEqual(await in_thread(client.recv, 5), b"hello")
            self.assertEqual(len(plane.verdicts), 1)
            client.close()
            await until(lambda: not inner.live and not outer.live, "all has ended")
