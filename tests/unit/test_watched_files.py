"""Files that others replace: what is read when, what is kept, and what is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tcpmesh.errors import ConfigurationError, Problem
from tcpmesh.sources.watched_files import MAX_FILE_BYTES, FileContent, WatchedFiles

INTERVAL, SETTLE = 5.0, 1.0
MAIN = threading.main_thread().name


class WatchedCase(SynchronousTestCase):
    """A directory with two files, and what is made of them: their contents by name."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.clock = Clock()
        self.writes = 0
        self.taken: list[dict[str, str]] = []
        self.failures: list[str] = []
        self.put("b.yaml", "second")
        self.put("a.yaml", "first")

    def put(self, name: str, text: str) -> Path:
        """Write in place, at another time than every write before."""
        path = self.directory / name
        path.write_text(text)
        self.writes += 1
        os.utime(path, ns=(0, 1_700_000_000_000_000_000 + self.writes))
        return path

    def read(self, contents: Sequence[FileContent]) -> dict[str, str]:
        meaning = {content.path.name: content.data.decode() for content in contents}
        if "bad" in meaning.values():
            raise ConfigurationError([Problem("one of them is bad")])
        return meaning

    def watched(self, *places: Path) -> WatchedFiles[dict[str, str]]:
        return WatchedFiles(places or (self.directory,), self.read, self.clock, Logger(), interval=INTERVAL)

    def begin(self) -> WatchedFiles[dict[str, str]]:
        files = self.watched()
        files.start(self.taken.append, self.failures.append)
        self.addCleanup(files.stop)
        self.assertEqual(self.taken, [{"a.yaml": "first", "b.yaml": "second"}])
        self.taken.clear()
        return files


class WatchedFilesTests(WatchedCase):
    """Changes, good and bad."""

    def test_reads_a_directory_in_the_order_of_names(self) -> None:
        """Only files with the right end count, and none that is hidden; directories in it do not."""
        self.put(".hidden.yaml", "x")
        self.put("notes.txt", "x")
        self.put("c.yml", "third")
        (self.directory / "deep.yaml").mkdir()
        self.assertEqual(list(self.watched().load()), ["a.yaml", "b.yaml", "c.yml"])

    def test_takes_a_change_once_it_has_settled(self) -> None:
        """The look that finds a change waits for another that finds no more of it; then it is taken once."""
        self.begin()
        self.put("a.yaml", "changed")
        self.clock.advance(INTERVAL)
        self.assertEqual(self.taken, [])
        self.clock.advance(SETTLE)
        self.assertEqual(self.taken, [{"a.yaml": "changed", "b.yaml": "second"}])
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual(len(self.taken), 1)

    def test_waits_while_it_is_written(self) -> None:
        """What is other at each look is not read, up to a bound."""
        self.begin()
        for number in range(8):
            self.put("a.yaml", f"half {number}")
            self.clock.advance(INTERVAL)
        self.assertEqual(self.taken, [])
        for number in range(8, 12):
            self.put("a.yaml", f"half {number}")
            self.clock.advance(INTERVAL)
        self.assertEqual(len(self.taken), 1)

    def test_files_that_come_and_go_are_changes(self) -> None:
        """A new file is read, and one that is gone is no longer part of the whole."""
        self.begin()
        self.put("c.yaml", "third")
        (self.directory / "a.yaml").unlink()
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(self.taken, [{"b.yaml": "second", "c.yaml": "third"}])

    def test_a_swapped_link_is_a_change(self) -> None:
        """A directory that is a link, as orchestrators mount one, is followed."""
        other = Path(self.mktemp()).absolute()
        other.mkdir()
        (other / "z.yaml").write_text("other")
        link = Path(self.mktemp()).absolute()
        link.symlink_to(self.directory)
        files = self.watched(link)
        files.start(self.taken.append, self.failures.append)
        self.addCleanup(files.stop)
        new = Path(self.mktemp()).absolute()
        new.symlink_to(other)
        new.rename(link)
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(self.taken[-1], {"z.yaml": "other"})

    def test_a_bad_set_is_told_once_and_changes_nothing(self) -> None:
        """It is told again only when it changes; what is good again is taken."""
        self.begin()
        self.put("b.yaml", "bad")
        self.clock.pump([INTERVAL, SETTLE, INTERVAL, INTERVAL])
        self.assertEqual((self.taken, self.failures), ([], ["one of them is bad"]))
        self.put("b.yaml", "good")
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(self.taken, [{"a.yaml": "first", "b.yaml": "good"}])
        self.assertEqual(len(self.failures), 1)

    def test_an_empty_directory_is_a_failure(self) -> None:
        """A volume that is not mounted withdraws nothing."""
        self.begin()
        for path in self.directory.iterdir():
            path.unlink()
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(self.taken, [])
        self.assertIn("holds no file whose name ends in .yaml or .yml", self.failures[0])

    def test_reload_looks_at_once(self) -> None:
        """Asked for, there is no second look; a bad set is told, again if it is asked again."""
        files = self.begin()
        self.put("a.yaml", "changed")
        files.reload()
        self.assertEqual(self.taken, [{"a.yaml": "changed", "b.yaml": "second"}])
        self.put("a.yaml", "bad")
        files.reload()
        files.reload()
        self.assertEqual(len(self.failures), 2)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_nothing_runs_after_the_stop(self) -> None:
        """No timer is left, and a reload is not heard."""
        files = self.begin()
        files.stop()
        self.put("a.yaml", "changed")
        files.reload()
        self.assertEqual((self.taken, self.clock.getDelayedCalls()), ([], []))

    def test_a_failure_of_whoever_reads_does_not_end_the_looking(self) -> None:
        """It is logged and told, and the next change is looked at."""
        files = self.watched()
        problems: list[Exception] = []

        def taken(meaning: dict[str, str]) -> None:
            if problems:
                raise problems.pop()
            self.taken.append(meaning)

        files.start(taken, self.failures.append)
        self.addCleanup(files.stop)
        problems.append(ValueError("broken"))
        self.put("a.yaml", "changed")
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIn("ValueError", self.failures[0])
        self.put("a.yaml", "again")
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(self.taken[-1]["a.yaml"], "again")

    def test_a_failure_of_the_reading_itself_is_told_once(self) -> None:
        """Not at each look at the same files."""

        def read(contents: Sequence[FileContent]) -> dict[str, str]:
            if b"worse" in [content.data for content in contents]:
                raise ValueError("a bug")
            return self.read(contents)

        files = WatchedFiles((self.directory,), read, self.clock, Logger(), interval=INTERVAL)
        files.start(self.taken.append, self.failures.append)
        self.addCleanup(files.stop)
        self.put("a.yaml", "worse")
        self.clock.pump([INTERVAL, SETTLE, *[INTERVAL] * 5])
        self.assertEqual((len(self.flushLoggedErrors(ValueError)), len(self.failures)), (1, 1))


class UnreadableTests(WatchedCase):
    """What cannot be read is an error that names it, and everything that cannot be is named."""

    def complaints(self, *places: Path) -> str:
        return str(self.assertRaises(ConfigurationError, self.watched(*places).load))

    def test_names_every_file(self) -> None:
        """Absent, no regular file, and too large; a pipe is not waited for."""
        absent, pipe, large = self.directory / "none.yaml", self.directory / "pipe.yaml", self.directory / "large.yaml"
        os.mkfifo(pipe)
        large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
        self.assertEqual(
            self.complaints(absent, pipe, large).splitlines(),
            [
                f"{absent}: there is no such file or directory",
                f"{pipe}: cannot be read: it is not a regular file",
                f"{large}: cannot be read: it is larger than {MAX_FILE_BYTES} bytes",
            ],
        )

    def test_a_place_that_cannot_even_be_asked_what_it_is(self) -> None:
        """At the start it is named; later it is told once, and what is there again after that is read."""
        place = self.directory / "link.yaml"
        place.symlink_to("x" * 300)
        self.assertIn(f"{place}: cannot be read: File name too long", self.complaints(place))
        self.assertRaises(ConfigurationError, self.watched(place).start, self.taken.append, self.failures.append)
        place.unlink()
        place.symlink_to("a.yaml")
        files = self.watched(place)
        files.start(self.taken.append, self.failures.append)
        self.addCleanup(files.stop)
        place.unlink()
        place.symlink_to("x" * 300)
        self.clock.pump([INTERVAL, SETTLE, *[INTERVAL] * 5])
        self.assertEqual(self.failures, [f"{place}: cannot be read: File name too long"])
        place.unlink()
        place.symlink_to("a.yaml")
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual(self.taken, [{"link.yaml": "first"}] * 2)

    def test_a_start_without_files_watches_nothing(self) -> None:
        """A start that fails leaves no timer behind."""
        files = self.watched(self.directory / "none.yaml")
        self.assertRaises(ConfigurationError, files.start, self.taken.append, self.failures.append)
        self.assertEqual(self.clock.getDelayedCalls(), [])


@implementer(IReactorFromThreads)
class ThreadedClock(Clock):
    """A clock that passes for a reactor: threads leave their results with it."""

    def __init__(self) -> None:
        super().__init__()
        self.results: Queue[Callable[[], object]] = Queue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002
        self.results.put(lambda: callable(*args, **kwargs))

    def deliver(self) -> None:
        """Wait for a thread, and hear what it says."""
        self.results.get(timeout=20)()


class ThreadTests(WatchedCase):
    """With a reactor, changes are read in a thread."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = self.threads = ThreadedClock()
        self.readers: list[str] = []

    def read(self, contents: Sequence[FileContent]) -> dict[str, str]:
        self.readers.append(threading.current_thread().name)
        return super().read(contents)

    def test_a_change_is_read_in_a_thread(self) -> None:
        """Nothing is taken, and nobody looks, until it is done; the start and a reload do not wait for one."""
        files = self.begin()
        self.put("a.yaml", "changed")
        self.clock.pump([INTERVAL, SETTLE])
        self.assertEqual((self.taken, self.clock.getDelayedCalls()), ([], []))
        self.threads.deliver()
        self.assertEqual(self.taken, [{"a.yaml": "changed", "b.yaml": "second"}])
        self.put("a.yaml", "bad")
        self.clock.pump([INTERVAL, SETTLE])
        self.threads.deliver()
        self.assertEqual(self.failures, ["one of them is bad"])
        files.reload()
        self.assertEqual(self.readers, [MAIN, "tcpmesh-fetch", "tcpmesh-fetch", MAIN])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_what_is_older_than_a_reload_is_dropped(self) -> None:
        """The thread comes back later with what it read before."""
        files = self.begin()
        self.put("a.yaml", "changed")
        self.clock.pump([INTERVAL, SETTLE])
        self.put("a.yaml", "newest")
        files.reload()
        self.threads.deliver()
        self.assertEqual(self.taken, [{"a.yaml": "newest", "b.yaml": "second"}])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_what_comes_after_the_stop_is_dropped(self) -> None:
        """Nothing is taken, and no timer is started."""
        files = self.begin()
        self.put("a.yaml", "changed")
        self.clock.pump([INTERVAL, SETTLE])
        files.stop()
        self.threads.deliver()
        self.assertEqual((self.taken, self.failures, self.clock.getDelayedCalls()), ([], [], []))

    def test_what_was_written_meanwhile_is_read_again(self) -> None:
        """It was neither the old nor the new content, perhaps."""
        self.begin()
        self.put("a.yaml", "changed")
        self.clock.pump([INTERVAL, SETTLE])
        self.put("a.yaml", "again")
        self.threads.deliver()
        self.assertEqual(self.taken, [])
        self.clock.pump([SETTLE, SETTLE])
        self.threads.deliver()
        self.assertEqual(self.taken, [{"a.yaml": "again", "b.yaml": "second"}])

    def test_a_reader_that_breaks_is_told_and_looked_after(self) -> None:
        """The traceback is in the log, and the next change is read."""
        self.begin()
        (self.directory / "a.yaml").write_bytes(b"\xff")
        self.clock.pump([INTERVAL, SETTLE])
        self.threads.deliver()
        self.assertEqual(len(self.flushLoggedErrors(UnicodeDecodeError)), 1)
        self.assertIn("UnicodeDecodeError", self.failures[0])
        self.put("a.yaml", "good")
        self.clock.pump([INTERVAL, SETTLE])
        self.threads.deliver()
        self.assertEqual(self.taken[-1]["a.yaml"], "good")

    def test_a_reload_in_a_thread_says_when_it_is_done(self) -> None:
        """Also to whoever asked before somebody else did, and at the stop."""
        files = self.begin()
        self.put("a.yaml", "changed")
        first, second = files.reload_in_thread(), files.reload_in_thread()
        self.threads.deliver()
        self.assertNoResult(first)
        self.threads.deliver()
        for done in (first, second):
            self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.taken, [{"a.yaml": "changed", "b.yaml": "second"}])
        self.put("a.yaml", "bad")
        third = files.reload_in_thread()
        self.threads.deliver()
        self.assertIsNone(self.successResultOf(third))
        self.assertEqual(self.failures, ["one of them is bad"])
        self.assertEqual(self.readers, [MAIN] + ["tcpmesh-fetch"] * 3)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        fourth = files.reload_in_thread()
        files.stop()
        self.assertIsNone(self.successResultOf(fourth))
        self.assertIsNone(self.successResultOf(files.reload_in_thread()))
        self.threads.deliver()

    def test_looks_again_when_there_was_no_thread_to_be_had(self) -> None:
        """It is told, with its traceback in the log, and not the end of all looks."""

        def no_thread(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self.begin()
        self.put("a.yaml", "changed")
        self.patch(threading.Thread, "start", no_thread)
        self.clock.pump([INTERVAL, SETTLE])
        self.assertIn("RuntimeError", self.failures[0])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
