"""
The transport series: counters of connections and bytes under Linkerd's names and labels.

Ring 3, without I/O. Linkerd's meanings hold where it has them (``tcp_*`` and ``*_tcp_errors_total``), with two
differences: bytes are payload, not TLS records, and the label ``listener`` is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import attrs

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.observe.records import ConnectionRecord, Direction
from tcpmesh.observe.text import printable

__all__ = ["MAX_LABEL", "OTHER", "Labels", "Series", "SeriesTable", "error_of", "labels_of"]

OTHER = "other"
MAX_LABEL = 256  # characters of a label's value; identities may be longer, dashboards need not

_ERRORS: dict[Code, str] = {
    codes.NO_IDENTITY: "unexpected",
    codes.OWN_EXPIRED: "unexpected",
    codes.OWN_REVOKED: "unexpected",
    codes.OWN_DENIED: "unexpected",
    codes.INTERNAL: "unexpected",
    codes.NO_ENDPOINT: "failfast",
    codes.BALANCER_FAILED: "failfast",
    codes.ALL_UNAVAILABLE: "failfast",
    codes.CIRCUIT_OPEN: "failfast",
    codes.RESOLVE_TIMEOUT: "failfast",
    codes.QUEUE_TIMEOUT: "failfast",
    codes.NO_ROUTE: "unexpected",
    codes.CONNECTION_LIMIT: "loadshed",
    codes.HANDSHAKE_LIMIT: "loadshed",
    codes.OUT_OF_DESCRIPTORS: "loadshed",
    codes.UNREAD_ANSWERS: "loadshed",
    codes.POLICY_CONNECTIONS: "loadshed",
    codes.POLICY_RATE: "loadshed",
    codes.LISTENER_CONNECTIONS: "loadshed",
    codes.QUEUE_FULL: "loadshed",
    codes.SERVICE_CONNECTIONS: "loadshed",
    codes.ENDPOINT_CONNECTIONS: "loadshed",
    codes.PENDING_DIALS: "loadshed",
    codes.CLIENT_HELLO_TIMEOUT: "tls detection timeout",
    codes.CONNECT_TIMEOUT: "i/o",
    codes.ESTABLISH_TIMEOUT: "i/o",
    codes.PROXY_HEADER_TIMEOUT: "i/o",
    codes.PROXY_HEADER_MALFORMED: "i/o",
    codes.PROXY_HEADER_MISSING: "i/o",
    codes.NOT_TLS: "i/o",
    codes.PEER_VANISHED: "i/o",
    codes.RESET: "i/o",
    codes.TRUNCATED: "i/o",
    codes.TLS_BROKEN: "i/o",
}
# Linkerd does not tell TLS and identity failures from other ones; tcpmesh_handshake_failures_total does.
_IO = ("TM-I4", "TM-I5", "TM-I6", "TM-I7", "TM-U")
# Of a log line about a service, or an end as it was intended.
_NONE = (codes.DISCOVERY_FAILED, codes.ENDPOINT_DOWN, codes.ENDPOINT_EJECTED, codes.ENDPOINT_REMOVED)


def error_of(code: Code, direction: Direction) -> str | None:
    """
    Say under which ``error`` of Linkerd's ``*_tcp_errors_total`` a code counts.

    None for what is no error there: ends as intended, and denials, which have a counter of their own.
    """
    if code is codes.HANDSHAKE_TIMEOUT:
        return "tls detection timeout" if direction == "inbound" else "i/o"
    if code is codes.PREFACE_TIMEOUT:
        return "response timeout" if direction == "outbound" else "i/o"
    error = _ERRORS.get(code)
    return error or ("i/o" if code.id.startswith(_IO) and code not in _NONE else None)


class Labels(NamedTuple):
    """The labels of a transport series; an empty one is left out."""

    direction: Direction
    peer: Literal["src", "dst"]
    listener: str
    target_addr: str = ""
    tls: str = ""
    client_id: str = ""
    server_id: str = ""
    dst_service: str = ""

    def as_mapping(self) -> dict[str, str]:
        """The labels as the exposition wants them, the address in parts as well."""
        labels = {name: printable(value, MAX_LABEL) for name, value in self._asdict().items() if value}
        host, colon, port = self.target_addr.rpartition(":")
        if colon and port.isdigit():
            labels["target_ip"], labels["target_port"] = host.strip("[]"), port
        return labels

    def with_others(self) -> Labels:
        """The same without what can have many values."""
        return self._replace(
            target_addr=self.target_addr and OTHER,
            client_id=self.client_id and OTHER,
            server_id=self.server_id and OTHER,
        )


def labels_of(record: ConnectionRecord, peer: Literal["src", "dst"]) -> Labels:
    """
    The labels of one side of a connection that is established or has ended.

    An identity is a label only once it was verified, for an inbound connection up to a decision.
    """
    inbound = record.direction == "inbound"
    wire = inbound == (peer == "src")
    if record.passthrough:
        tls = "opaque"  # Linkerd's word for it
    else:
        tls = "disabled" if not wire else "true" if record.tls_version else "no_identity"
    labels = Labels(record.direction, peer, record.listener, tls=tls)
    if peer == "src":
        identity = record.src_identity if inbound and record.decision else ""
        return labels._replace(target_addr=record.local_addr, client_id=identity)
    if inbound:
        return labels
    identity = record.dst_identity if record.established else ""
    return labels._replace(target_addr=record.dst_addr, server_id=identity, dst_service=record.dst_service)


@attrs.define(eq=False)
class Series:
    """The counters of one set of labels; bytes are those of connections that have ended."""

    opened: int = 0
    closed: dict[str, int] = attrs.field(factory=dict)  # by errno
    live: int = 0
    read: int = 0
    written: int = 0
    shown_read: int = 0
    shown_written: int = 0

    def close(self, errno: str, read: int, written: int) -> None:
        """Count the end of a connection."""
        self.closed[errno] = self.closed.get(errno, 0) + 1
        self.read += read
        self.written += written

    def show(self, live_read: int, live_written: int) -> tuple[int, int]:
        """
        Give both byte counters, with what live connections add.

        They never go back: when a reset drops what was queued, a record's final count is less than it was.
        """
        self.shown_read = max(self.shown_read, self.read + live_read)
        self.shown_written = max(self.shown_written, self.written + live_written)
        return self.shown_read, self.shown_written


class SeriesTable:
    """At most ``limit`` sets of labels, then one for all others of a listener."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._series: dict[Labels, Series] = {}

    def __getitem__(self, labels: Labels) -> Series:
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= self._limit:
                labels = labels.with_others()
            series = self._series.setdefault(labels, Series())
        return series

    def __iter__(self) -> Iterator[tuple[Labels, Series]]:
        return iter(self._series.items())
