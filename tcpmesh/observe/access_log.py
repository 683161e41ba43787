"""
The access log: each connection's open and close record, as JSON for programs or as a line for people.

Ring 3. Writing never waits and never raises into the data path; what the destination does not take is dropped and
counted (``tcpmesh_records_dropped_total``).
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from tcpmesh import codes
from tcpmesh.errors import StartError
from tcpmesh.observe import lines
from tcpmesh.observe.records import PASSED_OVER, ConnectionRecord, Event, as_json_line, as_mapping, rfc3339
from tcpmesh.observe.text import as_fields, as_value
from tcpmesh.settings import LogSettings
from tcpmesh.values import format_duration

__all__ = ["AccessLog", "as_text_line", "open_access_log"]

_GREEN, _YELLOW, _RED, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
_FAILURES = 3  # that a line names
_UNREMARKABLE = frozenset({codes.CLEAN, codes.TRUNCATED_AS_EOF, codes.NO_BYTE, codes.LIFETIME, codes.HEALTH_CHECKED})
_ANSWERED = frozenset({codes.HEALTH_CHECKED, codes.PROBE_ANSWERED})  # what was wanted was had


class AccessLog:
    """
    Writes records to one destination, the records of one reactor turn together.

    :param target: where to; None for nowhere.
    :param path: the file behind ``target``, for :meth:`reopen`.
    """

    def __init__(
        self,
        target: lines.Target | None,
        clock: IReactorTime,
        *,
        text: bool = False,
        colour: bool = False,
        path: Path | None = None,
        log: Logger | None = None,
    ) -> None:
        self._log = log or Logger(namespace=__name__)
        self._writer = lines.LineWriter(target, clock, lost=self._complain) if target else None
        self._text = text
        self._colour = colour
        self._path = path

    @property
    def dropped(self) -> int:
        """How many records were lost since the start."""
        return self._writer.dropped if self._writer else 0

    def write(self, record: ConnectionRecord, event: Event, now: float) -> None:
        """Write the record of an event at ``now``, wall-clock seconds."""
        if self._writer is None:
            return
        if self._text:
            self._writer.write(as_text_line(record, event, now, colour=self._colour))
        else:
            self._writer.write(as_json_line(as_mapping(record, event, now)))

    def reopen(self) -> None:
        """Open the file again, after it was moved away; if that fails, the old one stays in use."""
        if self._writer is None or self._path is None:
            return
        try:
            target = lines.append_to(self._path)
        except OSError as failure:
            self._log.error(
                "{code} the access log {path} cannot be opened again, the old file stays in use: {reason}",
                code=codes.LOG_UNUSABLE.id,
                path=str(self._path),
                reason=str(failure),
            )
            return
        self._writer.replace(target)

    def close(self) -> None:
        """Write what is left and release the destination."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _complain(self, what: str) -> None:
        self._log.warn(
            "{code} {summary}: access log {path}: {what}; {next_step}",
            code=codes.LINES_DROPPED.id,
            summary=codes.LINES_DROPPED.summary,
            next_step=codes.LINES_DROPPED.next_step,
            path=str(self._path or "on standard output"),
            what=what,
        )


def open_access_log(settings: LogSettings, clock: IReactorTime, stdout: int = 1) -> AccessLog:
    """
    Make the access log that the configuration asks for.

    :param stdout: the descriptor that ``access: "-"`` means.
    :raises StartError: when the file or standard output cannot be written.
    """
    if settings.access == "none":
        return AccessLog(None, clock)
    try:
        if settings.access == "-":
            path, target, terminal = None, lines.share(stdout), os.isatty(stdout)
        else:
            path = Path(settings.access)
            target, terminal = lines.append_to(path), False
    except OSError as failure:
        raise StartError(
            codes.LOG_UNUSABLE, f"log.access: {as_value(str(settings.access))} cannot be written: {failure.strerror}"
        ) from failure
    return AccessLog(
        target,
        clock,
        text=settings.format == "text" or (settings.format == "auto" and terminal),
        colour=terminal and "NO_COLOR" not in os.environ,
        path=path,
    )


def as_text_line(record: ConnectionRecord, event: Event, now: float, *, colour: bool = False) -> str:
    """The record for people: what happened, between whom, how it went. Not a format to parse."""
    ended_here = event == "close" and not record.established and record.closed_by == "proxy"
    refused = ended_here and record.code not in _ANSWERED
    word = "REFUSE" if refused else event.upper()
    if colour:
        quiet = record.code in _UNREMARKABLE
        paint = _RED if refused else _GREEN if event == "open" else _PLAIN if quiet else _YELLOW
        word = f"{paint}{word:<6}{_PLAIN}"
    parts = [
        rfc3339(now),
        f"{word:<6}",
        f"#{record.id}",
        record.direction,
        as_value(record.listener),
        _party(record.src_addr, record.src_identity),
        "->",
        _party(record.dst_addr or record.dst_service, record.dst_identity),
    ]
    values: dict[str, str | int] = {"via": record.src_via}
    routed = record.route or record.passthrough or record.code is codes.NO_ROUTE
    if routed and (event == "open" or not record.established):
        values |= {"route": record.route, "sni": record.sni}
    if event == "open":
        tls = "passed through" if record.passthrough else record.tls_version
        values |= {"policy": record.policy, "tls": tls, "conn": record.conn}
        values |= _way(record)
    else:
        code = record.code
        if record.established:
            values |= {"sent": record.bytes_sent, "received": record.bytes_recv}
        else:
            values["conn"] = record.conn  # the open record has it, where there is one
        values |= {"by": record.closed_by or "", "code": code.id if code else "", "errno": record.errno}
        values["policy"] = record.policy if record.decision == "deny" else ""
        values["reason"] = record.reason or (code.summary if code else "")
        if not record.established:
            values |= _way(record)
        if record.duration_ms is not None:
            values["after"] = format_duration(round(record.duration_ms / 1000, 3))
    if record.notes and (event == "open" or not record.established):
        values["notes"] = ", ".join(f"{note.says} by {note.policy}" for note in record.notes)
    return " ".join([*parts, as_fields({name: value for name, value in values.items() if value != ""})])


def _way(record: ConnectionRecord) -> dict[str, str | int]:
    """What it took to get there, or as far as it got, where that was more than one attempt."""
    values: dict[str, str | int] = {}
    if record.queue_ms is not None:
        values["waited"] = format_duration(round(record.queue_ms / 1000, 3))
    if record.attempts > 1 or any(failure.endpoint.startswith(PASSED_OVER) for failure in record.failures):
        values["attempts"] = record.attempts
        told = [f"{failure.code.id} at {failure.endpoint}" for failure in record.failures[:_FAILURES]]
        more = len(record.failures) - len(told)
        values["failed"] = ", ".join(told) + (f", and {more} more" if more else "")
    return values


def _party(address: str, identity: str) -> str:
    shown = as_value(address) if address else "(none)"
    return f"{shown} ({as_value(identity)})" if identity else shown
