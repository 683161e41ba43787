"""
Metrics of the limits of policies: by policy, never by whoever is limited, of whom there may be any number.

Ring 3, without I/O: asked at each scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tcpmesh.observe.series import MAX_LABEL, OTHER
from tcpmesh.observe.text import printable

__all__ = ["MAX_POLICIES", "LimitMetrics", "Limited"]

MAX_POLICIES = 1000  # with labels of their own


class Limited(Protocol):
    """Who counts."""

    @property
    def counters(self) -> int:
        """How many counters there are."""

    @property
    def in_use(self) -> Mapping[str, int]:
        """By policy: the connections that are counted."""

    @property
    def refused(self) -> Mapping[str, int]:
        """By policy: the connections that were refused."""

    @property
    def noted(self) -> Mapping[str, int]:
        """By policy: the connections that a dry-run would have refused."""


class LimitMetrics(Collector):
    """Answers scrapes; says nothing while no policy limits."""

    def __init__(self, limited: Limited, most: int = MAX_POLICIES) -> None:
        self._limited = limited
        self._most = most

    def collect(self) -> Iterator[Metric]:
        """(Collector)."""
        limited = self._limited
        in_use = limited.in_use
        if not in_use:
            return
        gauge = Metric("tcpmesh_policy_limit_in_use", "Connections counted against a policy's limit", "gauge")
        for policy, count in self._by_label(in_use).items():
            gauge.add_sample(gauge.name, {"policy": policy}, count)
        yield gauge
        for name, help_text, counts in (
            ("tcpmesh_policy_limit_refused", "Connections refused by a policy's limit", limited.refused),
            ("tcpmesh_policy_limit_noted", "Connections that a limit with mode: dry-run would refuse", limited.noted),
        ):
            counter = Metric(name, help_text, "counter")
            for policy, count in self._by_label({policy: counts.get(policy, 0) for policy in in_use}).items():
                counter.add_sample(f"{name}_total", {"policy": policy}, count)
            yield counter
        counters = Metric("tcpmesh_policy_limit_counters", "Whom limits of policies count apart now", "gauge")
        counters.add_sample(counters.name, {}, limited.counters)
        yield counters

    def _by_label(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        for position, (policy, count) in enumerate(counts.items()):
            found[printable(policy, MAX_LABEL) if position < self._most else OTHER] += count
        return found
