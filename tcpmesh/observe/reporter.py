"""
Where the data path reports: to the access log, the failure log, the metrics, the list of live connections and the
last decisions.

Ring 3. The one implementation of IRecordSink. Nothing raises out of here: a record is partly written by strangers,
and a mistake in reporting must not end a connection that was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.logger import Logger

from tcpmesh.codes import Code
from tcpmesh.observe.access_log import AccessLog
from tcpmesh.observe.decisions import Decisions, denies
from tcpmesh.observe.failures import FailureLog
from tcpmesh.observe.live import LiveConnections
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.noted import NotedPolicies
from tcpmesh.observe.records import ConnectionRecord

__all__ = ["Reporter"]


@attrs.define(eq=False)
class Reporter:
    """
    Passes each event to all who count or write it.

    :param now: wall-clock seconds since the epoch.
    """

    access_log: AccessLog
    failures: FailureLog
    metrics: Metrics
    now: Callable[[], float]
    live: LiveConnections = attrs.field(factory=LiveConnections)
    decisions: Decisions = attrs.field(factory=Decisions)
    noted: NotedPolicies = attrs.field(factory=NotedPolicies)
    log: Logger = attrs.field(factory=lambda: Logger(namespace=__name__))

    def accepted(self, record: ConnectionRecord) -> None:
        """Count it as pending. (IRecordSink)"""
        self.live.add(record)
        self._tell(self.metrics.accepted, record)

    def opened(self, record: ConnectionRecord) -> None:
        """
        Count it as open and write its open record. (IRecordSink)

        Once: an endpoint that was lost before any payload may be followed by another; the close record names the last.
        """
        if not self.live.open(record):
            return
        self._tell(self.metrics.opened, record)
        self._tell(self.access_log.write, record, "open", self.now())
        self._tell(self._decided, record)

    def closed(self, record: ConnectionRecord) -> None:
        """Count the end, write the close record, explain a failure. (IRecordSink)"""
        if not self.live.discard(record):
            self.log.error("connection {number} was reported as closed without being open: a bug", number=record.id)
            return
        self._tell(self.metrics.closed, record)
        self._tell(self.access_log.write, record, "close", self.now())
        self._tell(self.failures.closed, record)
        if not record.established or denies(record):
            self._tell(self._decided, record)

    def attempt_failed(self, record: ConnectionRecord, code: Code, reason: str) -> None:
        """Count and explain an attempt that another one follows. (IRecordSink)"""
        self._tell(self.metrics.attempt_failed, record, code)
        self._tell(self.failures.attempt_failed, record, code, reason)

    def close(self) -> None:
        """Write what is left; nothing is reported after this."""
        self.failures.close()
        self.access_log.close()

    def _decided(self, record: ConnectionRecord) -> None:
        """Remember it: when it is established, when it ends before that, and when policy ends it."""
        if denies(record):
            self.decisions.denied(record, self.now())
        elif record.decision:
            self.decisions.allowed(record, self.now())
        if record.notes and (record.code is None or not record.established):  # once for each connection
            self.noted.note(record)

    def _tell(self, report: Callable[..., None], *event: Any) -> None:
        try:
            report(*event)
        except Exception:  # noqa: BLE001  # the boundary between what happened and telling of it
            self.log.failure("reporting failed; the connection is not affected")
