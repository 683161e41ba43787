"""The deny-list of a proxy that runs: its file is replaced, spoilt and restored, and may name the proxy itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.codes import BAD_CONFIGURATION, OWN_DENIED
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.deny_control import DenyControl
from tcpmesh.errors import ConfigurationError, Refusal
from tcpmesh.identity.certificates import serial_text
from tcpmesh.identity.deny_list import DenyEntry, DenyListSettings
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.testing import TestAuthority
from tcpmesh.values import Svid


class DenyControlTestCase(SynchronousTestCase):
    """A control with a file, timers that the test moves, and what is logged."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.file = self.directory / "denied.yaml"
        self.timers, self.cell = Clock(), MeshStateCell()
        self.states: list[MeshState] = []
        self.cell.observe(self.states.append)
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def control(self, *entries: DenyEntry, file: Path | None = None) -> DenyControl:
        made = DenyControl(DenyListSettings(list(entries), file), self.cell, self.timers, lambda: 1_800_000_000.0)
        self.addCleanup(made.stop)
        return made

    def started(self, text: str, *entries: DenyEntry) -> DenyControl:
        self.file.write_text(text)
        made = self.control(*entries, file=self.file)
        made.start()
        return made

    def denied(self) -> list[str]:
        return [str(entry) for entry in self.cell.current.deny_list.entries]

    def write(self, text: str) -> None:
        """Another content, of which the times tell: the tests are faster than a clock's tick may be."""
        before = self.file.stat().st_mtime_ns if self.file.exists() else 0
        self.file.write_text(text)
        os.utime(self.file, ns=(before + 10**9, before + 10**9))

    def look(self) -> None:
        """Long enough for a change to be seen, and to be seen to have settled."""
        self.timers.pump([0.5] * 10)

    def lines(self, level: LogLevel) -> list[str]:
        return [
            event["log_format"].format(**event)
            for event in self.events
            if event["log_level"] is level and "deny-list" in event["log_format"]
        ]


class FileTests(DenyControlTestCase):
    """What becomes of the file."""

    def test_begins_with_both(self) -> None:
        """Those of the configuration first; one swap."""
        self.started('entries: [{serial: "1c"}]\n', DenyEntry(serial="1b"))
        self.assertEqual(self.denied(), ["serial 1b", "serial 1c"])
        self.assertEqual(len(self.states), 1)

    def test_without_anything_nothing_happens(self) -> None:
        """No swap, no timer."""
        self.control().start()
        self.assertEqual((self.states, self.timers.getDelayedCalls()), ([], []))

    def test_a_missing_or_bad_file_keeps_the_proxy_from_starting(self) -> None:
        """Nobody may come in whom it would have denied; ``check`` says the same."""
        made = self.control(file=self.file)
        for spoil, words in (
            (lambda: None, f"identity.deny_list.file: {self.file}: there is no such file"),
            (lambda: self.file.mkdir(), "this directory holds no file"),
            (lambda: (self.file / "more.yaml").write_text("entries: []\n"), "is a directory; name the file in it"),
            (lambda: ((self.file / "more.yaml").unlink(), self.file.rmdir(), self.file.touch()), "the file is empty"),
            (lambda: self.file.write_text('entries: [{serial: "x"}]\n'), "denied.yaml:1:20"),
        ):
            spoil()
            self.assertIn(words, str(self.assertRaises(ConfigurationError, made.start)))
            self.assertIn(words, str(made.check()[0]))
        self.file.write_text("entries: []\n")
        self.assertEqual(made.check(), [])
        self.assertEqual(self.states, [])

    def test_a_change_is_taken_once_it_has_settled(self) -> None:
        """And told with how many entries there are."""
        control = self.started("entries: []\n")
        self.write('entries: [{serial: "1b"}]\n')
        self.timers.advance(2)
        self.assertEqual(self.denied(), [])
        self.look()
        self.assertEqual(self.denied(), ["serial 1b"])
        self.assertIn(
            "entries with those of the configuration: 1, before: 0; generation 1", self.lines(LogLevel.info)[-1]
        )
        self.assertEqual(control.report()["loaded"], "2027-01-15T08:00:00Z")

    def test_a_bad_file_changes_nothing(self) -> None:
        """Told once, with line and column; a good one ends it."""
        good = 'entries: [{serial: "1b"}]\n'
        control = self.started(good)
        for number, bad in enumerate(
            ("", "entries:\n", 'entries: [{serial: "1b"}, {', 'entries: [{serial: "0x"}]\n'), 1
        ):
            self.write(bad)
            self.look()
            self.look()
            self.assertEqual(self.denied(), ["serial 1b"], bad)
            self.assertEqual((control.failures, bool(control.failure)), (number, True), bad)
        told = self.lines(LogLevel.error)
        self.assertEqual(len(told), 4)
        self.assertIn(
            f"{BAD_CONFIGURATION.id} the deny-list's file cannot be used, what it said before goes on", told[-1]
        )
        self.assertIn("denied.yaml:1:20: entries[0].serial", told[-1])
        self.write(good)
        self.look()
        self.assertEqual((control.failures, control.failure, self.denied()), (4, "", ["serial 1b"]))

    def test_a_file_that_goes_changes_nothing(self) -> None:
        """Whoever deletes it does not let anybody in; a new one is taken."""
        control = self.started('entries: [{serial: "1b"}]\n')
        self.file.unlink()
        self.look()
        self.assertEqual(self.denied(), ["serial 1b"])
        self.assertIn("there is no such file", control.failure)
        self.write('entries: [{serial: "1c"}]\n')
        self.look()
        self.assertEqual((self.denied(), control.failure), (["serial 1c"], ""))

    def test_a_file_that_is_being_written_is_not_taken(self) -> None:
        """Half a list is a list with fewer entries."""
        self.started('entries:\n  - {serial: "1b"}\n  - {serial: "1c"}\n')
        text = "entries:\n"
        for number in range(6):
            text += f'  - {{serial: "2{number}"}}\n'
            self.write(text)
            self.timers.advance(1)
        self.assertEqual(self.denied(), ["serial 1b", "serial 1c"])
        self.look()
        self.assertEqual(len(self.denied()), 6)

    def test_a_link_that_is_swapped(self) -> None:
        """As Kubernetes does it: the directory above is another one."""
        for name, serial in (("v1", "1b"), ("v2", "1c")):
            (self.directory / name).mkdir()
            (self.directory / name / "denied.yaml").write_text(f'entries: [{{serial: "{serial}"}}]\n')
        (self.directory / "data").symlink_to("v1")
        self.control(file=self.directory / "data" / "denied.yaml").start()
        self.assertEqual(self.denied(), ["serial 1b"])
        (self.directory / "tmp").symlink_to("v2")
        (self.directory / "tmp").rename(self.directory / "data")
        self.look()
        self.assertEqual(self.denied(), ["serial 1c"])

    def test_is_read_at_once_when_somebody_asks(self) -> None:
        """By SIGHUP or command."""
        control = self.started("entries: []\n")
        self.write('entries: [{serial: "1b"}]\n')
        control.reload()
        self.assertEqual(self.denied(), ["serial 1b"])

    def test_stops(self) -> None:
        """No timer is left, and nothing is read any more."""
        control = self.started("entries: []\n")
        control.stop()
        control.stop()
        control.reload()
        self.assertEqual(self.timers.getDelayedCalls(), [])

    def test_reports_what_it_has(self) -> None:
        """As plain values."""
        report = self.started(
            'entries: [{id: "spiffe://a.test/w", issued_before: 2027-01-01T00:00:00Z, reason: lost}]\n'
        ).report()
        self.assertEqual(
            report["entries"],
            [
                {
                    "what": "id spiffe://a.test/w",
                    "issued_before": "2027-01-01T00:00:00Z",
                    "reason": "lost",
                    "place": f"{self.file}:1:11",
                }
            ],
        )
        self.assertEqual((report["file"], report["failure"], report["failures"]), (str(self.file), "", 0))


class OwnTests(DenyControlTestCase):
    """The proxy's own certificates."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = TestAuthority()

    def show(self, svid: Svid) -> None:
        self.cell.swap(svids={"web": svid})

    def assert_refused(self, words: str) -> None:
        refusal = self.assertRaises(Refusal, own_svid, self.cell.current, "web")
        self.assertIs(refusal.code, OWN_DENIED)
        self.assertIn(words, refusal.reason)

    def test_one_that_is_denied_is_not_shown(self) -> None:
        """Until its source has issued another one."""
        first, second = self.authority.svid("/web"), self.authority.svid("/web")
        self.show(first)
        control = self.started(f'entries: [{{serial: "{serial_text(first.leaf)}"}}]\n')
        self.assert_refused(serial_text(first.leaf))
        [line] = [line for line in self.errors() if OWN_DENIED.id in line]
        self.assertIn("denied.yaml:1:11", line)
        self.show(second)
        self.assertIs(own_svid(self.cell.current, "web"), second)
        self.show(first)
        self.assert_refused(serial_text(first.leaf))
        self.write("entries: []\n")
        control.reload()
        self.assertIs(own_svid(self.cell.current, "web"), first)

    def errors(self) -> list[str]:
        return [event["log_format"].format(**event) for event in self.events if event["log_level"] is LogLevel.error]

    def test_by_the_key_of_its_authority(self) -> None:
        """Whoever denies an authority denies what it issued to ourselves, too."""
        self.show(self.authority.svid("/web"))
        self.control(DenyEntry(spki=str(key_pin(self.authority.issuing.certificate)))).start()
        self.assert_refused("spki sha256:")

    def test_one_that_cannot_be_compared_is_not_shown(self) -> None:
        """A failure in the middle of a swap denies, and ends nothing else."""
        svid = self.authority.svid("/web")
        self.control(DenyEntry(spki=str(key_pin(self.authority.root.certificate)))).start()
        self.show(Svid(svid.id, (svid.leaf, cast(Any, object())), svid.private_key))
        self.assert_refused("it cannot be held against the deny-list")
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.show(svid)
        self.assertIs(own_svid(self.cell.current, "web"), svid)

    def test_is_judged_again_only_when_something_changed(self) -> None:
        """A state with the same certificates and list swaps nothing more."""
        self.show(self.authority.svid("/web"))
        self.control(DenyEntry(id=self.authority.svid("/web").id)).start()
        before = self.cell.current.generation
        self.cell.swap(endpoints={})
        self.assertEqual(self.cell.current.generation, before + 1)
