"""
How long connections waited for room at a service, or for its discovery, as a histogram.

Ring 3, without I/O. Only those count that had to wait at all.
"""

from __future__ import annotations

from bisect import bisect_left

from prometheus_client.metrics_core import Metric

from tcpmesh.observe.records import ConnectionRecord

__all__ = ["QueueWaits"]

_BOUNDS = (0.0005, 0.005, 0.05, 0.5, 1.0, 3.0)  # seconds; those of Linkerd's outbound_tcp_balancer_queue_latency


class QueueWaits:
    """By service: how many waited no longer than each bound, and how long all of them together."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def note(self, record: ConnectionRecord) -> None:
        """A connection was established or refused; to be called once for each."""
        if record.queue_ms is None:
            return
        seconds, service = record.queue_ms / 1000, record.dst_service
        counts = self._counts.setdefault(service, [0] * (len(_BOUNDS) + 1))
        counts[bisect_left(_BOUNDS, seconds)] += 1
        self._sums[service] = self._sums.get(service, 0.0) + seconds

    def collect(self) -> Metric:
        """The family."""
        metric = Metric("tcpmesh_service_queue_seconds", "How long those connections waited that had to", "histogram")
        for service, counts in self._counts.items():
            total = 0
            for bound, count in zip((*_BOUNDS, float("inf")), counts, strict=True):
                total += count
                labels = {"service": service, "le": "+Inf" if bound == float("inf") else f"{bound:g}"}
                metric.add_sample(f"{metric.name}_bucket", labels, total)
            metric.add_sample(f"{metric.name}_count", {"service": service}, total)
            metric.add_sample(f"{metric.name}_sum", {"service": service}, self._sums[service])
        return metric
