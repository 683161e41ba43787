"""Rotation of a running source's authority, as the admin socket asks for it, and ``tcpmesh ca`` on both ways."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from zope.interface.verify import verifyObject

from tcpmesh.authority_steps import change_authority
from tcpmesh.identity.own import verify_own
from tcpmesh.interfaces import IAuthority
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.values import IdentitySnapshot
from tcpmesh.wall_clock import wall_clock
from tests.unit.admin_sockets import AdminSocketCase
from tests.unit.test_embedded import DOMAIN, EmbeddedCase, workload


class RunningCase(EmbeddedCase):
    def setUp(self) -> None:
        super().setUp()
        self.running = self.start(workload("web"), workload("db"))

    def ask(self, step: str, **arguments: str) -> dict[str, Any]:
        return change_authority([object(), self.running], {"step": step, "state": str(self.path), **arguments})

    def done(self, step: str, **arguments: str) -> IdentitySnapshot:
        """Do it, and say what was delivered by that."""
        count = len(self.observer.snapshots)
        answer = self.ask(step, **arguments)
        self.assertEqual((answer["done"], answer.get("step")), (True, step), answer)
        json.dumps(answer)
        self.assertEqual(len(self.observer.snapshots), count + 1)
        for svid in self.last.svids:
            verify_own(svid, self.last.bundles, self.times.wall)
        return self.last

    def refused(self, wanted: str, step: str, **arguments: str) -> None:
        count = len(self.observer.snapshots)
        answer = self.ask(step, **arguments)
        self.assertIs(answer["done"], False)
        self.assertIn(wanted, answer["reason"])
        self.assertEqual(len(self.observer.snapshots), count)


class RunningTests(RunningCase):
    def test_provides_its_interface(self) -> None:
        """What the admin interface looks for."""
        verifyObject(IAuthority, self.running)

    def test_a_whole_rotation(self) -> None:
        """Bundle first, certificates as they are renewed, what is tainted at once, then the old root goes."""
        before = self.last.svids
        prepared = self.done("prepare")
        self.assertEqual(prepared.svids, before)
        self.assertEqual(len(prepared.bundles[DOMAIN].authorities), 2)
        self.refused("can be activated in", "activate")
        self.done("activate", force="both are here")
        self.assertEqual(self.last.svids, before)
        self.refused("spiffe://a.test/db, spiffe://a.test/web of this proxy still hangs on slot 1", "revoke", slot="1")
        tainted = self.done("taint", slot="1")
        self.assertEqual(len(tainted.bundles[DOMAIN].authorities), 2)
        for old, new in zip(before, tainted.svids, strict=True):
            self.assertEqual(new.id, old.id)
            self.assertNotEqual(new.chain[1], old.chain[1])
        revoked = self.done("revoke", slot="1")
        self.assertEqual(revoked.svids, tainted.svids)
        self.assertEqual(len(revoked.bundles[DOMAIN].authorities), 1)

    def test_a_renewal_goes_over_to_the_active_root(self) -> None:
        """Without taint, at half of the certificates' lives; the schedule goes on after a step."""
        before = self.last.svids[0]
        self.done("prepare")
        self.done("activate", force="here")
        self.times.advance(1800)
        self.assertNotEqual(self.last.svids[0].chain[1], before.chain[1])
        count = len(self.observer.snapshots)
        self.times.advance(1800)
        self.assertEqual(len(self.observer.snapshots), count + 1)

    def test_revoking_the_active_root_by_force_reissues_in_the_same_delivery(self) -> None:
        """No snapshot has an identity without its authority."""
        before = self.last.svids[0]
        self.done("prepare")
        self.refused("own identity hangs on it", "revoke", slot="1")
        revoked = self.done("revoke", slot="1", force="stolen")
        self.assertNotEqual(revoked.svids[0].chain[1], before.chain[1])
        self.assertEqual(len(revoked.bundles[DOMAIN].authorities), 1)

    def test_revoking_an_old_root_by_force_reissues_in_the_same_delivery(self) -> None:
        """Although it was never tainted."""
        before = self.last.svids[0]
        self.done("prepare")
        self.done("activate", force="here")
        revoked = self.done("revoke", slot="1", force="stolen")
        self.assertNotEqual(revoked.svids[0].chain[1], before.chain[1])
        self.assertEqual(len(revoked.bundles[DOMAIN].authorities), 1)

    def test_a_restart_in_the_middle_goes_on(self) -> None:
        """Prepared before, activated after; what was issued meanwhile is good everywhere."""
        held = self.done("prepare").bundles
        self.running.stop()
        self.running = self.start(workload("web"), workload("db"))
        self.assertEqual(self.last.bundles[DOMAIN].authorities, held[DOMAIN].authorities)
        self.done("activate", force="here")
        self.running.stop()
        self.running = self.start(workload("web"), workload("db"))
        for svid in self.last.svids:
            verify_own(svid, held, self.times.wall)

    def test_a_reissue_that_fails_is_reported_and_tried_again(self) -> None:
        """The old root is in the bundle still, so that nothing is cut meanwhile."""
        self.done("prepare")
        self.done("activate", force="here")
        before = self.last.svids[0]
        self.times.wall -= 7200  # behind the authority: nothing can be issued
        self.assertTrue(self.ask("taint", slot="1")["done"])
        self.assertIn("is the clock right?; next attempt in 1 s", self.observer.failures[-1])
        self.times.wall += 7200
        self.times.advance(1)
        self.assertNotEqual(self.last.svids[0].chain[1], before.chain[1])

    def test_refuses_what_makes_no_sense(self) -> None:
        """Each refusal is an answer."""
        self.refused("makes no sense", "burn")
        self.refused("makes no sense", "taint")
        for slot in ("x", "-1", "1" * 50, "²"):
            self.refused("a slot is a number", "taint", slot=slot)
        self.refused("there is no slot 9", "revoke", slot="9")
        for path in ("/no/such", "", "\0"):
            self.refused("no running identity source", "prepare", state=path)
        (self.path / "root-2.pem.tmp").mkdir()
        self.refused("TM-C104", "prepare")

    def test_a_stopped_source_changes_nothing(self) -> None:
        """It has given its state up."""
        self.running.stop()
        self.refused("not running", "prepare")


class CommandCase(AdminSocketCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(os, "environ", {**os.environ})
        os.environ.pop("TCPMESH_CONFIG", None)
        self.state = self.directory / "state"
        AuthorityState.own(self.state, DOMAIN, wall_clock()).close()

    def ca(self, *arguments: str) -> tuple[Any, str, str]:
        return self.command("ca", *arguments, "--state", str(self.state))

    def refused(self, wanted: str, *arguments: str, status: int = 1) -> None:
        ended, out, err = self.ca(*arguments)
        self.assertEqual((ended, out), (status, ""))
        self.assertIn(wanted, err)
        self.assertNotIn("Traceback", err)


class OfflineCommandTests(CommandCase):
    """Nobody owns the state."""

    def test_a_whole_rotation(self) -> None:
        """Each step says what it did and what comes next."""
        status, out, err = self.ca("prepare")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("prepare of slot 2 done; slots: 1 active; 2 prepared\nnext: give ", out)
        self.refused("It can be activated in", "activate")
        self.assertIn("slots: 1 old; 2 active", self.ca("activate", "--force", "a test")[1])
        self.refused("may be valid until", "revoke", "1")
        self.assertIn("slots: 1 old, tainted; 2 active", self.ca("taint", "1")[1])
        status, out, _ = self.ca("revoke", "1", "--json")
        self.assertEqual(json.loads(out)["slots"], [{"slot": 2, "state": "active", "tainted": False}])
        self.assertIn("slot 2   active since ", self.ca("show")[1])

    def test_shows_and_verifies_the_log(self) -> None:
        """A line each, the chain's end last; with --json as in the file; status 1 where it breaks."""
        self.ca("prepare")
        self.ca("activate", "--force", "a\x1b[31m test")
        status, out, _ = self.ca("audit")
        lines = out.splitlines()
        self.assertEqual((status, len(lines)), (0, 3))
        self.assertIn(" activate: slot 2, was prepared, ", lines[1])
        self.assertNotIn("\x1b", out)
        self.assertIn("lines: 2, all as they were written; sha256 of the last: ", lines[2])
        _, out, _ = self.ca("audit", "--json")
        self.assertEqual([json.loads(line)["event"] for line in out.splitlines()], ["prepare", "activate"])
        _, out, _ = self.ca("audit", "--verify")
        self.assertEqual(out, f"{lines[2]}\n")
        _, out, _ = self.ca("audit", "--verify", "--json")
        verified = json.loads(out)
        self.assertEqual((verified["lines"], verified["removed"], verified["seq"]), (2, 0, 2))
        self.assertTrue(lines[2].endswith(verified["sha256"]))
        (self.state / "state.json").write_bytes(b"")  # a damaged authority is when somebody wants the log
        self.assertEqual(self.ca("audit", "--verify")[:2], (0, f"{lines[2]}\n"))
        log = self.state / "audit.jsonl"
        log.write_bytes(log.read_bytes().replace(b'"prepare"', b'"nothing"'))
        status, _, err = self.ca("audit")
        self.assertEqual(status, 1)
        self.assertIn("line 1 or 2 was changed", err)

    def test_wants_a_slot(self) -> None:
        """A number from 1."""
        self.refused("SLOT", "taint", status=64)
        self.refused("SLOT", "revoke", "0", status=64)


class OwnedCommandTests(CommandCase):
    """Another process owns the state: here this one, with the lock held and a socket that answers."""

    def setUp(self) -> None:
        super().setUp()
        owner = AuthorityState.own(self.state, DOMAIN, wall_clock())
        self.addCleanup(owner.close)
        self.asked: list[bytes] = []

    def serve(self, answer: object) -> None:
        body = json.dumps(answer).encode()

        def respond(request: bytes) -> bytes:
            self.asked.append(request.split(b"\r\n")[0])
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

        self.answer(respond)

    def test_asks_the_owner(self) -> None:
        """By POST, with everything that was said."""
        slots = [{"slot": 2, "state": "active", "tainted": False}]
        self.serve({"done": True, "step": "revoke", "slot": 1, "slots": slots, "next": "rest"})
        status, out, err = self.ca("revoke", "1", "--force", "key & ü", *self.admin())
        self.assertEqual((status, out, err), (0, "revoke of slot 1 done; slots: 2 active\nnext: rest\n", ""))
        method, target, _ = self.asked[0].decode().split(" ")
        self.assertEqual((method, urlsplit(target).path), ("POST", "/authority"))
        expected = {"step": "revoke", "state": str(self.state), "force": "key & ü", "slot": "1"}
        self.assertEqual(dict(parse_qsl(urlsplit(target).query)), expected)

    def test_says_why_the_owner_refused(self) -> None:
        """Status 1, harmless to the terminal."""
        self.serve({"done": False, "reason": "not now\x1b[31m"})
        status, out, err = self.ca("prepare", *self.admin())
        self.assertEqual((status, out), (1, ""))
        self.assertIn("not now", err)
        self.assertNotIn("\x1b", err)

    def test_says_that_it_has_to_know_the_socket(self) -> None:
        """And changes nothing behind the owner's back."""
        self.refused(f"is owned by process {os.getpid()}; say its admin socket", "prepare", status=2)
        self.assertFalse((self.state / "root-2.pem").exists())

    def test_says_when_something_else_answers(self) -> None:
        """Status 2: it could not tell."""
        for answer in ([], {}, {"done": "yes"}, {"done": True}):
            self.setUp()
            self.serve(answer)
            status, out, _ = self.ca("prepare", *self.admin())
            self.assertEqual((status, out), (2, ""))

    def test_the_log_is_read_beside_the_owner(self) -> None:
        """And written by ca issue."""
        out = Path(self.mktemp())
        self.assertEqual(self.ca("issue", "--id", "spiffe://a.test/db", "--out", str(out))[0], 0)
        self.assertIn(f"issue: spiffe_id spiffe://a.test/db, to files, for user {os.getuid()}", self.ca("audit")[1])
