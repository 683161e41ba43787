"""
The chain of the audit log: how a line is bound to the one before it, and what a change of either shows.

Ring 3, no I/O: bytes and lines in, places in the chain out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
from cryptography import x509

from tcpmesh.codes import STATE_UNUSABLE
from tcpmesh.errors import StartError
from tcpmesh.identity.certificates import fingerprint, moment, not_after, not_before, serial_text

__all__ = [
    "GENESIS",
    "HEAD_SIZE",
    "MAX_LINE",
    "AuditBroken",
    "Head",
    "Part",
    "certificate_facts",
    "digest",
    "fields_of",
    "line_of",
    "verified",
]

GENESIS = "0" * 64  # what the first line names as the one before it
HEAD_SIZE = 320  # bytes, always as many: a head is overwritten in place
MAX_LINE = 16384  # bytes; ours have some five hundred


class AuditBroken(StartError):
    """The log is not what was written; the reason names the line."""

    def __init__(self, reason: str) -> None:
        super().__init__(STATE_UNUSABLE, reason)


@attrs.frozen
class Head:
    """
    The number of the last line, and its SHA-256 in hexadecimal.

    :ivar base: the same of the last line that was removed with its file, None when none was.
    """

    seq: int = 0
    sha256: str = GENESIS
    base: Head | None = None

    def to_bytes(self) -> bytes:
        """As ``audit.head`` holds them."""
        fields: dict[str, Any] = {"seq": self.seq, "sha256": self.sha256}
        if self.base is not None:
            fields["removed"] = {"seq": self.base.seq, "sha256": self.base.sha256}
        return json.dumps(fields).encode().ljust(HEAD_SIZE - 1) + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """
        Read what :meth:`to_bytes` wrote, of an earlier version too.

        :raises ValueError: when it is anything else.
        """
        fields = json.loads(data)
        removed = fields.get("removed") if isinstance(fields, dict) else None
        base = None if removed is None else _place(removed)
        last = _place(fields)
        if base is not None and base.seq > last.seq:
            raise ValueError
        return attrs.evolve(last, base=base)


def _place(fields: Any) -> Head:
    try:
        place = Head(fields["seq"], fields["sha256"])
    except (KeyError, TypeError):
        raise ValueError from None
    if type(place.seq) is not int or place.seq < 0 or not isinstance(place.sha256, str):
        raise ValueError
    return place


@attrs.frozen(eq=False)
class Part:
    """
    One file of the log.

    :ivar ends: the number of its last line, which is whole; None for the one that is being written.
    """

    place: str
    lines: Iterator[bytes]
    ends: int | None = None


def verified(parts: Iterable[Part], expected: Head, head_file: str) -> Iterator[tuple[Head, dict[str, Any]]]:
    """
    Check each line against the one before it, and the last against the head.

    :param parts: the files of the log that are there, in their order.
    :param expected: what the head says; one line more than that is what a crash in between leaves.
    :param head_file: its name, for messages.
    :raises AuditBroken: naming the first line that is not what was written.
    """
    head = expected.base or Head()
    place = head_file
    for part in parts:
        place = part.place
        for line in part.lines:
            number = head.seq + 1
            if not line.endswith(b"\n"):
                if number <= expected.seq or part.ends is not None:
                    raise AuditBroken(f"{place}: line {number} is cut off")
                if len(line) >= MAX_LINE:
                    raise AuditBroken(f"{place}: behind line {head.seq} is more than half a line of a crash can be")
                break  # half a line of a crash; what it told of has not happened
            fields = _checked(line, head, place)
            head = Head(number, digest(line))
            if number == expected.seq and head.sha256 != expected.sha256:
                raise AuditBroken(f"{place}: line {number} was changed: it is not the one that {head_file} names")
            yield head, fields
        if part.ends is not None and head.seq != part.ends:
            raise AuditBroken(f"{place} ends with line {head.seq}, and its name says line {part.ends}")
    if head.seq < expected.seq:
        raise AuditBroken(f"{place}: line {head.seq + 1} and those after it, up to {expected.seq}, were removed")
    if head.seq > expected.seq + 1 and expected == Head():
        raise AuditBroken(f"{head_file} is empty, although {place} has {head.seq} lines")
    if head.seq > expected.seq + 1:
        raise AuditBroken(
            f"{place}: line {expected.seq + 2} was added by somebody else, or {head_file} is an older one"
        )


def _checked(line: bytes, before: Head, place: str) -> dict[str, Any]:
    number = before.seq + 1
    fields = fields_of(line)
    if fields is None:
        raise AuditBroken(f"{place}: line {number} is not one that tcpmesh wrote")
    if fields.get("seq") != number:
        found = fields.get("seq")
        missing = f"; before it belong lines {number} to {found - 1}" if type(found) is int and found > number else ""
        raise AuditBroken(
            f"{place}: line {number} has the number {str(found)[:20]!r}: lines were removed, added or reordered "
            f"here{missing}"
        )
    if fields.get("prev") != before.sha256:
        raise AuditBroken(
            f"{place}: line {number} does not fit the one before it: line {max(1, number - 1)} or {number} was changed"
        )
    return fields


def line_of(before: Head, event: str, now: float, facts: Mapping[str, Any]) -> bytes:
    """
    Make the line after ``before``.

    :param now: wall-clock seconds.
    :raises StartError: STATE_UNUSABLE when it is too long.
    """
    fields = {"seq": before.seq + 1, "time": moment(now), "event": event, **facts, "prev": before.sha256}
    line = json.dumps(fields).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise StartError(STATE_UNUSABLE, f"a line of {len(line)} bytes is too long for the audit log")
    return line


def certificate_facts(certificate: x509.Certificate) -> dict[str, str]:
    """What a line says of a certificate."""
    return {
        "serial": serial_text(certificate),
        "sha256": fingerprint(certificate),
        "not_before": moment(not_before(certificate)),
        "not_after": moment(not_after(certificate)),
    }


def fields_of(line: bytes) -> dict[str, Any] | None:
    """What a line says; None when it is none of ours."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def digest(line: bytes) -> str:
    """What the next line names this one by."""
    return hashlib.sha256(line).hexdigest()
