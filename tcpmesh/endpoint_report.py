"""
What ``tcpmesh endpoints`` asks a proxy: every service's endpoints, and how it stands with them.

Ring 4. Plain JSON values, made a slice at a time: ten thousand endpoints must not stop the proxy to be listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from tcpmesh.codes import Code
from tcpmesh.endpoint_control import DiscoveryStatus
from tcpmesh.health.states import CircuitState, EndpointState
from tcpmesh.net.booking import EndpointCounts
from tcpmesh.net.pool import Pool
from tcpmesh.net.upstream import Upstream
from tcpmesh.observe.records import SCHEMA_VERSION, as_json_line, rfc3339
from tcpmesh.values import Endpoint

__all__ = ["EndpointReport"]

_SLICE = 100  # endpoints described in one reactor turn
_GONE = 100  # endpoints that discovery removed and that still have connections, of one service
_CODES = 20  # of what failed at one endpoint, or was refused at one service, the most frequent first


class EndpointReport:
    """
    Describes services.

    :param discoveries: where every discovery stands, by the reactor's clock.
    :param clock: the reactor, for its monotonic time.
    :param wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        services: Mapping[str, Upstream],
        discoveries: Callable[[], Iterator[DiscoveryStatus]],
        clock: Any,
        wall_clock: Callable[[], float],
    ) -> None:
        self._services = services
        self._discoveries = discoveries
        self._clock = clock
        self._wall_clock = wall_clock

    def pieces(self, names: Collection[str] = ()) -> Iterator[bytes]:
        """
        One JSON object, in slices: of the services with these names, or of all.

        Names that there are none of are in ``unknown``.
        """
        unknown = [name for name in names if name not in self._services]
        head = {"v": SCHEMA_VERSION, "time": rfc3339(self._wall_clock()), "unknown": unknown}
        yield as_json_line(head).encode()[:-1] + b',"services":['
        statuses = {status.service: status for status in self._discoveries()}
        first = True
        for name, service in self._services.items():
            if names and name not in names:
                continue
            described = self._service(service, statuses.get(name))
            yield (b"\n" if first else b",\n") + as_json_line(described).encode()[:-1] + b',"endpoints":['
            first = False
            endpoints = iter(service.pool.endpoints)
            separator = b"\n"
            while part := list(islice(endpoints, _SLICE)):
                lines = [as_json_line(self._endpoint(service, endpoint)) for endpoint in part]
                yield separator + ",\n".join(lines).encode()
                separator = b",\n"
            yield b"]}"
        yield b"]}\n"

    # --- a service

    def _service(self, service: Upstream, status: DiscoveryStatus | None) -> dict[str, Any]:
        pool, settings, now = service.pool, service.settings, self._clock.seconds()
        counts, limits = pool.counts, settings.limits
        retries, most = service.retries.budget.spent(now)
        return {
            "service": pool.name,
            "discovery": self._discovery(status),
            "balance": settings.balance.plugin,
            "retry": settings.retry.plugin,
            "circuit": self._circuit(pool.health.circuit(now)) if settings.health.circuit is not None else None,
            "limits": {
                "connections": limits.connections,
                "per_endpoint": limits.per_endpoint,
                "pending": limits.pending,
                "queue": settings.queue.length,
            },
            "open": counts.open,
            "pending": counts.pending,
            "waiting": pool.waiting,
            "unresolved": pool.unresolved,
            "queued": counts.queued,
            "refused": _by_code(counts.refused),
            "retries": counts.retries,
            "retries_unbudgeted": counts.unbudgeted,
            "retry_budget": {"retries": retries, "most": most, "window_s": settings.retry_budget.window},
            "gone": self._gone(pool),
        }

    def _discovery(self, status: DiscoveryStatus | None) -> dict[str, Any] | None:
        if status is None:
            return None
        return {
            "plugin": status.plugin,
            "said": self._moment(status.said),
            "changes": status.changes,
            "failing_since": self._moment(status.failing),
            "reason": status.reason,
        }

    def _circuit(self, circuit: CircuitState) -> dict[str, Any]:
        return {
            "state": circuit.state,
            "since": self._moment(circuit.since),
            "left_s": self._left(circuit.until),
            "failures": circuit.failures,
            "opened": circuit.opened,
        }

    def _gone(self, pool: Pool) -> list[dict[str, Any]]:
        there = {endpoint.address for endpoint in pool.endpoints}
        found = ((address, counts) for address, counts in pool.addresses.items() if address not in there)
        return [
            {"address": str(address), "open": counts.open, "pending": counts.pending}
            for address, counts in islice(found, _GONE)
        ]

    # --- an endpoint

    def _endpoint(self, service: Upstream, endpoint: Endpoint) -> dict[str, Any]:
        pool = service.pool
        health = pool.health.state(endpoint.address, self._clock.seconds())
        counts = pool.counts_of(endpoint)
        described: dict[str, Any] = {
            "address": str(endpoint.address),
            "zone": endpoint.zone,
            "priority": endpoint.priority,
            "weight": endpoint.weight,
            "state": self._state(service, endpoint, health, counts),
            "left_s": self._left(health.until),
            "share": round(health.share, 3),
            "open": counts.open,
            "pending": counts.pending,
            "established": counts.established,
            "failed": _by_code(counts.failed),
            "failures_in_row": health.failures,
            "ejections": health.ejections,
            "error": None,
            "check": None,
        }
        if service.positions is not None:
            described["position"] = service.positions.number_of(endpoint)
        if endpoint.expect:
            described["expect"] = [str(identity) for identity in endpoint.expect]
        if endpoint.metadata:
            described["metadata"] = dict(endpoint.metadata)
        if health.trouble is not None:
            trouble = health.trouble
            described["error"] = {
                "code": trouble.code,
                "reason": trouble.reason,
                "time": self._moment(trouble.at),
                "age_s": self._age(trouble.at),
            }
        if health.check is not None:
            described["check"] = {
                "time": self._moment(health.check.at),
                "age_s": self._age(health.check.at),
                "duration_ms": round(health.check.duration * 1000, 3),
                "error": None if health.check.trouble is None else str(health.check.trouble),
            }
        expected = pool.balancer.expected(endpoint)
        if expected is not None:
            described["expected_ms"] = round(expected * 1000, 3)
        return described

    @staticmethod
    def _state(service: Upstream, endpoint: Endpoint, health: EndpointState, counts: EndpointCounts) -> str:
        if health.state in ("down", "ejected"):
            return health.state
        if service.drains(endpoint):
            return "drain"
        limit = service.settings.limits.per_endpoint
        return "full" if limit is not None and counts.total >= limit else health.state

    # --- times: those of the reactor's clock say how long ago, which the wall clock makes a moment

    def _moment(self, at: float | None) -> str | None:
        return None if at is None else rfc3339(self._wall_clock() - (self._clock.seconds() - at))

    def _age(self, at: float) -> float:
        return float(round(max(0.0, self._clock.seconds() - at), 3))

    def _left(self, until: float | None) -> float | None:
        return None if until is None else float(round(max(0.0, until - self._clock.seconds()), 3))


def _by_code(counts: Counter[Code]) -> dict[str, int]:
    return {code.id: count for code, count in counts.most_common(_CODES)}
