"""
The audit log of the embedded authority: every certificate and every change, each line bound to the one before it.

Ring 3. Lines are on the disk before what they tell of happens. ``audit.head`` says which line was the last, so that
lines cut off at the end are missed as well; its lock lets ``tcpmesh ca issue`` write beside the proxy. A file that has
grown large is closed, named after its last line, and the chain goes on in the next. Whoever can write all of them can
make a new log, so copy the head elsewhere (``tcpmesh ca audit`` shows it) if that matters.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.sources.audit_chain import (
    GENESIS,
    HEAD_SIZE,
    MAX_LINE,
    AuditBroken,
    Head,
    Part,
    digest,
    fields_of,
    line_of,
    verified,
)
from tcpmesh.sources.private_directory import PrivateDirectory

__all__ = ["AUDIT_FILE", "AUDIT_HEAD", "GENESIS", "KEPT", "MAX_FILE", "AuditBroken", "AuditLog", "Head"]

AUDIT_FILE = "audit.jsonl"
AUDIT_HEAD = "audit.head"
MAX_FILE = 8 << 20  # bytes; a file that has as many is closed
KEPT = 15  # closed files; the oldest is removed when there are more
_CLOSED = re.compile(r"audit-([0-9]{10,18})\.jsonl")  # the number of its last line
_LOCK_ATTEMPTS = 25
_LOCK_PAUSE = 0.02  # seconds


class AuditLog:
    """
    The log in an authority's directory.

    :param sleep: waits between two attempts at the lock, in seconds.
    :param max_file: bytes after which a file is closed.
    :param kept: how many closed files stay.
    """

    def __init__(
        self,
        directory: PrivateDirectory,
        *,
        sleep: Callable[[float], object] = time.sleep,
        max_file: int = MAX_FILE,
        kept: int = KEPT,
    ) -> None:
        self._directory = directory
        self._sleep = sleep
        self._max_file = max_file
        self._kept = kept
        self._place = directory.path / AUDIT_FILE

    def append(self, event: str, now: float, facts: Mapping[str, Any]) -> None:
        """
        Write one line, and return when it is on the disk.

        :param now: wall-clock seconds.
        :param facts: JSON values; never a key.
        :raises StartError: STATE_UNUSABLE when it cannot be written; the log is then as it was.
        :raises AuditBroken: when the log's end is not what was written last; nothing is added to such a log.
        """
        with self._locked() as head_file, ExitStack() as opened:
            try:
                log_file = self._opened(AUDIT_FILE, opened, create=True)
                head, end, torn = self._end(head_file, log_file)
                more: dict[str, Any] = {"torn_bytes_removed": torn} if torn else {}
                if end >= self._max_file:
                    os.ftruncate(log_file, end)
                    more["closed"] = self._close(head)
                    log_file, end = self._opened(AUDIT_FILE, opened, create=True), 0
                base = self._remove_oldest(head_file, head)
                if base != head.base:
                    head = attrs.evolve(head, base=base)
                    more["removed_through"] = base.seq if base is not None else 0
                line = line_of(head, event, now, {**facts, **more})
                try:
                    os.ftruncate(log_file, end)
                    _write(log_file, line, end)
                    os.fsync(log_file)
                    _write(head_file, Head(head.seq + 1, digest(line), head.base).to_bytes(), 0)
                    os.fsync(head_file)
                except OSError:
                    os.ftruncate(log_file, end)  # making it shorter needs no room on the disk
                    _write(head_file, head.to_bytes(), 0)
                    raise
            except OSError as error:
                raise StartError(STATE_UNUSABLE, f"{self._place} cannot be written: {error.strerror}") from error

    def verify(self) -> Head:
        """
        Read it all.

        :returns: the last line's place in the chain.
        :raises AuditBroken: naming the first line that is not what was written.
        """
        head = Head()
        for place, _line in self.lines():
            head = place
        return head

    def lines(self) -> Iterator[tuple[Head, dict[str, Any]]]:
        """
        Every line as it is verified, over all files: its place in the chain, and what it says.

        :raises AuditBroken: at the first line that is not what was written.
        """
        with ExitStack() as opened:
            head_file = self._directory.open_file(AUDIT_HEAD, create=False)
            if head_file is None:
                self._check_head(self._directory.names())
                return
            opened.callback(os.close, head_file)
            self._lock(head_file, fcntl.LOCK_SH)
            expected = self._head(head_file)
            closed = self._closed(expected.base)
            last = self._directory.open_file(AUDIT_FILE, create=False)
            if last is None and not closed:
                raise AuditBroken(f"{self._place} is missing, although the other half is there")
            if closed and expected == Head():
                raise AuditBroken(f"{self._directory.path / AUDIT_HEAD} is empty, although {closed[0]} is there")
            parts = [self._part(name, self._opened(name, opened)) for name in closed]
            if last is not None:
                opened.callback(os.close, last)
                parts.append(self._part(AUDIT_FILE, last))
            fcntl.flock(head_file, fcntl.LOCK_UN)
            yield from verified(parts, expected, AUDIT_HEAD)

    def _part(self, name: str, descriptor: int) -> Part:
        size = os.fstat(descriptor).st_size
        closed = _CLOSED.fullmatch(name)
        return Part(str(self._directory.path / name), _bounded(descriptor, size), int(closed[1]) if closed else None)

    def _closed(self, base: Head | None) -> list[str]:
        """The closed files that belong to the log, oldest first."""
        removed = base.seq if base is not None else 0
        found = [(int(match[1]), name) for name in self._directory.names() if (match := _CLOSED.fullmatch(name))]
        return [name for number, name in sorted(found) if number > removed]

    def _close(self, head: Head) -> str:
        """Give the present file the name that it keeps; a crash after that finds the chain's end in it."""
        name = f"audit-{head.seq:010}.jsonl"
        self._directory.rename(AUDIT_FILE, name)
        return name

    def _remove_oldest(self, head_file: int, head: Head) -> Head | None:
        """Remove files over the limit, once the head says where the rest begins; its last removed line."""
        base = head.base
        closed = self._closed(base)
        for name in closed[: max(0, len(closed) - self._kept)]:
            with ExitStack() as opened:
                base = self._last_line(self._opened(name, opened), name)
            _write(head_file, attrs.evolve(head, base=base).to_bytes(), 0)
            os.fsync(head_file)
        if closed or base is not None:
            for name in set(filter(_CLOSED.fullmatch, self._directory.names())) - set(self._closed(base)):
                self._directory.remove(name)
        return base

    def _last_line(self, descriptor: int, name: str) -> Head:
        line = _tail(descriptor)[0]
        fields = fields_of(line)
        match = _CLOSED.fullmatch(name)
        if fields is None or match is None or fields.get("seq") != int(match[1]):
            raise AuditBroken(f"{self._directory.path / name} does not end with the line that its name says")
        return Head(int(match[1]), digest(line))

    def _opened(self, name: str, opened: ExitStack, *, create: bool = False) -> int:
        descriptor = self._directory.open_file(name, create=create)
        if descriptor is None:
            raise AuditBroken(f"{self._directory.path / name} is missing")
        opened.callback(os.close, descriptor)
        return descriptor

    def _check_head(self, present: list[str]) -> None:
        """Insist that there is no file of a log whose head is gone."""
        for name in present:
            if name == AUDIT_FILE or _CLOSED.fullmatch(name):
                raise AuditBroken(f"{self._directory.path / AUDIT_HEAD} is missing, although {name} is there")

    @contextmanager
    def _locked(self) -> Iterator[int]:
        present = self._directory.names()
        if AUDIT_HEAD not in present:
            self._check_head(present)
        head_file = self._directory.open_file(AUDIT_HEAD, create=True)
        assert head_file is not None
        try:
            self._lock(head_file, fcntl.LOCK_EX)
            yield head_file
        finally:
            os.close(head_file)

    def _lock(self, head_file: int, how: int) -> None:
        """Wait for half a second at most: others hold the lock for one line, and a stopped one must not stop us."""
        place = self._directory.path / AUDIT_HEAD
        for attempt in range(_LOCK_ATTEMPTS):
            if attempt:
                self._sleep(_LOCK_PAUSE)
            try:
                fcntl.flock(head_file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError as error:
                raise StartError(STATE_UNUSABLE, f"{place} cannot be locked: {error.strerror}") from error
            return
        raise StartError(STATE_UNUSABLE, f"{place} is locked by another process, such as a stopped tcpmesh ca issue")

    def _head(self, head_file: int) -> Head:
        data = os.pread(head_file, HEAD_SIZE, 0)
        if not data:
            return Head()
        try:
            return Head.parse(data)
        except ValueError:
            raise AuditBroken(f"{self._directory.path / AUDIT_HEAD} is damaged: it is not what was written") from None

    def _end(self, head_file: int, log_file: int) -> tuple[Head, int, int]:
        """
        Find the last whole line and check it: its place in the chain, where in the present file the next begins, and
        how much behind it is half a line that a crash left; what that told of has not happened.
        """
        head = self._head(head_file)
        last, end, torn = _tail(log_file)
        if torn >= MAX_LINE:
            raise self._changed(head)
        closed = self._closed(head.base)
        if not last and closed:  # closed, and nothing written since
            with ExitStack() as opened:
                last = _tail(self._opened(closed[-1], opened))[0]
        if not last:
            if head.seq:
                raise self._changed(head)
            return head, end, torn
        found = Head(head.seq, digest(last), head.base)
        if found != head:  # unless a crash came between the line and the head
            fields = fields_of(last)
            if fields is None or (fields.get("seq"), fields.get("prev")) != (head.seq + 1, head.sha256):
                raise self._changed(head)
            found = Head(head.seq + 1, digest(last), head.base)
        return found, end, torn

    def _changed(self, head: Head) -> AuditBroken:
        what = f"{self._place} does not end with its line {head.seq} as that was written"
        if not head.seq:
            what = f"{self._directory.path / AUDIT_HEAD} is empty, although there are lines"
        return AuditBroken(
            f"{what}; see tcpmesh ca audit. Nothing is signed until it is restored, or {AUDIT_FILE}, {AUDIT_HEAD} and "
            "all audit-*.jsonl are moved away, which begins a new log"
        )


def _tail(descriptor: int) -> tuple[bytes, int, int]:
    """The last whole line, empty when there is none; where it ends, and how many bytes are behind that."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, min(size, 2 * MAX_LINE), max(0, size - 2 * MAX_LINE))
    whole, newline, torn = tail.rpartition(b"\n")
    if not newline:
        return b"", 0, size
    return whole.rpartition(b"\n")[2] + b"\n", size - len(torn), len(torn)


def _bounded(descriptor: int, size: int) -> Iterator[bytes]:
    """The lines of the first so many bytes: others may be writing behind them."""
    with open(descriptor, "rb", closefd=False) as file:
        while size > 0 and (line := file.readline(min(size, MAX_LINE))):
            size -= len(line)
            yield line


def _write(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
