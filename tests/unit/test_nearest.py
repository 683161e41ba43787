"""Which rule would have decided otherwise, and what of it does not fit."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.explain import Nearest
from tcpmesh.policy.rules import Rules
from tcpmesh.policy_interfaces import IExplainingPolicy, NearRule
from tcpmesh.values import Effect
from tests.unit.policy_samples import read, request

WEB = "spiffe://example.test/web"
NOW = 1_795_392_000.0  # Monday, 2026-11-23T00:00:00Z


class NearRuleTests(SynchronousTestCase):
    """Policies, as they are written, and one connection."""

    def near(self, policies: str, effect: Effect = Effect.ALLOW, **changes: Any) -> list[NearRule]:
        rules = Rules(read(policies), lambda: NOW)
        self.assertTrue(IExplainingPolicy.providedBy(rules))
        return list(rules.near_rules(request(**changes), effect))

    def misses(self, policy: str, effect: Effect = Effect.ALLOW, **changes: Any) -> list[str]:
        """What does not fit of the only policy."""
        action = effect.value
        [rule] = self.near(f"- {{name: p, action: {action}, {policy}}}", effect, **changes)
        return list(rule.misses)

    def nearest(self, policies: str, **changes: Any) -> str:
        nearest = Nearest()
        for rule in self.near(policies, **changes):
            nearest.offer(rule)
        assert nearest.found is not None
        return nearest.found.policy

    def test_names_rule_and_place(self) -> None:
        """As records do, with the value that comes nearest."""
        [rule] = self.near(f'- {{name: p, action: allow, from: [{{ids: ["{WEB}/x", "{WEB}2"]}}]}}')
        self.assertEqual(
            rule,
            NearRule(
                policy="p",
                rule="policies[0].from[0].ids[1] (policies.yaml:2:37)",
                place="policies.yaml:2:37",
                effect=Effect.ALLOW,
                misses=(f"names {WEB}2 and 1 more, not {WEB}",),
                distance=rule.distance,
            ),
        )

    def test_names_what_a_policy_is_about(self) -> None:
        """Every key of ``to`` by itself."""
        who = f'from: [{{ids: ["{WEB}"]}}]'
        for to, told in (
            ("inbound: [cart-in]", ["names inbound cart-in, not orders-in"]),
            ("inbound: [cart-in, orders-in]", []),
            ("ports: [5433, 80]", ["names port 5433 and 1 more, not 5432"]),
            ("sni: [db.test]", ["names SNI db.test, not none"]),
            ("alpn: [h2], inbound: [a, b]", ["names inbound a and 1 more, not orders-in", "names ALPN h2, not none"]),
        ):
            self.assertEqual(self.misses(f"to: {{{to}}}, {who}"), told)
        self.assertEqual(
            self.misses(f"to: {{sni: [db.test]}}, {who}", sni="db.test\x1b[2J"),
            [r"names SNI db.test, not 'db.test\x1b[2J'"],
        )
        self.assertEqual(self.misses(f"to: {{ports: [1]}}, {who}", port=0), ["names port 1, not a unix socket"])
        self.assertEqual(
            self.misses(f"to: {{services: [mail]}}, {who}", service="db", inbound=""), ["names service mail, not db"]
        )

    def test_names_whom_an_entry_means(self) -> None:
        """Every key of an entry of ``from`` by itself."""
        for entry, told in (
            ('ids: ["spiffe://example.test/*"]', []),
            ('prefixes: ["spiffe://example.test/a/"]', f"names prefix spiffe://example.test/a/, not {WEB}"),
            ("trust_domains: [other.test]", "names trust domain other.test, not example.test"),
            ("dns: [web.test]", f"names dns:web.test, not {WEB}"),
            ('networks: ["10.0.0.0/8"]', "names network 10.0.0.0/8, not 192.0.2.1"),
            ("any: authenticated", []),
            (
                'any: authenticated, except: [{networks: ["10.0.0.0/8"]}, {ids: ["' + WEB + '"]}]',
                "leaves it out (except[1], policies.yaml:2:95)",
            ),
        ):
            self.assertEqual(self.misses(f"from: [{{{entry}}}]"), [told] if told else [])
        both = f'ids: ["{WEB}"], networks: ["10.0.0.0/8"]'
        self.assertEqual(
            self.misses(f"from: [{{{both}}}]", source="unix:/run/x"), ["names network 10.0.0.0/8, not a unix socket"]
        )
        self.assertEqual(
            self.misses("from: [{dns: [a.test]}]", id=None, dns="b.test"), ["names dns:a.test, not b.test"]
        )

    def test_names_conditions(self) -> None:
        """Hours, certificates, and that a policy is only tried."""
        who = f'from: [{{ids: ["{WEB}"]}}]'
        window = 'windows: [{days: [mon], hours: ["08:00-18:00"], timezone: Europe/Berlin}]'
        self.assertEqual(
            self.misses(f"{who}, when: {{{window}}}"),
            ["holds mon 08:00-18:00 Europe/Berlin, not at 2026-11-23T00:00:00Z"],
        )
        self.assertEqual(
            self.misses(f"{who}, when: {{certificate: {{max_age: 1h}}}}", not_before=NOW - 7200, not_after=NOW + 60),
            ["asks for a certificate with max_age 1h, and this one is 2h old and has 1m left"],
        )
        self.assertEqual(self.misses(f"{who}, mode: dry-run"), ["is only tried (mode: dry-run)"])

    def test_prefers_what_needs_the_least(self) -> None:
        """Fewer misses; then the same peer elsewhere; then the more similar name."""
        elsewhere = f'- {{name: elsewhere, action: allow, to: {{inbound: [cart-in]}}, from: [{{ids: ["{WEB}"]}}]}}\n'
        typo = f'- {{name: typo, action: allow, from: [{{ids: ["{WEB}b"]}}]}}\n'
        other = '- {name: other, action: allow, from: [{ids: ["spiffe://example.test/nightly"]}]}\n'
        far = '- {name: far, action: allow, to: {inbound: [a]}, from: [{ids: ["spiffe://example.test/we"]}]}\n'
        self.assertEqual(self.nearest(far + other), "other")
        self.assertEqual(self.nearest(other + typo), "typo")
        self.assertEqual(self.nearest(other + elsewhere), "elsewhere")
        self.assertEqual(self.nearest(elsewhere + elsewhere.replace("elsewhere", "again")), "elsewhere")

    def test_looks_only_at_what_could_change_it(self) -> None:
        """Other effects, other directions, and policies that only note are no candidates."""
        policies = f"""\
- {{name: deny, action: deny, from: [{{ids: ["{WEB}"]}}]}}
- {{name: note, action: audit, from: [{{ids: ["{WEB}"]}}]}}
- {{name: out, action: allow, to: {{services: [db]}}, from: [{{ids: ["{WEB}"]}}]}}
- {{name: in, action: allow, from: [{{ids: ["{WEB}"]}}]}}
"""
        self.assertEqual([rule.policy for rule in self.near(policies)], ["in"])
        self.assertEqual([rule.policy for rule in self.near(policies, service="db", inbound="")], ["out"])
        self.assertEqual([rule.policy for rule in self.near(policies, Effect.DENY)], ["deny"])

    def test_finds_nothing_amiss_where_a_rule_decides(self) -> None:
        """The rule that decides is the one that has no misses."""
        policies = f"""\
- {{name: one, action: allow, to: {{inbound: [a]}}, from: [{{ids: ["{WEB}"]}}]}}
- name: two
  action: allow
  to: {{inbound: [orders-in], ports: [5432]}}
  from: [{{prefixes: ["spiffe://example.test/"], networks: ["192.0.2.0/24"], except: [{{ids: ["{WEB}2"]}}]}}]
"""
        decision = Rules(read(policies), lambda: NOW).decide(request())
        [fitting] = [rule for rule in self.near(policies) if not rule.misses]
        self.assertEqual((decision.policy, decision.rule), (fitting.policy, fitting.rule))
