"""
What the log says of one service's discovery: each change in one line, and of what is said again and again only some.

Ring 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger

from tcpmesh.codes import DISCOVERY_FAILED
from tcpmesh.discovery.intake import Change, few
from tcpmesh.values import Endpoint, format_duration

__all__ = ["AGAIN", "BURST", "OTHER", "DiscoveryLines"]

AGAIN = 60.0  # seconds until the same thing is said again
BURST = 6  # other lines of the same kind in a row …
OTHER = 10.0  # … and then one in so many seconds

_log = Logger(namespace="tcpmesh.control")


class _Said:
    """When a kind of line was last written, and how many were not since."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._text: str | None = None
        self._at = -AGAIN
        self._paid = -BURST * OTHER  # each line costs OTHER seconds, of which BURST times as many can be saved
        self._kept_back = 0

    def may(self, text: str | None) -> str | None:
        """None when this must not be said now; else what to add about lines that were not. No text: always new."""
        now = self._clock.seconds()
        paid = max(self._paid, now - BURST * OTHER) + OTHER
        if (text is not None and text == self._text and now - self._at < AGAIN) or paid > now:
            self._kept_back += 1
            return None
        self._text, self._at, self._paid = text, now, paid
        kept_back, self._kept_back = self._kept_back, 0
        return f" ({kept_back} such lines were left out)" if kept_back else ""

    def reset(self) -> None:
        """The same may be said again."""
        self._text = None


class DiscoveryLines:
    """The lines about one service's discovery."""

    def __init__(self, service: str, clock: Any) -> None:
        self._service = service
        self._failures, self._remarks, self._changes, self._emptied = (_Said(clock) for _ in range(4))
        self._told_failure = False

    def failed(self, reason: str, endpoints: int | None) -> None:
        """The discovery fails; it has delivered so many endpoints before, None: nothing yet."""
        more = self._failures.may(reason)
        if more is None:
            return
        self._told_failure = True
        _log.warn(
            "{code} discovery of service {service!r} fails, {rest}: {reason}{more}",
            code=DISCOVERY_FAILED.id,
            service=self._service,
            rest="it has no endpoints yet"
            if endpoints is None
            else "and it has no endpoints"
            if endpoints == 0
            else f"its last endpoints ({endpoints}) go on to serve",
            reason=reason,
            more=more,
        )

    def recovered(self, seconds: float) -> None:
        """The discovery has delivered again."""
        if self._told_failure:
            self._told_failure = False
            self._failures.reset()
            _log.info(
                "discovery of service {service!r} works again, after {lasted}",
                service=self._service,
                lasted=format_duration(round(seconds, 1)),
            )

    def remark(self, text: str) -> None:
        """Something of what it delivered is not used."""
        more = self._remarks.may(text)
        if more is not None:
            _log.warn(
                "{code} discovery of service {service!r} delivered what is not used: {text}{more}",
                code=DISCOVERY_FAILED.id,
                service=self._service,
                text=text,
                more=more,
            )

    def changed(
        self,
        before: Sequence[Endpoint] | None,
        now: Sequence[Endpoint],
        change: Change,
        *,
        quiet: bool,
        why_none: str = "",
    ) -> None:
        """The endpoints are others; ``quiet`` for those that come with the start, which the start block tells."""
        more = self._changes.may(None) if now and not quiet else "" if now else self._emptied.may(None)
        if not now:
            gone = f"; removed: {len(change.removed)}" if change.removed else ""
            say = _log.debug if more is None else _log.warn
            say(
                "service {service!r} has no endpoints, its discovery says: {why}connections to it are refused until "
                "there is one{gone}{more}",
                service=self._service,
                why=f"{why_none}; " if why_none else "",
                gone=gone,
                more=more or "",
            )
            return
        say = _log.debug if quiet or more is None else _log.info
        say(
            "service {service!r} has endpoints: {count}; {change}{more}",
            service=self._service,
            count=len(now),
            change=change if before is not None else few(change.added),
            more=more or "",
        )
