"""Messages as name servers send them, written by hand: the codec under test takes no part in making them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

A, CNAME, SOA, TXT, AAAA, SRV = 1, 5, 6, 16, 28, 33


def name(text: str) -> bytes:
    """A name in full, without compression; empty for the root."""
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner: str | bytes, kind: int, data: bytes, ttl: int = 60, cls: int = 1) -> bytes:
    """One record; an owner in bytes is put in as it is."""
    written = name(owner) if isinstance(owner, str) else owner
    return written + struct.pack("!HHIH", kind, cls, ttl, len(data)) + data


def a(owner: str | bytes, address: str, ttl: int = 60) -> bytes:
    return record(owner, A, bytes(int(part) for part in address.split(".")), ttl)


def cname(owner: str, target: str, ttl: int = 60) -> bytes:
    return record(owner, CNAME, name(target), ttl)


def srv(owner: str, target: str, port: int, priority: int = 0, weight: int = 0, ttl: int = 60) -> bytes:
    return record(owner, SRV, struct.pack("!HHH", priority, weight, port) + name(target), ttl)


def soa(owner: str, minimum: int, ttl: int = 3600) -> bytes:
    return record(owner, SOA, name("ns.test") + name("root.test") + struct.pack("!IIIII", 1, 2, 3, 4, minimum), ttl)


def message(
    asked: bytes,
    *,
    number: int = 0,
    flags: int = 0x8180,
    answers: Sequence[bytes] = (),
    authority: Sequence[bytes] = (),
    additional: Sequence[bytes] = (),
    counts: tuple[int, int, int, int] | None = None,
) -> bytes:
    """A message; ``asked`` is its question section, ``counts`` what its header says instead of the truth."""
    found = counts or (1, len(answers), len(authority), len(additional))
    return struct.pack("!HHHHHH", number, flags, *found) + asked + b"".join([*answers, *authority, *additional])


def question(text: str, kind: int) -> bytes:
    return name(text) + struct.pack("!HH", kind, 1)
