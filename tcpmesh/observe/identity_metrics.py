"""
Metrics of identity sources, and of how long what they gave has been in use.

Ring 3, without I/O: asked at each scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tcpmesh.identity.life import SourceLife
from tcpmesh.values import IdentityState

__all__ = ["IdentityMetrics", "Lives"]


class Lives(Protocol):
    """Who knows the identity sources."""

    @property
    def sources(self) -> Sequence[SourceLife]:
        """Every identity source, and where it stands."""

    @property
    def transitions(self) -> Mapping[tuple[str, IdentityState, IdentityState], int]:
        """How often each workload's identity went from one state to another."""

    def seconds(self) -> float:
        """The time that ages are told by."""


class IdentityMetrics(Collector):
    """Answers scrapes about the lives of identities."""

    def __init__(self, lives: Lives) -> None:
        self._lives = lives

    def collect(self) -> Iterator[Metric]:
        """(Collector)."""
        state = Metric("tcpmesh_identity_source_state", "1 for the state that the identity source is in", "gauge")
        failing = Metric(
            "tcpmesh_identity_source_failing_seconds",
            "Seconds since the source began to fail; 0 while it works",
            "gauge",
        )
        failures = Metric("tcpmesh_identity_source_failures", "Failures that the source has reported", "counter")
        age = Metric("tcpmesh_svid_age_seconds", "Seconds since the certificate in use was delivered", "gauge")
        at = self._lives.seconds()
        for source in self._lives.sources:
            labels = {"source": source.name}
            for each in IdentityState:
                state.add_sample(state.name, labels | {"state": each.value}, int(each is source.state))
            failing.add_sample(failing.name, labels, source.failing_for(at))
            failures.add_sample(failures.name + "_total", labels, source.failures)
            for workload, seconds in source.ages(at).items():
                age.add_sample(age.name, {"workload": workload, **labels}, seconds)
        moved = Metric("tcpmesh_identity_transitions", "Changes of the state of a workload's identity", "counter")
        for (workload, before, after), count in self._lives.transitions.items():
            where = {"workload": workload, "from": before.value, "to": after.value}
            moved.add_sample(moved.name + "_total", where, count)
        yield from (state, failing, failures, age, moved)
