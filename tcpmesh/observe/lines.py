"""
Writing lines to a descriptor without ever waiting for it.

Ring 3. Logs and records are written in the reactor's thread, so a stalled pipe or a full disk must cost lines, never
the data path's time: what is not taken is kept up to a limit, then dropped and counted. A line is never mixed with
another, and one that was begun is finished before the next.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["LineWriter", "Target", "append_to", "share"]

LIMIT = 1 << 20  # bytes kept for a destination that does not take them
RETRY = 0.1  # seconds until a destination that was full is tried again
COMPLAIN = 60.0  # seconds between two complaints about lost lines
_CHUNK = 1 << 16  # bytes per write: what a pipe holds
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Target(Protocol):
    """Where bytes go. A write takes as much as it can and raises ``BlockingIOError`` when that is nothing."""

    def write(self, data: bytes) -> int:
        """Say how many bytes were taken."""

    def wait(self, seconds: float) -> bool:
        """Wait until something may be taken again, at most this long; say whether it may."""

    def close(self) -> None:
        """Release the descriptor."""


@attrs.frozen
class _Descriptor:
    """A descriptor whose writes do not wait: non-blocking, or a regular file."""

    fd: int

    def write(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def wait(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        os.close(self.fd)


class _Polled(_Descriptor):
    """A blocking descriptor: asked first, and given no more than a pipe takes at once when it says yes."""

    def write(self, data: bytes) -> int:
        if not self.wait(0):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self.fd, data[: select.PIPE_BUF])


class _Socket(_Descriptor):
    """A socket, for example journald's: the flag is per call, so that others who share it see no change."""

    def write(self, data: bytes) -> int:
        with socket.socket(fileno=os.dup(self.fd)) as shared:
            return shared.send(data, socket.MSG_DONTWAIT)


def append_to(path: Path) -> Target:
    """
    Open a file to append to, made with mode 0600 if it is absent.

    :raises OSError: when it cannot be opened; a FIFO without a reader cannot.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    return _Descriptor(os.open(path, flags, 0o600))


def share(fd: int) -> Target:
    """
    Write to a descriptor that others use too, such as standard output.

    O_NONBLOCK would be theirs as well (it belongs to the open file), so a pipe or terminal is opened again.

    :raises OSError: when the descriptor is not open.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return _Descriptor(os.dup(fd))
    if stat.S_ISSOCK(mode):
        return _Socket(os.dup(fd))
    try:
        again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:  # another user's pipe, no /proc
        return _Polled(os.dup(fd))
    return _Descriptor(again)


class LineWriter:
    """
    Writes whole lines, in order.

    With a ``clock``, the lines of one reactor turn go out together at its end, and a full destination is tried again
    by itself. Without one, every line is written at once and the next line is the next try; then ``patience`` is for
    how many seconds a destination that had kept up may make us wait.

    :param lost: told when lines are dropped, at most once a minute; needs a clock.
    """

    def __init__(
        self,
        target: Target,
        clock: IReactorTime | None = None,
        *,
        limit: int = LIMIT,
        patience: float = 0.0,
        lost: Callable[[str], None] | None = None,
    ) -> None:
        self.dropped = 0  # lines that never were, or never will be, written
        self._target = target
        self._clock = clock
        self._limit = limit
        self._patience = patience
        self._lost = lost
        self._quiet_until = float("-inf")
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._offset = 0  # bytes of the first line that are written already
        self._torn = False  # the destination's last line has no end
        self._stalled = False
        self._call: IDelayedCall | None = None

    def write(self, line: str) -> None:
        """Write one line, given without its newline; ASCII. Never raises for what the destination does."""
        data = line.encode("ascii", "backslashreplace") + b"\n"
        if self._size + len(data) > self._limit and self._clock is None:
            self.flush()
        if self._size + len(data) > self._limit:
            self._drop(1, "the destination does not take them")
            return
        self._lines.append(data)
        self._size += len(data)
        if self._clock is None:
            self.flush()
        elif self._call is None:
            self._call = self._clock.callLater(0, self._flush_in_turn)

    def flush(self) -> None:
        """Write what is taken now; keep the rest."""
        while self._lines:
            try:
                written = self._target.write(self._next_chunk())
            except BlockingIOError:
                # Once: a terminal may be called writable and still take nothing.
                patient, self._stalled = self._patience and not self._stalled, True
                if not (patient and self._target.wait(self._patience)):
                    break
            except OSError as failure:
                if failure.errno in _FULL:
                    self._stalled = True
                    break
                self._forget(str(failure))
            else:
                self._stalled = False
                self._consume(written)
        if self._lines and self._clock is not None and self._call is None:
            self._call = self._clock.callLater(RETRY, self._flush_in_turn)

    def replace(self, target: Target) -> None:
        """Go on with another destination; a line that was begun at the old one is written there whole."""
        self.flush()
        self._target.close()
        self._target = target
        self._offset = 0
        self._torn = self._stalled = False
        self.flush()

    def close(self) -> None:
        """Write what is taken now, drop the rest and release the destination."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self.flush()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._lines:
            self._forget("the destination did not take them before the end")
        self._target.close()

    def _flush_in_turn(self) -> None:
        self._call = None
        self.flush()

    def _next_chunk(self) -> bytes:
        if self._torn:
            return b"\n"
        chunk = bytearray()
        for line in self._lines:
            chunk += line
            if len(chunk) >= _CHUNK:
                break
        return bytes(chunk[self._offset :])

    def _consume(self, written: int) -> None:
        if self._torn:
            self._torn = not written
            return
        self._offset += written
        while self._lines and self._offset >= len(self._lines[0]):
            line = self._lines.popleft()
            self._offset -= len(line)
            self._size -= len(line)

    def _forget(self, why: str) -> None:
        lines = len(self._lines)
        self._torn = self._torn or self._offset > 0
        self._lines.clear()
        self._size = self._offset = 0
        self._drop(lines, why)

    def _drop(self, lines: int, why: str) -> None:
        self.dropped += lines
        if self._lost is None or self._clock is None or self._clock.seconds() < self._quiet_until:
            return
        self._quiet_until = self._clock.seconds() + COMPLAIN
        self._lost(f"{self.dropped} lines dropped so far: {why}")
