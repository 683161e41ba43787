"""
Metrics in Prometheus form: what the records say, counted, and what the state says, when asked.

Ring 3. Nothing here is called per byte: the bytes of live connections are read off their records at each scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tcpmesh import codes
from tcpmesh.codes import Code
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.observe.bundle_metrics import bundle_families
from tcpmesh.observe.queue_waits import QueueWaits
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.observe.series import MAX_LABEL, OTHER, Series, SeriesTable, error_of, labels_of
from tcpmesh.observe.text import printable
from tcpmesh.values import IdentityState

__all__ = ["MAX_SERIES", "Metrics"]

MAX_SERIES = 1000  # sets of labels per family before the rest is counted as "other"

_HANDSHAKE = ("TM-I4", "TM-I5", "TM-I6", "TM-I7")


class _Counts:
    """A family of counters with fixed label names; past ``limit`` sets of labels, ``many`` becomes "other"."""

    def __init__(self, name: str, help: str, *labels: str, many: str = "", limit: int = 0) -> None:  # noqa: A002
        self._name, self._help, self._labels, self._many, self._limit = name, help, labels, many, limit
        self._values: Counter[tuple[str, ...]] = Counter()

    def add(self, *values: str) -> None:
        if self._limit and values not in self._values and len(self._values) >= self._limit:
            values = tuple(
                OTHER if name == self._many else value for name, value in zip(self._labels, values, strict=True)
            )
        self._values[values] += 1

    def collect(self) -> Metric:
        metric = Metric(self._name, self._help, "counter")
        for values, count in self._values.items():
            named = zip(self._labels, values, strict=True)
            # Printable, because a plugin's policy may be called anything, and one lone surrogate fails the scrape.
            labels = {name: printable(value, MAX_LABEL) for name, value in named if value}
            metric.add_sample(self._name + "_total", labels, count)
        return metric


class Metrics(Collector):
    """
    Counts records and answers scrapes.

    :param now: wall-clock seconds since the epoch.
    :param build: versions by name, as :func:`tcpmesh.versions.versions` gives them.
    :param records_dropped: how many records the access log has lost.
    :param federated: where the bundle of each federated trust domain stands.
    """

    def __init__(
        self,
        state: MeshStateCell,
        now: Callable[[], float],
        build: Mapping[str, str],
        records_dropped: Callable[[], int] = lambda: 0,
        *,
        federated: Callable[[], Sequence[FederatedBundle]] = tuple,
        max_series: int = MAX_SERIES,
    ) -> None:
        self._state = state
        self._now = now
        self._build = {"version" if name == "tcpmesh" else name.lower(): value for name, value in build.items()}
        self._records_dropped = records_dropped
        self._federated = federated
        self._series = SeriesTable(max_series)
        self._live: dict[ConnectionRecord, tuple[Series, Series]] = {}
        self._pending: Counter[tuple[str, str]] = Counter()
        where = ("direction", "listener")
        self._allowed = _Counts(
            "inbound_tcp_authz_allow",
            "Inbound connections that policy allowed",
            *("listener", "tls", "client_id", "authz_name"),
            many="client_id",
            limit=max_series,
        )
        self._denied = _Counts(
            "inbound_tcp_authz_deny",
            "Inbound connections that policy denied",
            *("listener", "tls", "client_id", "authz_name"),
            many="client_id",
            limit=max_series,
        )
        self._notes = _Counts(
            "tcpmesh_policy_notes",
            "Connections that a policy only noted: audit, or what a dry-run would have done",
            *("direction", "authz_name", "says"),
            many="authz_name",
            limit=max_series,
        )
        self._inbound_errors = _Counts(
            "inbound_tcp_errors", "Inbound connections that failed, by kind", "listener", "error"
        )
        self._outbound_errors = _Counts(
            "outbound_tcp_errors", "Outbound connections that failed, by kind", "listener", "error"
        )
        self._ended = _Counts(
            "tcpmesh_connections_closed", "Connections that ended or were refused, by code", *where, "code"
        )
        self._handshakes = _Counts("tcpmesh_handshake_failures", "TLS handshakes that failed, by code", *where, "code")
        self._attempts = _Counts(
            "tcpmesh_attempts_failed", "Attempts that another one followed, by code", "service", "code"
        )
        self._limits = _Counts("tcpmesh_limits_hit", "Connections refused because a limit was reached", *where, "code")
        self._waits = QueueWaits()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def register(self, collector: Collector) -> None:
        """Let somebody else answer scrapes too."""
        self._registry.register(collector)

    # --- counting: called by the reporter

    def accepted(self, record: ConnectionRecord) -> None:
        """Count a connection as pending."""
        self._pending[record.direction, record.listener] += 1

    def opened(self, record: ConnectionRecord) -> None:
        """Count a connection as open; its labels are settled from here on."""
        self._pending[record.direction, record.listener] -= 1
        both = self._series[labels_of(record, "src")], self._series[labels_of(record, "dst")]
        self._live[record] = both
        for series in both:
            series.opened += 1
            series.live += 1
        self._decided(record)
        self._waits.note(record)

    def closed(self, record: ConnectionRecord) -> None:
        """Count the end of a connection, or its refusal."""
        both = self._live.pop(record, None)
        if both is None:
            self._pending[record.direction, record.listener] -= 1
            series = self._series[labels_of(record, "src")]
            series.opened += 1
            series.close(_errno(record, "src"), record.bytes_sent, record.bytes_recv)
            self._decided(record)
            self._waits.note(record)
        else:
            src, dst = both
            src.live -= 1
            dst.live -= 1
            src.close(_errno(record, "src"), record.bytes_sent, record.bytes_recv)
            dst.close(_errno(record, "dst"), record.bytes_recv, record.bytes_sent)
        if record.code is not None:
            self._ended.add(record.direction, record.listener, record.code.id)
            if both is None:
                self._failed(record, record.code)
            error = error_of(record.code, record.direction)
            if error is not None:
                errors = self._inbound_errors if record.direction == "inbound" else self._outbound_errors
                errors.add(record.listener, error)

    def attempt_failed(self, record: ConnectionRecord, code: Code) -> None:
        """Count an attempt that another one follows."""
        self._attempts.add(record.dst_service, code.id)
        self._failed(record, code)

    def _decided(self, record: ConnectionRecord) -> None:
        for note in record.notes:
            self._notes.add(record.direction, note.policy, note.says)
        if record.direction == "inbound" and record.decision:
            counts = self._allowed if record.decision == "allow" else self._denied
            labels = labels_of(record, "src")
            counts.add(record.listener, labels.tls, labels.client_id, record.policy)

    def _failed(self, record: ConnectionRecord, code: Code) -> None:
        if code.id.startswith(_HANDSHAKE) or code is codes.HANDSHAKE_TIMEOUT:
            self._handshakes.add(record.direction, record.listener, code.id)
        elif code.id.startswith("TM-L"):
            self._limits.add(record.direction, record.listener, code.id)

    # --- scraping

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Give content type and text for a scraper that sent this Accept header."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All families except those of the process. (Collector)"""
        yield from self._transport()
        for counts in (self._allowed, self._denied, self._inbound_errors, self._outbound_errors):
            yield counts.collect()
        for counts in (self._notes, self._ended, self._handshakes, self._attempts, self._limits):
            yield counts.collect()
        yield self._waits.collect()
        pending = Metric("tcpmesh_pending_handshakes", "Connections accepted and not yet established", "gauge")
        for (direction, listener), count in self._pending.items():
            pending.add_sample(pending.name, {"direction": direction, "listener": listener}, count)
        yield pending
        dropped = Metric("tcpmesh_records_dropped", "Records that the access log's destination did not take", "counter")
        dropped.add_sample("tcpmesh_records_dropped_total", {}, self._records_dropped())
        yield dropped
        yield from self._identities()
        yield from bundle_families(self._federated(), self._now())
        build = Metric("tcpmesh_build_info", "Versions, as labels; always 1", "gauge")
        build.add_sample(build.name, self._build, 1)
        yield build

    def _transport(self) -> Iterator[Metric]:
        live: dict[Series, list[int]] = {}
        for record, (src, dst) in self._live.items():
            for series, read, written in (
                (src, record.bytes_sent, record.bytes_recv),
                (dst, record.bytes_recv, record.bytes_sent),
            ):
                sums = live.setdefault(series, [0, 0])
                sums[0] += read
                sums[1] += written
        opened = Metric("tcp_open", "Connections opened", "counter")
        open_now = Metric("tcp_open_connections", "Connections open now", "gauge")
        closed = Metric("tcp_close", "Connections closed, by the system's error", "counter")
        read_bytes = Metric("tcp_read_bytes", "Payload read from the peer", "counter")
        write_bytes = Metric("tcp_write_bytes", "Payload written to the peer", "counter")
        for key, series in self._series:
            labels = key.as_mapping()
            read, written = series.show(*live.get(series, (0, 0)))
            opened.add_sample("tcp_open_total", labels, series.opened)
            open_now.add_sample("tcp_open_connections", labels, series.live)
            read_bytes.add_sample("tcp_read_bytes_total", labels, read)
            write_bytes.add_sample("tcp_write_bytes_total", labels, written)
            for errno, count in series.closed.items():
                closed.add_sample("tcp_close_total", labels | {"errno": errno}, count)
        yield from (opened, open_now, closed, read_bytes, write_bytes)

    def _identities(self) -> Iterator[Metric]:
        state = self._state.current
        expiry = Metric(
            "tcpmesh_svid_expiry_seconds", "Seconds until the workload's certificate expires; negative after", "gauge"
        )
        for workload, svid in state.svids.items():
            left = svid.leaf.not_valid_after_utc.timestamp() - self._now()
            expiry.add_sample(expiry.name, {"workload": workload}, left)
        states = Metric("tcpmesh_identity_state", "1 for the state that the workload's identity is in", "gauge")
        for workload, current in state.identity_states.items():
            for each in IdentityState:
                states.add_sample(states.name, {"workload": workload, "state": each.value}, int(each is current))
        generation = Metric("tcpmesh_generation", "Generation of identities, endpoints and policies in use", "gauge")
        generation.add_sample(generation.name, {}, state.generation)
        yield from (expiry, states, generation)


def _errno(record: ConnectionRecord, peer: str) -> str:
    """The system's error, for the side that it came from."""
    return record.errno if record.closed_by == peer else ""
