"""``tcpmesh explain``: what it says of policies in a configuration and of a proxy's decisions, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from tcpmesh.cli.policy_side import policy_side
from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.testing import authorization_request
from tcpmesh.values import AuthorizationRequest, Decision, Effect
from tests.unit.admin_sockets import AdminSocketCase

CONFIGURATION = """\
version: 1
trust_domain: a.test
identity:
  sources:
    local: {plugin: embedded, state: state}
  workloads:
    orders: {id: "spiffe://a.test/orders"}
services:
  ledger:
    expect: ["spiffe://a.test/ledger"]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4143"]}
  both:
    expect: ["spiffe://a.test/ledger"]
    discovery: {plugin: static, endpoints: ["127.0.0.1:4143"]}
inbound:
  - {name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}
  - {name: orders2-in, listen: "127.0.0.1:4144", target: "127.0.0.1:5001", workload: orders}
  - {name: both, listen: "127.0.0.1:4145", target: "127.0.0.1:5002", workload: orders}
authorization:
  - plugin: rules
    files: [policies.yaml]
"""
POLICIES = """\
policies:
  - name: shop
    action: allow
    to: {inbound: [orders2-in]}
    from: [{ids: ["spiffe://a.test/web"]}]
  - name: office
    action: allow
    to: {inbound: [orders-in]}
    when: {windows: [{days: [mon], hours: ["08:00-18:00"]}]}
    from: [{ids: ["spiffe://a.test/batch"], networks: ["10.0.0.0/8"]}]
  - {name: watch, action: audit, from: [{prefixes: ["spiffe://a.test/"]}], to: {inbound: [orders-in]}}
  - {name: try, action: deny, mode: dry-run, from: [{ids: ["spiffe://a.test/batch"]}]}
  - {name: no-ledger, action: deny, from: [{ids: ["spiffe://a.test/web"]}], to: {services: [ledger]}}
"""
MONDAY = "2026-11-23T10:00:00Z"


class ExplainCase(AdminSocketCase):
    """One configuration, with its policies in a file beside it."""

    def setUp(self) -> None:
        super().setUp()
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir()
        self.config = self.base / "tcpmesh.yaml"
        self.config.write_text(CONFIGURATION)
        self.policies = self.base / "policies.yaml"
        self.policies.write_text(POLICIES)

    def explain(self, *arguments: str) -> tuple[Any, str, str]:
        return self.command("explain", "--config", str(self.config), *arguments)

    def check_lines(self, answer: tuple[Any, str, str], status: int, *lines: str) -> None:
        self.assertEqual(answer[2], "")
        self.assertEqual(answer[1].splitlines(), list(lines))
        self.assertEqual(answer[0], status)

    def check_usage(self, answer: tuple[Any, str, str], message: str) -> None:
        self.assertEqual((answer[0], answer[1]), (64, ""))
        self.assertEqual(answer[2].splitlines()[-1], f"tcpmesh: {message}")


class AskedTests(ExplainCase):
    """The policies of a configuration, without a proxy."""

    def test_names_the_nearest_rule(self) -> None:
        """With its place, and what of it does not fit."""
        self.check_lines(
            self.explain("--from", "spiffe://a.test/web", "--to", "orders-in"),
            1,
            "DENIED TM-P102: no policy allows spiffe://a.test/web at inbound listener 'orders-in'",
            "  connection  spiffe://a.test/web to inbound orders-in",
            f"  nearest     policy shop at {self.policies}:5:12 would allow, but names inbound orders2-in, not "
            "orders-in",
            f"  audit       policy watch notes it: policies[2].from[0].prefixes[0] ({self.policies}:11:41)",
            "  assumed     no source address was given, so that it is in no network",
        )

    def test_names_the_rule_that_decides(self) -> None:
        """With what policies that only watch say, and what would have changed it."""
        place = f"({self.policies}:12:53)"
        self.check_lines(
            self.explain("--from", "spiffe://a.test/batch", "--to", "orders-in", "--ip", "10.0.0.7", "--at", MONDAY),
            0,
            "ALLOWED: policy 'office' allows spiffe://a.test/batch",
            "  connection  spiffe://a.test/batch to inbound orders-in, from 10.0.0.7",
            f"  rule        office: policies[1].from[0].ids[0] ({self.policies}:10:12)",
            f"  nearest     policy try at {self.policies}:12:53 would deny, but is only tried (mode: dry-run)",
            f"  audit       policy watch notes it: policies[2].from[0].prefixes[0] ({self.policies}:11:41)",
            f"  dry-run     policy try would deny: policies[3].from[0].ids[0] {place}",
        )

    def test_asks_at_another_time(self) -> None:
        """Policies see the time that is asked about."""
        answer = self.explain(
            *("--from", "spiffe://a.test/batch", "--to", "orders-in", "--ip", "10.0.0.7"),
            *("--at", "2026-11-24T10:00:00Z", "--json"),
        )
        self.assertEqual((answer[0], answer[2]), (1, ""))
        found = json.loads(answer[1])
        self.assertEqual(found["at"], "2026-11-24T10:00:00.000Z")
        self.assertEqual(found["nearest"]["misses"], ["holds mon 08:00-18:00 UTC, not at 2026-11-24T10:00:00Z"])

    def test_tells_programs(self) -> None:
        """The same as JSON."""
        status, out, err = self.explain(
            *("--from", "spiffe://a.test/web", "--to", "service:ledger", "--at", MONDAY, "--ip", "127.0.0.1", "--json")
        )
        self.assertEqual((status, err), (1, ""))
        self.assertEqual(
            json.loads(out),
            {
                "file": str(self.config),
                "at": "2026-11-23T10:00:00.000Z",
                "connection": {
                    "direction": "outbound",
                    "dst.service": "ledger",
                    "src.identity": "spiffe://a.test/web",
                    "src.addr": "127.0.0.1",
                },
                "decision": "deny",
                "code": "TM-P107",
                "policy": "no-ledger",
                "rule": f"policies[4].from[0].ids[0] ({self.policies}:13:44)",
                "reason": "policy 'no-ledger' denies spiffe://a.test/web",
                "assumed": ["there is an outbound listener that leads this identity there; the configuration has none"],
            },
        )

    def test_names_what_stands_behind_a_denial(self) -> None:
        """Without the denial, the rule would have allowed it."""
        self.policies.write_text(
            POLICIES + "  - {name: out, action: allow, from: [{any: authenticated}], to: {services: [ledger]}}\n"
        )
        answer = self.explain("--from", "spiffe://a.test/web", "--to", "ledger", "--ip", "127.0.0.1")
        self.assertIn(
            f"  nearest     policy out at {self.policies}:14:39 would allow, but comes behind the denial of no-ledger: "
            "any denial wins",
            answer[1].splitlines(),
        )

    def test_says_what_it_took_the_certificate_for(self) -> None:
        """Only when a policy looks at it."""
        self.policies.write_text(
            POLICIES.replace("windows: [{days: [mon], ", "certificate: {max_age: 1h}, windows: [{")
        )
        who = ("--from", "spiffe://a.test/batch", "--to", "orders-in", "--ip", "10.0.0.7", "--at", MONDAY)
        status, out, _ = self.explain(*who)
        self.assertEqual(status, 0)
        self.assertIn("  assumed     the certificate is taken to be 0ms old and to have 1d left", out.splitlines())
        status, out, _ = self.explain(*who, "--cert-age", "2h", "--cert-left", "1h")
        self.assertEqual(status, 1)
        self.assertNotIn("assumed", out)
        self.assertIn("asks for a certificate with max_age 1h, and this one is 2h old and has 1h left", out)

    def test_says_that_it_was_told_no_protocol_and_no_server_name(self) -> None:
        """When a policy looks at them: the proxy decides otherwise about peers that have some."""
        self.policies.write_text(
            "policies:\n  - {name: mesh, action: allow, from: [{any: authenticated}],"
            " to: {inbound: [orders-in], alpn: [tcpmesh/1], sni: [db.a.test]}}\n"
        )
        who = ("--from", "spiffe://a.test/web", "--to", "orders-in", "--ip", "10.0.0.7")
        status, out, _ = self.explain(*who)
        self.assertEqual(status, 1)
        self.assertEqual(
            [line for line in out.splitlines() if "assumed" in line],
            [
                "  assumed     no --sni was given, so that it asks for no server name",
                "  assumed     no --alpn was given, so that it agrees on no protocol; proxies of this kind do, on "
                "tcpmesh/1",
            ],
        )
        status, out, _ = self.explain(*who, "--alpn", "tcpmesh/1", "--sni", "db.a.test")
        self.assertEqual((status, "assumed" in out), (0, False))

    def test_remembers_no_answer_from_one_question_to_the_next(self) -> None:
        """Tables and logs ask the same about several times of day; a proxy remembers what comes late."""
        asked: list[Deferred[Decision]] = []

        @implementer(IAuthorizationPolicy)
        class Later:
            def decide(self, _request: AuthorizationRequest) -> Deferred[Decision]:
                asked.append(Deferred())
                return asked[-1]

            def describe(self) -> list[str]:
                return []

        self.config.write_text(
            CONFIGURATION.partition("authorization:")[0]
            + 'authorization: [{plugin: opa, url: "http://127.0.0.1:1/v1/data/a"}]\n'
        )
        with policy_side(self.config) as side:
            (named,) = side.state.policies
            state = attrs.evolve(side.state, policies=(attrs.evolve(named, policy=Later()),))
            side = attrs.evolve(side, state=state, clock=Clock())
            for effect, expected in ((Effect.ALLOW, "allow"), (Effect.DENY, "deny")):
                explanation = side.explain(authorization_request())
                asked[-1].callback(Decision(effect, "later", "r", "because", 3600.0))
                self.assertEqual(self.successResultOf(explanation)["decision"], expected)
        self.assertEqual(len(asked), 2)

    def test_knows_who_is_led_to_a_service(self) -> None:
        """The workload of an outbound listener; nothing is assumed of that."""
        self.config.write_text(
            CONFIGURATION + 'outbound: [{name: out, listen: "127.0.0.1:1", service: ledger, workload: orders}]\n'
        )
        status, out, _ = self.explain("--from", "spiffe://a.test/orders", "--to", "ledger", "--ip", "127.0.0.1")
        self.assertEqual(status, 0)
        self.assertNotIn("assumed", out)

    def test_asks_the_deny_list_first(self) -> None:
        """No policy is asked about whom it keeps out; what of it cannot be asked is said."""
        listed = CONFIGURATION.replace(
            "identity:\n",
            "identity:\n  deny_list:\n    entries: [{id: 'spiffe://a.test/web', issued_before: '%s'}, {serial: 4f}]\n",
        )
        self.config.write_text(listed % "2026-11-23T09:00:00Z")
        who = ("--from", "spiffe://a.test/web", "--to", "orders2-in", "--ip", "10.0.0.1", "--at", MONDAY)
        self.check_lines(
            self.explain(*who, "--cert-age", "2h"),
            1,
            "DENIED TM-I606: spiffe://a.test/web is on the deny-list",
            "  connection  spiffe://a.test/web to inbound orders2-in, from 10.0.0.1",
            f"  rule        deny-list: id spiffe://a.test/web ({self.config}:5:15)",
            "  assumed     the certificate is taken to be 2h old and to have 1d left",
            "  assumed     its key and its serial number are not on the deny-list",
        )
        self.assertEqual(self.explain(*who, "--cert-age", "30m")[0], 0)

    def test_takes_dns_names(self) -> None:
        """No policy here means them."""
        status, out, _ = self.explain("--from", "dns:web.test", "--to", "orders-in", "--sni", "x.test", "--alpn", "h2")
        self.assertEqual(status, 1)
        self.assertIn("  connection  dns:web.test to inbound orders-in, sni x.test, alpn h2", out.splitlines())

    def test_says_what_it_cannot_ask(self) -> None:
        """Each with what would be right."""
        who = ("--from", "spiffe://a.test/web")
        for arguments, message in (
            ((), "say one of --from, CONN and --last-denied, got none of them"),
            ((*who, "7"), "say one of --from, CONN and --last-denied, got --from and CONN"),
            (who, "--from needs --to: an inbound listener or a service"),
            (("7", "--to", "orders-in"), "--to belongs to --from; a connection of the past has its own"),
            (
                (*who, "--to", "x", "--admin", "unix:a"),
                "--admin is for CONN and --last-denied; --from asks the configuration",
            ),
            (
                (*who, "--to", "orders3-in"),
                "there is no inbound listener and no service 'orders3-in'; did you mean 'orders-in'?",
            ),
            ((*who, "--to", "inbound:ledger"), "there is no inbound 'ledger'; there are: orders-in, orders2-in, both"),
            (
                (*who, "--to", "both"),
                "'both' is an inbound listener and a service; write inbound:both or service:both",
            ),
            (
                (*who, "--to", "ledger", "--sni", "x"),
                "sni and alpn are of inbound connections; policies about services do not look at them",
            ),
            (
                (*who, "--to", "ledger", "--ip", "10.0.0.1:5"),
                "Invalid value for '--ip': '10.0.0.1:5' is not an IP address; write 192.0.2.1 or 2001:db8::1, without "
                "a port",
            ),
            (
                ("--from", "web", "--to", "ledger"),
                "Invalid value for '--from': 'web' does not start with 'spiffe://'",
            ),
        ):
            self.check_usage(self.explain(*arguments), message)

    def test_cannot_tell_by_a_broken_configuration(self) -> None:
        """Status 1 would say that it is denied."""
        self.policies.write_text("policies: [{name: x}]")
        status, out, err = self.explain("--from", "spiffe://a.test/web", "--to", "orders-in")
        self.assertEqual((status, out), (2, ""))
        self.assertIn(f"{self.policies}:1:12: key 'action' is missing in policies[0]", err)


class RecordedTests(ExplainCase):
    """What a running proxy says of the past."""

    def respond(self, *decisions: dict[str, Any], **more: Any) -> None:
        """Let a proxy answer once."""
        body = {"generation": 5, "kept": 3, "sha256": "0" * 64, "decisions": list(decisions), **more}
        text = json.dumps(body).encode()
        self.asked: list[bytes] = []

        def answer(request: bytes) -> bytes:
            self.asked.append(request.split()[1])
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text

        self.answer(answer)

    def then(self, **more: Any) -> dict[str, Any]:
        return {
            "time": "2026-11-22T10:00:00.000Z",
            "id": 7,
            "conn": "c0ffee",
            "direction": "inbound",
            "listener": "orders2-in",
            "workload": "orders",
            "src.addr": "10.0.0.7:40000",
            "src.identity": "spiffe://a.test/web",
            "decision": "deny",
            "code": "TM-P102",
            "reason": "nobody allows it",
            "generation": 3,
        } | more

    def test_shows_what_changed(self) -> None:
        """Then, now, and by the file where that is otherwise."""
        now = {"decision": "deny", "code": "TM-P102", "reason": "nobody allows it"}
        self.respond({"then": self.then(), "now": now})
        self.check_lines(
            self.explain("c0ffee", *self.admin()),
            1,
            "connection 7 (conn c0ffee) at 2026-11-22T10:00:00.000Z",
            "  connection  spiffe://a.test/web to inbound orders2-in, from 10.0.0.7:40000",
            "  then        DENIED TM-P102: nobody allows it, generation 3",
            "  now         DENIED TM-P102: nobody allows it, generation 5, as then",
            "  file        ALLOWED: policy 'shop' allows spiffe://a.test/web, when the configuration is loaded",
            f"    rule        shop: policies[0].from[0].ids[0] ({self.policies}:5:12)",
            f"    nearest     policy try at {self.policies}:12:53 would deny, but is only tried (mode: dry-run) and "
            "names spiffe://a.test/batch, not spiffe://a.test/web",
        )
        self.assertEqual(parse_qs(self.asked[0].decode().partition("?")[2]), {"connection": ["c0ffee"]})

    def test_says_nothing_of_a_file_that_agrees(self) -> None:
        """What is decided now is what the exit status says."""
        rule = f"policies[0].from[0].ids[0] ({self.policies}:5:12)"
        now = {"decision": "allow", "policy": "shop", "rule": rule}
        self.respond({"then": self.then(), "now": now})
        self.check_lines(
            self.explain("--last-denied", *self.admin()),
            0,
            "connection 7 (conn c0ffee) at 2026-11-22T10:00:00.000Z",
            "  connection  spiffe://a.test/web to inbound orders2-in, from 10.0.0.7:40000",
            "  then        DENIED TM-P102: nobody allows it, generation 3",
            "  now         ALLOWED: by policy 'shop', generation 5",
            f"    rule        shop: {rule}",
        )
        self.assertEqual(self.asked, [b"/decisions?last_denied=1"])

    def test_names_what_the_file_lacks(self) -> None:
        """A listener that is gone takes nobody."""
        now = {"decision": "allow", "policy": "p"}
        self.respond({"then": self.then(listener="gone-in"), "now": now})
        _, out, _ = self.explain("--last-denied", "3", *self.admin())
        self.assertIn(
            f"  file        DENIED: there is no inbound listener 'gone-in' in {self.config}, when the configuration is "
            "loaded",
            out.splitlines(),
        )

    def test_goes_without_a_file_that_cannot_be_used(self) -> None:
        """The proxy's own answer counts, and the reason is told."""
        self.policies.write_text("policies: 1")
        self.respond({"then": self.then(), "now": {"decision": "deny", "code": "TM-P102"}})
        status, out, err = self.explain("7", *self.admin())
        self.assertEqual(status, 1)
        self.assertNotIn("file", out)
        self.assertIn(f"the configuration was not tried: {self.policies}:1:11: ", err)

    def test_tells_programs(self) -> None:
        """All that the proxy said, and the file's answer."""
        self.respond({"then": self.then(), "now": {"decision": "unknown", "code": "TM-P104"}})
        status, out, _ = self.explain("7", "--json", *self.admin())
        found = json.loads(out)
        self.assertEqual((status, found["generation"]), (2, 5))
        [decision] = found["decisions"]
        self.assertEqual(decision["then"], self.then())
        self.assertEqual(decision["file"]["policy"], "shop")

    def test_is_not_misled_by_what_strangers_wrote(self) -> None:
        """What a peer sent stays on its line, as its escape."""
        self.respond(
            {
                "then": self.then(sni="\x1b[2Jx\n", reason="a\nb"),
                "now": {"decision": "deny", "reason": "\u202e", "notes": [{"policy": "\x07", "says": "audit"}]},
            }
        )
        _, out, _ = self.explain("7", *self.admin())
        self.assertTrue(out.isascii())
        self.assertTrue(all(line.isprintable() for line in out.splitlines()))

    def test_remembers_no_such_connection(self) -> None:
        """Which is no decision."""
        self.respond()
        status, out, err = self.explain("8", *self.admin())
        self.assertEqual((status, out), (2, ""))
        self.assertEqual(
            err,
            "tcpmesh: the proxy remembers no decision about connection 8: it keeps the last 3, none about "
            "connections that failed before one, and what the other side refused is known there\n",
        )

    def test_takes_any_bytes_for_a_connection(self) -> None:
        """Which none has, and which are shown escaped."""
        self.respond()
        status, out, err = self.explain("\udcff\x1b", *self.admin())
        self.assertEqual((status, out), (2, ""))
        self.assertIn("remembers no decision about connection \\udcff\\x1b: ", err)

    def test_says_that_nobody_was_denied(self) -> None:
        """Good news."""
        self.respond()
        self.check_lines(self.explain("--last-denied", *self.admin()), 0, "no connection was denied")

    def test_refuses_what_is_no_proxy(self) -> None:
        """Whatever answers there."""
        self.respond({"then": {}, "now": {}})
        status, _, err = self.explain("8", *self.admin())
        self.assertEqual(status, 2)
        self.assertIn("explains nothing as tcpmesh does", err)

    def test_refuses_explanations_of_another_form(self) -> None:
        """As a proxy of another version may give them."""
        good = self.then()
        for number, now in enumerate(
            (
                {"decision": []},
                {"decision": {}},
                {"decision": None},
                {"decision": "deny", "nearest": [1]},
                {"decision": "deny", "notes": {"policy": "a"}},
                {"decision": "deny", "limits": ["a"]},
                ["deny"],
            )
        ):
            self.path = self.path.rpartition("/")[0] + f"/{number}.sock"
            self.respond({"then": good, "now": now})
            status, out, err = self.explain("8", *self.admin())
            self.assertEqual((status, out), (2, ""), now)
            self.assertIn("explains nothing as tcpmesh does", err)

    def test_refuses_an_answer_that_is_nested_without_end(self) -> None:
        """Which is not JSON that anybody can read."""
        text = b"[" * 200_000
        self.answer(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        status, out, err = self.explain("8", *self.admin())
        self.assertEqual((status, out), (2, ""))
        self.assertIn("is no JSON", err)
