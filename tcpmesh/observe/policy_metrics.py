"""
Metrics of policies that change while the proxy runs.

Ring 3, without I/O: asked at each scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["PolicyChanges", "PolicyMetrics"]


class PolicyChanges(Protocol):
    """Who runs the policies."""

    def report(self) -> Sequence[Mapping[str, Any]]:
        """Where each policy stands, as plain JSON values."""


class PolicyMetrics(Collector):
    """Answers scrapes about changes of policies: how many were taken, and whether one cannot be used."""

    def __init__(self, changes: PolicyChanges) -> None:
        self._changes = changes

    def collect(self) -> Iterator[Metric]:
        """(Collector)."""
        failing = Metric(
            "tcpmesh_policy_failing",
            "1 while the newest change of a policy cannot be used and the one of before decides",
            "gauge",
        )
        changes = Metric("tcpmesh_policy_changes", "Changes of a policy, by what became of them", "counter")
        for policy in self._changes.report():
            labels = {"plugin": policy["plugin"], "position": str(policy["position"])}
            failing.add_sample(failing.name, labels, int(bool(policy["failure"])))
            for result in ("taken", "refused"):
                changes.add_sample("tcpmesh_policy_changes_total", labels | {"result": result}, policy[result])
        yield from (failing, changes)
