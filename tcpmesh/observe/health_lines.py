"""
The log lines about the health of services: one for each change, as long as they do not come in floods.

Ring 3. A service of which many endpoints flap has a few lines in a window of ten seconds, and then a count.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tcpmesh.codes import CIRCUIT_OPEN, ENDPOINT_DOWN, ENDPOINT_EJECTED, Code
from tcpmesh.health.states import ChangeWord, HealthChange
from tcpmesh.observe.text import as_fields
from tcpmesh.values import format_duration

__all__ = ["HealthLines"]

WINDOW = 10.0  # seconds
LINES = 20  # of one service in a window

# For each change: its code, whether it is bad, and what is said.
_CHANGES: Mapping[ChangeWord, tuple[Code, bool, str]] = {
    "ejected": (ENDPOINT_EJECTED, True, "endpoint ejected"),
    "back": (ENDPOINT_EJECTED, False, "endpoint back"),
    "down": (ENDPOINT_DOWN, True, "endpoint down"),
    "up": (ENDPOINT_DOWN, False, "endpoint up"),
    "circuit-open": (CIRCUIT_OPEN, True, "circuit open"),
    "circuit-closed": (CIRCUIT_OPEN, False, "circuit closed"),
}


@attrs.define
class _Window:
    """The lines of one service."""

    ends: IDelayedCall
    lines: int = 0
    suppressed: int = 0


class HealthLines:
    """Writes them. An event's text is complete by itself; ``summary`` and ``fields`` carry the same for JSON."""

    def __init__(self, clock: IReactorTime, log: Logger | None = None) -> None:
        self._clock = clock
        self._log = log or Logger(namespace="tcpmesh.health")
        self._windows: dict[str, _Window] = {}

    def tell(self, change: HealthChange) -> None:
        """Write what has changed, or count it."""
        service = change.service
        window = self._windows.get(service)
        if window is None:
            window = self._windows[service] = _Window(self._clock.callLater(WINDOW, self._end, service))
        if window.lines >= LINES:
            window.suppressed += 1
            return
        window.lines += 1
        code, is_bad, summary = _CHANGES[change.change]
        fields = {
            "code": code.id,
            "service": service,
            "endpoint": str(change.address) if change.address is not None else "",
            "for": format_duration(round(change.seconds, 1)) if change.seconds else "",
            "reason": change.reason,
            "next": code.next_step if is_bad else "",
        }
        self._write(is_bad, summary, {name: value for name, value in fields.items() if value})

    def close(self) -> None:
        """Write the counts and stop."""
        for service in list(self._windows):
            self._windows[service].ends.cancel()
            self._end(service)

    def _end(self, service: str) -> None:
        suppressed = self._windows.pop(service).suppressed
        if suppressed:
            summary = f"{suppressed} more changes of the service's health suppressed within {format_duration(WINDOW)}"
            self._write(True, summary, {"service": service})

    def _write(self, is_bad: bool, summary: str, fields: dict[str, str]) -> None:
        write = self._log.warn if is_bad else self._log.info
        # The values reach the event's text as data: a "{" in a reason must not be taken for a format.
        write("{line}", line=f"{summary}: {as_fields(fields)}", summary=summary, fields=fields)
