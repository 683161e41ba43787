"""``tcpmesh identity check`` and the proxy that it asks: what it makes of answers, good, odd and hostile ones."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.record_samples import HOSTILE

LAYER = {"layer": 1, "name": "source", "outcome": "good", "text": "it is there"}
CHECK = {
    "workload": "web",
    "id": "spiffe://a.test/web",
    "service": "orders",
    "endpoint": "192.0.2.10:4143",
    "layers": [LAYER],
    "not_looked_at": ["self"],
}
ANSWER: dict[str, Any] = {"file": "/etc/mesh/tcpmesh.yaml", "sha256": "0", "left_out": 0, "checks": [CHECK]}


class IdentityCheckTests(AdminSocketCase):
    """The command against a socket that answers as it is told."""

    def ask(self, values: Any, *arguments: str) -> tuple[Any, str, str]:
        """Let the proxy answer with this; the file it runs with is not there."""
        self.asked: list[bytes] = []

        def reply(request: bytes) -> bytes:
            self.asked.append(request)
            body = json.dumps(values).encode()
            return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

        self.answer(reply)
        config = str(self.directory / "none.yaml")
        return self.command("identity", "check", "--config", config, *self.admin(), *arguments)

    def layers(self, *changes: dict[str, Any]) -> dict[str, Any]:
        return {**ANSWER, "checks": [{**CHECK, "layers": [{**LAYER, **change} for change in changes]}]}

    def test_asks_for_what_it_is_asked(self) -> None:
        """As an action, with every word quoted."""
        self.assertEqual(self.ask(ANSWER, "--service", "a&b", "--service", "c", "--workload", "web")[0], 0)
        (request,) = self.asked
        line = request.split(b"\r\n")[0]
        self.assertEqual(line, b"POST /identity/check?service=a%26b&service=c&workload=web HTTP/1.1")

    def test_shows_what_the_proxy_found(self) -> None:
        """A place is shown with its file, and without a line where the file is another one."""
        place = "services.orders.expect"
        broken = {"outcome": "broken", "code": "TM-I701", "expected": "x", "next": "mend it", "place": place}
        status, out, err = self.ask(self.layers({}, {**broken, "layer": 7}))
        self.assertEqual((status, err), (1, ""))
        self.assertEqual(
            out.splitlines(),
            [
                "web (spiffe://a.test/web) to orders at 192.0.2.10:4143, as the running proxy sees it",
                "  L1 source  GOOD     it is there",
                "  L7 match   BROKEN   TM-I701 it is there",
                "                      expected: x",
                "                      next: mend it",
                "                      where: services.orders.expect in /etc/mesh/tcpmesh.yaml",
                "  not looked at: self",
            ],
        )

    def test_ends_with_what_was_found(self) -> None:
        """Broken before unknown; that the peer does not tell is no gap, that something was left out is one."""
        for changes, more, status in (
            ([{"outcome": "odd"}], {}, 0),
            ([{"outcome": "unknown"}], {}, 2),
            ([{"outcome": "unknown", "layer": 8}], {}, 0),
            ([{"outcome": "unknown"}, {"outcome": "broken"}], {}, 1),
            ([{}], {"left_out": 3}, 2),
        ):
            self.setUp()
            self.assertEqual(self.ask({**self.layers(*changes), **more}, "--json")[0], status, changes)

    def test_shows_hostile_text_as_it_is_written(self) -> None:
        """What a peer said reaches no terminal."""
        for text in HOSTILE:
            self.setUp()
            _, out, _ = self.ask(self.layers({"text": text, "code": text, "expected": text, "where": text}))
            self.assertTrue(out.isascii() and out.replace("\n", "").isprintable(), out)
            self.assertEqual(len(out.splitlines()), 5)

    def test_says_that_it_could_not_ask(self) -> None:
        """Status 2: busy, or no tcpmesh; no word of files, since the proxy was named."""
        for values, words in (
            ({"busy": "4 checks are under way already"}, "does not check anything now: 4 checks"),
            ([], "finds nothing as tcpmesh does"),
            ({}, "finds nothing"),
            ({**ANSWER, "checks": [1]}, "finds nothing"),
            ({**ANSWER, "left_out": "many"}, "finds nothing"),
            (self.layers({"layer": 9}), "finds nothing"),
            (self.layers({"layer": True}), "finds nothing"),
            (self.layers({"outcome": "fine"}), "finds nothing"),
            (self.layers({"outcome": []}), "finds nothing"),
            (self.layers({"place": []}), "finds nothing"),
        ):
            self.setUp()
            status, out, err = self.ask(values)
            self.assertEqual((status, out), (2, ""), values)
            self.assertIn(words, err)
            self.assertNotIn("files", err)

    def test_passes_on_what_is_wrong_with_the_question(self) -> None:
        """As wrong usage, escaped."""
        status, out, err = self.ask({"wrong": "there is no \x1b[2J"})
        self.assertEqual((status, out), (64, ""))
        self.assertIn("there is no \\x1b[2J", err)
