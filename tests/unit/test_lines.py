"""Lines reach a destination whole and in order, or are counted; nobody ever waits."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import socket
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.observe import lines


class FakeTarget:
    """Takes ``room`` bytes, at most ``at_once`` per write; or fails as told."""

    def __init__(self, room: int = 1 << 30, at_once: int = 1 << 30) -> None:
        self.data = b""
        self.room = room
        self.at_once = at_once
        self.failure: OSError | None = None
        self.writes = 0
        self.waits: list[float] = []
        self.room_after_wait = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Take what there is room for."""
        self.writes += 1
        if self.failure is not None:
            raise self.failure
        taken = data[: min(self.room, self.at_once)]
        if not taken:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.data += taken
        self.room -= len(taken)
        return len(taken)

    def wait(self, seconds: float) -> bool:
        """Get the room that was announced."""
        self.waits.append(seconds)
        self.room += self.room_after_wait
        self.room_after_wait = 0
        return self.room > 0

    def close(self) -> None:
        """Note it."""
        self.closed = True


class WriterTests(SynchronousTestCase):
    """The writer over a destination that does what it is told."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.target = FakeTarget()
        self.complaints: list[str] = []
        self.writer = lines.LineWriter(self.target, self.clock, limit=100, lost=self.complaints.append)

    def test_writes_the_lines_of_a_turn_at_once(self) -> None:
        """Nothing is written while the turn runs, and one write carries all of it."""
        self.writer.write("one")
        self.writer.write("two")
        self.assertEqual(self.target.writes, 0)
        self.clock.advance(0)
        self.assertEqual((self.target.data, self.target.writes), (b"one\ntwo\n", 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_continues_a_line_that_was_begun(self) -> None:
        """Three bytes at a time still give whole lines in order."""
        self.target.at_once = 3
        for text in ("first", "second", "x"):
            self.writer.write(text)
        self.clock.advance(0)
        self.assertEqual(self.target.data, b"first\nsecond\nx\n")

    def test_tries_a_full_destination_again(self) -> None:
        """What is not taken stays, and follows when there is room."""
        self.target.room = 4
        self.writer.write("first")
        self.clock.advance(0)
        self.writer.write("second")
        self.assertEqual(self.target.data, b"firs")
        self.target.room = 100
        self.clock.advance(lines.RETRY)
        self.assertEqual(self.target.data, b"first\nsecond\n")
        self.assertEqual((self.writer.dropped, self.complaints), (0, []))

    def test_drops_and_counts_what_does_not_fit(self) -> None:
        """Beyond the limit new lines are lost; those that were kept are not."""
        self.target.room = 0
        for number in range(30):
            self.writer.write(f"line {number:03}")  # 9 bytes
        self.clock.advance(0)
        self.assertEqual(self.writer.dropped, 19)
        self.target.room = 1000
        self.clock.advance(lines.RETRY)
        self.assertEqual(self.target.data, b"".join(b"line %03d\n" % number for number in range(11)))
        self.writer.write("more")
        self.clock.advance(0)
        self.assertTrue(self.target.data.endswith(b"line 010\nmore\n"))

    def test_complains_once_a_minute(self) -> None:
        """A destination that stays full does not fill the log with complaints."""
        self.target.room = 0
        for _ in range(300):
            self.writer.write("x" * 49)
        self.assertEqual(self.complaints, ["1 lines dropped so far: the destination does not take them"])
        self.clock.advance(lines.COMPLAIN)
        self.writer.write("x" * 49)
        self.assertEqual(self.complaints[1:], ["299 lines dropped so far: the destination does not take them"])

    def test_keeps_lines_while_the_disk_is_full(self) -> None:
        """ENOSPC is a pause, not an end: the line that was cut is completed."""
        self.target.room = 2
        self.writer.write("first")
        self.clock.advance(0)
        self.target.failure = OSError(errno.ENOSPC, "No space left on device")
        self.clock.advance(lines.RETRY)
        self.assertEqual((self.target.data, self.writer.dropped), (b"fi", 0))
        self.target.failure, self.target.room = None, 100
        self.clock.advance(lines.RETRY)
        self.assertEqual(self.target.data, b"first\n")

    def test_drops_what_a_broken_destination_does_not_take(self) -> None:
        """EPIPE loses the lines and says why; a line that was begun is ended before the next one."""
        self.target.room = 2
        self.writer.write("first")
        self.clock.advance(0)
        self.target.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
        self.clock.advance(lines.RETRY)
        self.assertEqual(self.complaints, ["1 lines dropped so far: [Errno 32] Broken pipe"])
        self.target.failure, self.target.room = None, 100
        self.writer.write("second")
        self.clock.advance(0)
        self.assertEqual(self.target.data, b"fi\nsecond\n")
        self.assertEqual(self.writer.dropped, 1)

    def test_begins_a_line_again_at_a_new_destination(self) -> None:
        """After a rotation both the record and the new file are whole."""
        self.target.room = 2
        self.writer.write("first")
        self.clock.advance(0)
        after = FakeTarget()
        self.writer.replace(after)
        self.assertEqual(after.data, b"first\n")
        self.assertTrue(self.target.closed)

    def test_writes_the_rest_when_closed(self) -> None:
        """Closing flushes, counts what is not taken, and leaves no timer behind."""
        self.writer.write("first")
        self.target.room = 3
        self.writer.close()
        self.assertEqual((self.target.data, self.writer.dropped, self.target.closed), (b"fir", 1, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_escapes_what_is_not_ascii(self) -> None:
        """An encoding error cannot happen."""
        self.writer.write("\u2028\ud800")
        self.clock.advance(0)
        self.assertEqual(self.target.data, b"\\u2028\\ud800\n")


class PatientWriterTests(SynchronousTestCase):
    """Without a clock: written at once."""

    def test_waits_once_for_a_slow_destination(self) -> None:
        """A terminal that is busy for a moment loses nothing."""
        target = FakeTarget(room=3)
        target.room_after_wait = 100
        writer = lines.LineWriter(target, patience=0.25)
        writer.write("first")
        self.assertEqual((target.data, target.waits), (b"first\n", [0.25]))

    def test_does_not_spin_on_one_that_only_promises(self) -> None:
        """A terminal may be called writable and take nothing all the same."""
        target = FakeTarget(room=10, at_once=0)
        writer = lines.LineWriter(target, patience=0.25)
        writer.write("first")
        self.assertEqual((target.waits, target.writes, target.data), ([0.25], 2, b""))

    def test_does_not_wait_again_for_one_that_stalls(self) -> None:
        """Each line would otherwise cost the patience anew."""
        target = FakeTarget(room=0)
        writer = lines.LineWriter(target, patience=0.25, limit=11)
        for text in ("first", "second", "third"):
            writer.write(text)
        self.assertEqual((target.waits, writer.dropped), ([0.25], 2))
        target.room = 100
        writer.write("last")
        self.assertEqual(target.data, b"first\nlast\n")


class TargetTests(SynchronousTestCase):
    """Real descriptors of every sort, none of which makes us wait."""

    def is_blocking(self, fd: int) -> bool:
        """Whether O_NONBLOCK is not set."""
        return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK

    def fill(self, target: lines.Target) -> int:
        """Write until it is full."""
        total = 0
        with self.assertRaises(BlockingIOError):
            while total < 1 << 24:
                total += target.write(b"x" * 4096)
        return total

    def test_a_pipe_that_nobody_reads(self) -> None:
        """It raises instead of waiting, and whoever shares it still has a blocking descriptor."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        target = lines.share(writer)
        self.addCleanup(target.close)
        self.assertTrue(self.is_blocking(writer))
        self.assertGreater(self.fill(target), 0)
        self.assertFalse(target.wait(0))
        os.read(reader, 8192)
        self.assertTrue(target.wait(0))

    def test_a_pipe_that_cannot_be_opened_again(self) -> None:
        """The fallback asks first, and writes no more than a pipe takes whole."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        target = lines._Polled(writer)
        self.assertEqual(target.write(b"x" * 10_000), 4096)
        self.assertGreater(self.fill(target), 0)

    def test_a_terminal(self) -> None:
        """A terminal whose screen is not read does not stop us."""
        primary, secondary = pty.openpty()
        self.addCleanup(os.close, primary)
        self.addCleanup(os.close, secondary)
        target = lines.share(secondary)
        self.addCleanup(target.close)
        self.assertTrue(self.is_blocking(secondary))
        self.assertGreater(self.fill(target), 0)

    def test_a_socket(self) -> None:
        """What systemd hands out as standard output is a socket."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        target = lines.share(ours.fileno())
        self.addCleanup(target.close)
        target.write(b"hello\n")
        self.assertEqual(theirs.recv(10), b"hello\n")
        self.assertTrue(self.is_blocking(ours.fileno()))
        self.assertGreater(self.fill(target), 0)

    def test_a_redirected_file_keeps_its_place(self) -> None:
        """Standard output that is a file is shared with its offset, not opened anew over what is there."""
        path = Path(self.mktemp())
        with path.open("wb") as file:
            file.write(b"before\n")
            file.flush()
            target = lines.share(file.fileno())
            target.write(b"ours\n")
            file.write(b"after\n")
        target.close()
        self.assertEqual(path.read_bytes(), b"before\nours\nafter\n")

    def test_a_file_is_private_and_appended_to(self) -> None:
        """A new file has mode 0600 whatever the umask allows, and an old one keeps its content."""
        path = Path(self.mktemp())
        self.addCleanup(os.umask, os.umask(0))
        for text in (b"one\n", b"two\n"):
            target = lines.append_to(path)
            target.write(text)
            target.close()
        self.assertEqual(path.read_bytes(), b"one\ntwo\n")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    def test_refuses_a_fifo_without_reader(self) -> None:
        """Opening it would wait for ever."""
        path = self.mktemp()
        os.mkfifo(path)
        failure = self.assertRaises(OSError, lines.append_to, Path(path))
        self.assertEqual(failure.errno, errno.ENXIO)
