"""
Metrics of discoveries: whether they work, when each said something last, and how often that was something new.

Ring 3, without I/O: asked at each scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["Discoveries", "DiscoveryMetrics", "Status"]


class Status(Protocol):
    """Where one service's discovery stands: ``tcpmesh.endpoint_control.DiscoveryStatus``."""

    @property
    def service(self) -> str:
        """Whose it is."""

    @property
    def said(self) -> float | None:
        """When it last said which endpoints there are."""

    @property
    def failing(self) -> float | None:
        """Since when it has failed; None while it does not."""

    @property
    def failures(self) -> int:
        """How often it has failed."""

    @property
    def changes(self) -> int:
        """How often the endpoints became others."""


class Discoveries(Protocol):
    """All discoveries of a proxy: ``tcpmesh.endpoint_control.EndpointControl``."""

    def statuses(self) -> Iterable[Status]:
        """Where each stands."""

    def seconds(self) -> float:
        """The time that statuses are told by."""


class DiscoveryMetrics(Collector):
    """Answers scrapes."""

    def __init__(self, discoveries: Discoveries) -> None:
        self._discoveries = discoveries

    def collect(self) -> Iterator[Metric]:
        """(Collector)."""
        failing = Metric("tcpmesh_service_discovery_failing", "1 while the service's discovery fails", "gauge")
        age = Metric(
            "tcpmesh_service_discovery_age_seconds", "Seconds since discovery said which endpoints there are", "gauge"
        )
        failures = Metric("tcpmesh_service_discovery_failures", "How often the service's discovery failed", "counter")
        changes = Metric("tcpmesh_service_endpoint_changes", "How often the service's endpoints changed", "counter")
        now = self._discoveries.seconds()
        for status in self._discoveries.statuses():
            labels = {"service": status.service}
            failing.add_sample(failing.name, labels, int(status.failing is not None))
            if status.said is not None:
                age.add_sample(age.name, labels, now - status.said)
            failures.add_sample(f"{failures.name}_total", labels, status.failures)
            changes.add_sample(f"{changes.name}_total", labels, status.changes)
        yield from (failing, age, failures, changes)
