"""The policy language: what can be written, and what is refused, at which place."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import Mark
from tcpmesh.policy.doubts import MAX_DOUBTS, doubts
from tcpmesh.policy.ruling import MAX_NOTES, Ruling
from tests.unit.policy_samples import read, refusal, request

WEB = "spiffe://example.test/web"


def effect(text: str, **changes: object) -> str:
    """What these policies say."""
    return Ruling(read(text), lambda: 0.0).decide(request(**changes)).effect.value


class RefusalTests(SynchronousTestCase):
    """What cannot mean anything is no policy."""

    def check(self, text: str, *messages: str) -> None:
        told = refusal(self, text)
        for message in messages:
            self.assertIn(message, told)

    def entry(self, text: str, *messages: str) -> None:
        self.check(f"- {{name: x, action: allow, from: [{text}]}}", *messages)

    def target(self, text: str, *messages: str) -> None:
        self.check(f"- {{name: x, action: allow, from: [{{any: authenticated}}], to: {text}}}", *messages)

    def test_entries_that_mean_nobody(self) -> None:
        """Empty ones, and keys that exclude each other."""
        self.entry("{}", "policies[0].from[0]: nobody is named; give ids, prefixes")
        self.entry("{ids: []}", "policies[0].from[0].ids: the list is empty")
        self.entry("{networks: []}", "policies[0].from[0].networks: the list is empty")
        self.entry("{any: authenticated, except: []}", "policies[0].from[0].except: the list is empty")
        self.entry(
            f'{{ids: ["{WEB}"], dns: [db.example.test]}}',
            "no peer has both a SPIFFE ID (ids) and a DNS name (dns): all keys of an entry must fit, so make it two",
        )
        self.entry(
            f'{{ids: ["{WEB}"], trust_domains: [other.test]}}',
            f"no ID is both of {WEB} and of other.test: all keys of an entry must fit, so make it two entries",
        )
        self.entry('{ids: ["spiffe://a.test/x/*"], prefixes: ["spiffe://a.test/x/y/"]}', "no ID is both of")
        self.entry(
            f'{{any: authenticated, ids: ["{WEB}"]}}', "any: authenticated is every peer, whatever else is named"
        )
        self.check("- {name: x, action: deny, from: []}", "policies[0].from: the list is empty")

    def test_keys_that_fit_together(self) -> None:
        """What narrows is no contradiction."""
        for text in (
            'ids: ["spiffe://a.test/x/*"], prefixes: ["spiffe://a.test/x/"]',
            'ids: ["spiffe://a.test/*/y"], prefixes: ["spiffe://a.test/x/"], trust_domains: [a.test]',
            'ids: ["spiffe://a.test/x/**"], prefixes: ["spiffe://a.test/x/y/"]',
            "any: authenticated, networks: [10.0.0.0/8]",
        ):
            self.assertEqual(len(read(f"- {{name: x, action: allow, from: [{{{text}}}]}}")), 1)

    def test_values_are_refused_at_their_place(self) -> None:
        """With line and column, and what to write."""
        told = refusal(
            self,
            '- name: x\n  action: allow\n  from:\n    - ids: ["spiffe://A.test/x"]\n      networks: [10.1.0.0/8]\n'
            '      prefixes: ["spiffe://a.test/x"]\n      trust_domains: ["*"]\n'
            '  to: {sni: ["*"], inbound: [order-in]}\n'
            "  when: {windows: [{hours: [08:00-08:00], days: [monday], timezone: Mars}]}\n",
        )
        for place in (
            "policies.yaml:5:15: policies[0].from[0].ids[0]: trust domain 'A.test' is not lower case",
            "policies.yaml:6:20: policies[0].from[0].networks[0]: '10.1.0.0/8' has bits behind its first 8",
            "policies.yaml:7:20: policies[0].from[0].prefixes[0]: 'spiffe://a.test/x' does not end at a segment",
            "policies.yaml:8:25: policies[0].from[0].trust_domains[0]: trust domain '*' may only hold",
            "policies.yaml:9:16: policies[0].to.sni[0]: in '*', a wildcard can only be the whole first label",
            "policies.yaml:9:32: policies[0].to.inbound[0]: there is no inbound listener 'order-in'; did you mean "
            "'orders-in'?",
            "policies[0].when.windows[0].hours[0]: '08:00-08:00' ends when it begins",
            "policies[0].when.windows[0].days[0]: expected 'mon', 'tue', 'wed', 'thu', 'fri', 'sat' or 'sun'",
            "policies[0].when.windows[0].timezone: there is no time zone 'Mars'",
        ):
            self.assertIn(place, told)

    def test_targets_that_mean_nothing(self) -> None:
        """Empty ones, impossible ports, both directions at once, services that do not exist."""
        self.target("{}", "nothing is named; name a listener, or leave out 'to' for every inbound listener")
        self.target("{inbound: []}", "policies[0].to.inbound: the list is empty")
        self.target("{ports: [0]}", "policies[0].to.ports: 0 is no port that an application can have")
        self.target("{ports: [65536]}", "65536 is no port")
        self.target('{alpn: [""]}', "'' names no protocol")
        self.target("{services: [dbs]}", "there is no service 'dbs'; did you mean 'db'?")
        self.target(
            "{services: [db], inbound: [orders-in]}",
            "services are where outbound connections go, and inbound is about inbound ones; no connection is both",
        )
        self.target("{services: [db], sni: [db.example.test]}", "and sni is about inbound ones")

    def test_a_dry_run_of_an_audit(self) -> None:
        """There is nothing to try."""
        self.check(
            "- {name: x, action: audit, mode: dry-run, from: [{any: authenticated}]}",
            "action: audit decides nothing, so there is nothing to try; remove mode: dry-run",
        )

    def test_names_that_records_cannot_hold(self) -> None:
        """They come from whoever may write a file of policies."""
        self.check('- {name: "", action: deny, from: [{any: authenticated}]}', "the name is empty")
        self.check(f"- {{name: {'x' * 129}, action: deny, from: [{{any: authenticated}}]}}", "is no name for records")


class MeaningTests(SynchronousTestCase):
    """What the tables alone do not show."""

    def test_kinds_of_names_are_never_taken_for_each_other(self) -> None:
        """A rule on IDs matches no DNS name, one on DNS names no ID, and neither a key that is pinned."""
        anybody = (
            '- {name: x, action: allow, from: [{trust_domains: [example.test]}, {ids: ["spiffe://example.test/**"]}]}'
        )
        self.assertEqual(effect(anybody), "allow")
        for name in ("example.test", "spiffe://example.test/web", "example.test/web", "web"):
            self.assertEqual(effect(anybody, id=None, dns=name), "abstain", name)
        names = '- {name: x, action: allow, from: [{dns: ["**.test", example.test]}]}'
        self.assertEqual(effect(names, id=None, dns="db.example.test"), "allow")
        for identity in (WEB, "spiffe://db.example.test/x", "spiffe://example.test/db.example.test"):
            self.assertEqual(effect(names, id=identity, dns="db.example.test"), "abstain", identity)
        self.assertEqual(effect(names, id=None, dns="db.evil\0.test"), "abstain")
        self.assertEqual(effect(anybody + "\n" + names.replace("x,", "y,"), id=None), "abstain")

    def test_every_peer_is_one_that_was_verified(self) -> None:
        """Whatever kind of name it has."""
        everybody = "- {name: x, action: allow, from: [{any: authenticated}]}"
        self.assertEqual(effect(everybody), "allow")
        self.assertEqual(effect(everybody, id=None, dns="db.example.test"), "allow")

    def test_a_unix_socket_is_in_no_network(self) -> None:
        """Neither in one that allows everything, nor in an exception."""
        text = "- {name: x, action: allow, from: [{networks: [0.0.0.0/0, '::/0']}]}"
        self.assertEqual(effect(text, source="unix:/run/app.sock"), "abstain")
        text = "- {name: x, action: allow, from: [{any: authenticated, except: [{networks: [0.0.0.0/0, '::/0']}]}]}"
        self.assertEqual(effect(text, source="unix:/run/app.sock"), "allow")
        self.assertEqual(effect(text), "abstain")

    def test_ipv4_is_ipv4_in_whatever_form_it_comes(self) -> None:
        """Else a denial could be passed by over a socket for both families."""
        text = "- {name: x, action: deny, from: [{networks: [10.0.0.0/8]}]}"
        for source, expected in {"10.0.0.1": "deny", "::ffff:10.0.0.1": "deny", "::a00:1": "abstain"}.items():
            self.assertEqual(effect(text, source=source), expected, source)

    def test_sni_is_compared_in_any_case(self) -> None:
        """DNS names have none (RFC 4343)."""
        text = "- {name: x, action: allow, from: [{any: authenticated}], to: {sni: [DB.example.test]}}"
        self.assertEqual(effect(text, sni="db.EXAMPLE.test"), "allow")
        self.assertEqual(effect(text, sni=""), "abstain")

    def test_outbound_and_inbound_policies_do_not_mix(self) -> None:
        """Without "to" a policy is about inbound connections, with services about outbound ones only."""
        inbound = "- {name: x, action: deny, from: [{any: authenticated}]}"
        outbound = "- {name: x, action: deny, from: [{any: authenticated}], to: {services: [db]}}"
        self.assertEqual(effect(inbound, service="db", inbound=""), "abstain")
        self.assertEqual(effect(outbound), "abstain")
        self.assertEqual(effect(outbound, service="db", inbound=""), "deny")
        self.assertEqual(effect(outbound, service="mail", inbound=""), "abstain")

    def test_only_some_notes_are_kept(self) -> None:
        """A record stays small however many policies watch."""
        text = "\n".join(
            f"- {{name: n{number}, action: audit, from: [{{any: authenticated}}]}}" for number in range(20)
        )
        notes = Ruling(read(text)).decide(request()).notes
        self.assertEqual([note.policy for note in notes], [f"n{number}" for number in range(MAX_NOTES)])


class DoubtTests(SynchronousTestCase):
    """Rules that can never decide are told, and decide nothing."""

    def told(self, text: str, **inbound: str) -> list[str]:
        targets = {
            name.replace("_", "-"): () if "/" in address else (int(address),) for name, address in inbound.items()
        }
        return [str(problem) for problem in doubts(read(text), targets)]

    def rule(self, name: str, action: str, entry: str, more: str = "") -> str:
        return f"- {{name: {name}, action: {action}, from: [{entry}]{more}}}\n"

    def test_a_permission_that_a_denial_covers(self) -> None:
        """By the same ID, a pattern, a domain, everybody, a wider network; at the same listener or at all."""
        for denied, allowed, more in (
            (f'{{ids: ["{WEB}"]}}', f'{{ids: ["{WEB}"]}}', ""),
            ('{ids: ["spiffe://example.test/*"]}', f'{{ids: ["{WEB}"]}}', ""),
            ("{trust_domains: [example.test]}", '{prefixes: ["spiffe://example.test/ns/"]}', ""),
            ("{any: authenticated}", f'{{ids: ["{WEB}"]}}', ", to: {inbound: [a]}"),
            ("{networks: [10.0.0.0/8]}", "{networks: [10.1.0.0/16]}", ""),
        ):
            (told,) = self.told(self.rule("shut", "deny", denied) + self.rule("open", "allow", allowed, more))
            self.assertRegex(
                told,
                r"\Apolicies.yaml:3:\d+: policy 'open' can never allow \S+ \(\w+\[0\]\): policy 'shut' "
                r"\(policies.yaml:2:5\) denies it, and any denial wins\Z",
            )

    def test_denials_that_leave_something(self) -> None:
        """Narrower ones, conditional ones, ones elsewhere, and those that only watch."""
        web = self.rule("open", "allow", f'{{ids: ["{WEB}"]}}')
        for entry, more in (
            ('{ids: ["spiffe://example.test/web/**"]}', ""),
            (f'{{ids: ["{WEB}"], networks: [10.0.0.0/8]}}', ""),
            (f'{{ids: ["{WEB}"]}}', ", to: {inbound: [a]}"),
            (f'{{ids: ["{WEB}"]}}', ", to: {services: [db]}"),
            (f'{{ids: ["{WEB}"]}}', ", to: {sni: [db.example.test]}"),
            (f'{{ids: ["{WEB}"]}}', ", when: {certificate: {min_age: 1h}}"),
            (f'{{ids: ["{WEB}"]}}', ", mode: dry-run"),
            ("{networks: [0.0.0.0/0]}", ""),
        ):
            self.assertEqual(self.told(self.rule("shut", "deny", entry, more) + web), [], entry + more)

    def test_ports_that_nothing_has(self) -> None:
        """Targets are known, so a port that none has is a mistake."""
        text = self.rule("x", "allow", "{any: authenticated}", ", to: {ports: [5432, 5433]}")
        self.assertEqual(
            self.told(text, a="5432", b="/run/app.sock"),
            ["policies.yaml:2:5: policy 'x': the target of any inbound listener that it names has no port 5433"],
        )
        text = self.rule("x", "allow", "{any: authenticated}", ", to: {inbound: [b], ports: [5432]}")
        self.assertEqual(
            self.told(text, a="5432", b="5433"),
            ["policies.yaml:2:5: policy 'x': the target of listener 'b' has no port 5432"],
        )

    def test_dns_names_that_no_peer_has(self) -> None:
        """Peers have SPIFFE IDs in this version."""
        (told,) = self.told(self.rule("x", "allow", "{dns: [db.example.test]}"))
        self.assertIn("policy 'x' means nobody by dns: in this version every peer has a SPIFFE ID", told)

    def test_many_are_cut_short(self) -> None:
        """The first ones are enough to begin with."""
        text = self.rule("shut", "deny", "{any: authenticated}")
        text += "".join(self.rule(f"y{number}", "allow", f'{{ids: ["{WEB}"]}}') for number in range(30))
        told = doubts(read(text), {})
        self.assertEqual(len(told), MAX_DOUBTS + 1)
        self.assertEqual(told[0].mark, Mark("policies.yaml", 3, 38))
