"""The embedded authority on disk: permissions, damage, ownership, and processes that die at any point."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import StartError
from tcpmesh.identity.authority import ISSUING_LIFETIME, ROOT_LIFETIME, Authority, new_issuing, new_root
from tcpmesh.identity.certificates import not_after, pem_of
from tcpmesh.identity.material import load_certificates, pem_of_key
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.sources.private_directory import PrivateDirectory
from tests.unit.crafted import DAY, NOW, authority
from tests.unit.killed import killed_before

DOMAIN = TrustDomain("a.test")
ROOT = Path(__file__).parents[2]
FILES = ["bundle.pem", "issuing.pem", "lock", "root.pem", "state.json"]


class StateCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.base = Path(self.mktemp())
        self.base.mkdir()
        self.path = self.base / "state"

    def own(self, domain: TrustDomain | None = DOMAIN, now: float = NOW) -> AuthorityState:
        state = AuthorityState.own(self.path, domain, now)
        self.addCleanup(state.close)
        return state

    def create(self) -> x509.Certificate:
        """Make a state, give it up, and say its root."""
        state = AuthorityState.own(self.path, DOMAIN, NOW)
        state.close()
        return state.root.certificate

    def refused(self, code: Code, *words: str, domain: TrustDomain | None = DOMAIN, now: float = NOW) -> str:
        error = self.assertRaises(StartError, self.own, domain, now)
        self.assertEqual(error.code, code, error.reason)
        for word in words:
            self.assertIn(word, error.reason)
        self.assertNotIn("\n", error.reason)
        return str(error.reason)

    def unusable(self, *words: str, domain: TrustDomain | None = DOMAIN, now: float = NOW) -> str:
        return self.refused(codes.STATE_UNUSABLE, *words, domain=domain, now=now)


class CreationTests(StateCase):
    def test_makes_everything_once(self) -> None:
        """Directory 0700, files 0600, the bundle equal to the root, the same root the next time."""
        root = self.create()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o700)
        self.assertEqual(sorted(os.listdir(self.path)), FILES)
        for name in os.listdir(self.path):
            self.assertEqual(stat.S_IMODE((self.path / name).stat().st_mode), 0o600, name)
        self.assertEqual(load_certificates((self.path / "bundle.pem").read_bytes()), (root,))
        self.assertEqual(self.own().root.certificate, root)

    def test_modes_do_not_depend_on_the_umask(self) -> None:
        """A careless umask opens nothing."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.create()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE((self.path / "root.pem").stat().st_mode), 0o600)

    def test_makes_two_levels_and_no_more(self) -> None:
        """``../var/quickstart`` is made; a mistyped tree is not."""
        self.path = self.base / "var" / "state"
        self.create()
        self.path = self.base / "typo" / "var" / "state"
        self.unusable(f"{self.base / 'typo'} is not a directory", "correct 'state'")
        self.assertFalse((self.base / "typo").exists())

    def test_makes_no_root_unless_told_the_trust_domain(self) -> None:
        """Whoever takes what is there creates nothing."""
        self.unusable("cannot be opened: No such file", domain=None)
        self.assertFalse(self.path.exists())
        self.path.mkdir(0o700)
        self.unusable("holds no authority; make one: tcpmesh ca init", domain=None)
        self.assertFalse((self.path / "root.pem").exists())


class PermissionTests(StateCase):
    def test_refuses_a_directory_that_others_can_enter(self) -> None:
        """The message has the path, the mode and what to type."""
        self.create()
        for mode in (0o750, 0o701, 0o770):
            self.path.chmod(mode)
            self.unusable(f"{self.path} has mode {mode:04o}", f"chmod 700 {self.path}")

    def test_refuses_keys_that_others_can_read(self) -> None:
        """So with each file that holds a key."""
        self.create()
        for name in ("root.pem", "issuing.pem"):
            for mode in (0o640, 0o604, 0o620):
                (self.path / name).chmod(mode)
                self.unusable(f"{self.path / name} has mode {mode:04o}", f"chmod 600 {self.path / name}")
            (self.path / name).chmod(0o600)
        self.own()

    def test_lets_the_bundle_be_public(self) -> None:
        """It holds nothing secret."""
        self.create()
        (self.path / "bundle.pem").chmod(0o644)
        self.own()

    def test_refuses_the_state_of_another_user(self) -> None:
        """Its owner could exchange the keys."""
        if os.geteuid() == 0:
            self.create()
            os.chown(self.path, 12345, -1)
        else:
            self.path = Path("/")
        self.unusable("belongs to user", f"this process is user {os.geteuid()}", "run it as that user", domain=None)

    def test_follows_no_link_to_a_key(self) -> None:
        """A link could lead anywhere."""
        self.create()
        (self.path / "root.pem").rename(self.base / "elsewhere.pem")
        (self.path / "root.pem").symlink_to(self.base / "elsewhere.pem")
        self.unusable("root.pem cannot be opened")

    def test_refuses_what_is_no_directory_or_no_file(self) -> None:
        """Files, sockets and pipes in the place of others."""
        self.path.write_bytes(b"")
        self.unusable(f"{self.path} is not a directory")
        self.path.unlink()
        self.create()
        (self.path / "root.pem").unlink()
        os.mkfifo(self.path / "root.pem", 0o600)
        self.unusable("root.pem is not a regular file")
        (self.path / "root.pem").unlink()
        (self.path / "root.pem").mkdir(0o700)
        self.unusable("root.pem is not a regular file")


class DamageTests(StateCase):
    def test_never_makes_a_lost_root_anew(self) -> None:
        """Its certificates are out there; the message says what starting anew means."""
        self.create()
        (self.path / "root.pem").unlink()
        self.unusable("root.pem is missing, although issuing.pem is there", "restore it from a backup", "issued anew")
        (self.path / "issuing.pem").unlink()
        self.unusable("root.pem is missing, although bundle.pem is there")
        self.assertFalse((self.path / "root.pem").exists())

    def test_never_makes_a_damaged_file_anew(self) -> None:
        """Truncated, empty, junk, huge: the file stays as it is and is named."""
        self.create()
        for name in ("root.pem", "issuing.pem"):
            good = (self.path / name).read_bytes()
            for damaged in (good[:-30], good[: len(good) // 2], b"", b"junk", bytes(2 << 20)):
                (self.path / name).write_bytes(damaged)
                reason = self.unusable(str(self.path / name))
                self.assertNotIn("BEGIN", reason)
                self.assertEqual((self.path / name).read_bytes(), damaged)
            (self.path / name).write_bytes(good)
        self.own()

    def test_says_how_a_damaged_issuing_authority_is_replaced(self) -> None:
        """It can be, the root signs another."""
        root = self.create()
        (self.path / "issuing.pem").write_bytes(b"junk")
        self.unusable("issuing.pem", "move it away: the root will sign a new one")
        (self.path / "issuing.pem").unlink()
        state = self.own()
        self.assertEqual(state.root.certificate, root)
        state.issuing.certificate.verify_directly_issued_by(root)

    def test_refuses_a_foreign_trust_domain(self) -> None:
        """The configuration was renamed, or points to another's state."""
        self.create()
        self.unusable(
            "is the authority of a.test, and the trust domain here is b.test",
            "a state of its own",
            domain=TrustDomain("b.test"),
        )

    def test_takes_whatever_is_there_when_nobody_says_the_trust_domain(self) -> None:
        """Commands may be given the directory alone."""
        self.create()
        self.assertEqual(self.own(None).trust_domain, DOMAIN)

    def test_refuses_mixed_states(self) -> None:
        """An issuing authority of another root, a key of another certificate, a root that is none."""
        self.create()
        stranger = new_root(DOMAIN, NOW)
        (self.path / "issuing.pem").write_bytes(new_issuing(stranger, NOW).to_pem())
        self.unusable("issuing.pem the issuing authority was not signed by the root")
        (self.path / "root.pem").write_bytes(
            Authority(new_root(DOMAIN, NOW).certificate, stranger.private_key).to_pem()
        )
        self.unusable("root.pem holds a private key that does not belong to its certificate")
        (self.path / "root.pem").write_bytes(new_issuing(stranger, NOW).to_pem())
        self.unusable("root.pem cannot be used: the root is not signed by itself")
        nameless = authority("nameless")
        (self.path / "root.pem").write_bytes(pem_of_key(nameless.key) + pem_of([nameless.certificate]))
        self.unusable("root.pem holds an authority that does not name exactly one trust domain")

    def test_refuses_a_root_out_of_its_time(self) -> None:
        """Expired, or a clock that went back behind it."""
        self.create()
        self.unusable("root.pem cannot be used: the root expired at", now=NOW + ROOT_LIFETIME + 1)
        self.unusable("is the clock right?", now=NOW - DAY)

    def test_repairs_the_bundle(self) -> None:
        """It follows from the root."""
        root = self.create()
        (self.path / "bundle.pem").write_bytes(b"")
        self.own()
        self.assertEqual((self.path / "bundle.pem").read_bytes(), pem_of([root]))


class RenewalTests(StateCase):
    def test_renews_at_half_of_its_life(self) -> None:
        """Not before, and then on disk at once."""
        state = self.own()
        half = ISSUING_LIFETIME / 2
        self.assertFalse(state.issuing_renewal_due(NOW + half - 3600))
        self.assertTrue(state.issuing_renewal_due(NOW + half))
        before = state.issuing.certificate
        state.renew_issuing(NOW + half)
        self.assertNotEqual(state.issuing.certificate, before)
        self.assertFalse(state.issuing_renewal_due(NOW + half))
        self.assertIn(pem_of([state.issuing.certificate]), (self.path / "issuing.pem").read_bytes())

    def test_renews_what_expired_while_nobody_looked(self) -> None:
        """A state from last year's holidays still starts."""
        root = self.create()
        later = NOW + 100 * DAY
        state = self.own(now=later)
        self.assertEqual(
            (state.root.certificate, not_after(state.issuing.certificate)), (root, later + ISSUING_LIFETIME)
        )

    def test_renews_what_is_of_the_future(self) -> None:
        """The clock was set back behind the issuing authority, not behind the root."""
        self.create()
        state = AuthorityState.own(self.path, DOMAIN, NOW + 20 * DAY)
        state.close()
        read = AuthorityState.read(self.path)
        self.addCleanup(read.close)
        self.assertTrue(read.issuing_renewal_due(NOW))
        self.assertFalse(self.own().issuing_renewal_due(NOW))

    def test_does_not_renew_for_ever_at_the_end_of_the_root(self) -> None:
        """A new one that ends with the root as well is worth nothing."""
        self.create()
        end = NOW + ROOT_LIFETIME - DAY
        state = self.own(now=end)
        for later in (0, DAY / 2, DAY - 60, DAY):
            self.assertFalse(state.issuing_renewal_due(end + later))

    def test_keeps_the_present_one_when_the_disk_does_not_take_another(self) -> None:
        """The reason names the file."""
        state = self.own()
        before = state.issuing
        (self.path / "issuing.pem.tmp").mkdir()
        error = self.assertRaises(StartError, state.renew_issuing, NOW + ISSUING_LIFETIME / 2)
        self.assertIn(f"{self.path / 'issuing.pem'} cannot be written", error.reason)
        self.assertIs(state.issuing, before)

    def test_never_writes_what_it_does_not_own(self) -> None:
        """Reading is reading."""
        self.create()
        state = AuthorityState.read(self.path)
        self.addCleanup(state.close)
        error = self.assertRaises(StartError, state.renew_issuing, NOW)
        self.assertIn("open for reading only", error.reason)


class OwnershipTests(StateCase):
    def test_has_one_owner(self) -> None:
        """The second is told by whom it is owned and what to do instead."""
        state = self.own()
        self.refused(
            codes.STATE_IN_USE,
            f"{self.path} is in use by process {os.getpid()}",
            "a state of its own",
            "tcpmesh ca issue",
            str(self.path / "bundle.pem"),
        )
        state.close()
        self.own()

    def test_can_be_read_beside_its_owner(self) -> None:
        """Reading says who owns it, and takes nothing from the owner."""
        owned = self.own()
        read = AuthorityState.read(self.path, DOMAIN)
        self.addCleanup(read.close)
        self.assertEqual(read.owner(), os.getpid())
        self.assertEqual(read.root.certificate, owned.root.certificate)
        self.assertEqual((owned.owned, read.owned), (True, False))
        owned.close()
        self.assertIsNone(read.owner())

    def test_reads_a_state_without_a_lock(self) -> None:
        """A copy of one, say: nobody owns it."""
        self.create()
        (self.path / "lock").unlink()
        read = AuthorityState.read(self.path)
        self.addCleanup(read.close)
        self.assertIsNone(read.owner())

    def test_refuses_a_lock_that_is_none(self) -> None:
        """Whoever exchanged it could let two owners in."""
        self.create()
        (self.path / "lock").unlink()
        (self.path / "lock").symlink_to(self.base / "elsewhere")
        self.unusable("lock cannot be opened")
        self.assertFalse((self.base / "elsewhere").exists())
        read = AuthorityState.read(self.path)
        self.addCleanup(read.close)
        error = self.assertRaises(StartError, read.owner)
        self.assertIn("lock cannot be opened", error.reason)

    def test_waits_a_moment_for_a_lock(self) -> None:
        """Somebody who only looks must not keep an owner from starting."""
        self.create()
        looking = PrivateDirectory.open(self.path, create=False)
        looking.lock()
        starting = PrivateDirectory.open(self.path, create=False)
        self.addCleanup(starting.close)
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            looking.close()

        starting.lock(sleep=pause)
        self.assertEqual((len(pauses), starting.locked), (1, True))

    def test_gives_up_waiting(self) -> None:
        """After half a second."""
        self.own()
        starting = PrivateDirectory.open(self.path, create=False)
        self.addCleanup(starting.close)
        pauses: list[float] = []
        error = self.assertRaises(StartError, starting.lock, sleep=pauses.append)
        self.assertEqual(error.code, codes.STATE_IN_USE)
        self.assertAlmostEqual(sum(pauses), 0.48)

    def test_leaves_no_descriptor_open(self) -> None:
        """However it ended."""
        self.create()
        before = len(os.listdir("/proc/self/fd"))
        self.create()
        (self.path / "root.pem").write_bytes(b"junk")
        for _ in range(3):
            self.unusable("root.pem")
        (self.path / "root.pem").unlink()
        (self.path / "root.pem").mkdir()
        self.unusable("root.pem")
        self.path.chmod(0o755)
        self.unusable("has mode")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_closing_twice_is_harmless(self) -> None:
        """The descriptor may be somebody else's by then."""
        state = self.own()
        state.close()
        state.close()

    def test_removes_what_a_crash_left(self) -> None:
        """Half a file may hold a whole key."""
        self.create()
        (self.path / "root.pem.tmp").write_bytes(b"half")
        self.own()
        self.assertFalse((self.path / "root.pem.tmp").exists())


class CrashTests(StateCase):
    """A process is killed just before each operation on the file system, one after the other."""

    _EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.listdir", "fcntl.flock"})

    def killed_before(self, number: int) -> bool:
        """Own the state in a child that dies before its n-th operation; false when it had fewer."""
        return killed_before(number, self._EVENTS, lambda: lambda: AuthorityState.own(self.path, DOMAIN, NOW))

    def test_leaves_nothing_or_a_whole_authority(self) -> None:
        """Whenever the first process dies, the next one starts, with the root that was there if one was."""
        number = 1
        while self.killed_before(number):
            existing = self.path / "root.pem"
            before = load_certificates(existing.read_bytes()) if existing.exists() else ()
            state = AuthorityState.own(self.path, DOMAIN, NOW)
            state.close()
            if before:
                self.assertEqual((state.root.certificate,), before)
            self.assertEqual(load_certificates((self.path / "bundle.pem").read_bytes()), (state.root.certificate,))
            self.assertEqual(sorted(os.listdir(self.path)), FILES)
            for name in os.listdir(self.path):
                (self.path / name).unlink()
            self.path.rmdir()
            number += 1
        self.assertTrue(number > 10, f"only {number} operations were seen")


_CHILD = """
import signal, sys
from pathlib import Path
from tcpmesh.errors import StartError
from tcpmesh.identity.certificates import fingerprint
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.sources.authority_state import AuthorityState
signal.alarm(60)
print("ready", flush=True)
sys.stdin.readline()
try:
    state = AuthorityState.own(Path(sys.argv[1]), TrustDomain("a.test"), float(sys.argv[2]))
except StartError as error:
    print(error.code.id, error.reason, flush=True)
else:
    print("owner", fingerprint(state.root.certificate), flush=True)
    sys.stdin.readline()
"""


class RaceTests(StateCase):
    """Real processes, started at once on one empty state."""

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(self.path.absolute()), str(NOW)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self._end, process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            process.kill()
        process.communicate()

    def race(self, count: int) -> tuple[subprocess.Popen[str], str, list[str]]:
        """The winner, what it said, and what the others said."""
        processes = [self.start() for _ in range(count)]
        for process in processes:
            self.assertEqual(_out(process).readline(), "ready\n")
        for process in processes:
            _in(process).write("go\n")
            _in(process).flush()
        answers = {process: _out(process).readline().strip() for process in processes}
        winners = [process for process, answer in answers.items() if answer.startswith("owner ")]
        self.assertEqual(len(winners), 1, answers)
        others = [answer for process, answer in answers.items() if process is not winners[0]]
        return winners[0], answers[winners[0]], others

    def test_one_wins_and_the_others_are_told_who(self) -> None:
        """Exactly one root comes out of it, and survives the death of its owner."""
        winner, answer, others = self.race(3)
        for other in others:
            self.assertTrue(other.startswith(f"{codes.STATE_IN_USE.id} "), other)
            self.assertIn(f"in use by process {winner.pid}", other)
        winner.kill()
        winner.wait()
        _second, again, _ = self.race(1)
        self.assertEqual(again, answer)


def _in(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def _out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout
