"""
The record of one connection, and where records go.

Ring 0. One JSON object per line: ``open`` when a connection is decided and established, ``close`` when it ended; a
refused connection has only the latter. ``v`` is the version of this schema: fields are added, never renamed.
"""

from __future__ import annotations

import datetime
import json
from typing import Any, Literal, Protocol

import attrs

from tcpmesh.codes import Code

SCHEMA_VERSION = 1
Direction = Literal["inbound", "outbound"]
Side = Literal["src", "dst", "proxy"]


@attrs.define(eq=False)
class ConnectionRecord:
    """
    Everything known of one connection, filled in while it lives.

    ``src`` is who connected to us, ``dst`` whom we connected to. ``bytes_sent`` is payload handed to the kernel
    towards ``dst``, ``bytes_recv`` towards ``src``: payload, never TLS bytes. Times are wall-clock seconds in
    ``time`` and milliseconds in the others.
    """

    id: int
    direction: Direction
    listener: str
    src_addr: str
    time: float  # of the accept, seconds since the epoch
    conn: str = ""  # TLS exporter output in hex, equal in both proxies' records
    src_identity: str = ""
    src_serial: str = ""
    src_not_after: float | None = None
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
    generation: int = 0
    attempts: int = 0
    connect_ms: float | None = None
    handshake_ms: float | None = None
    queue_ms: float | None = None
    duration_ms: float | None = None
    bytes_sent: int = 0
    bytes_recv: int = 0
    closed_by: Side | None = None
    code: Code | None = None
    reason: str = ""
    errno: str = ""  # ECONNRESET, ETIMEDOUT, …: what the kernel said, for tcp_close_total
    established: bool = False  # an open record was written


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


def _rfc3339(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def as_mapping(record: ConnectionRecord, event: Literal["open", "close"], now: float) -> dict[str, Any]:
    """
    The record as the documented JSON object; empty values are left out.

    :param now: wall-clock seconds of the event.
    """
    fields: dict[str, Any] = {
        "v": SCHEMA_VERSION,
        "event": event,
        "time": _rfc3339(now),
        "id": record.id,
        "conn": record.conn,
        "direction": record.direction,
        "listener": record.listener,
        "workload": record.workload,
        "src.addr": record.src_addr,
        "src.identity": record.src_identity,
        "src.serial": record.src_serial,
        "src.not_after": _rfc3339(record.src_not_after) if record.src_not_after is not None else "",
        "dst.addr": record.dst_addr,
        "dst.service": record.dst_service,
        "dst.identity": record.dst_identity,
        "dst.serial": record.dst_serial,
        "dst.not_after": _rfc3339(record.dst_not_after) if record.dst_not_after is not None else "",
        "sni": record.sni,
        "alpn": record.alpn,
        "tls.version": record.tls_version,
        "tls.group": record.tls_group,
        "tls.cipher": record.tls_cipher,
        "decision": record.decision,
        "policy": record.policy,
        "rule": record.rule,
        "generation": record.generation,
        "attempts": record.attempts or "",
        "queue_ms": record.queue_ms,
        "connect_ms": record.connect_ms,
        "handshake_ms": record.handshake_ms,
    }
    if event == "close":
        fields |= {
            "duration_ms": record.duration_ms,
            "bytes_sent": record.bytes_sent,
            "bytes_recv": record.bytes_recv,
            "closed_by": record.closed_by,
            "code": record.code.id if record.code else "",
            "reason": record.reason,
            "errno": record.errno,
        }
    return {name: value for name, value in fields.items() if value not in ("", None)}


def as_json_line(mapping: dict[str, Any]) -> str:
    """
    One line of ASCII JSON without its newline.

    ASCII, so that nothing a peer put into a name can end the line, move a terminal's cursor or imitate other text.
    """
    return json.dumps(mapping, separators=(",", ":"), ensure_ascii=True)
