"""
Metrics of the deny-list and of the review of live connections.

Ring 3, without I/O: asked at each scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tcpmesh.codes import Code
from tcpmesh.mesh_state import MeshStateCell

__all__ = ["Denials", "ReviewMetrics", "Reviewed"]


class Reviewed(Protocol):
    """Who looks at live connections again."""

    @property
    def waiting(self) -> int:
        """How many connections are still to be looked at."""

    looked_at: int

    @property
    def ended(self) -> Mapping[Code, int]:
        """How many of those ended, by code."""


class Denials(Protocol):
    """Who keeps the deny-list current."""

    failure: str
    failures: int


class ReviewMetrics(Collector):
    """Answers scrapes about both."""

    def __init__(self, review: Reviewed, denials: Denials, state: MeshStateCell) -> None:
        self._review = review
        self._denials = denials
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """(Collector)."""
        review, denials = self._review, self._denials
        for name, help_text, value in (
            ("tcpmesh_review_waiting", "Live connections that a change let wait for another look", review.waiting),
            ("tcpmesh_deny_list_entries", "Entries of the deny-list in use", len(self._state.current.deny_list)),
            ("tcpmesh_deny_list_failing", "1 while the deny-list's file cannot be used", int(bool(denials.failure))),
        ):
            gauge = Metric(name, help_text, "gauge")
            gauge.add_sample(name, {}, value)
            yield gauge
        for name, help_text, value in (
            ("tcpmesh_reviewed_connections", "Live connections that were looked at again", review.looked_at),
            ("tcpmesh_deny_list_failures", "Contents of the deny-list's file that could not be used", denials.failures),
        ):
            counter = Metric(name, help_text, "counter")
            counter.add_sample(f"{name}_total", {}, value)
            yield counter
        ended = Metric("tcpmesh_review_ended", "Live connections that were no longer allowed, by code", "counter")
        for code, count in review.ended.items():
            ended.add_sample("tcpmesh_review_ended_total", {"code": code.id}, count)
        yield ended
