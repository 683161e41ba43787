"""What becomes of a connection that no policy decides about, and what goes with every verdict."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.codes import DENIED_BY_RULE, NO_RULE_ALLOWS, OUTBOUND_DENIED, OUTBOUND_NOT_ALLOWED
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import MeshState, NamedPolicy, PolicyDefaults
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.policy_interfaces import IOutboundPolicy
from tcpmesh.testing import authorization_request
from tcpmesh.values import AuthorizationRequest, Decision, Effect, PolicyNote

INBOUND = authorization_request()
OUTBOUND = authorization_request(service="db")
ALLOW, DENY, ABSTAIN = (Decision(effect, "p", "r", "because") for effect in Effect)


@implementer(IAuthorizationPolicy)
class InboundOnly:
    """Knows inbound listeners, and answers as it was told."""

    def __init__(self, answer: Decision) -> None:
        self.answer = answer

    def decide(self, request: AuthorizationRequest) -> Decision:
        assert not request.service, "it was asked about an outbound connection"
        return self.answer

    def describe(self) -> Sequence[str]:
        return ()


@implementer(IOutboundPolicy)
class Both:
    """Answers about both directions as it was told, if it has anything to say about the second."""

    def __init__(self, answer: Decision, *, decides_outbound: bool = True) -> None:
        self.answer = answer
        self.decides_outbound = decides_outbound

    def decide(self, request: AuthorizationRequest) -> Decision:
        return self.answer

    def describe(self) -> Sequence[str]:
        return ()


def state(*policies: IAuthorizationPolicy, **defaults: Effect) -> MeshState:
    named = tuple(NamedPolicy(f"plugin{number}", policy) for number, policy in enumerate(policies))
    return MeshState(policies=named, defaults=PolicyDefaults(**defaults))


def verdict(found: MeshState, request: AuthorizationRequest) -> Verdict:
    answer = decide_by(found, request, Clock(), Logger(observer=lambda event: None))
    assert isinstance(answer, Verdict)
    return answer


class DefaultTests(SynchronousTestCase):
    """``defaults``."""

    def test_inbound_nobody_is_allowed_unless_it_is_written(self) -> None:
        """And then the record says by what."""
        denied = verdict(state(InboundOnly(ABSTAIN)), INBOUND)
        self.assertEqual((denied.allowed, denied.code), (False, NO_RULE_ALLOWS))
        allowed = verdict(state(InboundOnly(ABSTAIN), inbound=Effect.ALLOW), INBOUND)
        self.assertEqual((allowed.allowed, allowed.code, allowed.decision.rule), (True, None, "defaults.inbound"))

    def test_outbound_every_pair_is_allowed_unless_it_is_written(self) -> None:
        """The other way round: the listener has named the pair."""
        allowed = verdict(state(Both(ABSTAIN)), OUTBOUND)
        self.assertEqual((allowed.allowed, allowed.decision.rule), (True, "defaults.outbound"))
        denied = verdict(state(Both(ABSTAIN), outbound=Effect.DENY), OUTBOUND)
        self.assertEqual((denied.allowed, denied.code), (False, OUTBOUND_NOT_ALLOWED))
        self.assertEqual(denied.decision.reason, "no policy allows spiffe://example.test/web to use service 'db'")

    def test_a_policy_wins_over_the_default(self) -> None:
        """In both directions, and both ways."""
        for request, code in ((INBOUND, DENIED_BY_RULE), (OUTBOUND, OUTBOUND_DENIED)):
            for default in (Effect.ALLOW, Effect.DENY):
                both = {"inbound": default, "outbound": default}
                self.assertTrue(verdict(state(Both(ALLOW), **both), request).allowed)
                self.assertIs(verdict(state(Both(DENY), **both), request).code, code)

    def test_only_policies_that_know_outbound_connections_are_asked_about_them(self) -> None:
        """One that was written for inbound ones would deny what it does not know."""
        self.assertTrue(verdict(state(InboundOnly(DENY)), OUTBOUND).allowed)
        self.assertTrue(verdict(state(Both(DENY, decides_outbound=False)), OUTBOUND).allowed)

    def test_nothing_is_asked_while_everything_is_allowed_anyway(self) -> None:
        """The common outbound connection costs no decision."""
        self.assertFalse(state(InboundOnly(DENY), Both(DENY, decides_outbound=False)).decides_outbound)
        self.assertTrue(state(Both(DENY)).decides_outbound)
        self.assertTrue(state(outbound=Effect.DENY).decides_outbound)


class CompanionTests(SynchronousTestCase):
    """Notes, and how long a verdict stands."""

    def answering(self, *effects: Effect) -> Verdict:
        policies = [
            InboundOnly(Decision(effect, valid_for=30.0 - number, notes=(PolicyNote(f"n{number}", "r", "audit"),)))
            for number, effect in enumerate(effects)
        ]
        return verdict(state(*policies), INBOUND)

    def test_notes_of_all_are_kept(self) -> None:
        """Whatever was decided, by those that were asked."""
        for effects in (
            [Effect.ABSTAIN, Effect.ALLOW],
            [Effect.ALLOW, Effect.ALLOW],
            [Effect.ABSTAIN, Effect.DENY],
            [Effect.ABSTAIN, Effect.ABSTAIN],
        ):
            self.assertEqual([note.policy for note in self.answering(*effects).notes], ["n0", "n1"], effects)
        self.assertEqual([note.policy for note in self.answering(Effect.DENY, Effect.ALLOW).notes], ["n0"])

    def test_the_shortest_time_counts(self) -> None:
        """An abstention may become a denial, too."""
        self.assertEqual(self.answering(Effect.ALLOW, Effect.ABSTAIN).valid_for, 29.0)
        self.assertEqual(self.answering(Effect.DENY).valid_for, 30.0)
        self.assertIsNone(verdict(state(InboundOnly(ALLOW)), INBOUND).valid_for)
