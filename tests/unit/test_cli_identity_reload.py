"""tcpmesh identity reload: asks over a real unix socket, shows where the sources stand."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.record_samples import HOSTILE

READY = {
    "name": "disk",
    "state": "ready",
    "reason": "identities received",
    "failing_s": 0.0,
    "failures": 1,
    "workloads": {"web": {"age_s": 42.0}},
}
STALE = {
    "name": "agent",
    "state": "stale",
    "reason": "/run/web.key is empty",
    "failing_s": 600.5,
    "failures": 3,
    "workloads": {},
}


class ReloadCase(AdminSocketCase):
    """Runs the command against a socket that answers once, as told."""

    def setUp(self) -> None:
        super().setUp()
        self.requests: list[bytes] = []

    def serve(self, answer: object, status: str = "200 OK") -> None:
        body = json.dumps(answer).encode()

        def respond(request: bytes) -> bytes:
            self.requests.append(request)
            return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

        self.answer(respond)

    def ask(self, *arguments: str) -> tuple[Any, str, str]:
        """The command's exit status, standard output and error."""
        return self.command("identity", "reload", *self.admin(), *arguments)


class ReloadTests(ReloadCase):
    """What is asked, shown, and given as status."""

    def test_all_is_well(self) -> None:
        """A POST, a line per source and workload, status 0."""
        self.serve({"sources": [READY]})
        self.assertEqual(
            self.ask(), (0, "source disk: ready\n  workload web: its certificate has been in use for 42 s\n", "")
        )
        self.assertTrue(self.requests[0].startswith(b"POST /identity/reload HTTP/1.1\r\n"))

    def test_a_source_fails(self) -> None:
        """Status 1, with why and since when."""
        self.serve({"sources": [READY, STALE]})
        status, out, _ = self.ask()
        self.assertEqual(status, 1)
        self.assertIn("source agent: stale, failing for 10 min: /run/web.key is empty\n", out)

    def test_writes_json_for_programs(self) -> None:
        """What the proxy said, with the same status."""
        for sources, status in (([READY], 0), ([STALE], 1), ([], 0)):
            self.setUp()
            self.serve({"sources": sources})
            self.assertEqual(self.ask("--json"), (status, json.dumps({"sources": sources}) + "\n", ""))

    def test_shows_hostile_names_as_they_are_written(self) -> None:
        """No terminal sequence, no additional line."""
        for text in HOSTILE:
            self.setUp()
            self.serve({"sources": [{**STALE, "name": text, "reason": text, "state": text}]})
            status, out, _ = self.ask()
            self.assertEqual((status, len(out.splitlines())), (1, 1))
            self.assertTrue(out.isascii() and out.replace("\n", "").isprintable(), out)

    def test_something_else_answers(self) -> None:
        """Status 2: it could not tell."""
        for answer in ([], {}, {"sources": 1}, {"sources": ["disk"]}):
            self.setUp()
            self.serve(answer)
            status, out, err = self.ask()
            self.assertEqual((status, out), (2, ""))
            self.assertIn("names no identity sources as tcpmesh does", err)

    def test_an_older_proxy(self) -> None:
        """It has no such place."""
        self.serve({}, "404 Not Found")
        status, _, err = self.ask()
        self.assertEqual(status, 2)
        self.assertIn("has no /identity/reload: 404", err)

    def test_no_proxy_is_running(self) -> None:
        """Nothing was asked."""
        status, _, err = self.ask()
        self.assertEqual(status, 2)
        self.assertIn("no proxy is running", err)
