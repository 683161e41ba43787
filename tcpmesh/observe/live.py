"""
The connections of this moment, for ``/connections``.

Ring 3, without I/O.
"""

from __future__ import annotations

from typing import Any

from tcpmesh.observe.records import ConnectionRecord, as_mapping, rfc3339

__all__ = ["LiveConnections", "as_connection"]


class LiveConnections:
    """Every connection that was accepted and has not ended, in the order of acceptance."""

    def __init__(self) -> None:
        self._records: dict[int, ConnectionRecord] = {}
        self._opened: set[int] = set()

    def add(self, record: ConnectionRecord) -> None:
        """A connection was accepted."""
        self._records[record.id] = record

    def open(self, record: ConnectionRecord) -> bool:
        """A connection is established; say whether that is news."""
        if record.id in self._opened:
            return False
        self._opened.add(record.id)
        return True

    def discard(self, record: ConnectionRecord) -> bool:
        """A connection ended; say whether it was here."""
        self._opened.discard(record.id)
        return self._records.pop(record.id, None) is not None

    def __len__(self) -> int:
        return len(self._records)

    def snapshot(self) -> list[ConnectionRecord]:
        """The connections as they are, to be described one by one while new ones come and go."""
        return list(self._records.values())


def as_connection(record: ConnectionRecord, now: float) -> dict[str, Any]:
    """
    Describe a live connection with the record's names, and what only a live one has: state, age, bytes so far.

    :param now: wall-clock seconds.
    """
    mapping = as_mapping(record, "open", now)
    del mapping["v"], mapping["event"], mapping["time"]
    mapping |= {
        "state": "open" if record.established else "waiting" if record.waiting else "pending",
        "since": rfc3339(record.time),
        "age_ms": round((now - record.time) * 1000),
        "bytes_sent": record.bytes_sent,
        "bytes_recv": record.bytes_recv,
    }
    return mapping
