"""The audit log: what it notices, and what a crash or a full disk leaves of it."""

from __future__ import annotations

import fcntl
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh import codes
from tcpmesh.errors import StartError
from tcpmesh.sources.audit_chain import MAX_LINE
from tcpmesh.sources.audit_log import GENESIS, AuditBroken, AuditLog, Head
from tcpmesh.sources.private_directory import PrivateDirectory
from tests.unit.crafted import NOW
from tests.unit.killed import killed_before


class AuditCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.directory = PrivateDirectory.open(self.path, create=True)
        self.addCleanup(self.directory.close)
        self.log = AuditLog(self.directory)
        self.file = self.path / "audit.jsonl"

    def write(self, count: int) -> None:
        for number in range(count):
            self.log.append("issue", NOW + number, {"spiffe_id": f"spiffe://a.test/{number}"})

    def change(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        self.file.write_bytes(b"".join(change(self.file.read_bytes().splitlines(keepends=True))))

    def broken(self, *words: str) -> None:
        reason = self.assertRaises(AuditBroken, self.log.verify).reason
        for word in words:
            self.assertIn(word, reason)


class ChainTests(AuditCase):
    def test_binds_each_line_to_the_one_before(self) -> None:
        """Numbers from 1, the first bound to nothing; the head is the last."""
        self.assertEqual(self.log.verify(), Head())
        self.write(3)
        lines = [json.loads(line) for line in self.file.read_bytes().splitlines()]
        self.assertEqual([line["seq"] for line in lines], [1, 2, 3])
        self.assertEqual(lines[0]["prev"], GENESIS)
        self.assertEqual(lines[0]["time"], "2027-01-15T08:00:00Z")
        self.assertEqual(len({line["prev"] for line in lines}), 3)
        head = self.log.verify()
        self.assertEqual(head.seq, 3)
        self.assertEqual(json.loads((self.path / "audit.head").read_bytes()), {"seq": 3, "sha256": head.sha256})
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o600)

    def test_goes_on_after_a_restart(self) -> None:
        """Another object, the same chain."""
        self.write(2)
        AuditLog(self.directory).append("issue", NOW, {})
        self.assertEqual(self.log.verify().seq, 3)

    def test_notices_a_changed_line_wherever_it_is(self) -> None:
        """And says where; the last one is known from the head."""
        for index, words in (
            (0, ("line 2", "line 1 or 2 was changed")),
            (2, ("line 4",)),
            (4, ("line 5 was changed",)),
        ):
            self.setUp()
            self.write(5)
            self.change(lambda lines, i=index: [*lines[:i], lines[i].replace(b"a.test", b"b.test"), *lines[i + 1 :]])
            self.broken(*words)

    def test_notices_a_removed_line_wherever_it_is(self) -> None:
        """Also the last ones, and all of them."""
        for index, word in (
            (0, "line 1 has the number '2'"),
            (2, "line 3 has the number '4'"),
            (4, "line 5 and those"),
        ):
            self.setUp()
            self.write(5)
            self.change(lambda lines, i=index: [*lines[:i], *lines[i + 1 :]])
            self.broken(word)
        self.file.write_bytes(b"")
        self.broken("line 1 and those after it, up to 5, were removed")
        self.file.unlink()
        self.broken("audit.jsonl is missing")

    def test_notices_reordered_and_added_lines(self) -> None:
        """Two exchanged, one doubled, some invented."""
        self.write(5)
        whole = self.file.read_bytes()
        self.change(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
        self.broken("line 2 has the number '3'")
        self.file.write_bytes(whole)
        self.change(lambda lines: [*lines, lines[-1]])
        self.broken("line 6 has the number '5'")
        for junk in (b"junk\n", b"[]\n", b"\n", b"\xff\n"):
            self.file.write_bytes(junk + whole)
            self.broken("line 1 is not one that tcpmesh wrote")

    def test_adds_nothing_to_a_broken_end(self) -> None:
        """Nothing is signed without a log; both files moved away begin a new one."""
        self.write(3)
        self.change(lambda lines: lines[:-1])
        before = self.file.read_bytes()
        error = self.assertRaises(AuditBroken, self.log.append, "issue", NOW, {})
        self.assertEqual(error.code, codes.STATE_UNUSABLE)
        self.assertIn("does not end with its line 3", error.reason)
        self.assertEqual(self.file.read_bytes(), before)
        self.file.unlink()
        self.assertRaises(AuditBroken, self.log.append, "issue", NOW, {})
        self.file.unlink()
        (self.path / "audit.head").unlink()
        self.write(1)
        self.assertEqual(self.log.verify().seq, 1)

    def test_needs_its_head(self) -> None:
        """Without it or with another, the end is not known."""
        self.write(2)
        (self.path / "audit.head").write_bytes(b"junk")
        self.broken("audit.head is damaged")
        (self.path / "audit.head").unlink()
        self.broken("audit.head is missing")
        self.assertRaises(AuditBroken, self.log.append, "issue", NOW, {})


class LockTests(AuditCase):
    def test_waits_a_moment_for_another_writer_and_not_for_ever(self) -> None:
        """A stopped one must not stop the proxy."""
        self.write(1)
        other = os.open(self.path / "audit.head", os.O_RDWR)
        self.addCleanup(os.close, other)
        fcntl.flock(other, fcntl.LOCK_EX)
        pauses: list[float] = []
        log = AuditLog(self.directory, sleep=pauses.append)
        for attempt in (lambda: log.append("issue", NOW, {}), log.verify):
            pauses.clear()
            error = self.assertRaises(StartError, attempt)
            self.assertIn("audit.head is locked by another process", error.reason)
            self.assertAlmostEqual(sum(pauses), 0.48)
        patient = AuditLog(self.directory, sleep=lambda _: fcntl.flock(other, fcntl.LOCK_UN))
        patient.append("issue", NOW, {})
        self.assertEqual(self.log.verify().seq, 2)


class CrashTests(AuditCase):
    def test_drops_half_a_line(self) -> None:
        """What it told of has not happened; the next line says how much was removed."""
        self.write(2)
        with self.file.open("ab") as file:
            file.write(b'{"seq": 3, "ti')
        self.assertEqual(self.log.verify().seq, 2)
        self.log.append("issue", NOW, {})
        self.assertEqual(self.log.verify().seq, 3)
        self.assertEqual(json.loads(self.file.read_bytes().splitlines()[2])["torn_bytes_removed"], 14)

    def test_more_than_half_a_line_is_no_crash(self) -> None:
        """However it came there; nothing is added to such a log, either."""
        for size, wanted in ((MAX_LINE - 1, None), (MAX_LINE, "behind line 2"), (3 * MAX_LINE, "behind line 2")):
            self.setUp()
            self.write(2)
            with self.file.open("ab") as file:
                file.write(b"x" * size)
            if wanted is None:
                self.assertEqual(self.log.verify().seq, 2)
                self.write(1)
            else:
                self.broken("audit.jsonl: behind line 2 is more than half a line of a crash can be")
                self.assertRaises(AuditBroken, self.write, 1)

    def test_an_older_head_is_one_explanation(self) -> None:
        """Of lines that it does not know; an empty one is named."""
        self.write(2)
        head = (self.path / "audit.head").read_bytes()
        self.write(2)
        (self.path / "audit.head").write_bytes(head)
        self.broken("audit.jsonl: line 4 was added by somebody else, or audit.head is an older one")
        (self.path / "audit.head").write_bytes(b"")
        self.broken("audit.head is empty, although", "audit.jsonl has 4 lines")

    def test_takes_a_line_whose_head_was_not_written(self) -> None:
        """Killed between the two."""
        self.write(2)
        head = (self.path / "audit.head").read_bytes()
        self.write(1)
        (self.path / "audit.head").write_bytes(head)
        self.assertEqual(self.log.verify().seq, 3)
        self.write(1)
        self.assertEqual(self.log.verify().seq, 4)

    def test_a_first_line_may_be_lost(self) -> None:
        """Killed before anything was written."""
        for half in (b"", b'{"se'):
            self.setUp()
            for name in ("audit.head", "audit.jsonl"):
                (self.path / name).touch(0o600)
            self.file.write_bytes(half)
            self.write(1)
            self.assertEqual(self.log.verify().seq, 1)

    def test_a_full_disk_leaves_the_log_as_it_was(self) -> None:
        """In a process of its own, whose files may grow by ten bytes more."""
        self.write(2)
        before = self.file.read_bytes()
        child = os.fork()
        if child == 0:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, len(before) + 10))
                self.log.append("issue", NOW, {})
            except StartError as error:
                os._exit(0 if "audit.jsonl cannot be written" in error.reason else 2)
            except BaseException:
                os._exit(3)
            os._exit(1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(self.file.read_bytes(), before)
        self.write(1)
        self.assertEqual(self.log.verify().seq, 3)


class ClosedFilesTests(AuditCase):
    """The log goes on in another file when one has become large, and the oldest goes."""

    def setUp(self) -> None:
        super().setUp()
        self.log = AuditLog(self.directory, max_file=450, kept=3)  # three lines a file

    def closed(self) -> list[str]:
        return sorted(file.name for file in self.path.glob("audit-*.jsonl"))

    def test_the_chain_goes_on_over_all_files(self) -> None:
        """A file is named after its last line, the line after it says so, and all are verified as one."""
        self.write(8)
        self.assertEqual(self.closed(), ["audit-0000000003.jsonl", "audit-0000000006.jsonl"])
        lines = list(self.log.lines())
        self.assertEqual([place.seq for place, _ in lines], list(range(1, 9)))
        closing = {fields["seq"]: fields["closed"] for _, fields in lines if "closed" in fields}
        self.assertEqual(closing, {4: "audit-0000000003.jsonl", 7: "audit-0000000006.jsonl"})
        self.assertEqual({(self.path / name).stat().st_mode & 0o777 for name in self.closed()}, {0o600})
        self.assertEqual(AuditLog(self.directory).verify().seq, 8)

    def test_the_oldest_file_is_removed_and_the_rest_verifies(self) -> None:
        """The head knows what the first line that is left is bound to; the log says what went."""
        self.write(20)
        self.assertEqual(self.closed(), [f"audit-{number:010}.jsonl" for number in (12, 15, 18)])
        lines = list(self.log.lines())
        self.assertEqual([place.seq for place, _ in lines], list(range(10, 21)))
        self.assertEqual([f["removed_through"] for _, f in lines if "removed_through" in f], [3, 6, 9])
        self.assertTrue(sum(file.stat().st_size for file in self.path.iterdir()) < 4 * 1000)

    def test_notices_what_is_changed_in_any_file(self) -> None:
        """A line, a file that is gone, one that is exchanged for another, the oldest one removed by somebody else."""
        self.write(20)
        good = {file.name: file.read_bytes() for file in self.path.iterdir()}
        first, second, third = self.closed()
        for name, data, word in (
            (first, good[first].replace(b"a.test", b"b.test", 1), f"{first}: line 11 does not fit"),
            (third, good[third].replace(b"a.test", b"b.test"), "line 17 does not fit"),
            (first, None, "line 10 has the number '13'"),
            (second, None, "line 13 has the number '16'"),
            (second, good[first], "line 13 has the number '10'"),
            (second, good[second][:-1], f"{second}: line 15 is cut off"),
            (second, b"", f"{second} ends with line 12, and its name says line 15"),
            ("audit.jsonl", None, "line 19 and those after it, up to 20, were removed"),
        ):
            if data is None:
                (self.path / name).unlink()
            else:
                (self.path / name).write_bytes(data)
            self.broken(word)
            for each, content in good.items():
                (self.path / each).write_bytes(content)
                (self.path / each).chmod(0o600)
        self.assertEqual(self.log.verify().seq, 20)

    def test_says_which_lines_are_missing(self) -> None:
        """When a whole file is gone; and which file has another name than it was given."""
        self.write(20)
        first, second, third = self.closed()
        (self.path / second).rename(self.path / "kept")
        self.broken(f"{third}: line 13 has the number '16'", "before it belong lines 13 to 15")
        (self.path / "kept").rename(self.path / "audit-0000000016.jsonl")
        self.broken("audit-0000000016.jsonl ends with line 15, and its name says line 16")
        (self.path / "audit-0000000016.jsonl").rename(self.path / second)
        (self.path / "audit-0000000019.jsonl").touch(0o600)
        self.broken("audit-0000000019.jsonl ends with line 18, and its name says line 19")
        (self.path / "audit-0000000019.jsonl").unlink()
        (self.path / first).rename(self.path / "elsewhere")
        (self.path / first).symlink_to("elsewhere")
        self.assertIn(
            f"{first} cannot be opened: it is a symbolic link", self.assertRaises(StartError, self.log.verify).reason
        )

    def test_a_head_that_is_empty_or_older_is_named(self) -> None:
        """It is not the lines that are wrong then."""
        self.write(20)
        (self.path / "audit.head").write_bytes(b"")
        self.broken(f"audit.head is empty, although {self.closed()[0]} is there")
        self.assertIn("audit.head is empty", self.assertRaises(AuditBroken, self.write, 1).reason)

    def test_needs_its_head_as_long_as_any_file_is_there(self) -> None:
        """Nothing is signed until all of them are moved away."""
        self.write(5)
        (self.path / "audit.head").unlink()
        self.file.unlink()
        self.broken("audit.head is missing, although audit-0000000003.jsonl is there")
        self.assertRaises(AuditBroken, self.log.append, "issue", NOW, {})
        (self.path / self.closed()[0]).unlink()
        self.write(1)
        self.assertEqual(self.log.verify().seq, 1)

    def test_a_log_of_an_earlier_version_goes_on(self) -> None:
        """Its head was shorter."""
        self.write(2)
        head = self.path / "audit.head"
        head.write_bytes(head.read_bytes().rstrip().ljust(127) + b"\n")
        self.write(3)
        self.assertEqual(self.log.verify().seq, 5)

    def test_a_writer_that_is_killed_anywhere_leaves_a_log_that_goes_on(self) -> None:
        """Also while it closes a file and removes the oldest: nothing that was written before is missed."""
        number, more = 1, True
        while more:
            self.setUp()
            self.write(15)
            more = self.killed_before(number)
            seq = self.log.verify().seq
            self.assertIn(seq, (15, 16))
            self.log.append("issue", NOW, {})
            lines = list(self.log.lines())
            self.assertEqual([place.seq for place, _ in lines], list(range(7, seq + 2)))
            self.assertEqual(self.closed(), [f"audit-{last:010}.jsonl" for last in (9, 12, 15)])
            number += 1
        self.assertTrue(number > 8, f"only {number} operations were seen")

    def killed_before(self, number: int) -> bool:
        """Append in a child that dies before its n-th operation on the file system; false when it had fewer."""
        events = ("open", "os.rename", "os.remove", "os.listdir", "os.truncate")
        return killed_before(number, events, lambda: lambda: self.log.append("issue", NOW, {}))

    def test_a_full_disk_removes_the_oldest_file_all_the_same(self) -> None:
        """No new block is needed for that, and the room is there for the line that comes again."""
        self.write(15)
        child = os.fork()
        if child == 0:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
                self.log.append("issue", NOW, {"fills": "x" * 500})
            except StartError as error:
                os._exit(0 if "audit.jsonl cannot be written" in error.reason else 2)
            except BaseException:
                os._exit(3)
            os._exit(1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(self.closed(), [f"audit-{last:010}.jsonl" for last in (9, 12, 15)])
        self.assertEqual(self.log.verify().seq, 15)
        self.write(1)
        self.assertEqual(self.log.verify().seq, 16)
