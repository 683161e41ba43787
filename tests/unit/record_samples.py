"""Records and hostile texts that several tests share."""

from __future__ import annotations

from typing import Any

from tcpmesh.observe.records import ConnectionRecord

# What a hostile certificate may carry where an identity belongs.
HOSTILE = (
    'spiffe://a.test/"\n{"event":"open"',
    "spiffe://a.test/\x1b[2J\x1b]0;owned\x07",
    "spiffe://a.test/\u2028{}\u2029\u0085\u202e",
    "spiffe://a.test/\ud800\udfff\udc80",
    'spiffe://a.test/" code=TM-D100 decision=allow x="',
    "spiffe://a.test/{code}%s%(code)s\\",
    "spiffe://a.test/\0\r\n\x7f\x9b",
    "spiffe://a.test/" + "x" * 10_000,
)


def a_record(**fields: Any) -> ConnectionRecord:
    """A record of an inbound connection; ``fields`` replace its values."""
    values: dict[str, Any] = {
        "id": 7,
        "direction": "inbound",
        "listener": "orders-in",
        "src_addr": "10.0.0.7:40000",
        "time": 1_700_000_000.0,
        "local_addr": "10.0.0.1:4143",
    }
    return ConnectionRecord(**(values | fields))
