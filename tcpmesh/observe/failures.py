"""
The failure lines: one warning for each handshake or connection that was refused, saying what to do next.

Ring 3. A peer that fails in a loop gets one line per 10 s for each code, then a count. How many peers may have lines of
their own is limited too, so that a flood from many addresses cannot flood the log.
"""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.observe.text import as_fields
from tcpmesh.values import format_duration

__all__ = ["FailureLog"]

WINDOW = 10.0  # seconds in which a peer's failures with one code make one line
PEERS = 1000  # windows at a time; beyond it, all other peers share one per listener and code
_OTHERS = "(others)"

# How a connection that was never established may end without anybody having to look into it.
_QUIET = frozenset(
    {
        codes.CLEAN,
        codes.TRUNCATED_AS_EOF,
        codes.CANCELLED,
        codes.NO_BYTE,
        codes.SHUTDOWN,
        codes.PROBE_ANSWERED,
        codes.HEALTH_CHECKED,
    }
)
# How an established connection may end: its record says all about it. Anything else there needs a look: a TLS alert is
# how a client refuses our certificate in TLS 1.3, after we have established already; a failure to connect, what is left
# to say when an endpoint was lost before any payload and no other one took over.
_ENDINGS = _QUIET | {
    codes.RESET,
    codes.TRUNCATED,
    codes.IDLE_TIMEOUT,
    codes.HALF_CLOSE_TIMEOUT,
    codes.LIFETIME,
    codes.PEER_VANISHED,
}


@attrs.define
class _Window:
    ends: float
    suppressed: int = 0


class FailureLog:
    """
    Reports failures, at most one line per peer address, listener and code in each window.

    An event's text is complete by itself; ``summary`` and ``fields`` carry the same for JSON.
    """

    def __init__(
        self, clock: IReactorTime, log: Logger | None = None, *, window: float = WINDOW, peers: int = PEERS
    ) -> None:
        self._clock = clock
        self._log = log or Logger(namespace=__name__)
        self._window = window
        self._peers = peers
        self._windows: dict[tuple[str, str, Code], _Window] = {}  # in the order in which they end
        self._call: IDelayedCall | None = None

    def closed(self, record: ConnectionRecord) -> None:
        """Report a connection that was refused or failed; one that ended well is none of this log's business."""
        code = record.code
        if code is None or (record.established and code in _ENDINGS):
            return
        if code in _QUIET:
            self._log.debug(
                "{line}", line=f"{code.summary}: {as_fields({'src': record.src_addr, 'listener': record.listener})}"
            )
            return
        fields = _fields(record, code, record.reason)
        if record.established:
            summary = f"{record.direction} connection broken"
        elif record.direction == "inbound":
            summary = "inbound connection refused"
        else:
            summary = "outbound connection failed"
            fields["application"] = f"was reset before a byte of it was sent: {_connecting_again(code)}"
        self._report(record, code, summary, fields)

    def attempt_failed(self, record: ConnectionRecord, code: Code, reason: str) -> None:
        """Report one attempt at an endpoint that failed while the connection lives on."""
        self._report(record, code, "attempt failed, another follows", _fields(record, code, reason))

    def close(self) -> None:
        """Write the counts of all open windows and stop."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._expire(float("inf"))

    def _report(self, record: ConnectionRecord, code: Code, summary: str, fields: dict[str, str]) -> None:
        now = self._clock.seconds()
        self._expire(now)
        peer = record.dst_addr if record.direction == "outbound" and record.dst_addr else record.src_addr
        key = (_host(peer), record.listener, code)
        if key not in self._windows and len(self._windows) >= self._peers:
            key = (_OTHERS, record.listener, code)
        window = self._windows.get(key)
        if window is not None:
            window.suppressed += 1
            return
        self._windows[key] = _Window(now + self._window)
        if self._call is None:
            self._call = self._clock.callLater(self._window, self._expire_in_turn)
        self._warn(summary, fields)

    def _warn(self, summary: str, fields: dict[str, str]) -> None:
        # The values reach the event's text as data: a "{" in a name must not be taken for a format.
        self._log.warn("{line}", line=f"{summary}: {as_fields(fields)}", summary=summary, fields=fields)

    def _expire_in_turn(self) -> None:
        self._call = None
        now = self._clock.seconds()
        self._expire(now)
        for window in self._windows.values():
            self._call = self._clock.callLater(window.ends - now, self._expire_in_turn)
            break

    def _expire(self, now: float) -> None:
        ended = []
        for key, window in self._windows.items():
            if window.ends > now:
                break
            ended.append(key)
        for key in ended:
            suppressed = self._windows.pop(key).suppressed
            if suppressed:
                host, listener, code = key
                self._warn(
                    f"{suppressed} more like this suppressed within {format_duration(self._window)}",
                    {"code": code.id, "listener": listener, "peer": host, "reason": code.summary},
                )


def _fields(record: ConnectionRecord, code: Code, reason: str) -> dict[str, str]:
    """Everything that a failure line names, without what is empty."""
    inbound = record.direction == "inbound"
    fields = {
        "code": code.id,
        "direction": record.direction,
        "listener": record.listener,
        "src": record.src_addr,
        "via": record.src_via,
        "local": record.local_addr,
        "service": record.dst_service,
        "dst": record.dst_addr,
        "expected": record.expected,
        "presented": record.presented or (record.src_identity if inbound else record.dst_identity),
        "policy": record.policy if record.decision == "deny" else "",
        "rule": record.rule if record.decision == "deny" else "",
        "reason": reason or code.summary,
        "next": code.next_step,
    }
    return {name: value for name, value in fields.items() if value}


def _connecting_again(code: Code) -> str:
    """What an application may hope for."""
    if code.retryable:
        return "connecting again is safe"
    if code.passes:
        return "connecting again is safe, and may succeed somewhat later"
    return "connecting again will not help until this is corrected"


def _host(address: str) -> str:
    """The address without its port; a unix path whole."""
    return address if address.startswith("unix:") else address.rpartition(":")[0] or address
