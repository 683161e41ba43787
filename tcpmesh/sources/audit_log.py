"""
The audit log of the embedded authority: every certificate and every change, each line bound to the one before it.

Ring 3. Lines are on the disk before what they tell of happens. ``audit.head`` says which line was the last, so that
lines cut off at the end are missed as well; its lock lets ``tcpmesh ca issue`` write beside the proxy. Whoever can
write both files can make a new log, so copy the head elsewhere (``tcpmesh ca audit`` shows it) if that matters.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.identity.certificates import moment
from tcpmesh.sources.private_directory import PrivateDirectory

__all__ = ["AUDIT_FILE", "AUDIT_HEAD", "GENESIS", "AuditBroken", "AuditLog", "Head", "verified"]

AUDIT_FILE = "audit.jsonl"
AUDIT_HEAD = "audit.head"
GENESIS = "0" * 64  # what the first line names as the one before it
_HEAD_SIZE = 128  # bytes, always as many: a head is overwritten in place
_MAX_LINE = 16384  # bytes; ours have some five hundred
_LOCK_ATTEMPTS = 25
_LOCK_PAUSE = 0.02  # seconds


class AuditBroken(StartError):
    """The log is not what was written; the reason names the line."""

    def __init__(self, reason: str) -> None:
        super().__init__(STATE_UNUSABLE, reason)


@attrs.frozen
class Head:
    """The number of the last line, and its SHA-256 in hexadecimal."""

    seq: int = 0
    sha256: str = GENESIS

    def to_bytes(self) -> bytes:
        """As ``audit.head`` holds it."""
        return json.dumps(attrs.asdict(self)).encode().ljust(_HEAD_SIZE - 1) + b"\n"


class AuditLog:
    """
    The log in an authority's directory.

    :param sleep: waits between two attempts at the lock, in seconds.
    """

    def __init__(self, directory: PrivateDirectory, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._directory = directory
        self._sleep = sleep
        self._place = directory.path / AUDIT_FILE

    def append(self, event: str, now: float, facts: Mapping[str, Any]) -> None:
        """
        Write one line, and return when it is on the disk.

        :param now: wall-clock seconds.
        :param facts: JSON values; never a key.
        :raises StartError: STATE_UNUSABLE when it cannot be written; the log is then as it was.
        :raises AuditBroken: when the log's end is not what was written last; nothing is added to such a log.
        """
        with self._locked() as (head_file, log_file):
            try:
                head, end, torn = self._end(head_file, log_file)
                if torn:
                    facts = {**facts, "torn_bytes_removed": torn}
                line = _line(head, event, now, facts)
                try:
                    os.ftruncate(log_file, end)
                    _write(log_file, line, end)
                    os.fsync(log_file)
                    _write(head_file, Head(head.seq + 1, _digest(line)).to_bytes(), 0)
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
        Every line as it is verified: its place in the chain, and what it says.

        :raises AuditBroken: at the first line that is not what was written.
        """
        opened = [self._directory.open_file(name, create=False) for name in (AUDIT_HEAD, AUDIT_FILE)]
        head_file, log_file = opened
        try:
            if head_file is None or log_file is None:
                if head_file is not None or log_file is not None:
                    missing = AUDIT_HEAD if head_file is None else AUDIT_FILE
                    raise AuditBroken(f"{self._directory.path / missing} is missing, although the other half is there")
                return
            self._lock(head_file, fcntl.LOCK_SH)
            expected = self._head(head_file)
            size = os.fstat(log_file).st_size
            fcntl.flock(head_file, fcntl.LOCK_UN)
            with open(log_file, "rb", closefd=False) as file:
                yield from verified(_bounded(file, size), expected, str(self._place))
        finally:
            for descriptor in opened:
                if descriptor is not None:
                    os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[tuple[int, int]]:
        present = self._directory.names()
        if (AUDIT_HEAD in present) is not (AUDIT_FILE in present) and AUDIT_FILE in present:
            raise AuditBroken(f"{self._directory.path / AUDIT_HEAD} is missing, although {AUDIT_FILE} is there")
        head_file = self._directory.open_file(AUDIT_HEAD, create=True)
        assert head_file is not None
        try:
            self._lock(head_file, fcntl.LOCK_EX)
            log_file = self._directory.open_file(AUDIT_FILE, create=True)
            assert log_file is not None
            try:
                yield head_file, log_file
            finally:
                os.close(log_file)
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
        data = os.pread(head_file, _HEAD_SIZE, 0)
        if not data:
            return Head()
        try:
            fields = json.loads(data)
            head = Head(fields["seq"], fields["sha256"])
            if type(head.seq) is not int or head.seq < 0 or not isinstance(head.sha256, str):
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise AuditBroken(f"{self._directory.path / AUDIT_HEAD} is damaged: it is not what was written") from None
        return head

    def _end(self, head_file: int, log_file: int) -> tuple[Head, int, int]:
        """
        Find the last whole line and check it: its place in the chain, where the next begins, and how much behind it is
        half a line that a crash left; what that told of has not happened.
        """
        head = self._head(head_file)
        size = os.fstat(log_file).st_size
        tail = os.pread(log_file, min(size, 2 * _MAX_LINE), max(0, size - 2 * _MAX_LINE))
        whole, newline, torn = tail.rpartition(b"\n")
        end = size - len(torn)
        if not newline:
            if head.seq:
                raise self._changed(head)
            return head, 0, size
        last = whole.rpartition(b"\n")[2] + b"\n"
        found = Head(head.seq, _digest(last))
        if found != head:  # unless a crash came between the line and the head
            fields = _fields(last)
            if fields is None or (fields.get("seq"), fields.get("prev")) != (head.seq + 1, head.sha256):
                raise self._changed(head)
            found = Head(head.seq + 1, _digest(last))
        return found, end, len(torn)

    def _changed(self, head: Head) -> AuditBroken:
        return AuditBroken(
            f"{self._place} does not end with its line {head.seq} as that was written; see tcpmesh ca audit. Nothing "
            f"is signed until it is restored, or moved away together with {AUDIT_HEAD}, which begins a new log"
        )


def verified(lines: Iterator[bytes], expected: Head, place: str) -> Iterator[tuple[Head, dict[str, Any]]]:
    """
    Check each line against the one before it, and the last against the head.

    :param expected: what ``audit.head`` says; one line more than that is what a crash in between leaves.
    :param place: the file, for messages.
    :raises AuditBroken: naming the first line that is not what was written.
    """
    head = Head()
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            if number <= expected.seq:
                raise AuditBroken(f"{place}: line {number} is cut off")
            break  # half a line of a crash; what it told of has not happened
        fields = _fields(line)
        if fields is None:
            raise AuditBroken(f"{place}: line {number} is not one that tcpmesh wrote")
        if fields.get("seq") != number:
            raise AuditBroken(
                f"{place}: line {number} has the number {str(fields.get('seq'))[:20]!r}: lines were removed, added or "
                "reordered here"
            )
        if fields.get("prev") != head.sha256:
            raise AuditBroken(
                f"{place}: line {number} does not fit the one before it: line {max(1, number - 1)} or "
                f"{number} was changed"
            )
        head = Head(number, _digest(line))
        if number == expected.seq and head != expected:
            raise AuditBroken(f"{place}: line {number} was changed: it is not the one that {AUDIT_HEAD} names")
        yield head, fields
    if head.seq < expected.seq:
        raise AuditBroken(f"{place}: line {head.seq + 1} and those after it, up to {expected.seq}, were removed")
    if head.seq > expected.seq + 1:
        raise AuditBroken(f"{place}: line {expected.seq + 2} was added by somebody else")


def _line(head: Head, event: str, now: float, facts: Mapping[str, Any]) -> bytes:
    fields = {"seq": head.seq + 1, "time": moment(now), "event": event, **facts, "prev": head.sha256}
    line = json.dumps(fields).encode() + b"\n"
    if len(line) > _MAX_LINE:
        raise StartError(STATE_UNUSABLE, f"a line of {len(line)} bytes is too long for {AUDIT_FILE}")
    return line


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _bounded(file: Any, size: int) -> Iterator[bytes]:
    """The lines of the first so many bytes: others may be writing behind them."""
    while size > 0 and (line := file.readline(min(size, _MAX_LINE))):
        size -= len(line)
        yield line


def _write(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
