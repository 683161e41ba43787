"""
The record of one connection, and where records go.

Ring 0. One JSON object per line: ``open`` when a connection is decided and established, ``close`` when it ended; a
refused connection has only the latter. ``v`` is the version of this schema: fields are added, never renamed.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import attrs

from tcpmesh.codes import Code
from tcpmesh.values import PolicyNote

__all__ = [
    "MAX_FAILURES",
    "MAX_FAILURE_TEXT",
    "MAX_TEXT",
    "PASSED_OVER",
    "SCHEMA_VERSION",
    "ConnectionRecord",
    "Direction",
    "FailedAttempt",
    "IRecordSink",
    "Side",
    "as_json_line",
    "as_mapping",
    "bounded",
    "rfc3339",
]

SCHEMA_VERSION = 1
Direction = Literal["inbound", "outbound"]
Side = Literal["src", "dst", "proxy"]
Event = Literal["open", "close"]

# No text in a record or a log field is longer: SPIFFE-ID.md section 2.3 makes 2048 bytes the longest valid ID, and
# what a stranger's certificate claims beyond that explains nothing.
MAX_TEXT = 2048
MAX_FAILURES = 8  # that a record names, of a connection's failed attempts
MAX_FAILURE_TEXT = 256
PASSED_OVER = "service "  # before its name, where a failure has no endpoint


@attrs.frozen
class FailedAttempt:
    """One attempt at one endpoint that failed, after so many milliseconds."""

    endpoint: str
    code: Code
    reason: str
    ms: float


@attrs.define(eq=False)
class ConnectionRecord:
    """
    Everything known of one connection, filled in while it lives.

    ``src`` is who connected to us, ``dst`` whom we connected to. ``bytes_sent`` is payload handed to the kernel
    towards ``dst``, ``bytes_recv`` towards ``src``: payload, never TLS bytes. Times are wall-clock seconds in
    ``time`` and milliseconds in the others.

    ``src_identity`` and ``dst_identity`` hold verified identities only. What a refused peer merely claimed goes to
    ``presented``, and what we wanted instead to ``expected``; both may hold anything, of any length.
    """

    id: int
    direction: Direction
    listener: str
    src_addr: str
    time: float  # of the accept, seconds since the epoch
    src_via: str = ""  # the TCP peer, when src_addr is what it says in a PROXY header
    local_addr: str = ""  # our own end of the accepted connection; for the log and metrics, not in the record
    conn: str = ""  # TLS exporter output in hex, equal in both proxies' records
    src_identity: str = ""
    src_serial: str = ""
    src_not_before: float | None = None  # to ask policies again; not in the record
    src_not_after: float | None = None
    route: str = ""  # of the listener, where it has several: its pattern of server names, or "default"
    passthrough: bool = False  # TLS between src and dst, which nobody looked into here
    dst_addr: str = ""
    dst_service: str = ""
    dst_identity: str = ""
    dst_serial: str = ""
    dst_not_after: float | None = None
    workload: str = ""
    sni: str = ""
    alpn: str = ""
    tls_version: str = ""
    tls_group: str = ""
    tls_cipher: str = ""
    decision: str = ""  # allow or deny; empty when it never came to one
    policy: str = ""
    rule: str = ""
    notes: tuple[PolicyNote, ...] = ()  # of policies that only watch
    generation: int = 0
    attempts: int = 0
    failures: tuple[FailedAttempt, ...] = ()  # the first of those that failed
    connect_ms: float | None = None
    handshake_ms: float | None = None
    queue_ms: float | None = None  # how long it waited for the service's discovery, or for room
    waiting: bool = False  # for one of these, now; for who lists connections, not in the record
    duration_ms: float | None = None
    bytes_sent: int = 0
    bytes_recv: int = 0
    closed_by: Side | None = None
    code: Code | None = None
    reason: str = ""
    expected: str = ""  # identities that would have been accepted, when that is why it was refused
    presented: str = ""  # what the refused peer showed instead, not verified
    errno: str = ""  # ECONNRESET, ETIMEDOUT, …: what the kernel said, for tcp_close_total
    established: bool = False  # an open record was written

    def note_wait(self, seconds: float) -> None:
        """It waited for so long, and does so no longer."""
        self.waiting = False
        self.queue_ms = round((self.queue_ms or 0.0) + seconds * 1000, 3)

    def note_failure(self, endpoint: str, code: Code, reason: str, seconds: float) -> None:
        """An attempt failed, after so many seconds; what comes behind the first few is only counted in ``attempts``."""
        if len(self.failures) < MAX_FAILURES:
            text = bounded(reason, MAX_FAILURE_TEXT)
            self.failures += (FailedAttempt(endpoint, code, text, round(seconds * 1000, 3)),)

    def forget_endpoint(self) -> None:
        """Whatever is known of the endpoint that was tried last is not about the next one."""
        self.dst_addr = self.dst_identity = self.dst_serial = self.errno = self.presented = self.expected = ""
        self.conn = self.alpn = self.tls_version = self.tls_group = self.tls_cipher = ""
        self.dst_not_after = self.connect_ms = self.handshake_ms = None

    def note_passed_over(self, code: Code, reason: str) -> None:
        """The service itself could not be had, and the next one of a failover is tried."""
        self.note_failure(f"{PASSED_OVER}{self.dst_service}", code, reason, 0.0)


class IRecordSink(Protocol):
    """Where records and counters of the data path go; provided by ``observe``, passed in by the composition."""

    def accepted(self, record: ConnectionRecord) -> None:
        """A listener took a connection."""

    def opened(self, record: ConnectionRecord) -> None:
        """The connection is established end to end: payload may flow."""

    def closed(self, record: ConnectionRecord) -> None:
        """The connection ended or was refused; called exactly once for each that was accepted."""

    def attempt_failed(self, record: ConnectionRecord, code: Code, reason: str) -> None:
        """One attempt to reach an endpoint failed and another follows."""


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """Cut a text that is longer than ``limit`` characters, and say how long it was."""
    return text if len(text) <= limit else f"{text[:limit]}...({len(text)} characters)"


def rfc3339(seconds: float) -> str:
    """Write seconds since the epoch as UTC with milliseconds (RFC 3339)."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_mapping(record: ConnectionRecord, event: Event, now: float) -> dict[str, Any]:
    """
    The record as the documented JSON object; empty values are left out.

    :param now: wall-clock seconds of the event.
    """
    fields: dict[str, Any] = {
        "v": SCHEMA_VERSION,
        "event": event,
        "time": rfc3339(now),
        "id": record.id,
        "conn": record.conn,
        "direction": record.direction,
        "listener": record.listener,
        "workload": record.workload,
        "src.addr": record.src_addr,
        "src.via": record.src_via,
        "src.identity": record.src_identity,
        "src.serial": record.src_serial,
        "src.not_after": rfc3339(record.src_not_after) if record.src_not_after is not None else "",
        "route": record.route,
        "passthrough": record.passthrough or "",
        "dst.addr": record.dst_addr,
        "dst.service": record.dst_service,
        "dst.identity": record.dst_identity,
        "dst.serial": record.dst_serial,
        "dst.not_after": rfc3339(record.dst_not_after) if record.dst_not_after is not None else "",
        "sni": record.sni,
        "alpn": record.alpn,
        "tls.version": record.tls_version,
        "tls.group": record.tls_group,
        "tls.cipher": record.tls_cipher,
        "decision": record.decision,
        "policy": record.policy,
        "rule": record.rule,
        "notes": [attrs.asdict(note) for note in record.notes] or "",
        "generation": record.generation,
        "attempts": record.attempts or "",
        "failures": [attrs.asdict(failure) | {"code": failure.code.id} for failure in record.failures] or "",
        "queue_ms": _rounded(record.queue_ms),
        "connect_ms": _rounded(record.connect_ms),
        "handshake_ms": _rounded(record.handshake_ms),
    }
    if event == "close":
        fields |= {
            "duration_ms": _rounded(record.duration_ms),
            "bytes_sent": record.bytes_sent,
            "bytes_recv": record.bytes_recv,
            "closed_by": record.closed_by,
            "code": record.code.id if record.code else "",
            "reason": record.reason,
            "expected": record.expected,
            "presented": record.presented,
            "errno": record.errno,
        }
    return {
        name: bounded(value) if isinstance(value, str) else value
        for name, value in fields.items()
        if value not in ("", None)
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)


def as_json_line(mapping: Mapping[str, Any]) -> str:
    """
    One line of ASCII JSON without its newline.

    ASCII, so that nothing a peer put into a name can end the line, move a terminal's cursor or imitate other text.
    """
    return _ENCODER.encode(mapping)
