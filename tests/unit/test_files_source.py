"""The files source: what it reads, and how it names what it cannot use."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.errors import StartError
from tcpmesh.identity.certificates import pem_of
from tcpmesh.identity.material import new_key, pem_of_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import ICheckable, IIdentitySource, IIdentitySourceFactory
from tcpmesh.sources.files import FilesFactory, FilesSettings, FilesSource, FilesWorkload
from tcpmesh.testing import FakeIdentityObserver, plugin_context
from tcpmesh.values import Duration, Workload
from tests.unit.crafted import NOW, authority, leaf, uri

DOMAIN = TrustDomain("a.test")


class FilesCase(SynchronousTestCase):
    """A directory with good files, for each test to damage."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.mkdir()
        self.root = authority("root of a.test")
        self.issuing = authority("issuing", self.root)
        self.made = leaf(self.issuing)
        self.certificate = self.write("web.pem", pem_of(self.made.chain[:-1]))
        self.key = self.write("web.key", pem_of_key(self.made.key))
        self.bundle = self.write("a.pem", pem_of([self.root.certificate]))
        self.bundles = {"a.test": self.bundle}
        self.clock = Clock()
        self.wall = NOW
        self.observer = FakeIdentityObserver()
        self.events: list[LogEvent] = []

    def write(self, name: str, data: bytes, mode: int = 0o600) -> Path:
        path = self.path / name
        path.write_bytes(data)
        path.chmod(mode)
        return path

    def source(self, identity: str = "spiffe://a.test/web", key: Path | None = None) -> FilesSource:
        files = FilesWorkload(self.certificate, key or self.key)
        context = attrs.evolve(
            plugin_context(
                "disk",
                clock=self.clock,
                trust_domain=DOMAIN,
                workloads={"web": Workload("web", SpiffeId.parse(identity), files)},
            ),
            log=Logger(observer=self.events.append),
        )
        source = FilesFactory(lambda: self.wall).create(FilesSettings(self.bundles), context)
        self.addCleanup(source.stop)
        return source

    def refused(self, code: Code, *words: str, source: FilesSource | None = None) -> str:
        error = self.assertRaises(StartError, (source or self.source()).start, self.observer)
        self.assertEqual(error.code, code, error.reason)
        for word in words:
            self.assertIn(word, error.reason)
        self.assertNotIn("\n", error.reason)
        self.assertEqual(self.observer.events, [])
        return str(error.reason)

    def unusable(self, *words: str) -> str:
        return self.refused(codes.BAD_CONFIGURATION, *words)


class DeliveryTests(FilesCase):
    def test_provides_its_interfaces(self) -> None:
        """Factory and source have what the plugin system needs."""
        verifyObject(IIdentitySourceFactory, FilesFactory())
        verifyObject(IIdentitySource, self.source())

    def test_delivers_what_the_files_hold(self) -> None:
        """Once, verified, with every bundle."""
        other = authority("root of b.test")
        self.bundles["b.test"] = self.write("b.pem", pem_of([other.certificate, other.certificate]))
        self.source().start(self.observer)
        (snapshot,) = self.observer.snapshots
        verify_own(snapshot.svids[0], snapshot.bundles, NOW)
        self.assertEqual(snapshot.svids[0].chain, self.made.chain[:-1])
        self.assertEqual(snapshot.bundles[TrustDomain("b.test")].authorities, (other.certificate,))
        self.assertEqual(sorted(map(str, snapshot.bundles)), ["a.test", "b.test"])

    def test_takes_key_and_certificate_from_one_file(self) -> None:
        """In both orders."""
        key, chain = pem_of_key(self.made.key), pem_of(self.made.chain[:-1])
        for data in (key + chain, chain + key):
            self.certificate = self.write("both.pem", data)
            self.source(key=self.certificate).start(self.observer)
        self.assertEqual(len(self.observer.snapshots), 2)

    def test_opens_nothing_before_it_is_started(self) -> None:
        """``create`` must not read."""
        self.key.unlink()
        self.source()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_can_be_checked_without_being_started(self) -> None:
        """The same complaints as a start would have, and nothing delivered, also when all is well."""
        source = self.source()
        self.assertTrue(verifyObject(ICheckable, source))
        source.check()
        self.key.unlink()
        error = self.assertRaises(StartError, source.check)
        self.assertIn(f"{self.key} does not exist", error.reason)
        self.assertEqual((self.observer.snapshots, self.clock.getDelayedCalls()), ([], []))

    def test_stop_is_safe_in_every_order(self) -> None:
        """Before the start, after it, after a failure."""
        self.source().stop()
        source = self.source()
        source.start(self.observer)
        source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.key.unlink()
        failing = self.source()
        self.assertRaises(StartError, failing.start, self.observer)
        failing.stop()


class RefusalTests(FilesCase):
    def test_names_missing_files(self) -> None:
        """All of them at once."""
        self.certificate.unlink()
        self.unusable(f"{self.certificate} does not exist")
        self.bundle.unlink()
        self.unusable(f"{self.bundle} does not exist; {self.certificate} does not exist")

    def test_names_files_that_are_something_else(self) -> None:
        """Directories, junk, DER, each other, huge ones."""
        self.certificate = self.path
        self.unusable(f"{self.path} is not a regular file")
        self.certificate = self.path / "loop"
        self.certificate.symlink_to(self.certificate)
        self.unusable(f"{self.certificate} cannot be read: Too many levels of symbolic links")
        self.certificate = self.write("web.pem", b"junk")
        self.unusable(f"{self.certificate} holds no PEM certificate")
        self.certificate = self.write("web.pem", self.made.certificate.public_bytes(Encoding.DER))
        self.unusable("is not PEM but DER")
        self.certificate = self.key
        self.unusable(f"{self.key} holds a private key and no certificate")
        self.certificate = self.write("web.pem", bytes(2 << 20))
        self.unusable("is larger than")
        self.certificate = self.write("web.pem", pem_of(self.made.chain)[:-50])
        self.unusable(f"{self.certificate} holds", "truncated or damaged")

    def test_refuses_a_key_that_others_can_read(self) -> None:
        """The message has the mode and what to type."""
        for mode in (0o644, 0o604, 0o660, 0o602):
            self.key.chmod(mode)
            self.unusable(f"{self.key} has mode {mode:04o}", f"chmod 600 {self.key}")
        self.key.chmod(0o400)
        self.source().start(self.observer)

    def test_refuses_a_group_that_can_read_our_own_key(self) -> None:
        """Only root lends keys to a group, and only to others than itself."""
        self.key.chmod(0o640)
        self.unusable(f"{self.key} has mode 0640")

    def test_takes_a_key_that_root_lends_to_our_group(self) -> None:
        """Debian's ssl-cert: root owns the key, 0640, and a process of another user reads it."""
        if os.geteuid() != 0:
            self.skipTest("only root can make a file of root's")
        public = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, public)
        public.chmod(0o755)
        self.path = public
        self.certificate = self.write("web.pem", pem_of(self.made.chain[:-1]), 0o644)
        self.bundles = {"a.test": self.write("a.pem", pem_of([self.root.certificate]), 0o644)}
        self.key = self.write("web.key", pem_of_key(self.made.key), 0o640)
        os.chown(self.key, 0, 12345)
        source = self.source()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(12345)
                os.setuid(12345)
                source.start(self.observer)
                os._exit(0 if len(self.observer.snapshots) == 1 else 2)
            except BaseException:
                os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_refuses_an_encrypted_key(self) -> None:
        """It says that this is not supported, and how to go on."""
        encrypted = self.made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
        self.key = self.write("web.key", encrypted)
        self.unusable(f"{self.key} holds an encrypted private key, which is not supported", "openssl pkey")

    def test_refuses_a_key_of_another_certificate(self) -> None:
        """Both files are named."""
        self.key = self.write("web.key", pem_of_key(new_key()))
        self.refused(codes.KEY_MISMATCH, "workload 'web'", str(self.certificate), str(self.key), "does not belong")

    def test_refuses_another_identity(self) -> None:
        """The certificate's ID must be the workload's."""
        self.refused(
            codes.OWN_PROFILE,
            str(self.certificate),
            "is for spiffe://a.test/web, not for spiffe://a.test/db",
            source=self.source("spiffe://a.test/db"),
        )

    def test_refuses_a_chain_that_does_not_verify(self) -> None:
        """Under the bundle that is configured."""
        self.bundle = self.write("a.pem", pem_of([authority("another").certificate]))
        self.refused(codes.OWN_CHAIN_BROKEN, "no authority in the bundle of a.test signed", str(self.certificate))
        self.write("a.pem", pem_of([self.root.certificate]))
        self.certificate = self.write("web.pem", pem_of([self.made.certificate]))
        self.refused(codes.OWN_CHAIN_BROKEN, "its issuer is CN=issuing")

    def test_refuses_an_expired_certificate(self) -> None:
        """With when and which file."""
        self.wall = NOW + 3600 + 120
        self.refused(codes.OWN_EXPIRED, str(self.certificate), "expired 2 min ago, at 2027-01-15T09:00:00Z")

    def test_refuses_a_profile_violation(self) -> None:
        """What peers would refuse."""
        made = leaf(self.root, uri("spiffe://a.test/web"), uri("spiffe://a.test/x"))
        self.certificate = self.write("web.pem", pem_of(made.chain[:1]))
        self.key = self.write("web.key", pem_of_key(made.key))
        self.refused(codes.OWN_PROFILE, "2 URI names")

    def test_refuses_a_bundle_without_the_own_trust_domain(self) -> None:
        """While the configuration is checked: no file need be read for that."""
        self.bundles = {"b.test": self.bundle}
        error = self.assertRaises(ValueError, self.source)
        self.assertIn("bundles names no file for a.test", str(error))

    def test_refuses_a_bundle_of_leaves(self) -> None:
        """A bundle holds authorities."""
        self.bundle = self.write("a.pem", pem_of([self.made.certificate]))
        self.unusable(f"bundle {self.bundle}: the authority CN=leaf is not an authority's certificate")

    def test_refuses_a_bundle_that_has_run_out(self) -> None:
        """Nothing could verify under it."""
        old = authority("old", not_after=NOW - 86400 * 3)
        self.bundle = self.write("a.pem", pem_of([old.certificate]))
        self.unusable(f"bundle {self.bundle}: its only authority expired 3 d ago")
        self.bundle = self.write("a.pem", pem_of([old.certificate, self.root.certificate]))
        self.source().start(self.observer)

    def test_settings_check_trust_domains(self) -> None:
        """Before any file is opened."""
        error = self.assertRaises(ValueError, FilesSettings, {"A.test": self.bundle})
        self.assertIn("did you mean 'a.test'", str(error))
        self.assertIn("bundles is empty", str(self.assertRaises(ValueError, FilesSettings, {})))

    def test_settings_check_the_interval(self) -> None:
        """Neither a look that never ends nor one that never comes."""
        for interval in (0.0, 0.05, 61.0, 3600.0):
            error = self.assertRaises(ValueError, FilesSettings, self.bundles, interval)
            self.assertIn("is outside 100ms to 1m", str(error))
        self.assertEqual(FilesSettings(self.bundles, Duration(60.0)).interval, 60.0)


class ExpiryTests(FilesCase):
    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds // 60)):
            self.wall += 60
            self.clock.advance(60)

    def warnings(self) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_level"].name == "warn"]

    def test_warns_when_a_quarter_is_left_and_when_it_is_over(self) -> None:
        """Once each, with file, time and what to do."""
        self.source().start(self.observer)
        self.advance(2640)  # of 3660 seconds of life 1020 are left, a little more than a quarter
        self.assertEqual(self.warnings(), [])
        self.advance(180)
        (warning,) = self.warnings()
        self.assertIn(f"workload web, {self.certificate}, ends at 2027-01-15T09:00:00Z, in", warning)
        self.assertIn("put a new one there with its key", warning)
        self.advance(900)
        self.assertEqual(len(self.warnings()), 2)
        self.assertIn("expired at 2027-01-15T09:00:00Z", self.warnings()[1])
        self.advance(3600)
        self.assertEqual(len(self.warnings()), 2)

    def test_warns_at_the_start(self) -> None:
        """A certificate that is nearly over when it is read."""
        self.wall = NOW + 3500
        self.source().start(self.observer)
        self.assertIn("in 100 s", self.warnings()[0])

    def test_is_silent_after_stop(self) -> None:
        """Nothing is left on the clock."""
        source = self.source()
        source.start(self.observer)
        source.stop()
        self.advance(7200)
        self.assertEqual(self.warnings(), [])
