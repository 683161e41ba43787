"""The policy plugin of exact SPIFFE IDs."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import Mark
from tcpmesh.policy.identities import parse_dns_pattern, parse_id_pattern
from tcpmesh.policy.language import Policy, Principals, RulesSettings, Targets
from tcpmesh.policy.rules import Rules
from tcpmesh.sources.rules import RulesFactory
from tcpmesh.testing import authorization_request, peer_identity, plugin_context
from tcpmesh.values import Decision, Effect, InboundName

WEB, BATCH, OTHER = (f"spiffe://example.test/{name}" for name in ("web", "batch", "other"))


def who(*ids: str) -> Principals:
    return Principals([parse_id_pattern(text) for text in ids])


def at(*names: str) -> Targets:
    return Targets([InboundName(name) for name in names])


def rules(*policies: Policy) -> Rules:
    made = RulesFactory().create(RulesSettings(list(policies)), plugin_context())
    assert isinstance(made, Rules)
    return made


def ask(policy: Rules, peer: str, inbound: str = "orders-in") -> Decision:
    return policy.decide(authorization_request(peer, inbound=inbound))


class RulesTests(SynchronousTestCase):
    def test_allows_whom_a_policy_names(self) -> None:
        """The decision carries policy, rule and reason."""
        decision = ask(rules(Policy("web-may", "allow", [who(WEB)], at("orders-in"))), WEB)
        self.assertEqual(
            decision,
            Decision(Effect.ALLOW, "web-may", "policies[0].from[0].ids[0]", f"policy 'web-may' allows {WEB}"),
        )

    def test_abstains_about_everybody_else(self) -> None:
        """Another ID, another listener, an ID that is only a prefix, and a DNS name are named by no rule."""
        policy = rules(Policy("web-may", "allow", [who(WEB)], at("orders-in")))
        self.assertIs(ask(policy, OTHER).effect, Effect.ABSTAIN)
        self.assertIs(ask(policy, WEB, "admin-in").effect, Effect.ABSTAIN)
        self.assertIs(ask(policy, WEB + "/v2").effect, Effect.ABSTAIN)
        self.assertIs(ask(policy, "spiffe://example.test").effect, Effect.ABSTAIN)
        dns = authorization_request(peer_identity(None, dns_name="web"))
        self.assertIs(policy.decide(dns).effect, Effect.ABSTAIN)

    def test_without_to_every_listener_is_meant(self) -> None:
        """A policy without targets holds at any listener."""
        policy = rules(Policy("web-may", "allow", [who(WEB)]))
        self.assertIs(ask(policy, WEB, "one").effect, Effect.ALLOW)
        self.assertIs(ask(policy, WEB, "other").effect, Effect.ALLOW)

    def test_a_denial_wins_wherever_it_stands(self) -> None:
        """Deny beats allow in any order, and between a listener's rule and one for all listeners."""
        here = Policy("may", "allow", [who(WEB)], at("orders-in"))
        everywhere = Policy("may", "allow", [who(WEB)])
        not_here = Policy("may-not", "deny", [who(WEB)], at("orders-in"))
        nowhere = Policy("may-not", "deny", [who(WEB)])
        for policies in ((here, nowhere), (nowhere, here), (everywhere, not_here), (not_here, everywhere)):
            decision = ask(rules(*policies), WEB)
            self.assertEqual((decision.effect, decision.policy), (Effect.DENY, "may-not"))
        self.assertIs(ask(rules(everywhere, not_here), WEB, "admin-in").effect, Effect.ALLOW)

    def test_the_first_of_several_is_named(self) -> None:
        """Of two rules with one effect the record names the one that stands first, whatever its scope."""
        here = Policy("here", "allow", [who(OTHER), who(BATCH, WEB)], at("orders-in"))
        everywhere = Policy("everywhere", "allow", [who(WEB)])
        self.assertEqual(ask(rules(here, everywhere), WEB).rule, "policies[0].from[1].ids[1]")
        self.assertEqual(ask(rules(everywhere, here), WEB).rule, "policies[0].from[0].ids[0]")

    def test_the_rule_names_its_place_in_the_file(self) -> None:
        """With a mark the reader is sent to file and line."""
        decision = ask(rules(Policy("web-may", "allow", [who(WEB)], mark=Mark("mesh.yaml", 31, 9))), WEB)
        self.assertEqual(decision.rule, "policies[0].from[0].ids[0] (mesh.yaml:31:9)")
        nearer = Principals([parse_id_pattern(WEB)], mark=Mark("mesh.yaml", 34, 12))
        decision = ask(rules(Policy("web-may", "allow", [nearer], mark=Mark("mesh.yaml", 31, 9))), WEB)
        self.assertEqual(decision.rule, "policies[0].from[0].ids[0] (mesh.yaml:34:12)")

    def test_describes_each_policy_in_a_line(self) -> None:
        """The start-up block says who may go where, and cuts a long list."""
        many = who(*(f"spiffe://example.test/{number}" for number in range(5)))
        policy = rules(
            Policy("web-may", "allow", [who(WEB)], at("orders-in", "cart-in")), Policy("not", "deny", [many])
        )
        self.assertEqual(
            list(policy.describe()),
            [
                f"allow web-may: {WEB} to orders-in, cart-in",
                "deny not: spiffe://example.test/0, spiffe://example.test/1, spiffe://example.test/2 and 2 more"
                " to every inbound listener",
            ],
        )

    def test_describes_only_the_first_of_many(self) -> None:
        """Thousands of policies are no thousands of lines at each start."""
        policy = rules(*(Policy(f"p{number}", "allow", [who(WEB)]) for number in range(52)))
        self.assertEqual((len(policy.describe()), policy.describe()[-1]), (51, "and 2 more policies"))

    def test_refuses_policies_that_mean_nothing(self) -> None:
        """Each refusal says what to write; the configuration's reader adds where."""
        good = Policy("web-may", "allow", [who(WEB)], mark=Mark("mesh.yaml", 31, 9))
        nobody = "the list is empty, so that the policy would mean nobody; leave the key out if it says nothing"
        cases = [
            (
                lambda: RulesSettings([good, Policy("other", "deny", [who(WEB)]), good]),
                "2 policies are named 'web-may' (mesh.yaml:31:9, mesh.yaml:31:9);"
                " records name the policy, so each needs its own",
            ),
            (lambda: Policy("x", "deny", []), nobody),
            (lambda: who(), nobody),
            (lambda: at(), nobody),
            (lambda: Targets(), "nothing is named; name a listener, or leave out 'to' for every inbound listener"),
            (lambda: Policy("", "deny", [who(WEB)]), "the name is empty; records name the policy"),
        ]
        for make, message in cases:
            self.assertEqual(str(self.assertRaises(ValueError, make)), message)

    def test_no_policy_at_all_abstains(self) -> None:
        """An empty list is a policy that allows nobody."""
        self.assertIs(ask(rules(), WEB).effect, Effect.ABSTAIN)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["allow", "deny"]),
                st.lists(st.sampled_from([WEB, BATCH, OTHER]), min_size=1, max_size=2),
                st.one_of(st.none(), st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2)),
            ),
            max_size=6,
        )
    )
    def test_agrees_with_reading_the_rules_one_by_one(self, drawn: list[tuple]) -> None:  # type: ignore[type-arg]
        """The compiled table gives the answer of the plain definition: first deny, else first allow, else abstain."""
        policies = [
            Policy(str(number), action, [who(*ids)], at(*targets) if targets else None)
            for number, (action, ids, targets) in enumerate(drawn)
        ]
        compiled = rules(*policies)
        for inbound in ("a", "b", "c"):
            for peer in (WEB, BATCH, OTHER):
                matching = [
                    (action, str(number))
                    for number, (action, ids, targets) in enumerate(drawn)
                    if peer in ids and (targets is None or inbound in targets)
                ]
                matching.sort(key=lambda entry: entry[0] != "deny")
                expected = matching[0] if matching else ("abstain", "")
                decision = ask(compiled, peer, inbound)
                self.assertEqual((decision.effect.value, decision.policy), expected)

    def test_no_pattern_fits_a_name_with_an_empty_label(self) -> None:
        """Neither where rules are looked up by it nor where an exception asks for it."""
        policy = rules(Policy("p", "allow", [Principals(dns=[parse_dns_pattern("**.x.test")])]))
        for name, effect in (("a.x.test", "allow"), (".x.test", "abstain"), ("a..x.test", "abstain")):
            request = authorization_request(peer_identity(None, dns_name=name))
            self.assertEqual(policy.decide(request).effect.value, effect, name)
