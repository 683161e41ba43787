"""Peers without an identity: nothing lets them in that does not say so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tcpmesh.cli.explain_output import connection_line
from tcpmesh.codes import DENIED_BY_RULE, NO_RULE_ALLOWS
from tcpmesh.dns_patterns import parse_dns_pattern
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.mesh_state import MeshState, NamedPolicy
from tcpmesh.observe.decisions import Decisions, recorded_as_mapping
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.policy.evaluate import Verdict, decide
from tcpmesh.policy.explain import on_deny_list
from tcpmesh.policy.opa_exchange import read_answer, write_question
from tcpmesh.policy.questions import Question
from tcpmesh.policy.replay import Places, parse_peer, request_of
from tcpmesh.policy.rules import Rules
from tcpmesh.policy_interfaces import IUnauthenticatedPolicy
from tcpmesh.route_settings import InboundRoute
from tcpmesh.route_table import RouteTable
from tcpmesh.testing import authorization_request
from tcpmesh.values import UNAUTHENTICATED, AuthorizationRequest, Decision, Effect, TCPAddress, WorkloadName
from tests.unit.policy_samples import read, refusal

STRANGER = authorization_request(UNAUTHENTICATED)
# Entries of from: every way to mean somebody, but the one that means strangers.
KNOWN = (
    "{any: authenticated}",
    "{any: authenticated, networks: [0.0.0.0/0]}",
    "{networks: [0.0.0.0/0]}",
    "{networks: [192.0.2.1]}",
    '{networks: [192.0.2.0/24], except: [{ids: ["spiffe://a.test/x"]}]}',
    '{ids: ["spiffe://example.test/**"]}',
    '{ids: ["spiffe://example.test/*"], networks: [0.0.0.0/0]}',
    '{prefixes: ["spiffe://example.test/"]}',
    "{trust_domains: [example.test]}",
    '{dns: ["**.test"]}',
    "{dns: [unauthenticated]}",
)


def rules(*policies: str) -> Rules:
    return Rules(read("".join(f"- {policy}\n" for policy in policies)), lambda: 0.0)


def effect(*policies: str) -> Effect:
    return rules(*policies).decide(STRANGER).effect


def verdict(*policies: Any, default: Effect = Effect.DENY) -> Verdict:
    named = [NamedPolicy(f"plugin{number}", policy) for number, policy in enumerate(policies)]
    found = decide(named, STRANGER, Clock(), Logger(), default=default)
    assert isinstance(found, Verdict)
    return found


@implementer(IAuthorizationPolicy)
class Older:
    """A policy of a time when everybody had an identity."""

    def __init__(self, effect: Effect) -> None:
        self.effect = effect

    def decide(self, request: AuthorizationRequest) -> Decision:
        return Decision(self.effect, "older", "rule", "because")

    def describe(self) -> Sequence[str]:
        return ()


@implementer(IUnauthenticatedPolicy)
class Newer(Older):
    """One that says to know of them."""


class PeerTests(SynchronousTestCase):
    """The value itself."""

    def test_has_no_identity_and_no_name(self) -> None:
        """And is shown as what it is."""
        self.assertFalse(UNAUTHENTICATED.is_authenticated)
        self.assertEqual(str(UNAUTHENTICATED), "unauthenticated")
        for text in ("spiffe://a.test/x", "dns:a.test"):
            self.assertTrue(parse_peer(text, 0.0, 0.0).is_authenticated)
        self.assertEqual(parse_peer("unauthenticated", 0.0, 0.0), UNAUTHENTICATED)


class RulesTests(SynchronousTestCase):
    """The policy language."""

    def test_no_other_entry_allows(self) -> None:
        """Whatever it names; alone, with targets and in any number."""
        for entry in KNOWN:
            self.assertIs(effect(f"{{name: a, action: allow, from: [{entry}]}}"), Effect.ABSTAIN, entry)
            targeted = f"{{name: a, action: allow, from: [{entry}], to: {{inbound: [orders-in]}}}}"
            self.assertIs(effect(targeted), Effect.ABSTAIN, entry)
        self.assertIs(effect(f"{{name: a, action: allow, from: [{', '.join(KNOWN)}]}}"), Effect.ABSTAIN)

    def test_the_one_entry_allows(self) -> None:
        """And nobody else: it is no wildcard."""
        policy = rules("{name: open, action: allow, from: [{any: unauthenticated}]}")
        decision = policy.decide(STRANGER)
        self.assertEqual(decision.reason, "policy 'open' allows every unauthenticated peer")
        self.assertTrue(decision.rule.startswith("policies[0].from[0].any"), decision.rule)
        self.assertIs(policy.decide(authorization_request()).effect, Effect.ABSTAIN)

    def test_it_can_be_narrowed(self) -> None:
        """By networks, exceptions from them, listeners, names and ports."""
        for narrowed, expected in (
            ("from: [{any: unauthenticated, networks: [192.0.2.0/24]}]", Effect.ALLOW),
            ("from: [{any: unauthenticated, networks: [10.0.0.0/8]}]", Effect.ABSTAIN),
            ("from: [{any: unauthenticated, except: [{networks: [192.0.2.1]}]}]", Effect.ABSTAIN),
            ("from: [{any: unauthenticated, except: [{networks: [192.0.2.2]}]}]", Effect.ALLOW),
            ("from: [{any: unauthenticated}], to: {inbound: [orders-in]}", Effect.ALLOW),
            ("from: [{any: unauthenticated}], to: {inbound: [cart-in]}", Effect.ABSTAIN),
            ("from: [{any: unauthenticated}], to: {sni: [db.example.test]}", Effect.ABSTAIN),
            ("from: [{any: authenticated}, {any: unauthenticated}]", Effect.ALLOW),
        ):
            self.assertIs(effect(f"{{name: a, action: allow, {narrowed}}}"), expected, narrowed)

    def test_denials_by_network_hold_for_them_too(self) -> None:
        """Of the others only the one that means them."""
        opened = "{name: open, action: allow, from: [{any: unauthenticated}]}"
        for entry, expected in (
            ("{networks: [192.0.2.0/24]}", Effect.DENY),
            ("{networks: [192.0.2.0/24], except: [{any: authenticated}]}", Effect.DENY),
            ("{networks: [192.0.2.0/24], except: [{networks: [192.0.2.1]}]}", Effect.ALLOW),
            ("{networks: [10.0.0.0/8]}", Effect.ALLOW),
            ("{any: unauthenticated}", Effect.DENY),
            ("{any: authenticated}", Effect.ALLOW),
            ('{prefixes: ["spiffe://example.test/"]}', Effect.ALLOW),
        ):
            denial = f"{{name: shut, action: deny, from: [{entry}]}}"
            self.assertIs(effect(opened, denial), expected, entry)

    def test_what_asks_for_a_certificate_means_nobody_without(self) -> None:
        """Not even a denial: its age is not known."""
        when = "when: {certificate: {min_age: 1h}}"
        self.assertIs(effect(f"{{name: a, action: deny, from: [{{networks: [0.0.0.0/0]}}], {when}}}"), Effect.ABSTAIN)

    def test_notes_and_limits_by_network_hold_for_them(self) -> None:
        """As denials do."""
        policy = rules("{name: seen, action: audit, from: [{networks: [192.0.2.0/24]}]}")
        self.assertEqual([note.policy for note in policy.decide(STRANGER).notes], ["seen"])
        policy = rules(
            "{name: few, action: limit, from: [{networks: [192.0.2.0/24]}], limit: {connections: 3}}",
            "{name: known, action: limit, from: [{any: authenticated}], limit: {connections: 1}}",
        )
        self.assertEqual([limit.policy for limit in policy.limits_of(STRANGER)], ["few"])

    def test_what_means_nobody_is_refused(self) -> None:
        """At its place."""
        for text, said in (
            ('from: [{any: unauthenticated, ids: ["spiffe://a.test/x"]}]', "and ids names those who have one"),
            ("from: [{any: unauthenticated, dns: [a.test]}]", "and dns names those who have one"),
            (
                "from: [{networks: [10.0.0.0/8], except: [{any: unauthenticated}]}]",
                "from[0].except[0].any: expected 'authenticated'",
            ),
            (
                'from: [{any: unauthenticated, except: [{ids: ["spiffe://a.test/x"]}]}]',
                "who has no identity can be left out by networks only",
            ),
            ("from: [{any: unauthenticated}], to: {services: [db]}", "workloads of this proxy, which have one"),
            ("from: [{any: unauthenticated}], when: {certificate: {min_age: 1h}}", "peers without a certificate"),
        ):
            self.assertIn(said, refusal(self, f"- {{name: a, action: allow, {text}}}"))

    def test_warns_of_a_permission_that_is_denied(self) -> None:
        """Those about peers with and without an identity are not taken for each other."""
        opened = "{name: open, action: allow, from: [{any: unauthenticated}]}"
        shut = "{name: shut, action: deny, from: [{any: WHO}]}"
        self.assertEqual(rules(opened, shut.replace("WHO", "authenticated")).warnings(), [])
        (doubt,) = rules(opened, shut.replace("WHO", "unauthenticated")).warnings()
        self.assertIn("policy 'open' can never allow anybody (any): policy 'shut'", doubt.message)

    def test_says_what_came_near(self) -> None:
        """Why an entry does not mean them, and why theirs means nobody else."""
        for entry in KNOWN[:4]:
            (near,) = rules(f"{{name: a, action: allow, from: [{entry}]}}").near_rules(STRANGER, Effect.ALLOW)
            self.assertEqual(near.misses, ("is for peers with an identity; others need any: unauthenticated",))
        (near,) = rules(f"{{name: a, action: allow, from: [{KNOWN[5]}]}}").near_rules(STRANGER, Effect.ALLOW)
        self.assertEqual(near.misses, ("names spiffe://example.test/**, not unauthenticated",))
        opened = rules("{name: open, action: allow, from: [{any: unauthenticated}]}")
        (near,) = opened.near_rules(authorization_request(), Effect.ALLOW)
        self.assertEqual(near.misses, ("is for peers without an identity (any: unauthenticated)",))

    def test_describes_itself(self) -> None:
        """In the lines of the start."""
        policy = rules("{name: open, action: allow, from: [{any: unauthenticated}]}")
        self.assertEqual(policy.describe(), ["allow open: every unauthenticated peer to every inbound listener"])


class VerdictTests(SynchronousTestCase):
    """All policies together."""

    def test_the_default_lets_nobody_in(self) -> None:
        """Not even defaults.inbound: allow."""
        for default in Effect.ALLOW, Effect.DENY:
            found = verdict(default=default)
            self.assertEqual((found.allowed, found.code), (False, NO_RULE_ALLOWS))
            self.assertIn("a peer without an identity at inbound listener 'orders-in'", found.decision.reason)

    def test_a_plugin_that_knows_nothing_of_them_cannot_allow(self) -> None:
        """But deny, whoever else allows."""
        self.assertIs(verdict(Older(Effect.ALLOW)).code, NO_RULE_ALLOWS)
        self.assertIs(verdict(Older(Effect.DENY), Newer(Effect.ALLOW)).code, DENIED_BY_RULE)
        self.assertTrue(verdict(Older(Effect.ABSTAIN), Newer(Effect.ALLOW)).allowed)
        self.assertTrue(verdict(Older(Effect.ALLOW), Newer(Effect.ALLOW)).allowed)

    def test_the_plugins_here_say_that_they_know(self) -> None:
        """By their interface."""
        policy = rules("{name: o, action: allow, from: [{any: unauthenticated}]}")
        self.assertTrue(verifyObject(IUnauthenticatedPolicy, policy))
        self.assertTrue(verdict(policy).allowed)


class OpaTests(SynchronousTestCase):
    """Open Policy Agent."""

    def answer(self, answer: object) -> Effect:
        data = json.dumps({"result": answer}).encode()
        return read_answer(data, "a/b", 5.0, Effect.DENY, authenticated=False).effect

    def test_is_told_that_there_is_no_identity(self) -> None:
        """And every name is empty."""
        source = json.loads(write_question(STRANGER))["input"]["source"]
        self.assertIs(source["authenticated"], False)
        self.assertEqual(
            (source["spiffe_id"], source["trust_domain"], source["path"], source["dns_name"]), ("", "", [], "")
        )

    def test_allows_only_in_so_many_words(self) -> None:
        """A policy that allows by anything else was not made for them."""
        self.assertIs(self.answer(True), Effect.ABSTAIN)
        self.assertIs(self.answer({"allow": True}), Effect.ABSTAIN)
        self.assertIs(self.answer({"allow": True, "unauthenticated": "true"}), Effect.ABSTAIN)
        self.assertIs(self.answer({"allow": True, "unauthenticated": True}), Effect.ALLOW)
        self.assertIs(self.answer({"allow": False, "unauthenticated": True}), Effect.DENY)
        self.assertIs(self.answer(False), Effect.DENY)


class ExplainTests(SynchronousTestCase):
    """Questions and records."""

    PLACES = Places(
        {
            "orders-in": RouteTable(
                [
                    (None, InboundRoute(TCPAddress("127.0.0.1", 5432), passthrough=True)),
                    (
                        parse_dns_pattern("a.test"),
                        InboundRoute(
                            TCPAddress("127.0.0.1", 5000), parse_dns_pattern("a.test"), WorkloadName("orders")
                        ),
                    ),
                ]
            )
        },
        {"db": frozenset()},
    )

    def test_a_question_may_be_about_them(self) -> None:
        """At an inbound listener."""
        request = Question(who="unauthenticated", to="orders-in", ip="192.0.2.1").request(self.PLACES, 0.0)
        self.assertEqual((request.peer, request.port, request.workload), (UNAUTHENTICATED, 5432, ""))
        failure = self.assertRaises(ValueError, Question(who="unauthenticated", to="db").request, self.PLACES, 0.0)
        self.assertIn("workloads of this proxy, which have an identity", str(failure))

    def test_a_question_is_about_one_route(self) -> None:
        """Which verifies peers, or does not."""
        web = "spiffe://example.test/web"
        request = Question(who=web, to="orders-in", sni="a.test").request(self.PLACES, 0.0)
        self.assertEqual((request.port, request.workload), (5000, "orders"))
        # As a connection asks: in the form in which names are compared.
        self.assertEqual(Question(who=web, to="orders-in", sni="A.Test.").request(self.PLACES, 0.0).sni, "a.test")
        fields = {"direction": "inbound", "listener": "orders-in", "src.addr": "192.0.2.1:1", "src.identity": web}
        self.assertEqual(request_of({**fields, "sni": "A.Test."}, self.PLACES, 0.0).sni, "a.test")
        for question, said in (
            (Question(who=web, to="orders-in"), "passes TLS through, so that every peer is unauthenticated"),
            (Question(who="unauthenticated", to="orders-in", sni="a.test"), "route a.test of inbound listener"),
        ):
            self.assertIn(said, str(self.assertRaises(ValueError, question.request, self.PLACES, 0.0)))

    def test_a_record_of_them_is_one_of_a_passthrough(self) -> None:
        """Without that, an identity is missing."""
        fields = {"direction": "inbound", "listener": "orders-in", "src.addr": "192.0.2.1:1"}
        request = request_of({**fields, "passthrough": True}, self.PLACES, 0.0)
        self.assertEqual((request.peer, request.port), (UNAUTHENTICATED, 5432))
        self.assertRaises(ValueError, request_of, fields, self.PLACES, 0.0)

    def test_a_remembered_decision_can_be_asked_about_again(self) -> None:
        """And is shown as what it was."""
        record = ConnectionRecord(7, "inbound", "orders-in", "192.0.2.1:4711", 0.0, passthrough=True, decision="deny")
        decisions = Decisions()
        decisions.denied(record, 0.0)
        fields = recorded_as_mapping(decisions.last_denied(1)[0])
        self.assertEqual(request_of(fields, self.PLACES, 0.0).peer, UNAUTHENTICATED)
        self.assertIn("unauthenticated to inbound orders-in, from 192.0.2.1:4711", connection_line(fields))

    def test_no_deny_list_names_them(self) -> None:
        """An entry by serial number or key is about certificates."""
        state = MeshState(deny_list=DenyList((DenyEntry(serial="01"),)))
        self.assertEqual(on_deny_list(state, STRANGER), {})
