"""Replacing the embedded authority's root: step by step, with crashes and full disks between, from old states too."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import StartError
from tcpmesh.identity.authority import ISSUING_LIFETIME, AuthorityError, new_issuing, new_root
from tcpmesh.identity.certificates import not_after, pem_of
from tcpmesh.identity.material import load_certificates
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.sources.authority_rotation import GRACE, STEPS, activate, change, prepare, revoke, taint
from tcpmesh.sources.authority_slots import SlotState
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.values import Svid, TrustBundle
from tests.documents import ROOT, section
from tests.unit.crafted import NOW
from tests.unit.killed import killed_before

DOMAIN = TrustDomain("a.test")
WEB = SpiffeId.parse("spiffe://a.test/web")
TTL = 3600.0
RIPE = NOW + 2 * TTL
LATER = RIPE + 60
BUNDLES = dict[TrustDomain, TrustBundle]


class RotationCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def own(self, now: float = NOW) -> AuthorityState:
        state = AuthorityState.own(self.path, DOMAIN, now)
        self.addCleanup(state.close)
        return state

    def bundle(self) -> BUNDLES:
        """What a peer holds who reads the bundle now."""
        return {DOMAIN: TrustBundle(DOMAIN, load_certificates((self.path / "bundle.pem").read_bytes()))}

    def issue(self, state: AuthorityState, now: float) -> Svid:
        return state.issue(WEB, ttl=TTL, now=now)

    def refused(self, wanted: str, step: Callable[..., object], *arguments: object, **options: object) -> None:
        self.assertIn(wanted, str(self.assertRaises(AuthorityError, step, *arguments, **options)))

    def slots(self, state: AuthorityState) -> list[str]:
        return [f"{s.number} {s.state.value}{' tainted' * s.tainted}" for s in state.slots.entries]

    def rotated(self) -> AuthorityState:
        state = self.own()
        prepare(state, NOW)
        activate(state, LATER, ttl=TTL)
        return state


class StepTests(RotationCase):
    def test_a_prepared_root_is_published_and_signs_nothing(self) -> None:
        """Certificates go on to come from the active one; nothing exists that the prepared one signed."""
        state = self.own()
        before = self.issue(state, NOW)
        slot = prepare(state, NOW)
        self.assertEqual(self.slots(state), ["1 active", "2 prepared"])
        self.assertEqual(slot.published, NOW)
        self.assertEqual(self.bundle()[DOMAIN].authorities, (state.roots[1], state.roots[2]))
        self.assertEqual(self.issue(state, NOW).chain[1], before.chain[1])
        self.assertFalse((self.path / "issuing-2.pem").exists())
        self.assertEqual((self.path / "root-2.pem").stat().st_mode & 0o777, 0o600)

    def test_an_activated_root_signs_and_the_old_one_stays_in_the_bundle(self) -> None:
        """Whoever has the bundle of before the activation takes both."""
        state = self.own()
        first = self.issue(state, NOW)
        prepare(state, NOW)
        held = self.bundle()
        activate(state, LATER, ttl=TTL)
        second = self.issue(state, LATER)
        self.assertEqual(self.slots(state), ["1 old", "2 active"])
        self.assertNotEqual(second.chain[1], first.chain[1])
        for svid, now in ((first, NOW), (second, LATER)):
            verify_own(svid, held, now)
            verify_own(svid, self.bundle(), now)
        state.close()
        again = self.own(LATER)
        self.assertEqual(self.issue(again, LATER).chain[1], second.chain[1])

    def test_a_root_is_activated_only_when_peers_can_have_it(self) -> None:
        """Twice the life of a certificate after the bundle was published, or when somebody says why."""
        state = self.own()
        self.refused("no slot is prepared", activate, state, NOW, ttl=TTL)
        prepare(state, NOW)
        self.refused("can be activated in", activate, state, RIPE - 1, ttl=TTL)
        self.refused("can be activated in", activate, state, NOW + 1499, ttl=60.0)
        activate(state, RIPE - 1, ttl=TTL, force="every peer has it")
        self.assertEqual(self.slots(state), ["1 old", "2 active"])
        self.assertEqual(
            [f["force"] for _, f in state.audit.lines() if f["event"] == "activate"], ["every peer has it"]
        )

    def test_an_unpublished_root_never_signs(self) -> None:
        """Also by force, whatever happened to the bundle; to prepare again publishes it."""
        state = self.own()
        prepare(state, NOW)
        for damaged in (pem_of([state.roots[1]]), b"", b"junk"):
            (self.path / "bundle.pem").write_bytes(damaged)
            self.refused("is not in", activate, state, LATER, ttl=TTL, force="now")
            self.assertFalse((self.path / "issuing-2.pem").exists())
            self.refused("prepared already", prepare, state, LATER)
        activate(state, LATER, ttl=TTL)

    def test_numbers_are_never_given_twice(self) -> None:
        """And there is a limit to what peers have to carry."""
        state = self.own()
        prepare(state, NOW)
        revoke(state, 2, NOW)
        self.assertEqual(prepare(state, NOW).number, 3)
        for _ in range(5):
            activate(state, NOW, ttl=TTL, force="drill")
            if len(state.slots.entries) < 6:
                prepare(state, NOW)
            else:
                break
        self.refused("there are 6 slots already", prepare, state, NOW)

    def test_steps_are_refused_without_ownership(self) -> None:
        """Reading is reading."""
        self.own().close()
        state = AuthorityState.read(self.path)
        self.addCleanup(state.close)
        for step in ("prepare", "activate"):
            self.assertRaises(StartError, change, state, step, None, NOW, ttl=TTL)
        self.refused("makes no sense", change, state, "burn", 1, NOW, ttl=TTL)


class TaintTests(RotationCase):
    def test_only_an_old_root_is_tainted_and_it_stays(self) -> None:
        """The active one would sign the replacement."""
        state = self.own()
        self.refused("slot 1 is active", taint, state, 1, NOW)
        self.refused("no slot 7; there are: 1 (active)", taint, state, 7, NOW)
        prepare(state, NOW)
        self.refused("only prepared", taint, state, 2, NOW)
        activate(state, LATER, ttl=TTL)
        taint(state, 1, LATER)
        self.assertEqual(self.slots(state), ["1 old tainted", "2 active"])
        self.assertEqual(len(self.bundle()[DOMAIN].authorities), 2)
        state.close()
        self.assertEqual(self.slots(self.own(LATER)), ["1 old tainted", "2 active"])


class RevokeTests(RotationCase):
    def test_an_old_root_is_revoked_a_day_after_its_last_certificate(self) -> None:
        """Not a second earlier; then its keys are gone."""
        state = self.rotated()
        end = NOW + ISSUING_LIFETIME + GRACE
        self.refused("may be valid until", revoke, state, 1, end - 1)
        revoke(state, 1, end)
        self.assertEqual(self.slots(state), ["2 active"])
        self.assertEqual(self.bundle()[DOMAIN].authorities, (state.roots[2],))
        self.assertEqual([n for n in os.listdir(self.path) if n in ("root.pem", "issuing.pem")], [])
        state.close()
        self.assertEqual(self.slots(self.own(LATER)), ["2 active"])

    def test_a_tainted_root_is_revoked_at_once(self) -> None:
        """Unless an identity of the proxy hangs on it still."""
        state = self.rotated()
        taint(state, 1, LATER)
        self.refused("spiffe://a.test/web of this proxy still hangs on slot 1", revoke, state, 1, LATER, cuts=str(WEB))
        revoke(state, 1, LATER)
        self.assertEqual(self.slots(state), ["2 active"])

    def test_the_active_root_is_revoked_only_by_force_and_with_a_successor(self) -> None:
        """The prepared one signs from the same moment on, and the reason is in the log."""
        state = self.own()
        self.refused("the only one that can sign", revoke, state, 1, NOW, force="stolen")
        prepare(state, NOW)
        self.refused("own identity hangs on it", revoke, state, 1, NOW)
        revoke(state, 1, NOW, force="stolen")
        self.assertEqual(self.slots(state), ["2 active"])
        verify_own(self.issue(state, NOW), self.bundle(), NOW)
        (fields,) = [f for _, f in state.audit.lines() if f["event"] == "revoke"]
        self.assertEqual((fields["slot"], fields["force"]), (1, "stolen"))


class AuditTests(RotationCase):
    def test_every_certificate_and_step_is_in_the_log(self) -> None:
        """Refusals too, and no key."""
        state = self.own()
        svid = self.issue(state, NOW)
        self.assertRaises(AuthorityError, state.issue, SpiffeId.parse("spiffe://b.test/x"), ttl=TTL, now=NOW)
        prepare(state, NOW)
        activate(state, LATER, ttl=TTL)
        taint(state, 1, LATER)
        revoke(state, 1, LATER)
        lines = [fields for _, fields in state.audit.lines()]
        self.assertEqual(
            [fields["event"] for fields in lines], ["issue", "issue", "prepare", "activate", "taint", "revoke"]
        )
        self.assertEqual([fields.get("outcome") for fields in lines[:2]], ["issued", "refused"])
        self.assertEqual(lines[0]["serial"], f"{svid.leaf.serial_number:x}")
        self.assertNotIn(b"PRIVATE", (self.path / "audit.jsonl").read_bytes())

    def test_nothing_is_signed_that_the_log_does_not_take(self) -> None:
        """A broken log stops certificates and steps."""
        state = self.own()
        self.issue(state, NOW)
        (self.path / "audit.jsonl").write_bytes(b"")
        self.assertRaises(StartError, self.issue, state, NOW)
        self.assertRaises(StartError, prepare, state, NOW)
        self.assertEqual(self.slots(state), ["1 active"])


class OfflineRootTests(RotationCase):
    def keyless(self, name: str = "root.pem") -> bytes:
        """Take the key away; what the file was."""
        whole = (self.path / name).read_bytes()
        (self.path / name).write_bytes(pem_of(load_certificates(whole)))
        return whole

    def test_certificates_need_no_root_key(self) -> None:
        """Starting, issuing and preparing go on; signing an issuing authority waits for the key."""
        self.own().close()
        whole = self.keyless()
        state = self.own()
        verify_own(self.issue(state, NOW), self.bundle(), NOW)
        due = NOW + ISSUING_LIFETIME / 2
        error = self.assertRaises(StartError, state.renew_issuing, due)
        self.assertIn("holds no private key", error.reason)
        state.close()
        state = self.own(due)  # half of the issuing authority's life is left
        self.issue(state, due)
        (self.path / "root.pem").write_bytes(whole)
        state.renew_issuing(due)
        self.assertEqual(not_after(state.issuing.certificate), due + ISSUING_LIFETIME)

    def test_activating_needs_the_key(self) -> None:
        """It is refused before anything changes."""
        state = self.own()
        prepare(state, NOW)
        whole = self.keyless("root-2.pem")
        self.refused("not here (taken offline)", activate, state, LATER, ttl=TTL)
        self.assertEqual(self.slots(state), ["1 active", "2 prepared"])
        (self.path / "root-2.pem").write_bytes(whole)
        activate(state, LATER, ttl=TTL)


class MigrationTests(RotationCase):
    def previous(self) -> tuple[x509.Certificate, x509.Certificate]:
        """A directory of the first format: two keys with their certificates, the bundle, the lock."""
        root = new_root(DOMAIN, NOW)
        issuing = new_issuing(root, NOW)
        self.path.mkdir(0o700)
        files = {"root.pem": root.to_pem(), "issuing.pem": issuing.to_pem(), "bundle.pem": pem_of([root.certificate])}
        for name, data in {**files, "lock": b"1\n"}.items():
            (self.path / name).write_bytes(data)
            (self.path / name).chmod(0o600)
        return root.certificate, issuing.certificate

    def test_a_state_of_the_first_format_goes_on(self) -> None:
        """Same root, same issuing authority, same bundle; then it rotates as any other."""
        root, issuing = self.previous()
        bundle = (self.path / "bundle.pem").read_bytes()
        read = AuthorityState.read(self.path, DOMAIN)
        self.assertEqual((read.root.certificate, self.slots(read)), (root, ["1 active"]))
        read.close()
        self.assertFalse((self.path / "state.json").exists())
        state = self.own()
        self.assertEqual((state.root.certificate, state.issuing.certificate), (root, issuing))
        self.assertEqual((self.path / "bundle.pem").read_bytes(), bundle)
        self.assertEqual(json.loads((self.path / "state.json").read_bytes())["version"], 2)
        prepare(state, NOW)
        activate(state, LATER, ttl=TTL)
        self.assertEqual(self.slots(state), ["1 old", "2 active"])

    def test_a_damaged_or_newer_state_is_refused(self) -> None:
        """It is never guessed which root signs."""
        self.rotated().close()
        file = self.path / "state.json"
        good = json.loads(file.read_bytes())
        both = [{**slot, "state": "active"} for slot in good["slots"]]
        for data in ("", "junk", "[]", json.dumps({**good, "version": 3}), json.dumps({**good, "slots": []})):
            file.write_text(data)
            self.assertIn("state.json", self.assertRaises(StartError, self.own).reason)
        for slots in (both, [*good["slots"], good["slots"][0]], [{**good["slots"][1], "published": None}], [1]):
            file.write_text(json.dumps({**good, "slots": slots}))
            self.assertIn("is damaged", self.assertRaises(StartError, self.own).reason)
        file.unlink()
        error = self.assertRaises(StartError, self.own)
        self.assertIn("state.json is missing, although root-2.pem is there", error.reason)


class FullDiskTests(RotationCase):
    def test_each_step_is_done_or_not_whichever_file_cannot_be_written(self) -> None:
        """What is there after it starts, is in the bundle, and takes the step the second time."""
        names = ("root-2.pem", "issuing-2.pem", "state.json", "bundle.pem")
        failures = 0
        for name in names:
            self.setUp()
            state = self.own()
            obstacle = self.path / f"{name}.tmp"  # no file can be written in its place
            steps: list[Callable[[], object]] = [
                lambda s=state: prepare(s, NOW),
                lambda s=state: activate(s, LATER, ttl=TTL),
                lambda s=state: revoke(s, 1, LATER, force="drill"),
            ]
            for step in steps:
                obstacle.mkdir()
                held = self.bundle()
                try:
                    step()
                except StartError as error:
                    failures += 1
                    self.assertIn("cannot be written", error.reason)
                    obstacle.rmdir()
                    verify_own(self.issue(state, LATER), held, LATER)
                    verify_own(self.issue(state, LATER), self.bundle(), LATER)
                    if state.slots.find(1) is not None:
                        step()
                    else:  # it happened, and only the bundle is not written
                        self.assertTrue(state.unfinished)
                        again = self.assertRaises(AuthorityError, change, state, "revoke", 1, LATER, ttl=TTL)
                        self.assertIn("slot 1 was revoked before, and", str(again))
                        self.assertEqual(self.bundle()[DOMAIN].authorities, (state.roots[2],))
                        self.assertFalse((self.path / "root.pem").exists())
                else:
                    obstacle.rmdir()
            state.close()
            again = self.own(LATER)
            self.assertEqual(self.slots(again), ["2 active"])
            self.assertEqual(self.bundle()[DOMAIN].authorities, (again.roots[2],))
        self.assertEqual(failures, 7)


class CrashCase(RotationCase):
    """A process is killed just before each operation on the file system, one after the other."""

    later = LATER  # the step's time
    _EVENTS = frozenset({"open", "os.rename", "os.remove", "os.listdir", "fcntl.flock", "os.truncate"})

    def killed_before(self, number: int, step: Callable[[AuthorityState], object]) -> bool:
        """Do the step in a child that dies before its n-th operation; false when it had fewer."""

        def begin() -> Callable[[], object]:
            state = AuthorityState.own(self.path, DOMAIN, self.later)
            return lambda: step(state)

        return killed_before(number, self._EVENTS, begin)

    def crashed(self, before: Callable[[AuthorityState], object], step: Callable[[AuthorityState], object]) -> set[str]:
        """Kill the step everywhere; after each, who holds the bundle takes what is signed. The slots that were seen."""
        seen = set()
        number = 1
        more = True
        while more:
            self.setUp()
            state = self.own()
            before(state)
            state.close()
            more = self.killed_before(number, step)
            held = self.bundle()
            again = self.own(self.later)
            verify_own(self.issue(again, self.later), held, self.later)
            verify_own(self.issue(again, self.later), self.bundle(), self.later)
            self.assertEqual(self.bundle()[DOMAIN].authorities, again.authorities)
            self.assertEqual(again.audit.verify().seq > 0, True)
            for slot in again.slots.entries:
                self.assertIsNotNone(slot.published)
            seen.add("; ".join(self.slots(again)))
            again.close()
            number += 1
        self.assertTrue(number > 8, f"only {number} operations were seen")
        return seen


class CrashTests(CrashCase):
    """While an operator does a step."""

    def test_while_preparing(self) -> None:
        """Nothing, or a prepared root in the bundle."""
        seen = self.crashed(lambda state: self.issue(state, NOW), lambda state: prepare(state, LATER))
        self.assertEqual(seen, {"1 active", "1 active; 2 prepared"})

    def test_while_activating(self) -> None:
        """The one or the other signs, both are in the bundle that peers held."""
        seen = self.crashed(lambda state: prepare(state, NOW), lambda state: activate(state, LATER, ttl=TTL))
        self.assertEqual(seen, {"1 active; 2 prepared", "1 old; 2 active"})

    def test_while_revoking_the_active_one(self) -> None:
        """It signs, or it is gone and the other signs; keys of what is gone do not stay."""
        seen = self.crashed(lambda state: prepare(state, NOW), lambda state: revoke(state, 1, LATER, force="stolen"))
        self.assertEqual(seen, {"1 active; 2 prepared", "2 active"})
        self.assertFalse((self.path / "root.pem").exists())


class DocumentTests(SynchronousTestCase):
    """docs/identity.md, the section on the authority."""

    def test_lists_what_a_root_can_be(self) -> None:
        """Every state has a row, and every step is named with its command."""
        text = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "An authority of one's own")
        rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
        self.assertEqual(rows - {"slot", "---"}, {"prepared", "active", "old", "old, tainted"})
        self.assertEqual({state.value for state in SlotState} - rows, set())
        for step in STEPS:
            self.assertIn(f"\ntcpmesh ca {step} ", text)
