"""Policies that limit: what can be written, what is refused, and which hold for a connection."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.limit_interfaces import ILimitingPolicy, Limit
from tcpmesh.policy.limit_language import parse_rate
from tcpmesh.policy.rules import Rules
from tcpmesh.policy.ruling import Ruling
from tcpmesh.values import Effect
from tests import naive_policies
from tests.unit.policy_samples import plain, read, refusal, request
from tests.unit.test_policy_agreement import _POLICY, _REQUEST

FEW = "- {name: few, action: limit, from: [{any: authenticated}], limit: {connections: 20}}"


def written(limit: str, more: str = "") -> str:
    return f"- {{name: few, action: limit, from: [{{any: authenticated}}], limit: {limit}{more}}}"


def limit_of(text: str) -> Limit:
    [limit] = Rules(read(text)).limits
    return limit


class WrittenTests(SynchronousTestCase):
    """``action: limit`` and ``limit``."""

    def test_becomes_a_limit(self) -> None:
        """With its place; what is not written has its default."""
        self.assertEqual(limit_of(FEW), Limit("few", "policies[0] (policies.yaml:2:5)", 20))
        full = "{connections: 5, rate: 30/m, burst: 7, per: [identity, network], ipv4_bits: 16, ipv6_bits: 48}"
        self.assertEqual(
            limit_of(written(full, ", mode: dry-run")),
            Limit("few", "policies[0] (policies.yaml:2:5)", 5, 0.5, 7, ("identity", "network"), 16, 48, enforced=False),
        )

    def test_a_burst_is_what_one_second_brings(self) -> None:
        """At least one connection."""
        for rate, burst in (("10/s", 10), ("90/m", 2), ("60/m", 1), ("5/h", 1)):
            self.assertEqual(limit_of(written(f"{{rate: {rate}}}")).burst, burst)

    def test_reads_rates(self) -> None:
        """A whole number, and a time."""
        for text, count, seconds in (("1/s", 1, 1), ("600/m", 600, 60), ("999999999/h", 999999999, 3600)):
            rate = parse_rate(text)
            self.assertEqual(
                (rate.count, rate.seconds, rate.per_second, str(rate)), (count, seconds, count / seconds, text)
            )
        for text in ("10", "0/s", "1.5/s", "-1/s", "10/d", "10 /s", "10/s ", "010/s", "1000000000/s", "\u0661/s", ""):
            self.assertRaises(ValueError, parse_rate, text)

    def test_says_what_is_wrong(self) -> None:
        """At its place."""
        for limit, message in (
            ("{}", "policies[0].limit: nothing is limited; give connections, rate or both"),
            ("{connections: 0}", "connections is 0; expected 1 to 1000000000; to let nobody in, write a policy with"),
            ("{connections: 1, burst: 2}", "burst is how many may come at once within rate; give rate too"),
            ("{rate: 1/s, burst: 0}", "burst is 0; expected 1 to"),
            ("{rate: 1/s, burst: 1000000001}", "burst is 1000000001; expected 1 to 1000000000"),
            ("{rate: fast}", "'fast' is not a rate; write a whole number and a time: 10/s, 600/m or 100/h"),
            ("{rate: 10}", "'10' is not a rate"),
            ("{connections: 1, per: []}", "the list is empty; leave the key out to count all connections together"),
            ("{connections: 1, per: [identity, identity]}", "a word stands twice"),
            ("{connections: 1, per: [source, network]}", "differs by source too; remove one of the two"),
            ("{connections: 1, per: [workload]}", "policies[0].limit.per[0]"),
            (
                "{connections: 1, per: [source], ipv4_bits: 8}",
                "ipv4_bits says how large a network is; add network to per",
            ),
            ("{connections: 1, per: [network], ipv4_bits: 33}", "ipv4_bits is 33; expected 1 to 32"),
            ("{connections: 1, per: [network], ipv6_bits: 0}", "ipv6_bits is 0; expected 1 to 128"),
        ):
            self.assertIn(message, refusal(self, written(limit)), limit)
        text = FEW.replace(", limit: {connections: 20}", "")
        self.assertIn("action: limit needs the key limit, with connections, rate or both", refusal(self, text))
        for action in ("allow", "deny", "audit"):
            told = refusal(self, FEW.replace("action: limit", f"action: {action}"))
            self.assertIn(f"action: {action} has no limit; write it as a policy of its own, with action: limit", told)

    def test_describes_itself(self) -> None:
        """In the start-up block."""
        limit = "{connections: 20, rate: 10/s, per: [identity, network]}"
        self.assertEqual(
            Rules(read(written(limit))).describe(),
            [
                "limit few: every authenticated peer to every inbound listener (20 connections, 10/s per identity and "
                "network)"
            ],
        )


class HoldingTests(SynchronousTestCase):
    """Which limits hold for a connection."""

    def test_a_limit_allows_nobody(self) -> None:
        """And denies nobody, and is not noted."""
        decision = Rules(read(FEW)).decide(request())
        self.assertEqual((decision.effect, decision.notes), (Effect.ABSTAIN, ()))
        tried = Rules(read(FEW.replace("limit: {", "mode: dry-run, limit: {"))).decide(request())
        self.assertEqual((tried.effect, tried.notes), (Effect.ABSTAIN, ()))

    def test_rules_without_limits_name_none(self) -> None:
        """So that nobody asks."""
        rules = Rules(read("- {name: web, action: allow, from: [{any: authenticated}]}"))
        self.assertTrue(ILimitingPolicy.providedBy(rules))
        self.assertEqual((list(rules.limits), list(rules.limits_of(request()))), ([], []))

    def test_a_service_is_no_listener_of_the_same_name(self) -> None:
        """Neither way."""
        inbound = Rules(read(FEW.replace("limit:", "to: {inbound: [a]}, limit:")))
        outbound = Rules(read(FEW.replace("limit:", "to: {services: [db]}, limit:")))
        self.assertEqual(len(inbound.limits_of(request(inbound="a"))), 1)
        self.assertEqual(len(inbound.limits_of(request(inbound="", service="a"))), 0)
        self.assertEqual(len(outbound.limits_of(request(inbound="", service="db"))), 1)
        self.assertEqual(len(outbound.limits_of(request(inbound="db"))), 0)
        self.assertEqual(outbound.decides_outbound, False)

    def test_a_decision_stands_until_a_limit_begins_or_ceases_to_hold(self) -> None:
        """So that live connections are looked at, and counted, then."""
        hours = 'limit: {connections: 1}, when: {windows: [{hours: ["08:00-18:00"]}]}'
        moment = [0.0]
        for to, asked in (
            ("inbound: [a]", request(inbound="a")),
            ("services: [db]", request(inbound="", service="db")),
        ):
            text = FEW.replace("limit: {connections: 20}", f"to: {{{to}}}, {hours}")
            rules = Rules(
                read("- {name: may, action: allow, from: [{any: authenticated}]}\n" + text), lambda: moment[0]
            )
            self.assertTrue(rules.decides_outbound is bool(asked.service))
            for moment[0], valid_for, count in ((7 * 3600.0, 3600.0, 0), (9 * 3600.0, 9 * 3600.0, 1)):
                self.assertEqual(rules.decide(asked).valid_for, valid_for)
                self.assertEqual(len(rules.limits_of(asked)), count)
            other = request(inbound="b") if not asked.service else request(inbound="", service="mail")
            self.assertIsNone(rules.decide(other).valid_for)

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(_POLICY, min_size=1, max_size=6), st.lists(_REQUEST, min_size=1, max_size=4))
    def test_holds_for_whom_the_policy_means(self, drawn: list[dict[str, Any]], asked: list[dict[str, Any]]) -> None:
        """By the same selectors as those that allow and deny, in the order of the file."""
        policies = [
            policy | {"name": f"p{number}", "action": "limit", "limit": {"connections": 1}}
            for number, policy in enumerate(drawn)
        ]
        moment = [0.0]
        ruling = Ruling(read(policies), lambda: moment[0])
        for one in asked:
            moment[0] = one["now"]
            wanted = [
                policy["name"]
                for policy in policies
                if naive_policies.concerns(policy, one)
                and naive_policies.holds(policy.get("when"), one)
                and any(
                    naive_policies.means(policy, entry, one) and naive_policies.matches(entry, one) is not None
                    for entry in policy["from"]
                )
            ]
            self.assertEqual([limit.policy for limit in ruling.limits_of(request(**one))], wanted)
            self.assertIs(ruling.decide(request(**plain(**one))).effect, Effect.ABSTAIN)
