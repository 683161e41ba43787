"""The embedded source replaces its root by itself, prunes old ones, and reads its directory again when told to."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
from cryptography import x509
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tcpmesh import config
from tcpmesh.errors import StartError
from tcpmesh.identity.authority import ISSUING_LIFETIME, ROOT_LIFETIME, new_root
from tcpmesh.identity.certificates import not_after, pem_of
from tcpmesh.identity.material import load_certificates
from tcpmesh.identity.own import verify_own
from tcpmesh.interfaces import IReloadable
from tcpmesh.plugins import PluginRegistry
from tcpmesh.sources.authority_rotation import GRACE, activate, change, prepare
from tcpmesh.sources.authority_schedule import Due, RotationSettings, Schedule, due_step
from tcpmesh.sources.authority_slots import MAX_SLOTS
from tcpmesh.sources.authority_state import AuthorityState
from tcpmesh.sources.embedded import EmbeddedSettings, EmbeddedSource
from tcpmesh.testing import plugin_context
from tcpmesh.values import Duration, IdentitySnapshot, TrustBundle
from tests.documents import ROOT, blocks
from tests.unit.config_samples import SAMPLE
from tests.unit.crafted import DAY, NOW
from tests.unit.test_authority_rotation import CrashCase, RotationCase
from tests.unit.test_embedded import DOMAIN, EmbeddedCase, workload

HOUR = 3600.0
END = NOW + ROOT_LIFETIME
SETTINGS = RotationSettings(Duration(60 * DAY), Duration(30 * DAY))


def roots(snapshot: IdentitySnapshot) -> tuple[x509.Certificate, ...]:
    """The authorities that a source delivered."""
    return tuple(snapshot.bundles[DOMAIN].authorities)


class RotationSettingsTests(SynchronousTestCase):
    """Times before the root's end."""

    def test_leave_time_to_everybody(self) -> None:
        """To get the bundle in between, and to replace certificates before the end."""
        self.assertEqual(RotationSettings(), SETTINGS)
        RotationSettings(Duration(335 * DAY), Duration(DAY))
        for prepare_at, activate_at, wanted in (
            (336, 30, "prepare at most 335d"),
            (60, 0.5, "activate must be at least 1d"),
            (31, 30, "at least 2d more than activate"),
            (10, 30, "at least 2d more than activate"),
        ):
            times = Duration(prepare_at * DAY), Duration(activate_at * DAY)
            self.assertIn(wanted, str(self.assertRaises(ValueError, RotationSettings, *times)))

    def test_are_read_as_the_documentation_writes_them(self) -> None:
        """Its example has the default times; without the key nothing happens by itself."""
        document = (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
        (example,) = [block.text for block in blocks(document) if "rotation" in block.words]
        plugins = PluginRegistry()
        for source, wanted in (
            (example.strip(), SETTINGS),
            ("local: {plugin: embedded, state: state, rotation: {}}", SETTINGS),
            ("local: {plugin: embedded, state: state}", None),
        ):
            text = SAMPLE.replace("local: {plugin: own, state: state}", source)
            read = config.loads(text.encode(), Path("/etc/mesh/tcpmesh.yaml"), plugins)
            self.assertEqual(read.identity.sources["local"].settings.rotation, wanted)


class DueTests(RotationCase):
    """What is due when, of a state that is as it is."""

    def due(self, state: AuthorityState, now: float, cuts: str = "") -> Due | None:
        return due_step(state, SETTINGS, now, HOUR, lambda _: cuts)

    def test_prepares_and_activates_at_its_times(self) -> None:
        """Not a second earlier."""
        state = self.own()
        self.assertIsNone(self.due(state, END - 60 * DAY - 1))
        self.assertEqual(self.due(state, END - 60 * DAY), Due("prepare"))
        prepare(state, END - 60 * DAY)
        self.assertIsNone(self.due(state, END - 30 * DAY - 1))
        self.assertEqual(self.due(state, END - 30 * DAY), Due("activate", 2))

    def test_what_was_prepared_late_is_published_for_a_while_all_the_same(self) -> None:
        """Half of the time that is left."""
        state = self.own()
        prepare(state, END - 10 * DAY)
        self.assertIsNone(self.due(state, END - 5 * DAY - 1))
        self.assertEqual(self.due(state, END - 5 * DAY), Due("activate", 2))

    def test_an_old_root_goes_when_nothing_hangs_on_it(self) -> None:
        """A day after its end: connections that were made under it may live as long as they like."""
        state = self.own()
        prepare(state, END - 60 * DAY)
        activate(state, END - 30 * DAY, ttl=HOUR)
        gone = END + GRACE
        self.assertIsNone(self.due(state, gone - 1))
        self.assertIsNone(self.due(state, gone, cuts="spiffe://a.test/web"))
        self.assertEqual(self.due(state, gone), Due("revoke", 1))

    def test_makes_room_for_a_further_root(self) -> None:
        """When there are as many as there may be, one that is over goes first; without such a one it says so."""
        state, now = self.own(), NOW
        for _ in range(MAX_SLOTS - 1):
            now += 20 * DAY
            prepare(state, now)
            activate(state, now + DAY, ttl=HOUR)
        end = not_after(state.root.certificate)
        self.assertEqual(self.due(state, end - 60 * DAY, cuts="spiffe://a.test/web"), Due("prepare"))
        self.assertEqual(self.due(state, end - 60 * DAY), Due("revoke", 1))
        change(state, "revoke", 1, end - 60 * DAY, ttl=HOUR)
        self.assertEqual(self.due(state, end - 60 * DAY), Due("prepare"))

    def test_a_root_that_was_prepared_in_the_future_is_dropped(self) -> None:
        """By a clock that was far ahead: its time to sign would come after the active one's end."""
        state = self.own()
        prepare(state, END + 35 * DAY)
        self.assertEqual(self.due(state, NOW), Due("revoke", 2))
        change(state, "revoke", 2, NOW, ttl=HOUR, by="schedule")
        self.assertIsNone(self.due(state, NOW))
        self.assertEqual(self.due(state, END - 60 * DAY), Due("prepare"))


class ScheduleTests(RotationCase):
    """How long it waits, and whom it tells."""

    def setUp(self) -> None:
        super().setUp()
        self.state = self.own()
        self.done: list[Due] = []
        self.complaints: list[str] = []
        self.schedule = Schedule(SETTINGS, HOUR, self.done.append, self.complaints.append)

    def look(self, at: float, now: float = END - 60 * DAY) -> None:
        self.schedule.look(self.state, now, at, lambda _: "")

    def test_waits_for_an_hour(self) -> None:
        """By the clock that nobody sets, without a break."""
        for at in (0, 1800, 3599):
            self.look(at)
        self.look(3660, now=NOW)  # the wall clock was wrong, and is right again
        for at in (3720, 7260):
            self.look(at)
        self.assertEqual(self.done, [])
        self.look(7320)
        self.assertEqual(self.done, [Due("prepare")])

    def test_makes_no_root_for_somebody_who_keeps_the_key_elsewhere(self) -> None:
        """It says so once a day, and looks every hour: the key may be brought back."""
        whole = (self.path / "root.pem").read_bytes()
        (self.path / "root.pem").write_bytes(pem_of(load_certificates(whole)))
        for hour in range(26):
            self.look(hour * HOUR)
        self.assertEqual(self.done, [])
        self.assertEqual(len(self.complaints), 2)
        self.assertIn("root.pem is kept elsewhere", self.complaints[0])
        self.assertIn("do it: tcpmesh ca prepare", self.complaints[0])
        (self.path / "root.pem").write_bytes(whole)
        self.look(27 * HOUR)
        self.assertEqual(self.done, [Due("prepare")])


class RotatingSourceTests(EmbeddedCase):
    """A proxy that runs for longer than its root lasts."""

    def source_with(self, rotation: RotationSettings | None, ttl: float = DAY) -> EmbeddedSource:
        context = attrs.evolve(
            plugin_context("local", clock=self.times.clock, trust_domain=DOMAIN, workloads={"web": workload("web")}),
            log=Logger(observer=self.events.append),
        )
        settings = EmbeddedSettings(self.path, Duration(ttl), rotation)
        source = EmbeddedSource(settings, context, self.times.now, lambda: self.chance)
        self.addCleanup(source.stop)
        source.start(self.observer)
        return source

    def slots(self) -> list[str]:
        state = AuthorityState.read(self.path)
        self.addCleanup(state.close)
        return [f"{slot.number} {slot.state.value}" for slot in state.slots.entries]

    def test_a_peer_that_gets_the_bundle_once_a_month_refuses_nothing(self) -> None:
        """Before, while and after the root is replaced; then the old one is gone from disk and bundle."""
        self.source_with(SETTINGS)
        seen: list[tuple[float, IdentitySnapshot]] = []
        for _ in range(int(367 * DAY / (6 * HOUR))):
            self.times.advance(6 * HOUR, step=6 * HOUR)
            seen.append((self.times.wall, self.last))
        held = 0
        for moment, snapshot in seen:
            while seen[held][0] < moment - 29 * DAY:
                held += 1
            verify_own(snapshot.svids[0], seen[held][1].bundles, moment)
        self.assertEqual(self.observer.failures, [])
        self.assertEqual(self.logged("warn"), [])
        self.assertEqual(self.slots(), ["2 active"])
        self.assertEqual(len(self.last.bundles[DOMAIN].authorities), 1)
        self.assertEqual(tuple(load_certificates((self.path / "bundle.pem").read_bytes())), roots(self.last))
        self.assertFalse((self.path / "root.pem").exists())
        state = AuthorityState.read(self.path)
        self.addCleanup(state.close)
        steps = [(fields["event"], fields["by"]) for _, fields in state.audit.lines() if "by" in fields]
        self.assertEqual(steps, [(step, "schedule") for step in ("prepare", "activate", "revoke")])

    def test_a_clock_that_is_wrong_for_half_an_hour_replaces_no_root(self) -> None:
        """Nor does it destroy one."""
        self.source_with(SETTINGS)
        self.times.wall += 340 * DAY
        self.times.advance(1800, step=10)
        self.times.wall -= 340 * DAY
        self.times.advance(7200, step=10)
        self.assertEqual(self.slots(), ["1 active"])

    def test_does_nothing_unless_it_is_told_to(self) -> None:
        """Peers whose bundle nobody replaces would be cut: then it only warns."""
        self.source_with(None)
        self.times.advance(345 * DAY, step=6 * HOUR)
        self.assertEqual(self.slots(), ["1 active"])
        self.assertIn("replace it before that: tcpmesh ca prepare, give the bundle", self.logged("warn")[-1])

    def test_a_rotation_that_is_configured_no_more_is_left_to_somebody(self) -> None:
        """What was prepared stays prepared, and the warning names the step that comes next."""
        source = self.source_with(SETTINGS)
        self.times.advance(320 * DAY, step=6 * HOUR)
        source.stop()
        self.source_with(None)
        self.times.advance(30 * DAY, step=6 * HOUR)
        self.assertEqual(self.slots(), ["1 active", "2 prepared"])
        self.assertIn("slot 2 is prepared; give the bundle to every peer, then tcpmesh", self.logged("warn")[-1])

    def test_what_cannot_be_done_is_told_and_done_later(self) -> None:
        """A disk that is full for two days; the identities are not affected."""
        self.source_with(SETTINGS)
        self.times.advance(304 * DAY, step=6 * HOUR)
        (self.path / "root-2.pem.tmp").mkdir()  # no file can be written in its place
        self.times.advance(3 * DAY, step=6 * HOUR)
        self.assertIn("prepare: ", self.logged("warn")[0])
        self.assertIn("root-2.pem cannot be written", self.logged("warn")[0])
        self.assertEqual((self.slots(), self.observer.failures), (["1 active"], []))
        (self.path / "root-2.pem.tmp").rmdir()
        self.times.advance(DAY, step=6 * HOUR)
        self.assertEqual(self.slots(), ["1 active", "2 prepared"])
        self.assertEqual(len(roots(self.last)), 2)

    def test_a_root_that_is_revoked_on_a_full_disk_is_gone(self) -> None:
        """For this proxy at once, for the readers of the bundle and from the disk as soon as there is room."""
        source = self.source_with(None, HOUR)
        source.change_authority("prepare", None, "")
        source.change_authority("activate", None, "drill")
        (self.path / "bundle.pem.tmp").mkdir()  # no file can be written in its place
        source.change_authority("taint", 1, "")
        error = self.assertRaises(StartError, source.change_authority, "revoke", 1, "stolen")
        self.assertIn("bundle.pem cannot be written", error.reason)
        self.assertEqual(len(roots(self.last)), 1)
        verify_own(self.last.svids[0], self.last.bundles, self.times.wall)
        self.times.advance(30)
        self.assertIn("bundle.pem cannot be written", self.observer.failures[-1])
        self.assertTrue((self.path / "root.pem").exists())
        (self.path / "bundle.pem.tmp").rmdir()
        self.times.advance(60)
        self.assertEqual(tuple(load_certificates((self.path / "bundle.pem").read_bytes())), roots(self.last))
        self.assertFalse((self.path / "root.pem").exists())
        self.assertEqual(self.observer.events[-1][0], "changed")


class ScheduledCrashTests(CrashCase):
    """The owner is killed before each operation of a step that nobody typed."""

    later = END - 29 * DAY

    def by_schedule(self, state: AuthorityState) -> None:
        """One step, an hour after it became due."""

        def perform(due: Due) -> None:
            change(state, due.step, due.slot, self.later, ttl=HOUR, by="schedule")

        schedule = Schedule(SETTINGS, HOUR, perform, self.fail)
        for at in (0, HOUR):
            schedule.look(state, self.later, at, lambda _: "")

    def test_while_preparing(self) -> None:
        """Nothing, or a prepared root in the bundle."""
        seen = self.crashed(lambda _: None, self.by_schedule)
        self.assertEqual(seen, {"1 active", "1 active; 2 prepared"})

    def test_while_activating(self) -> None:
        """The one or the other signs."""
        seen = self.crashed(lambda state: prepare(state, END - 60 * DAY), self.by_schedule)
        self.assertEqual(seen, {"1 active; 2 prepared", "1 old; 2 active"})

    def test_while_pruning(self) -> None:
        """The old one is in the bundle, or gone with its key."""

        def rotated(state: AuthorityState) -> None:
            prepare(state, END - 100 * DAY)
            activate(state, END - 90 * DAY, ttl=HOUR)
            self.later = END + 2 * DAY

        seen = self.crashed(rotated, self.by_schedule)
        self.assertEqual(seen, {"1 old; 2 active", "2 active"})
        self.assertFalse((self.path / "root.pem").exists())


class ReloadTests(EmbeddedCase):
    """``tcpmesh identity reload`` and SIGHUP."""

    def test_an_unchanged_directory_changes_nothing(self) -> None:
        """The same identities are delivered, so that a failure before is over."""
        source = self.start()
        verifyObject(IReloadable, source)
        source.reload()
        first, second = self.observer.snapshots
        self.assertEqual(first.svids, second.svids)
        self.assertEqual(first.bundles[DOMAIN].authorities, second.bundles[DOMAIN].authorities)
        self.assertEqual(self.observer.failures, [])
        self.times.advance(1799)
        self.assertEqual(len(self.observer.snapshots), 2)

    def test_a_root_key_that_is_brought_back_is_used_at_once(self) -> None:
        """The issuing authority that waited for it is renewed, and the source works again."""
        source = self.start(ttl=DAY)
        whole = (self.path / "root.pem").read_bytes()
        (self.path / "root.pem").write_bytes(pem_of(load_certificates(whole)))
        self.times.wall += ISSUING_LIFETIME / 2 + DAY
        self.times.advance(300)
        self.assertIn("holds no private key", self.observer.failures[-1])
        before = (self.path / "issuing.pem").read_bytes()
        (self.path / "root.pem").write_bytes(whole)
        source.reload()
        self.assertNotEqual((self.path / "issuing.pem").read_bytes(), before)
        self.assertEqual(self.observer.events[-1][0], "changed")

    def test_without_a_reload_the_source_works_again_as_soon_as_it_does(self) -> None:
        """And says so, although no certificate is due."""
        self.start(ttl=DAY)
        (self.path / "issuing.pem.tmp").mkdir()  # no file can be written in its place
        self.times.wall += ISSUING_LIFETIME / 2
        self.times.advance(300)
        self.assertEqual(self.observer.events[-1][0], "failed")
        (self.path / "issuing.pem.tmp").rmdir()
        self.times.advance(60)
        self.assertEqual(self.observer.events[-1][0], "changed")

    def backup(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.path.iterdir() if file.name != "lock"}

    def restore(self, files: dict[str, bytes], path: Path | None = None) -> None:
        for file in (path or self.path).iterdir():
            if file.name != "lock":
                file.unlink()
        for name, data in files.items():
            file = (path or self.path) / name
            file.write_bytes(data)
            file.chmod(0o600)

    def test_a_restored_backup_is_taken(self) -> None:
        """Slots, roots and bundle are those of the backup, and the identities are signed by them."""
        source = self.start()
        files = self.backup()
        source.change_authority("prepare", None, "")
        source.change_authority("activate", None, "drill")
        self.assertEqual(len(self.last.bundles[DOMAIN].authorities), 2)
        self.times.advance(1801)
        self.restore(files)
        source.reload()
        (root,) = self.last.bundles[DOMAIN].authorities
        self.assertEqual((root,), tuple(load_certificates(files["root.pem"])))
        bundle = {DOMAIN: TrustBundle(DOMAIN, (root,))}
        verify_own(self.last.svids[0], bundle, self.times.wall)
        self.assertEqual((self.path / "bundle.pem").read_bytes(), files["bundle.pem"])
        self.assertTrue(any("was read again and has changed: slot 1 signs" in line for line in self.logged("info")))
        state = AuthorityState.read(self.path)
        self.addCleanup(state.close)
        self.assertIn("reread", [fields["event"] for _, fields in state.audit.lines()])

    def test_a_restored_backup_is_taken_although_its_bundle_cannot_be_written(self) -> None:
        """Certificates are signed by it at once; the bundle is written as soon as there is room."""
        source = self.start()
        files = self.backup()
        source.change_authority("prepare", None, "")
        source.change_authority("activate", None, "drill")
        bundle = (self.path / "bundle.pem").read_bytes()
        self.restore({**files, "bundle.pem": bundle})
        (self.path / "bundle.pem.tmp").mkdir()  # no file can be written in its place
        source.reload()
        self.assertIn("bundle.pem cannot be written", self.observer.failures[-1])
        self.assertNotIn("what was read before", self.observer.failures[-1])
        self.assertEqual(roots(self.last), load_certificates(files["root.pem"]))
        verify_own(self.last.svids[0], self.last.bundles, self.times.wall)
        (self.path / "bundle.pem.tmp").rmdir()
        self.times.advance(60)
        self.assertEqual((self.path / "bundle.pem").read_bytes(), files["bundle.pem"])

    def test_what_cannot_be_read_changes_nothing(self) -> None:
        """The file is named, and what was read before goes on to sign."""
        source = self.start()
        other = new_root(DOMAIN, NOW).to_pem()
        good = self.backup()
        for name, data, wanted in (
            ("state.json", b"", "state.json is not JSON"),
            ("state.json", None, "state.json is missing"),
            ("root.pem", None, "root.pem is missing"),
            ("root.pem", b"junk", "root.pem "),
            ("root.pem", other, "issuing.pem "),
            ("issuing.pem", None, "issuing.pem is missing"),
        ):
            (self.path / name).unlink()
            if data is not None:
                (self.path / name).write_bytes(data)
                (self.path / name).chmod(0o600)
            source.reload()
            self.assertIn(wanted, self.observer.failures[-1])
            self.assertIn("what was read before goes on to be used", self.observer.failures[-1])
            self.restore(good)
        self.assertEqual((len(self.observer.failures), len(self.observer.snapshots)), (6, 1))
        self.times.advance(1801)
        verify_own(self.last.svids[0], self.observer.snapshots[0].bundles, self.times.wall)
        self.assertTrue(not_after(self.last.svids[0].leaf) > self.times.wall + 1800)

    def test_another_directory_in_its_place_is_not_taken(self) -> None:
        """Nobody holds its lock."""
        source = self.start()
        files = self.backup()
        self.path.rename(self.path.with_name("moved"))
        self.path.mkdir(0o700)
        self.restore(files)
        source.reload()
        self.assertIn("another one was put in its place; restart the proxy", self.observer.failures[-1])

    def test_a_directory_that_is_removed_is_told_in_words(self) -> None:
        """What was issued goes on to serve, and there is no traceback."""
        self.start()
        shutil.rmtree(self.path)
        self.times.advance(1801)
        self.assertIn("audit.head cannot be opened: No such file or directory", self.observer.failures[-1])
        self.assertEqual(self.logged("critical"), [])

    def test_reloading_what_does_not_run_is_harmless(self) -> None:
        """Before the start and after the stop."""
        source = self.source()
        source.reload()
        source.start(self.observer)
        source.stop()
        source.reload()
        self.assertEqual(len(self.observer.snapshots), 1)
