"""
The last decisions of policies, kept so that they can be explained and tried again.

Ring 3, without I/O. Refusals and permissions have a ring buffer each: a flood of one kind does not push out the other.
An entry takes at most :data:`MAX_ENTRY_BYTES`, whatever a peer or a plugin put into its fields; some 1 KiB as a rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import attrs

from tcpmesh.codes import POLICY_CHANGED
from tcpmesh.observe.records import MAX_TEXT, ConnectionRecord, bounded, rfc3339
from tcpmesh.observe.text import printable
from tcpmesh.values import PolicyNote

__all__ = ["KEPT", "MAX_ENTRY_BYTES", "Decisions", "Recorded", "denies", "recorded_as_mapping"]

KEPT = 1000  # of each kind
MAX_ENTRY_BYTES = 8192
_MAX_NOTES = 3
_WORD, _SERIAL, _SHORT, _LONG = 32, 64, 256, 400  # characters; an identity has as many as a valid one can have


@attrs.frozen(eq=False)
class Recorded:
    """One decision, with everything that a policy looked at. Times are seconds since the epoch."""

    time: float
    id: int
    conn: str
    direction: str
    listener: str
    workload: str
    src_addr: str
    src_identity: str
    src_serial: str
    src_not_before: float | None
    src_not_after: float | None
    dst_service: str
    sni: str
    alpn: str
    decision: str
    policy: str
    rule: str
    code: str
    reason: str
    generation: int
    notes: tuple[PolicyNote, ...]
    passthrough: bool = False


def denies(record: ConnectionRecord) -> bool:
    """Whether a policy of ours refused a connection, or ended it later; the peer's refusal is the peer's to tell."""
    return record.decision == "deny" or (record.decision == "allow" and record.code is POLICY_CHANGED)


class Decisions:
    """
    The two buffers.

    :param kept: entries of each.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._denied: deque[Recorded] = deque(maxlen=kept)
        self._allowed: deque[Recorded] = deque(maxlen=kept)

    def allowed(self, record: ConnectionRecord, now: float) -> None:
        """A connection was allowed and is established, or its application was not to be had."""
        self._allowed.append(_recorded(record, now, "allow"))

    def denied(self, record: ConnectionRecord, now: float) -> None:
        """A connection was refused by policy, or ended by it."""
        self._denied.append(_recorded(record, now, "deny"))

    def last_denied(self, count: int) -> list[Recorded]:
        """The newest refusals, the newest first."""
        return list(islice(reversed(self._denied), count))

    def find(self, text: str) -> list[Recorded]:
        """Everything that is kept of one connection, by its ``id`` or ``conn``, the newest first."""
        found = [entry for entry in self._all() if text and text in (str(entry.id), entry.conn)]
        return sorted(found, key=lambda entry: entry.time, reverse=True)

    def __len__(self) -> int:
        return len(self._denied) + len(self._allowed)

    def _all(self) -> Iterator[Recorded]:
        yield from reversed(self._denied)
        yield from reversed(self._allowed)


def _recorded(record: ConnectionRecord, now: float, decision: str) -> Recorded:
    by_change = (
        decision != record.decision
    )  # the record names the rule that had allowed it; the reason says why not now
    return Recorded(
        time=now,
        id=record.id,
        conn=record.conn,
        direction=record.direction,
        listener=record.listener,
        workload=record.workload,
        src_addr=_kept(record.src_addr, _SHORT),
        src_identity=_kept(record.src_identity),
        src_serial=_kept(record.src_serial, _SERIAL),
        src_not_before=record.src_not_before,
        src_not_after=record.src_not_after,
        dst_service=record.dst_service,
        sni=_kept(record.sni, _SHORT),
        alpn=_kept(record.alpn, _SHORT),
        decision=decision,
        policy="" if by_change else _kept(record.policy, _SHORT),
        rule="" if by_change else _kept(record.rule, _LONG),
        code=record.code.id if record.code is not None and decision == "deny" else "",
        reason=_kept(record.reason, _LONG) if decision == "deny" else "",
        generation=record.generation,
        notes=tuple(_short(note) for note in record.notes[:_MAX_NOTES]),
        passthrough=record.passthrough,
    )


def _short(note: PolicyNote) -> PolicyNote:
    kept = PolicyNote(_kept(note.policy, _SHORT), _kept(note.rule, _LONG), _kept(note.says, _WORD))
    return note if kept == note else kept  # as a rule the policy's own, of which there is one for all connections


def _kept(text: str, limit: int = MAX_TEXT) -> str:
    """Cut before and after escapes have made it longer."""
    return bounded(printable(text, limit), limit)


def recorded_as_mapping(entry: Recorded) -> dict[str, Any]:
    """The decision as JSON values, with the names of records; empty ones are left out."""
    fields: dict[str, Any] = {
        "time": rfc3339(entry.time),
        "id": entry.id,
        "conn": entry.conn,
        "direction": entry.direction,
        "listener": entry.listener,
        "workload": entry.workload,
        "src.addr": entry.src_addr,
        "src.identity": entry.src_identity,
        "src.serial": entry.src_serial,
        "src.not_before": rfc3339(entry.src_not_before) if entry.src_not_before is not None else "",
        "src.not_after": rfc3339(entry.src_not_after) if entry.src_not_after is not None else "",
        "passthrough": entry.passthrough or "",
        "dst.service": entry.dst_service,
        "sni": entry.sni,
        "alpn": entry.alpn,
        "decision": entry.decision,
        "policy": entry.policy,
        "rule": entry.rule,
        "code": entry.code,
        "reason": entry.reason,
        "generation": entry.generation,
        "notes": [attrs.asdict(note) for note in entry.notes] or "",
    }
    return {name: value for name, value in fields.items() if value != ""}
