"""The files source while it runs: what others do to the files, and what is taken, kept and told."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.material import new_key, pem_of_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import IReloadable
from tcpmesh.sources.files import FilesFactory, FilesSettings, FilesSource, FilesWorkload
from tcpmesh.testing import FakeIdentityObserver, plugin_context
from tcpmesh.values import IdentitySnapshot, Workload
from tests.unit.crafted import DAY, NOW, Issuer, Leaf, authority, leaf, uri

DOMAIN = TrustDomain("a.test")
INTERVAL, SETTLE = 5.0, 1.0  # seconds: between two looks, and until the second look at a change
WEB, DB = "spiffe://a.test/web", "spiffe://a.test/db"


class ReloadCase(SynchronousTestCase):
    """A source that runs on good files and has settled; tests change the files as others do."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.mkdir()
        self.writes = 0
        self.clock, self.wall = Clock(), NOW
        self.observer = FakeIdentityObserver()
        self.events: list[LogEvent] = []
        self.root = authority("root of a.test")
        self.issuing = authority("issuing", self.root)
        self.first = self.renewed()
        self.certificate, self.key = self.put_pair("web", self.first)
        self.bundle = self.put("a.pem", pem_of([self.root.certificate]))
        self.bundles = {"a.test": self.bundle}

    def renewed(self, identity: str = WEB, issuer: Issuer | None = None) -> Leaf:
        return leaf(issuer or self.issuing, uri(identity))

    def put(self, name: str | Path, data: bytes, mode: int = 0o600) -> Path:
        """Write in place, at another time than every write before: tests are faster than a file's times are fine."""
        path = self.path / name
        path.write_bytes(data)
        path.chmod(mode)
        self.writes += 1
        os.utime(path, ns=(0, 1_700_000_000_000_000_000 + self.writes))
        return path

    def put_pair(self, name: str, made: Leaf) -> tuple[Path, Path]:
        return self.put(f"{name}.pem", certificate_of(made)), self.put(f"{name}.key", pem_of_key(made.key))

    def source(self, **more: tuple[str, Path, Path]) -> FilesSource:
        """A source for ``web``, and for more workloads: ID, certificate and key by name."""
        entries = {"web": (WEB, self.certificate, self.key), **more}
        workloads = {
            name: Workload(name, SpiffeId.parse(identity), FilesWorkload(certificate, key))
            for name, (identity, certificate, key) in entries.items()
        }
        context = attrs.evolve(
            plugin_context("disk", clock=self.clock, trust_domain=DOMAIN, workloads=workloads),
            log=Logger(observer=self.events.append),
        )
        source = FilesFactory(lambda: self.wall).create(FilesSettings(self.bundles), context)
        self.addCleanup(source.stop)
        return source

    def begin(self, **more: tuple[str, Path, Path]) -> FilesSource:
        """Start it, and let it settle."""
        source = self.source(**more)
        source.start(self.observer)
        self.clock.advance(SETTLE)
        self.assertEqual([kind for kind, _ in self.observer.events], ["changed"])
        return source

    def look(self) -> None:
        """Let the next regular look come."""
        self.wall += INTERVAL
        self.clock.advance(INTERVAL)

    def again(self) -> None:
        """Let the second look at a change come."""
        self.wall += SETTLE
        self.clock.advance(SETTLE)

    def newest(self) -> IdentitySnapshot:
        return self.observer.snapshots[-1]

    def assert_serves(self, made: Leaf, spiffe_id: str = WEB) -> None:
        """The newest snapshot holds this certificate, with its key, and verifies."""
        (svid,) = (svid for svid in self.newest().svids if str(svid.id) == spiffe_id)
        self.assertEqual(svid.chain, made.chain[:-1])
        verify_own(svid, self.newest().bundles, self.wall)

    def logged(self) -> list[str]:
        return [formatEvent(event) for event in self.events]


def certificate_of(made: Leaf) -> bytes:
    """The PEM file of a leaf: the chain without its root."""
    return pem_of(made.chain[:-1])


class RenewalTests(ReloadCase):
    """Writers that end well: nothing is ever reported, and what they wrote is taken."""

    def tearDown(self) -> None:
        self.assertEqual(self.observer.failures, [])

    def test_provides_its_interface(self) -> None:
        """It can be told to look."""
        self.assertTrue(verifyObject(IReloadable, self.source()))

    def test_a_renewed_pair_is_taken_at_the_next_look(self) -> None:
        """Once; the log names file, serial and end."""
        self.begin()
        new = self.renewed()
        self.put_pair("web", new)
        self.assertEqual(len(self.observer.snapshots), 1)
        self.look()
        self.assert_serves(new)
        self.assertIn(f"the certificate in {self.certificate} is in use now, serial", self.logged()[-1])
        for _ in range(20):
            self.look()
        self.assertEqual(len(self.observer.snapshots), 2)

    def test_files_that_nobody_changes_are_not_delivered_again(self) -> None:
        """Nor files that are written anew with the same content, or only touched."""
        self.begin()
        for _ in range(10):
            self.put_pair("web", self.first)
            self.put("a.pem", pem_of([self.root.certificate]))
            self.look()
            self.again()
        self.assertEqual(len(self.observer.snapshots), 1)

    def test_certificate_before_key(self) -> None:
        """The pair is taken when the key has come too."""
        self.begin()
        new = self.renewed()
        self.put("web.pem", certificate_of(new))
        self.look()
        self.assertEqual(len(self.observer.snapshots), 1)
        self.put("web.key", pem_of_key(new.key))
        self.again()
        self.assert_serves(new)

    def test_key_before_certificate(self) -> None:
        """As the other way round."""
        self.begin()
        new = self.renewed()
        self.put("web.key", pem_of_key(new.key))
        self.look()
        self.assertEqual(len(self.observer.snapshots), 1)
        self.put("web.pem", certificate_of(new))
        self.again()
        self.assert_serves(new)

    def test_half_written_files(self) -> None:
        """Cut anywhere, at whichever look: only the whole is taken."""
        self.begin()
        new = self.renewed()
        certificate, key = certificate_of(new), pem_of_key(new.key)
        for cut in (0, 1, 30, len(certificate) // 3, len(certificate) - 2):
            self.put("web.pem", certificate[:cut])
            self.again()
        self.put("web.pem", certificate)
        self.again()
        for cut in (0, 40, len(key) - 30):
            self.put("web.key", key[:cut])
            self.again()
        self.assertEqual(len(self.observer.snapshots), 1)
        self.put("web.key", key)
        self.again()
        self.assert_serves(new)

    def test_files_that_are_renamed_into_place(self) -> None:
        """One after the other, as careful writers do."""
        self.begin()
        new = self.renewed()
        certificate, key = self.put_pair("new", new)
        certificate.rename(self.certificate)
        self.look()
        key.rename(self.key)
        self.again()
        self.assert_serves(new)

    def test_the_swap_of_a_directory_link(self) -> None:
        """Kubernetes and cert-manager: ``web.pem -> ..data/web.pem``, and ``..data`` is another directory at once."""
        mount = self.path / "mount"
        mount.mkdir()
        self.put_version(mount, "..1", self.first, mount / "..data")
        self.certificate, self.key = mount / "web.pem", mount / "web.key"
        for path in (self.certificate, self.key):
            path.symlink_to(Path("..data") / path.name)
        self.begin()
        for number in range(2, 5):
            new = self.renewed()
            self.put_version(mount, f"..{number}", new, mount / "..data")
            shutil.rmtree(mount / f"..{number - 1}")
            self.look()
            self.assert_serves(new)
            self.assertEqual(len(self.observer.snapshots), number)

    def test_the_swap_of_a_link_above(self) -> None:
        """certbot's ``live``: the configured path has no link in its last part."""
        self.put_version(self.path, "v1", self.first, self.path / "live")
        self.certificate, self.key = self.path / "live/web.pem", self.path / "live/web.key"
        self.begin()
        new = self.renewed()
        self.put_version(self.path, "v2", new, self.path / "live")
        self.look()
        self.assert_serves(new)

    def put_version(self, parent: Path, name: str, made: Leaf, link: Path) -> None:
        """A directory with a pair, and the link that leads to it from now on, in one step."""
        (parent / name).mkdir()
        self.put(parent / name / "web.pem", certificate_of(made))
        self.put(parent / name / "web.key", pem_of_key(made.key))
        (parent / "..tmp").symlink_to(name)
        (parent / "..tmp").rename(link)

    def test_files_that_are_deleted_and_made_again(self) -> None:
        """Between two looks they are not there: nobody is alarmed."""
        self.begin()
        new = self.renewed()
        self.certificate.unlink()
        self.key.unlink()
        self.look()
        self.put_pair("web", new)
        self.again()
        self.assert_serves(new)

    def test_a_new_bundle_is_taken_at_the_second_look(self) -> None:
        """Half of one may look like a whole one, and would refuse peers."""
        self.begin()
        other, third = authority("other"), authority("third")
        for authorities in ([self.root], [self.root, other], [self.root, other, third]):
            self.put("a.pem", pem_of([made.certificate for made in authorities]))
            self.again()
            self.look()
            self.again()
        counts = [len(snapshot.bundles[DOMAIN].authorities) for snapshot in self.observer.snapshots]
        self.assertEqual(counts, [1, 2, 3])
        self.assertIn(f"the bundle in {self.bundle} is in use now, authorities: 3", self.logged()[-1])

    def test_a_bundle_that_is_still_being_written_is_not_taken(self) -> None:
        """However well what is there already reads."""
        self.begin()
        whole = [authority(f"authority {number}").certificate for number in range(4)]
        for count in range(5):
            self.put("a.pem", pem_of([self.root.certificate, *whole[:count]]))
            self.again()
        self.assertEqual(len(self.observer.snapshots), 1)
        self.again()
        self.assertEqual(len(self.newest().bundles[DOMAIN].authorities), 5)

    def test_another_root_for_everything(self) -> None:
        """Pair and bundle replaced together, in whichever order."""
        self.begin()
        for bundle_first in (False, True):
            root = authority("another root")
            new = self.renewed(issuer=root)
            if bundle_first:
                self.put("a.pem", pem_of([root.certificate]))
                self.look()
            self.put_pair("web", new)
            self.look()
            if not bundle_first:
                self.put("a.pem", pem_of([root.certificate]))
            self.again()
            self.again()
            self.assert_serves(new)
            self.assertEqual(self.newest().bundles[DOMAIN].authorities, (root.certificate,))

    def test_a_write_that_its_time_does_not_show(self) -> None:
        """Times of files are coarse: what was written right after a look is found by the second one."""
        self.begin()
        new, newer = self.renewed(), self.renewed()
        self.put_pair("web", new)
        self.look()
        status = self.certificate.stat()
        seen = (self.certificate.stat(), self.key.stat())
        self.put_pair("web", newer)
        for path, before in zip((self.certificate, self.key), seen, strict=True):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual(self.certificate.stat().st_mtime_ns, status.st_mtime_ns)
        self.again()
        self.assert_serves(newer)

    def test_an_identity_that_did_not_change_stays_the_same_object(self) -> None:
        """So that nothing is made anew for a workload whose neighbour was renewed."""
        other = self.renewed(DB)
        self.begin(db=(DB, *self.put_pair("db", other)))
        before = {str(svid.id): svid for svid in self.newest().svids}
        self.put_pair("db", self.renewed(DB))
        self.look()
        after = {str(svid.id): svid for svid in self.newest().svids}
        self.assertIs(after[WEB], before[WEB])
        self.assertIsNot(after[DB], before[DB])
        self.assertIs(self.newest().bundles[DOMAIN], self.observer.snapshots[0].bundles[DOMAIN])


class BadInputTests(ReloadCase):
    """Files that stay bad: the last good ones stay in use, the error names the file, and good ones end it."""

    def check(self, damage: Callable[[], object], *words: str | Path) -> str:
        """Damage the files; give what was reported, after good files have ended it."""
        self.begin()
        damage()
        self.look()
        self.assertEqual(self.observer.failures, [], "told before a second look")
        for _ in range(30):
            self.look()
        self.assertEqual(len(self.observer.snapshots), 1, "something else was delivered")
        (failure,) = self.observer.failures
        for word in words:
            self.assertIn(str(word), failure)
        self.assertNotIn("\n", failure)
        new = self.renewed()
        self.clear()
        self.put_pair("web", new)
        self.put("a.pem", pem_of([self.root.certificate]))
        self.look()
        self.again()
        self.assertEqual(self.observer.events[-1][0], "changed")
        self.assert_serves(new)
        self.assertEqual(len(self.observer.failures), 1)
        self.assertNotIn("PRIVATE KEY", "".join(self.logged()))
        return failure

    def clear(self) -> None:
        """Away with whatever stands in the place of a file."""
        for path in (self.certificate, self.key, self.bundle):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def instead(self, path: Path, make: Callable[[Path], Any]) -> Callable[[], None]:
        """Put something that is no file into a file's place."""

        def damage() -> None:
            path.unlink()
            make(path)

        return damage

    def test_mismatched_pair(self) -> None:
        """Both files are named."""
        self.check(
            lambda: self.put("web.key", pem_of_key(new_key())), self.certificate, self.key, "the private key does not"
        )

    def test_certificate_without_its_key(self) -> None:
        """A renewal that stopped half way."""
        self.check(lambda: self.put("web.pem", certificate_of(self.renewed())), self.certificate, "does not belong")

    def test_empty_files(self) -> None:
        """What a full disk leaves; each of the three, all named."""

        def damage() -> None:
            for name in ("web.pem", "web.key", "a.pem"):
                self.put(name, b"")

        self.check(damage, f"{self.certificate} is empty", f"{self.bundle} is empty")

    def test_empty_key(self) -> None:
        """As for the certificate."""
        self.check(lambda: self.put("web.key", b" \n"), f"{self.key} is empty")

    def test_empty_bundle(self) -> None:
        """It revokes nobody: whoever means that says so elsewhere."""
        self.check(lambda: self.put("a.pem", b""), f"{self.bundle} is empty")

    def test_unparsable_files(self) -> None:
        """An error page, UTF-16, zeros after a crash: one report for each."""
        for junk in (b"<html>404</html>", certificate_of(self.first).decode().encode("utf-16"), bytes(4096)):
            self.setUp()
            self.check(lambda junk=junk: self.put("web.pem", junk), f"{self.certificate} holds no PEM certificate")  # type: ignore[misc]

    def test_a_truncated_certificate(self) -> None:
        """The disk was full."""
        data = certificate_of(self.first)
        self.check(lambda: self.put("web.pem", data[:-200]), f"{self.certificate} holds", "truncated or damaged")

    def test_a_truncated_key(self) -> None:
        """Its bytes are not quoted."""
        data = pem_of_key(self.first.key)
        failure = self.check(lambda: self.put("web.key", data[: len(data) // 2]), self.key, "truncated, damaged")
        self.assertNotIn(data.splitlines()[1].decode()[:20], failure)

    def test_a_truncated_bundle(self) -> None:
        """Two authorities, of which the second is cut."""
        data = pem_of([self.root.certificate, authority("other").certificate])
        self.check(lambda: self.put("a.pem", data[:-100]), f"{self.bundle} holds", "truncated or damaged")

    def test_a_chain_without_its_intermediate(self) -> None:
        """Cut exactly between two certificates."""
        self.check(
            lambda: self.put("web.pem", pem_of([self.first.certificate])), self.certificate, "its issuer is CN=issuing"
        )

    def test_a_key_that_others_can_read(self) -> None:
        """Wrong permissions, with what to type."""
        self.check(lambda: self.key.chmod(0o644), f"{self.key} has mode 0644", f"chmod 600 {self.key}")

    def test_a_directory_in_the_place_of_a_file(self) -> None:
        """As a container's volume makes it when the file was missing."""
        for which in ("certificate", "key", "bundle"):
            self.setUp()
            path = getattr(self, which)
            self.check(self.instead(path, Path.mkdir), f"{path} is not a regular file")

    def test_a_fifo_in_the_place_of_a_file(self) -> None:
        """It is not waited for."""
        for which in ("certificate", "key", "bundle"):
            self.setUp()
            path = getattr(self, which)
            self.check(self.instead(path, os.mkfifo), f"{path} is not a regular file")

    def test_a_device_in_the_place_of_a_file(self) -> None:
        """Endless zeros."""
        self.check(self.instead(self.key, lambda path: path.symlink_to("/dev/zero")), "is not a regular file")

    def test_a_socket_in_the_place_of_a_file(self) -> None:
        """Nothing to open."""

        def bind(path: Path) -> None:
            listener = socket.socket(socket.AF_UNIX)
            self.addCleanup(listener.close)
            number = os.open(path.parent, os.O_DIRECTORY)
            self.addCleanup(os.close, number)
            listener.bind(f"/proc/self/fd/{number}/{path.name}")

        self.check(self.instead(self.certificate, bind), f"{self.certificate} cannot be read")

    def test_a_link_to_nothing(self) -> None:
        """A secret that was removed."""
        self.check(self.instead(self.key, lambda path: path.symlink_to("gone")), f"{self.key} does not exist")

    def test_a_link_to_itself(self) -> None:
        """Which can never be opened."""
        self.check(self.instead(self.key, lambda path: path.symlink_to(path)), self.key, "symbolic links")

    def test_files_that_are_deleted(self) -> None:
        """And stay away."""
        self.check(self.clear, f"{self.certificate} does not exist", f"{self.bundle} does not exist")

    def test_a_huge_file(self) -> None:
        """Not read into memory."""
        self.check(lambda: self.put("web.pem", bytes(2 << 20)), f"{self.certificate} is larger than 1048576 bytes")

    def test_der_instead_of_pem(self) -> None:
        """With how to convert it."""
        der = self.first.certificate.public_bytes(Encoding.DER)
        self.check(lambda: self.put("web.pem", der), f"{self.certificate} is not PEM but DER", "openssl x509")

    def test_an_encrypted_key(self) -> None:
        """With how to decrypt it."""
        secret = self.first.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        self.check(lambda: self.put("web.key", secret), f"{self.key} holds an encrypted private key")

    def test_two_keys(self) -> None:
        """Appended to instead of replaced."""
        data = pem_of_key(self.first.key) + pem_of_key(new_key())
        self.check(lambda: self.put("web.key", data), f"{self.key} holds 2 private keys")

    def test_certificate_and_key_swapped(self) -> None:
        """Each in the other's file."""

        def damage() -> None:
            self.put("web.pem", pem_of_key(self.first.key))
            self.put("web.key", certificate_of(self.first))

        self.check(damage, f"{self.certificate} holds a private key and no certificate")

    def test_another_workloads_identity(self) -> None:
        """A pair that fits, for somebody else."""
        self.check(lambda: self.put_pair("web", self.renewed(DB)), self.certificate, f"is for {DB}, not for {WEB}")

    def test_an_expired_pair(self) -> None:
        """How long ago is another text each second, and yet told once."""
        old = leaf(self.issuing, uri(WEB), not_before=NOW - 2 * DAY, not_after=NOW - DAY)
        self.check(lambda: self.put_pair("web", old), self.certificate, "expired 24 h ago")

    def test_a_pair_of_another_authority(self) -> None:
        """Whose bundle did not come with it."""
        other = self.renewed(issuer=authority("another"))
        self.check(lambda: self.put_pair("web", other), self.certificate, "no authority in the bundle of a.test signed")

    def test_a_pair_that_breaks_the_profile(self) -> None:
        """What peers would refuse."""
        odd = leaf(self.issuing, uri(WEB), uri(DB))
        self.check(lambda: self.put_pair("web", odd), self.certificate, "2 URI names")

    def test_a_bundle_of_leaves(self) -> None:
        """A bundle holds authorities."""
        self.check(lambda: self.put("a.pem", certificate_of(self.first)), f"bundle {self.bundle}: the authority")

    def test_a_bundle_whose_only_authority_has_expired(self) -> None:
        """Nothing would verify under it."""
        old = authority("old", not_after=NOW - DAY)
        self.check(lambda: self.put("a.pem", pem_of([old.certificate])), f"bundle {self.bundle}: its only authority")

    def test_a_bundle_without_the_authority_in_use(self) -> None:
        """It would leave us without an identity: the earlier one stays, and the pair is not blamed."""
        other = authority("another")
        failure = self.check(
            lambda: self.put("a.pem", pem_of([other.certificate])),
            f"bundle {self.bundle}: the identity of workload 'web' that is in use would not verify under it",
        )
        self.assertNotIn(str(self.certificate), failure)

    def test_a_path_whose_directory_became_a_file(self) -> None:
        """The error is the system's."""
        directory = self.path / "keys"
        directory.mkdir()
        self.key = self.put("keys/web.key", pem_of_key(self.first.key))
        self.begin()
        self.key.unlink()
        directory.rmdir()
        self.put("keys", b"")
        self.look()
        self.look()
        (failure,) = self.observer.failures
        self.assertIn(f"{self.key} cannot be read: Not a directory", failure)


class FailureTests(ReloadCase):
    """How failures are told, and what goes on beside them."""

    def fail_with(self, data: bytes) -> None:
        self.put("web.pem", data)
        self.look()
        self.look()

    def test_each_failure_is_told_once(self) -> None:
        """Another one is told again, also when the text is the same but the file was written anew."""
        self.begin()
        self.fail_with(b"")
        for _ in range(50):
            self.look()
        self.assertEqual(len(self.observer.failures), 1)
        self.fail_with(b"junk")
        self.assertIn("holds no PEM", self.observer.failures[1])
        self.fail_with(b"junk")
        self.assertEqual(len(self.observer.failures), 3)

    def test_the_same_good_files_as_before_are_told(self) -> None:
        """Damaged and restored from a copy: nothing new is in them, but they are good again."""
        self.begin()
        self.fail_with(b"")
        self.put("web.pem", certificate_of(self.first))
        self.look()
        self.again()
        self.assertEqual([kind for kind, _ in self.observer.events], ["changed", "failed", "changed"])
        self.assert_serves(self.first)
        self.assertIs(self.newest().svids[0], self.observer.snapshots[0].svids[0])

    def test_a_mode_that_was_corrected_is_noticed(self) -> None:
        """Nothing is written by that."""
        self.begin()
        self.key.chmod(0o644)
        self.look()
        self.look()
        self.assertEqual(len(self.observer.failures), 1)
        self.key.chmod(0o600)
        self.look()
        self.again()
        self.assertEqual(self.observer.events[-1][0], "changed")

    def test_a_bad_pair_does_not_hold_up_a_good_one(self) -> None:
        """Each workload keeps its own last good identity; the failure is still told after the other's renewal."""
        self.begin(db=(DB, *self.put_pair("db", self.renewed(DB))))
        self.fail_with(b"")
        new = self.renewed(DB)
        self.put_pair("db", new)
        self.look()
        self.assert_serves(new, DB)
        self.assert_serves(self.first, WEB)
        self.again()
        self.assertEqual([kind for kind, _ in self.observer.events], ["changed", "failed", "changed", "failed"])
        self.assertIn(f"{self.certificate} is empty", self.observer.failures[-1])

    def test_a_bad_bundle_of_a_partner_does_not_hold_up_ours(self) -> None:
        """Each trust domain keeps its own last good bundle."""
        partner, other = authority("root of b.test"), authority("second root of a.test")
        self.bundles["b.test"] = self.put("b.pem", pem_of([partner.certificate]))
        self.begin()
        self.put("b.pem", b"")
        self.put("a.pem", pem_of([self.root.certificate, other.certificate]))
        self.look()
        self.again()
        bundles = self.newest().bundles
        self.assertEqual(bundles[DOMAIN].authorities, (self.root.certificate, other.certificate))
        self.assertEqual(bundles[TrustDomain("b.test")].authorities, (partner.certificate,))
        self.assertIn(f"{self.path / 'b.pem'} is empty", self.observer.failures[-1])

    def test_a_pair_is_taken_beside_a_bad_bundle(self) -> None:
        """It verifies under the bundle that stays."""
        self.begin()
        self.put("a.pem", b"")
        self.look()
        new = self.renewed()
        self.put_pair("web", new)
        self.look()
        self.assert_serves(new)
        self.again()
        self.assertIn(f"{self.bundle} is empty", self.observer.failures[-1])
        self.assertEqual(self.observer.events[-1][0], "failed")

    def test_an_expired_identity_does_not_hold_up_the_other(self) -> None:
        """Nor does it keep a bundle that it would no longer need."""
        short = leaf(self.issuing, uri(DB), not_before=NOW - 60, not_after=NOW + 60)
        self.begin(db=(DB, *self.put_pair("db", short)))
        self.put("db.pem", b"")
        self.wall += 600
        other = authority("another")
        new = self.renewed(issuer=other)
        self.put("a.pem", pem_of([other.certificate]))
        self.put_pair("web", new)
        self.look()
        self.again()
        self.assertEqual(self.newest().bundles[DOMAIN].authorities, (other.certificate,))
        self.assert_serves(new)

    def test_many_problems_are_not_all_told(self) -> None:
        """Five and a count."""
        more = {}
        for number in range(7):
            name = f"w{number}"
            identity = f"spiffe://a.test/{name}"
            more[name] = (identity, *self.put_pair(name, self.renewed(identity)))
        self.begin(**more)
        for _, certificate, _ in more.values():
            self.put(certificate, b"")
        self.look()
        self.again()
        self.assertEqual(self.observer.failures[0].count("is empty"), 5)
        self.assertTrue(self.observer.failures[0].endswith("; and 2 more"))

    def test_a_certificate_whose_time_comes_is_taken_then(self) -> None:
        """The files do not change when the clock does."""
        self.begin()
        early = leaf(self.issuing, uri(WEB), not_before=NOW + 120, not_after=NOW + 3600)
        self.put_pair("web", early)
        self.look()
        self.look()
        self.assertIn("is valid only from", self.observer.failures[0])
        while self.wall < NOW + 120:
            self.look()
        self.assert_serves(early)
        self.assertEqual(len(self.observer.failures), 1)

    def test_a_file_that_never_stays_still_is_judged_all_the_same(self) -> None:
        """After ten looks, told now and then but not each second."""
        self.begin()
        self.put("web.pem", b"0")
        self.look()
        for number in range(1, 30):
            self.put("web.pem", b"%d" % number)
            self.again()
        self.assertEqual(len(self.observer.failures), 3)
        self.assertEqual(len(self.observer.snapshots), 1)

    def test_an_unexpected_error_does_not_end_the_looks(self) -> None:
        """It is told with the kind of error, and logged with its traceback."""
        times: list[float] = []

        def broken() -> float:
            if times:
                raise OverflowError("no such time")
            return self.wall

        context = plugin_context("disk", clock=self.clock, trust_domain=DOMAIN, workloads=self.workloads())
        context = attrs.evolve(context, log=Logger(observer=self.events.append))
        source = FilesSource(FilesSettings(self.bundles), context, broken)
        self.addCleanup(source.stop)
        source.start(self.observer)
        times.append(0.0)
        self.look()
        self.assertIn("OverflowError", self.observer.failures[0])
        self.assertIs(self.events[-1]["log_failure"].type, OverflowError)
        times.clear()
        new = self.renewed()
        self.put_pair("web", new)
        self.look()
        self.assert_serves(new)

    def workloads(self) -> dict[str, Workload]:
        return {"web": Workload("web", SpiffeId.parse(WEB), FilesWorkload(self.certificate, self.key))}


class OnRequestTests(ReloadCase):
    """``reload``: somebody says that the files are as they should be."""

    def test_takes_everything_at_once(self) -> None:
        """A new bundle too, without a second look."""
        source = self.begin()
        other = authority("another")
        new = self.renewed(issuer=other)
        self.put_pair("web", new)
        self.put("a.pem", pem_of([other.certificate]))
        source.reload()
        self.assert_serves(new)
        self.assertEqual(self.newest().bundles[DOMAIN].authorities, (other.certificate,))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.look()
        self.look()
        self.assertEqual(len(self.observer.snapshots), 2)

    def test_tells_at_once_what_is_bad(self) -> None:
        """And asking again does not tell it twice."""
        source = self.begin()
        self.put("web.key", b"")
        source.reload()
        self.assertIn(f"{self.key} is empty", self.observer.failures[0])
        source.reload()
        self.look()
        self.look()
        self.assertEqual(len(self.observer.failures), 1)

    def test_finds_nothing_new(self) -> None:
        """However often it is asked."""
        source = self.begin()
        for _ in range(5):
            source.reload()
        self.assertEqual(len(self.observer.events), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_does_nothing_unless_it_runs(self) -> None:
        """Before the start and after the stop."""
        source = self.source()
        source.reload()
        source.start(self.observer)
        source.stop()
        self.put_pair("web", self.renewed())
        source.reload()
        self.assertEqual(len(self.observer.snapshots), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_may_be_stopped_by_what_it_delivers(self) -> None:
        """Nothing is left on the clock, and no key."""
        source = self.begin()
        deliver = self.observer.identity_changed

        def stop(snapshot: IdentitySnapshot) -> None:
            deliver(snapshot)
            source.stop()

        self.observer.identity_changed = stop  # type: ignore[method-assign]
        self.put_pair("web", self.renewed())
        self.look()
        self.assertEqual(len(self.observer.snapshots), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])
