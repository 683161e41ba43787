"""tcpmesh policy reload: asks over a real unix socket, shows where the policies stand."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.record_samples import HOSTILE

RULES = {"position": 0, "plugin": "rules", "changes": True, "taken": 2, "refused": 0, "failure": ""}
OPA = {"position": 1, "plugin": "opa", "changes": False, "taken": 0, "refused": 0, "failure": ""}
BAD = {
    "position": 2,
    "plugin": "linkerd",
    "changes": True,
    "taken": 1,
    "refused": 1,
    "failure": "a.yaml:1:2: x\nb.yaml:3:4: y",
}


class PolicyReloadTests(AdminSocketCase):
    """What is asked, shown, and given as status."""

    def setUp(self) -> None:
        super().setUp()
        self.requests: list[bytes] = []

    def serve(self, answer: object) -> None:
        body = json.dumps(answer).encode()

        def respond(request: bytes) -> bytes:
            self.requests.append(request)
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

        self.answer(respond)

    def ask(self, *arguments: str) -> tuple[Any, str, str]:
        """The command's exit status, standard output and error."""
        return self.command("policy", "reload", *self.admin(), *arguments)

    def test_all_is_well(self) -> None:
        """A POST, a line per policy, status 0."""
        self.serve({"policies": [RULES, OPA]})
        said = "authorization[0] rules: good\nauthorization[1] opa: never changes while the proxy runs\n"
        self.assertEqual(self.ask(), (0, said, ""))
        self.assertTrue(self.requests[0].startswith(b"POST /policy/reload HTTP/1.1\r\n"))

    def test_a_policy_cannot_be_used(self) -> None:
        """Status 1, with every problem on a line of its own."""
        self.serve({"policies": [RULES, BAD]})
        status, out, _ = self.ask()
        said = "authorization[2] linkerd: the one of before goes on to decide\n  a.yaml:1:2: x\n  b.yaml:3:4: y\n"
        self.assertEqual((status, out), (1, f"authorization[0] rules: good\n{said}"))

    def test_writes_json_for_programs(self) -> None:
        """What the proxy said, with the same status."""
        for policies, status in (([RULES], 0), ([BAD], 1), ([], 0)):
            self.setUp()
            self.serve({"policies": policies})
            self.assertEqual(self.ask("--json"), (status, json.dumps({"policies": policies}) + "\n", ""))

    def test_shows_hostile_texts_as_they_are_written(self) -> None:
        """No terminal sequence, no line of another's making."""
        for text in HOSTILE:
            self.setUp()
            self.serve({"policies": [{**BAD, "plugin": text, "failure": text}]})
            status, out, _ = self.ask()
            self.assertEqual(status, 1)
            for line in out.splitlines():
                self.assertTrue(line.isprintable(), repr(line))

    def test_somebody_else_answers(self) -> None:
        """Status 2."""
        for answer in ({}, [], {"policies": 1}, {"policies": [1]}):
            self.setUp()
            self.serve(answer)
            status, out, err = self.ask()
            self.assertEqual((status, out), (2, ""))
            self.assertIn("names no policies as tcpmesh does", err)
