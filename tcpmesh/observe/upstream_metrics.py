"""
Metrics of services and their endpoints: what happens at them, who waits, and how healthy they are.

Ring 3, without I/O: asked at each scrape. Only endpoints at which something happened are looked at one by one. Where
Linkerd has a name for the same thing, that name is used (``outbound_tcp_balancer_*``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tcpmesh.net.booking import EndpointCounts
from tcpmesh.net.pool import Pool
from tcpmesh.net.upstream import Upstream
from tcpmesh.observe.series import MAX_LABEL, OTHER
from tcpmesh.observe.text import printable
from tcpmesh.values import Address

__all__ = ["MAX_ENDPOINTS", "UpstreamMetrics"]

MAX_ENDPOINTS = 1000  # with labels of their own, of all services together

_STATES = ("up", "slow-start", "probation", "ejected", "down", "full", "drain")
_NOT_READY = ("ejected", "down", "full", "drain")
_CHANGES = ("ejected", "back", "down", "up")
_CIRCUITS = ("closed", "open", "half-open")


class UpstreamMetrics(Collector):
    """
    Answers scrapes.

    :param changes: how often the health of a service's endpoints changed, by service and word.
    :param clock: the reactor, for its monotonic time.
    :param most: how many endpoints have labels of their own; all others are ``other``.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        changes: Callable[[], Mapping[tuple[str, str], int]],
        clock: Any,
        most: int = MAX_ENDPOINTS,
    ) -> None:
        self._upstreams = upstreams
        self._changes = changes
        self._clock = clock
        self._most = most
        self._labelled: dict[tuple[str, Address], None] = {}  # in the order in which they came
        self._shown: dict[tuple[str, ...], int] = {}  # of counters of "other", which must never go back

    def collect(self) -> Iterator[Metric]:
        """(Collector)."""
        if not self._upstreams:
            return
        yield from self._health()
        yield from self._traffic()
        yield from self._circuits()
        yield from self._endpoints()

    # --- services

    def _health(self) -> Iterator[Metric]:
        ready = Metric("outbound_tcp_balancer_endpoints", "Endpoints that take connections (ready), or not", "gauge")
        states = Metric("tcpmesh_service_endpoints", "Endpoints by state", "gauge")
        for name, upstream in self._upstreams.items():
            found = _states(upstream, self._clock.seconds())
            pending = sum(found[state] for state in _NOT_READY)
            for word, count in (("ready", found.total() - pending), ("pending", pending)):
                ready.add_sample(ready.name, {"service": name, "endpoint_state": word}, count)
            for state in _STATES:
                states.add_sample(states.name, {"service": name, "state": state}, found[state])
        yield from (ready, states)
        changes = self._changes()
        changed = Metric(
            "tcpmesh_service_health_changes", "Endpoints that were ejected, taken back, down or up", "counter"
        )
        for name in self._upstreams:
            for word in _CHANGES:
                labels = {"service": name, "change": word}
                changed.add_sample(f"{changed.name}_total", labels, changes.get((name, word), 0))
        yield changed
        checks = Metric("tcpmesh_service_checks", "Active checks that ended, well or not", "counter")
        for name, upstream in self._upstreams.items():
            if upstream.settings.health.check is not None:
                for outcome, count in upstream.pool.health.checks.items():
                    checks.add_sample(f"{checks.name}_total", {"service": name, "outcome": outcome}, count)
        yield checks

    def _traffic(self) -> Iterator[Metric]:
        gauges: tuple[tuple[str, str, Callable[[Upstream], float]], ...] = (
            ("tcpmesh_service_open", "Connections established to the service", lambda one: one.pool.counts.open),
            ("tcpmesh_service_pending", "Attempts under way", lambda one: one.pool.counts.pending),
            (
                "outbound_tcp_balancer_queue_length",
                "Connections that wait for room under the service's limits",
                lambda one: one.pool.waiting,
            ),
            (
                "tcpmesh_service_unresolved",
                "Connections that wait for the service's discovery to say anything",
                lambda one: one.pool.unresolved,
            ),
            ("tcpmesh_service_retry_budget_left", "Retries that the budget allows now", self._budget_left),
        )
        for name, help_text, value in gauges:
            yield _family(name, help_text, "gauge", self._upstreams, value)
        counters: tuple[tuple[str, str, Callable[[Upstream], float]], ...] = (
            ("tcpmesh_service_queued", "Connections that had to wait for room", lambda one: one.pool.counts.queued),
            ("tcpmesh_service_retries", "Attempts that followed a failed one", lambda one: one.pool.counts.retries),
            (
                "tcpmesh_service_retries_unbudgeted",
                "Retries that the budget did not allow",
                lambda one: one.pool.counts.unbudgeted,
            ),
        )
        for name, help_text, value in counters:
            yield _family(name, help_text, "counter", self._upstreams, value)
        refused = Metric("tcpmesh_service_refused", "Connections that came to nothing there, by code", "counter")
        for service, one in self._upstreams.items():
            for code, count in one.pool.counts.refused.items():
                refused.add_sample(f"{refused.name}_total", {"service": service, "code": code.id}, count)
        yield refused

    def _budget_left(self, upstream: Upstream) -> int:
        retries, most = upstream.retries.budget.spent(self._clock.seconds())
        return max(0, most - retries)

    def _circuits(self) -> Iterator[Metric]:
        states = Metric("tcpmesh_service_circuit", "1 for the state that the service's circuit is in", "gauge")
        opened = Metric("tcpmesh_service_circuit_opened", "How often the service's circuit was opened", "counter")
        for name, upstream in self._upstreams.items():
            if upstream.settings.health.circuit is None:
                continue
            circuit = upstream.pool.health.circuit(self._clock.seconds())
            for state in _CIRCUITS:
                states.add_sample(states.name, {"service": name, "state": state}, int(state == circuit.state))
            opened.add_sample(f"{opened.name}_total", {"service": name}, circuit.opened)
        yield from (states, opened)

    # --- endpoints

    def _endpoints(self) -> Iterator[Metric]:
        opened = Metric("tcpmesh_endpoint_open", "Connections established to the endpoint", "gauge")
        pending = Metric("tcpmesh_endpoint_pending", "Attempts under way at the endpoint", "gauge")
        established = Metric("tcpmesh_endpoint_established", "Connections that were established to it", "counter")
        failed = Metric("tcpmesh_endpoint_failed", "Attempts at it that failed or were given up, by code", "counter")
        for service, endpoint, found in self._by_label():
            labels = {"service": service, "endpoint": endpoint}
            opened.add_sample(opened.name, labels, sum(counts.open for counts in found))
            pending.add_sample(pending.name, labels, sum(counts.pending for counts in found))
            count = self._never_back(endpoint, service, "", sum(counts.established for counts in found))
            established.add_sample(f"{established.name}_total", labels, count)
            by_code: Counter[str] = Counter()
            for counts in found:
                for code, number in counts.failed.items():
                    by_code[code.id] += number
            for identifier, number in by_code.items():
                shown = self._never_back(endpoint, service, identifier, number)
                failed.add_sample(f"{failed.name}_total", labels | {"code": identifier}, shown)
        yield from (opened, pending, established, failed)

    def _by_label(self) -> Iterator[tuple[str, str, list[EndpointCounts]]]:
        """The counts behind each label: those of one endpoint, or of all that have none of their own."""
        there = {(name, one): None for name, upstream in self._upstreams.items() for one in upstream.pool.addresses}
        self._labelled = {key: None for key in self._labelled if key in there}
        for key in there:
            if len(self._labelled) >= self._most:
                break
            self._labelled[key] = None
        for name, upstream in self._upstreams.items():
            others = []
            for address, counts in upstream.pool.addresses.items():
                if (name, address) in self._labelled:
                    yield name, printable(str(address), MAX_LABEL), [counts]
                else:
                    others.append(counts)
            if others:
                yield name, OTHER, others

    def _never_back(self, endpoint: str, service: str, code: str, value: int) -> int:
        if endpoint != OTHER:
            return value
        key = (service, code)
        self._shown[key] = max(value, self._shown.get(key, 0))
        return self._shown[key]


def _states(upstream: Upstream, now: float) -> Counter[str]:
    """How many endpoints are in each state; the health of those at which nothing is wrong is not asked."""
    pool = upstream.pool
    found: Counter[str] = Counter(one.state for one in pool.health.limited(now))
    found["up"] += len(pool.endpoints) - found.total()
    drained = {endpoint.address for endpoint in pool.endpoints if upstream.drains(endpoint)}
    for state, addresses in (("drain", drained), ("full", _full(pool) - drained)):
        for address in addresses:
            word = pool.health.state(address, now).state
            if word not in _NOT_READY:
                found[word] -= 1
                found[state] += 1
    return found


def _full(pool: Pool) -> set[Address]:
    """The endpoints that have as many connections as they may."""
    limit = pool.limits.per_endpoint
    if limit is None:
        return set()
    there = {endpoint.address for endpoint in pool.endpoints}
    return {address for address, counts in pool.addresses.items() if counts.total >= limit and address in there}


def _family(
    name: str, help_text: str, kind: str, upstreams: Mapping[str, Upstream], value: Callable[[Upstream], float]
) -> Metric:
    metric = Metric(name, help_text, kind)
    for service, upstream in upstreams.items():
        metric.add_sample(f"{name}_total" if kind == "counter" else name, {"service": service}, value(upstream))
    return metric
