"""``tcpmesh policy``: expectations, differences between two policies, and what silent ones noted."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from tcpmesh.cli.record_lines import MAX_LINE, ConnectionLines
from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.test_cli_explain import CONFIGURATION, MONDAY, POLICIES, ExplainCase

BATCH, WEB = "spiffe://a.test/batch", "spiffe://a.test/web"


class PolicyCase(ExplainCase):
    def policy(self, *arguments: str) -> tuple[Any, str, str]:
        return self.command("policy", *arguments)


class ExpectationTests(PolicyCase):
    """Tables of expectations."""

    def expect(self, text: str, *options: str) -> tuple[Any, str, str]:
        self.table = self.base / "expectations.yaml"
        self.table.write_text(text)
        return self.policy("test", str(self.table), "--config", str(self.config), *options)

    def test_everything_is_as_expected(self) -> None:
        """By effect, by policy, by rule with or without its place, by code."""
        rule = "policies[1].from[0].ids[0]"
        about = f'from: "{BATCH}", ip: 10.0.0.7, at: "{MONDAY}", to: orders-in, expect: allow'
        answer = self.expect(
            f'- {{from: "{WEB}", to: orders2-in, expect: allow, policy: shop}}\n'
            f'- {{{about}, rule: "{rule}"}}\n'
            f'- {{{about}, rule: "{rule} ({self.policies}:10:12)"}}\n'
            f'- {{from: "{WEB}", to: ledger, expect: deny, policy: no-ledger, code: TM-P107}}\n'
            '- {from: "dns:web.test", to: orders-in, sni: a.test, alpn: h2, expect: deny, code: TM-P102}\n'
        )
        self.check_lines(answer, 0, "5 of 5 expectations came true")

    def test_explains_what_is_not(self) -> None:
        """At its line, with the nearest rule; and names the policies that nothing needed."""
        answer = self.expect(
            f'- {{from: "{WEB}", to: orders-in, expect: allow}}\n'
            f"\n"
            f'- {{from: "{WEB}", to: orders2-in, expect: allow, policy: office}}\n'
        )
        self.check_lines(
            answer,
            1,
            f"{self.table}:1:3: {WEB} to orders-in: expected allow, got deny",
            f"  DENIED TM-P102: no policy allows {WEB} at inbound listener 'orders-in'",
            f"    nearest     policy shop at {self.policies}:5:12 would allow, but names inbound orders2-in, not "
            "orders-in",
            f"    audit       policy watch notes it: policies[2].from[0].prefixes[0] ({self.policies}:11:41)",
            f"{self.table}:3:3: {WEB} to orders2-in: expected policy office, got shop",
            f"  ALLOWED: policy 'shop' allows {WEB}",
            f"    rule        shop: policies[0].from[0].ids[0] ({self.policies}:5:12)",
            f"    nearest     policy try at {self.policies}:12:53 would deny, but is only tried (mode: dry-run) and "
            f"names {BATCH}, not {WEB}",
            f"hint: {self.policies}:6:5: policy 'office' decides none of these",
            f"hint: {self.policies}:13:5: policy 'no-ledger' decides none of these",
            "0 of 2 expectations came true",
        )

    def test_tells_programs(self) -> None:
        """The same as JSON."""
        status, out, err = self.expect(f'- {{from: "{WEB}", to: orders-in, expect: allow}}\n', "--json")
        self.assertEqual((status, err), (1, ""))
        found = json.loads(out)
        self.assertEqual((found["expectations"], [one["line"] for one in found["failed"]]), (1, [1]))
        self.assertEqual(found["failed"][0]["failure"], "expected allow, got deny")
        self.assertEqual(found["failed"][0]["explanation"]["nearest"]["policy"], "shop")
        self.assertEqual([one["policy"] for one in found["undecided"]], ["shop", "office", "no-ledger"])

    def test_names_everything_that_is_wrong_with_a_table(self) -> None:
        """Each at its line and column."""
        status, out, err = self.expect(
            f"- {{from: web, to: orders-in, expect: allow}}\n"
            f'- {{from: "{WEB}", to: orders3-in, expect: allow}}\n'
            f'- {{from: "{WEB}", to: ledger, expect: maybe, ip: 300.1.1.1, when: now}}\n'
        )
        self.assertEqual((status, out), (1, ""))
        for line in (
            ":1:10: expectations[0].from: 'web' does not start with 'spiffe://'",
            ":2:3: expectations[1]: there is no inbound listener and no service 'orders3-in'; did you mean "
            "'orders-in'?",
            ":3:75: unknown key 'when' in expectations[2]",
            ":3:53: expectations[2].expect: expected 'allow' or 'deny', got 'maybe'",
        ):
            self.assertIn(f"{self.table}{line}", err)

    def test_refuses_what_is_no_table(self) -> None:
        """An empty one would say that everything is as expected."""
        for text in ("", "[]", "a: b"):
            status, out, err = self.expect(text)
            self.assertEqual((status, out), (1, ""))
            self.assertIn(f"{self.table}:1:1: this is no table of expectations: expected a list", err)
        status, _, err = self.policy("test", "/no/such", "--config", str(self.config))
        self.assertEqual((status, err), (2, "tcpmesh: /no/such: cannot be read: No such file or directory\n"))


def record(number: int, **fields: Any) -> dict[str, Any]:
    """An open record."""
    return {
        "v": 1,
        "event": "open",
        "time": MONDAY,
        "id": number,
        "direction": "inbound",
        "listener": "orders2-in",
        "src.addr": f"10.0.0.{number}:40000",
        "src.identity": WEB,
        "decision": "allow",
    } | fields


class DifferenceTests(PolicyCase):
    """Two configurations, and connections that there were."""

    def setUp(self) -> None:
        super().setUp()
        self.new = self.base / "new.yaml"
        self.new.write_text(CONFIGURATION.replace("policies.yaml", "new-policies.yaml"))
        self.become(POLICIES)
        self.log = self.base / "access.log"

    def become(self, policies: str) -> None:
        """These are the new policies."""
        (self.base / "new-policies.yaml").write_text(policies)

    def differ(self, *records: dict[str, Any] | str, options: tuple[str, ...] = ()) -> tuple[Any, str, str]:
        self.log.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        return self.policy("diff", str(self.config), str(self.new), "--against", "records", str(self.log), *options)

    def test_nothing_changes(self) -> None:
        """The same policies in other files."""
        answer = self.differ(record(1), record(1, event="close"), record(2))
        self.check_lines(answer, 0, "tried: 2 connections, kinds of them: 2, changed: 0")

    def test_names_who_would_be_cut_off(self) -> None:
        """Each identity once, with how many connections, the rules of before and after, and what came nearest."""
        self.become(POLICIES.replace("orders2-in", "orders-in"))
        new = self.base / "new-policies.yaml"
        self.check_lines(
            self.differ(record(1), record(2), record(3)),
            1,
            "WOULD BE CUT OFF: 3 connections",
            f"  {WEB} to inbound orders2-in: 3 connections from 3 addresses",
            f"    old         ALLOWED: policy 'shop' allows {WEB}",
            f"      rule        shop: policies[0].from[0].ids[0] ({self.policies}:5:12)",
            f"    new         DENIED TM-P102: no policy allows {WEB} at inbound listener 'orders2-in'",
            f"      nearest     policy shop at {new}:5:12 would allow, but names inbound orders-in, not orders2-in",
            "tried: 3 connections, kinds of them: 3, changed: 3",
        )

    def test_names_who_would_be_let_in(self) -> None:
        """That is no reason to fail."""
        self.become(POLICIES.replace("[orders2-in]", "[orders2-in, orders-in]"))
        denied = record(1, event="close", listener="orders-in", decision="deny")
        status, out, err = self.differ(denied, options=("--json",))
        self.assertEqual((status, err), (0, ""))
        [change] = json.loads(out)["changes"]
        self.assertEqual(
            (change["effect"], change["identity"], change["where"], change["connections"], change["sources"]),
            ("let_in", WEB, "inbound orders-in", 1, 1),
        )
        self.assertEqual((change["old"]["decision"], change["new"]["policy"]), ("deny", "shop"))

    def test_tries_them_at_the_time_of_the_record(self) -> None:
        """Office hours count when somebody came, not when somebody asks."""
        office = record(1, listener="orders-in", **{"src.identity": BATCH})
        self.become(POLICIES.replace('"08:00-18:00"', '"08:00-09:00"'))
        status, out, _ = self.differ(office)
        self.assertEqual(status, 1)
        self.assertIn("holds mon 08:00-09:00 UTC, not at 2026-11-23T10:00:00Z", out)
        self.assertEqual(self.differ(office | {"time": "2026-11-24T10:00:00Z"})[0], 0)

    def test_a_listener_that_is_gone_takes_nobody(self) -> None:
        """The same for a service."""
        self.new.write_text(
            self.new.read_text().replace("orders2-in, listen", "else-in, listen").replace("  ledger:\n", "  other:\n")
        )
        self.become("policies: []")
        out = record(2, direction="outbound", listener="to-ledger", **{"dst.service": "ledger", "src.identity": BATCH})
        status, text, _ = self.differ(record(1), out)
        self.assertEqual(status, 1)
        self.assertIn(f"new         DENIED: there is no inbound listener 'orders2-in' in {self.new}", text)
        self.assertIn(f"new         DENIED: there is no service 'ledger' in {self.new}", text)

    def test_counts_what_it_cannot_use(self) -> None:
        """Damaged lines are not fatal, and are not silently left out either."""
        answer = self.differ(
            record(1),
            '{"event": "open", "id"',
            "[1]",
            "[" * 50_000,
            "x" * (3 * MAX_LINE),
            "",
            {"event": "start"},
            record(4, event="close", decision=""),
            record(5, **{"src.identity": "spiffe://a.test/\x1b[2J"}),
            record(6, **{"src.identity": 5}),
            record(7, **{"src.addr": "nowhere"}),
            record(8, time="yesterday"),
            record(9, direction="sideways"),
            record(10, direction="outbound"),
        )
        self.check_lines(
            answer,
            0,
            "tried: 7 connections, kinds of them: 1, changed: 0",
            "left out, connections that lack what a policy looks at, an identity as a rule: 6",
            "left out, damaged lines: 4",
            "left out, lines about no decision: 2",
        )

    def test_reads_standard_input(self) -> None:
        """As - asks for."""
        stdin = io.TextIOWrapper(io.BytesIO(json.dumps(record(1)).encode()))
        self.patch(sys, "stdin", stdin)
        answer = self.policy("diff", str(self.config), str(self.new), "--against", "records", "-")
        self.check_lines(answer, 0, "tried: 1 connection, kinds of them: 1, changed: 0")

    def test_tries_live_connections(self) -> None:
        """Those that the proxy has open; a pending one is not decided yet."""
        self.become("policies: []")
        live = [record(1, state="open"), record(2, state="pending")]
        text = json.dumps({"time": MONDAY, "connections": live}).encode()
        self.answer(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        answer = self.policy("diff", str(self.config), str(self.new), "--against", "connections", *self.admin())
        self.assertEqual(answer[0], 1)
        self.assertIn("WOULD BE CUT OFF: 1 connection\n", answer[1])
        self.assertIn("tried: 1 connection, kinds of them: 1, changed: 1\n", answer[1])

    def test_says_what_it_cannot_compare(self) -> None:
        """Files that are not there, and words that do not go together."""
        two = ("diff", str(self.config), str(self.new), "--against")
        self.check_usage(self.policy(*two, "records"), "--against records needs FILE, an access log")
        self.check_usage(self.policy(*two, "connections", "x"), "FILE is for --against records")
        self.check_usage(self.policy(*two, "records", "x", *self.admin()), "--admin is for --against connections")
        for path, why in (("/no/such", "No such file or directory"), ("/", "Is a directory")):
            status, out, err = self.policy(*two, "records", path)
            self.assertEqual((status, out, err), (2, "", f"tcpmesh: {path}: cannot be read: {why}\n"))
        self.become("policies: 1")
        status, out, err = self.policy(*two, "records", "-")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("new-policies.yaml:1:11: ", err)


class RecordLineTests(AdminSocketCase):
    """Connections out of lines."""

    def ids(self, *records: dict[str, Any]) -> list[int]:
        data = "".join(json.dumps(each) + "\n" for each in records).encode()
        return [each["id"] for each in ConnectionLines().read(io.BytesIO(data))]

    def test_counts_a_connection_once(self) -> None:
        """Also when it opened before the log begins, was refused, or a restart gave its number again."""
        self.assertEqual(self.ids(record(1), record(2), record(1, event="close"), record(1)), [1, 2, 1])
        self.assertEqual(self.ids(record(1, event="close"), record(2, event="close", decision="deny")), [1, 2])

    def test_takes_a_last_line_without_its_end(self) -> None:
        """As a log has it that is being written."""
        data = json.dumps(record(1)).encode()
        self.assertEqual([each["id"] for each in ConnectionLines().read(io.BytesIO(data))], [1])


class ReportTests(AdminSocketCase):
    """What the running proxy's silent policies noted."""

    def report(self, body: Any, *options: str) -> tuple[Any, str, str]:
        text = json.dumps(body).encode()
        self.answer(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        return self.command("policy", "report", *self.admin(), *options)

    def note(self, says: str, connections: int, identity: str = BATCH) -> dict[str, Any]:
        rule = "policies[3].from[0].ids[0] (p.yaml:12:53)"
        return {
            "says": says,
            "policy": "try",
            "rule": rule,
            "where": "orders-in",
            "identity": identity,
            "connections": connections,
        }

    def test_summarises_by_identity(self) -> None:
        """One line for each identity, place and rule."""
        status, out, err = self.report(
            {
                "notes": [
                    self.note("would-deny", 31),
                    self.note("would-allow", 1),
                    self.note("audit", 2),
                    self.note("would-limit", 5),
                ],
                "left_out": 4,
            }
        )
        by = "(policy try: policies[3].from[0].ids[0] (p.yaml:12:53))"
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(
            out.splitlines(),
            [
                f"would have denied 31 connections from {BATCH} at orders-in {by}",
                f"would have allowed 1 connection from {BATCH} at orders-in {by}",
                f"noted 2 connections from {BATCH} at orders-in {by}",
                f"would have refused 5 connections from {BATCH} at orders-in {by}",
                "left out: 4 connections of too many kinds",
            ],
        )

    def test_says_that_there_is_nothing(self) -> None:
        """Which is not the same as no answer."""
        self.assertEqual(self.report({"notes": [], "left_out": 0}), (0, "no policy noted a connection\n", ""))

    def test_tells_programs(self) -> None:
        """What the proxy said."""
        body = {"notes": [self.note("audit", 2)], "left_out": 0}
        status, out, _ = self.report(body, "--json")
        self.assertEqual((status, json.loads(out)), (0, body))

    def test_escapes_what_strangers_wrote(self) -> None:
        """An identity stays on its line."""
        _, out, _ = self.report({"notes": [self.note("audit", 2, "\x1b[2J\nx")], "left_out": 0})
        [line] = out.splitlines()
        self.assertTrue(line.isprintable())

    def test_refuses_what_is_no_proxy(self) -> None:
        """Whatever answers there."""
        status, _, err = self.report({"notes": [{"connections": "many"}]})
        self.assertEqual(status, 2)
        self.assertIn("notes nothing as tcpmesh does", err)
