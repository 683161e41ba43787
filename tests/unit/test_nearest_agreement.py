"""What explanations find amiss with rules always agrees with what decides."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.rules import Rules
from tcpmesh.values import Effect
from tests.unit.policy_samples import read, request
from tests.unit.test_policy_agreement import _POLICY, _REQUEST, named


class NearestAgreementTests(SynchronousTestCase):
    """Random policies and connections."""

    @settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(_POLICY, min_size=1, max_size=8), st.lists(_REQUEST, min_size=1, max_size=6))
    def test_a_rule_without_misses_is_one_that_decides(
        self, drawn: list[dict[str, Any]], asked: list[dict[str, Any]]
    ) -> None:
        """The first denial of which all fits decides; else the first permission; else nobody does."""
        moment = [0.0]
        rules = Rules(read(named(drawn)), lambda: moment[0])
        for one in asked:
            moment[0] = one["now"]
            question = request(**one)
            fitting = [
                (effect, rule.policy, rule.rule)
                for effect in (Effect.DENY, Effect.ALLOW)
                for rule in rules.near_rules(question, effect)
                if not rule.misses
            ]
            decision = rules.decide(question)
            decided = [] if decision.effect is Effect.ABSTAIN else [(decision.effect, decision.policy, decision.rule)]
            self.assertEqual(fitting[:1], decided)
