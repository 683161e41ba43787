"""
The process's log: twisted.logger observers that write text for people or JSON lines for programs.

Ring 3. One event is one line, whatever text got into it; a traceback follows indented (text) or as a field (JSON).
Writing never waits for long: see lines.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import IO, Any

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    PredicateResult,
    formatEvent,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.observe import lines
from tcpmesh.observe.records import as_json_line, bounded, rfc3339
from tcpmesh.observe.text import printable
from tcpmesh.settings import LogSettings

__all__ = ["JSONLogObserver", "TextLogObserver", "observer_for"]

MAX_MESSAGE = 16_384  # characters of one message
MAX_TRACEBACK = 65_536
PATIENCE = 0.1  # seconds that a terminal or pipe which had kept up may make us wait
_LEVELS = {"debug": LogLevel.debug, "info": LogLevel.info, "warn": LogLevel.warn, "error": LogLevel.error}
_COLOURS = {
    LogLevel.debug: "\x1b[2m",
    LogLevel.warn: "\x1b[33m",
    LogLevel.error: "\x1b[31m",
    LogLevel.critical: "\x1b[31;1m",
}
_PLAIN = "\x1b[0m"
_RESERVED = frozenset({"time", "level", "logger", "message", "traceback"})


@implementer(ILogObserver)
class TextLogObserver:
    """Writes time, level and message; control characters as escapes."""

    def __init__(self, write: Callable[[str], None], *, colour: bool = False) -> None:
        self._write = write
        self._colour = colour

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        level = event.get("log_level", LogLevel.info)
        name = "CRIT" if level is LogLevel.critical else level.name.upper()
        word = f"{name:<5}"
        if self._colour and level in _COLOURS:
            word = f"{_COLOURS[level]}{word}{_PLAIN}"
        text = f"{rfc3339(event.get('log_time', 0.0))} {word} {printable(_message(event), MAX_MESSAGE)}"
        # Indented, so that no line of an exception's text can pass for an event of its own.
        self._write("\n".join([text, *(f"    {printable(line)}" for line in _traceback(event).splitlines())]))


@implementer(ILogObserver)
class JSONLogObserver:
    """Writes one ASCII JSON object a line: time, level, logger, message, and the event's own plain fields."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        fields = event["fields"] if isinstance(event.get("fields"), Mapping) else None
        message = str(event["summary"]) if fields is not None and "summary" in event else _message(event)
        line: dict[str, Any] = {
            "time": rfc3339(event.get("log_time", 0.0)),
            "level": event.get("log_level", LogLevel.info).name,
            "logger": bounded(str(event.get("log_namespace", ""))),
            "message": bounded(message, MAX_MESSAGE),
        }
        # A field that is the whole message, as in log.info("{line}", line=...), says nothing more.
        line |= {
            name: value
            for name, value in _plain_fields(event if fields is None else fields).items()
            if value != message
        }
        traceback = _traceback(event)
        if traceback:
            line["traceback"] = traceback
        self._write(as_json_line(line))


def observer_for(settings: LogSettings, stream: IO[str]) -> ILogObserver:
    """
    Make the observer that the configuration asks for.

    :param stream: where to; its descriptor is used when it has one (then writes do not wait), else its ``write``.
    """
    terminal = stream.isatty() if hasattr(stream, "isatty") else False
    write = _writer(stream)
    observer: ILogObserver
    if settings.format == "text" or (settings.format == "auto" and terminal):
        observer = TextLogObserver(write, colour=terminal and "NO_COLOR" not in os.environ)
    else:
        observer = JSONLogObserver(write)
    return FilteringLogObserver(observer, [_AtLeast(_LEVELS[settings.level])])


@implementer(ILogFilterPredicate)
class _AtLeast:
    """Passes events of a level and above; what Twisted tells about its ports and factories is for debugging."""

    def __init__(self, threshold: Any) -> None:
        self._threshold = threshold

    def __call__(self, event: LogEvent) -> Any:
        level = event.get("log_level", LogLevel.info)
        if level is LogLevel.info and _is_about_insides(event):
            level = LogLevel.debug
        return PredicateResult.maybe if level >= self._threshold else PredicateResult.no


def _is_about_insides(event: LogEvent) -> bool:
    origin = str(event.get("log_namespace", ""))
    text = str(event.get("log_format") or "")
    return origin.startswith(("twisted.", "log_legacy")) or text.startswith(("Starting factory", "Stopping factory"))


def _writer(stream: IO[str]) -> Callable[[str], None]:
    try:
        target = lines.share(stream.fileno())
    except (AttributeError, OSError):  # an object of Python's own making, a rotating log file

        def write(text: str) -> None:
            stream.write(text + "\n")
            stream.flush()

        return write
    return lines.LineWriter(target, patience=PATIENCE).write


def _message(event: LogEvent) -> str:
    if _is_old_error(event):
        return str(event.get("why") or "Unhandled Error")  # the event's text has the traceback in it
    return formatEvent(event)


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure", event.get("failure") if _is_old_error(event) else None)
    return bounded(failure.getTraceback().rstrip(), MAX_TRACEBACK) if isinstance(failure, Failure) else ""


def _is_old_error(event: LogEvent) -> bool:
    """Whether the event comes from twisted.python.log.err."""
    return event.get("log_namespace") == "log_legacy" and isinstance(event.get("failure"), Failure)


def _plain_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: bounded(value) if isinstance(value, str) else value
        for name, value in values.items()
        if isinstance(value, str | int | float | bool) and not name.startswith("log_") and name not in _RESERVED
    }
