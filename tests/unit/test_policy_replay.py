"""Decisions of the past, put to the policies that are in force now, while connections go on."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.config import load
from tcpmesh.errors import Mark
from tcpmesh.identity.deny_list import DenyEntry, DenyList
from tcpmesh.mesh_state import MeshStateCell, NamedPolicy
from tcpmesh.observe.decisions import Decisions
from tcpmesh.plugins import PluginRegistry
from tcpmesh.policy.replay import Places, parse_peer, request_of
from tcpmesh.policy.rules import Rules
from tcpmesh.policy_interfaces import NearRule
from tcpmesh.policy_replay import PolicyReplay
from tcpmesh.values import AuthorizationRequest, Decision, Effect, TCPAddress
from tests.unit.outbound_policies import Later
from tests.unit.policy_samples import read
from tests.unit.record_samples import a_record
from tests.unit.test_admin import Turns
from tests.unit.test_cli_explain import CONFIGURATION

NOW = 1_795_428_000.0  # 2026-11-23T10:00:00Z
WEB = "spiffe://a.test/web"


class ReplayCase(SynchronousTestCase):
    """A configuration's proxy, as far as it remembers and decides."""

    def setUp(self) -> None:
        file = Path(self.mktemp())
        file.write_text(CONFIGURATION.replace("files: [policies.yaml]", "policies: []"))
        self.settings = load(file.absolute(), PluginRegistry())
        self.clock = Turns()
        self.cell = MeshStateCell()
        self.decisions = Decisions()
        self.replay = PolicyReplay(self.settings, self.cell, self.decisions, self.clock, lambda: NOW)

    def enforce(self, *policies: Any) -> None:
        """Decide by these from now on."""
        self.cell.swap(policies=tuple(NamedPolicy("p", policy) for policy in policies))

    def rules(self, text: str) -> Rules:
        return Rules(read(text), lambda: NOW)

    def deny(self, **fields: Any) -> None:
        """A connection was denied."""
        values = {"listener": "orders-in", "src_identity": WEB, "decision": "deny", "code": codes.NO_RULE_ALLOWS}
        self.decisions.denied(a_record(**(values | fields)), NOW)

    def turns(self, answer: Deferred[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        """Let the proxy go on until it has answered; how many turns of the reactor that took, and the answer."""
        count = 0
        while not answer.called:
            self.clock.turn()
            count += 1
            self.assertLess(count, 1000)
        return count, self.successResultOf(answer)

    def ask(self, **arguments: str) -> dict[str, Any]:
        return self.turns(self.replay.ask({name: [value] for name, value in arguments.items()}))[1]


class ReplayTests(ReplayCase):
    """What is answered."""

    def test_shows_then_and_now(self) -> None:
        """The rule that decides now, and the one that came nearest."""
        self.deny(id=7, conn="c0ffee", generation=1)
        self.enforce(
            self.rules(
                f'- {{name: shop, action: allow, from: [{{ids: ["{WEB}"]}}], to: {{ports: [5000]}}}}\n'
                f'- {{name: never, action: deny, from: [{{ids: ["{WEB}2"]}}]}}\n'
            )
        )
        for arguments in ({"connection": "7"}, {"connection": "c0ffee"}, {"last_denied": "1"}):
            answer = self.ask(**arguments)
            self.assertEqual((answer["generation"], answer["kept"]), (1, 1))
            self.assertEqual(answer["sha256"], self.settings.digest)
            [decision] = answer["decisions"]
            self.assertEqual((decision["then"]["decision"], decision["then"]["code"]), ("deny", "TM-P102"))
            self.assertEqual(
                decision["now"],
                {
                    "decision": "allow",
                    "policy": "shop",
                    "rule": "policies[0].from[0].ids[0] (policies.yaml:2:40)",
                    "reason": f"policy 'shop' allows {WEB}",
                    "nearest": {
                        "policy": "never",
                        "rule": "policies[1].from[0].ids[0] (policies.yaml:3:40)",
                        "place": "policies.yaml:3:40",
                        "would": "deny",
                        "misses": [f"names {WEB}2, not {WEB}"],
                    },
                },
            )

    def test_answers_with_as_many_as_there_are(self) -> None:
        """The newest first; none for a connection that is not remembered."""
        for number in range(3):
            self.deny(id=number)
        self.assertEqual([one["then"]["id"] for one in self.ask(last_denied="2")["decisions"]], [2, 1])
        self.assertEqual(self.ask(connection="77")["decisions"], [])

    def test_asks_the_deny_list_first(self) -> None:
        """As the proxy does, by ID and by serial number."""
        self.deny(id=1, src_serial="4f1c")
        self.deny(id=2, src_serial="4f1d")
        mark = Mark("f.yaml", 3, 5)
        self.enforce(self.rules(f'- {{name: shop, action: allow, from: [{{ids: ["{WEB}"]}}]}}\n'))
        self.cell.swap(deny_list=DenyList([DenyEntry(serial="4f1c", reason="lost", mark=mark)]))
        allowed, denied = (one["now"] for one in self.ask(last_denied="2")["decisions"])
        self.assertEqual(allowed["decision"], "allow")
        self.assertEqual(
            denied,
            {
                "decision": "deny",
                "code": "TM-I606",
                "rule": "deny-list: serial 4f1c (f.yaml:3:5)",
                "reason": f"{WEB} is on the deny-list, because: 'lost'",
            },
        )

    def test_waits_for_policies_that_answer_later(self) -> None:
        """As long as they may take, and no longer: then it cannot be told."""
        self.deny()
        policy = Later()
        self.enforce(policy)
        answer = self.replay.ask({"last_denied": ["1"]})
        self.clock.advance(0.1)
        self.assertNoResult(answer)
        self.clock.advance(0.2)
        [decision] = self.turns(answer)[1]["decisions"]
        self.assertEqual((decision["now"]["decision"], decision["now"]["code"]), ("unknown", "TM-P104"))

    def test_compares_many_rules_in_slices(self) -> None:
        """So that connections have their turn in between."""
        self.deny()

        class Many(Rules):
            def near_rules(self, _request: AuthorizationRequest, effect: Effect) -> Any:
                return (NearRule("p", str(number), "", effect, ("x",), 1.0) for number in range(1050))

        self.enforce(Many([]))
        turns, answer = self.turns(self.replay.ask({"last_denied": ["1"]}))
        self.assertGreaterEqual(turns, 10)
        self.assertEqual(answer["decisions"][0]["now"]["nearest"]["rule"], "0")

    def test_stops_when_nobody_waits_any_longer(self) -> None:
        """Whoever asked has gone away; a plugin that names rule after rule is not asked for more."""
        self.deny()
        named: list[int] = []

        class Endless(Rules):
            def near_rules(self, _request: AuthorizationRequest, effect: Effect) -> Any:
                for number in count():
                    named.append(number)
                    yield NearRule("p", "", "", effect, ("x",), 1.0)

        self.enforce(Endless([]))
        answer = self.replay.ask({"last_denied": ["1"]})
        self.clock.turn()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        before = len(named)
        self.assertGreater(before, 0)
        for _ in range(5):
            self.clock.turn()
        self.assertEqual((len(named), self.clock.getDelayedCalls()), (before, []))

    def test_survives_plugins_that_cannot_explain(self) -> None:
        """What raises or names nonsense names nothing; the decision is told all the same."""
        self.deny()

        class Raising(Rules):
            def near_rules(self, _request: AuthorizationRequest, effect: Effect) -> Any:
                yield NearRule("p", "first", "", effect, ("x",), 1.0)
                raise ValueError("no")

        class Wrong(Rules):
            def near_rules(self, _request: AuthorizationRequest, _effect: Effect) -> Any:
                return ["a rule"]

        self.enforce(Wrong([]), Raising([]))
        [decision] = self.ask(last_denied="1")["decisions"]
        self.assertEqual(decision["now"]["nearest"]["rule"], "first")
        self.assertEqual([failure.type for failure in self.flushLoggedErrors()], [TypeError, ValueError])

    def test_says_what_cannot_be_asked_again(self) -> None:
        """A plugin may have let somebody through whom no policy of today can be asked about."""
        self.deny(src_identity="")
        [decision] = self.ask(last_denied="1")["decisions"]
        self.assertEqual(
            decision["now"],
            {"decision": "unknown", "reason": "it cannot be asked again: it has no src.identity: nobody was verified"},
        )

    def test_refuses_what_it_does_not_understand(self) -> None:
        """In words, and without a traceback."""
        for arguments in ({}, {"connection": ["1"], "last_denied": ["1"]}, {"connection": ["1", "2"]}):
            answer = self.successResultOf(self.replay.ask(arguments))
            self.assertEqual(answer, {"wrong": "ask for one connection, or for last_denied"})
        for number in ("0", "101", "x", "-1", "", "\u0661", "9" * 5000, "1" + "0" * 5000, "0" * 9 + "1"):
            answer = self.successResultOf(self.replay.ask({"last_denied": [number]}))
            self.assertEqual(answer, {"wrong": "last_denied is a number from 1 to 100"})


class RequestTests(ReplayCase):
    """Records as requests."""

    def request(self, **fields: Any) -> AuthorizationRequest:
        values = {"direction": "inbound", "listener": "orders-in", "src.identity": WEB, "workload": "orders"}
        return request_of(values | fields, Places.of(self.settings), NOW)

    def test_holds_what_the_record_holds(self) -> None:
        """And the application's port, which is the configuration's."""
        request = self.request(
            **{
                "src.addr": "[2001:db8::1]:40000",
                "src.serial": "4f1c",
                "src.not_before": "2026-11-23T09:00:00.000Z",
                "src.not_after": "2026-11-23T11:00:00Z",
                "sni": "a.test",
                "alpn": "h2",
            }
        )
        self.assertEqual(
            request,
            AuthorizationRequest(
                parse_peer(WEB, NOW - 3600, NOW + 3600, "4f1c"),
                TCPAddress("2001:db8::1", 40000),
                "orders-in",
                "orders",
                "a.test",
                "h2",
                5000,
            ),
        )

    def test_outbound_it_is_about_the_service(self) -> None:
        """As the proxy asks it."""
        request = self.request(direction="outbound", listener="x", alpn="h2", **{"dst.service": "ledger"})
        self.assertEqual((request.service, request.inbound, request.alpn, request.port), ("ledger", "", "", 0))

    def test_is_the_request_that_the_proxy_made(self) -> None:
        """What was remembered of a connection asks the policies the very same question."""
        asked: list[AuthorizationRequest] = []

        class Listening(Rules):
            def decide(self, request: AuthorizationRequest) -> Decision:
                asked.append(request)
                return Decision(Effect.ALLOW)

        self.enforce(Listening([]))
        self.deny(
            src_serial="4f1c",
            src_not_before=NOW - 60,
            src_not_after=NOW + 60,
            sni="a.test",
            alpn="tcpmesh/1",
            workload="orders",
        )
        self.ask(last_denied="1")
        self.assertEqual(
            asked,
            [
                AuthorizationRequest(
                    parse_peer(WEB, NOW - 60, NOW + 60, "4f1c"),
                    TCPAddress("10.0.0.7", 40000),
                    "orders-in",
                    "orders",
                    "a.test",
                    "tcpmesh/1",
                    5000,
                )
            ],
        )

    def test_refuses_what_is_no_record(self) -> None:
        """Naming what is wrong."""
        for fields, message in (
            ({"direction": "up"}, "direction is 'up'; expected inbound or outbound"),
            ({"sni": 5}, "sni is no text"),
            ({"src.identity": "spiffe://a.test/\x1b"}, r"path segment '\x1b' may only hold"),
            ({"direction": "outbound"}, "it has no dst.service, and is outbound"),
            ({"src.addr": "here"}, "'here' has no port"),
        ):
            error = self.assertRaises(ValueError, lambda fields=fields: self.request(**fields))
            self.assertIn(message, str(error))
