"""
What each balancer makes of endpoints that misbehave: a simulation on a clock of its own, without a network.

Connections come at random (a Poisson process); tiers, health, candidates and balancers are the product's own, and what
an endpoint does with an attempt is a line below. Two runs with the same seed are the same.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.internet.task import Clock

from tcpmesh.balance.least_connections import LeastConnectionsFactory
from tcpmesh.balance.p2c_ewma import P2cEwmaFactory
from tcpmesh.balance.random_choice import RandomChoiceFactory
from tcpmesh.balance.round_robin import RoundRobinFactory
from tcpmesh.balance.source_hash import SourceHashFactory
from tcpmesh.balance.tiers import Tiers
from tcpmesh.codes import CONNECT_REFUSED, CONNECT_TIMEOUT, Code
from tcpmesh.errors import Refusal
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.net.arms_length import GuardedBalancer
from tcpmesh.net.candidates import Candidates
from tcpmesh.testing import plugin_context
from tcpmesh.upstream_settings import EjectionSettings, HealthSettings
from tcpmesh.values import Address, AttemptFailure, Endpoint, TCPAddress

__all__ = [
    "BALANCERS",
    "BLACK_HOLE",
    "HEALTHY",
    "REFUSING",
    "SLOW",
    "Behaviour",
    "Outcome",
    "Simulation",
    "balancer",
    "fleet",
]

BALANCERS: Final = ("round-robin", "random", "least-connections", "source-hash", "p2c-ewma")

_SOURCES: Final = 500
_RETRY_WAIT: Final = 0.05  # seconds, at most


@attrs.frozen
class Behaviour:
    """
    What becomes of an attempt: it takes about ``seconds``, and then fails with ``code``, if there is one.

    ``spread`` is the standard deviation of the logarithm of that time.
    """

    seconds: float
    spread: float = 0.3
    code: Code | None = None


HEALTHY: Final = Behaviour(0.005)
SLOW: Final = Behaviour(0.05)
REFUSING: Final = Behaviour(0.001, code=CONNECT_REFUSED)
BLACK_HOLE: Final = Behaviour(3.0, 0.0, CONNECT_TIMEOUT)  # timeouts.connect


@attrs.define
class Outcome:
    """
    What was counted: attempts by address, connections, those that failed in the end, and the times of the others.

    ``series`` has the attempts of each second by address.
    """

    attempts: Counter[Address] = attrs.field(factory=Counter)
    connections: int = 0
    failed: int = 0
    seconds: list[float] = attrs.field(factory=list)
    series: list[Counter[Address]] = attrs.field(factory=list)

    def share(self, *where: Endpoint) -> float:
        """The part of all attempts that went there."""
        return sum(self.attempts[each.address] for each in where) / max(1, sum(self.attempts.values()))

    def percentile(self, part: float) -> float:
        """How long, in seconds, it took at most in this part of the connections that were established."""
        times = sorted(self.seconds)
        return times[min(len(times) - 1, int(part * len(times)))]


def fleet(count: int, **more: Any) -> tuple[Endpoint, ...]:
    """So many endpoints that differ in their address only."""
    return tuple(
        Endpoint(TCPAddress(f"10.0.{number >> 8}.{number & 255}", 5432), **more) for number in range(1, count + 1)
    )


def balancer(name: str, clock: Clock, generator: random.Random) -> Any:
    """A built-in one, with its default settings, which draws from ``generator``."""
    factories: Mapping[str, Any] = {
        "round-robin": RoundRobinFactory(),
        "random": RandomChoiceFactory(generator),
        "least-connections": LeastConnectionsFactory(generator),
        "source-hash": SourceHashFactory(generator),
        "p2c-ewma": P2cEwmaFactory(generator),
    }
    factory = factories[name]
    return factory.create(factory.settings(), plugin_context(name, clock=clock))


class Simulation:
    """
    One service behind one balancer.

    :param behaviours: of endpoints that are not healthy; may be changed between two :meth:`run`.
    :param rate: connections per second.
    :param life: how long an established one lasts, in seconds, on average.
    :param attempts: of one connection, with the first.
    :param ejects: whether failing endpoints are ejected, by the default settings.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        behaviours: Mapping[Endpoint, Behaviour],
        *,
        rate: float = 200.0,
        life: float = 5.0,
        attempts: int = 1,
        ejects: bool = False,
        zone: str | None = None,
        seed: int = 6,
    ) -> None:
        self.clock = Clock()
        self.behaviours = {endpoint.address: behaviour for endpoint, behaviour in behaviours.items()}
        self.endpoints = tuple(endpoints)
        self.outcome = Outcome()
        self._random = random.Random(seed)
        self._rate, self._life, self._attempts = rate, life, attempts
        self.balancer = balancer(name, self.clock, self._random)
        ejection = EjectionSettings() if ejects else EjectionSettings(failures=0)
        self.health = ServiceHealth("simulated", HealthSettings(ejection=ejection))
        self.health.retain(self.endpoints, 0.0)
        guarded = GuardedBalancer("simulated", name, self.balancer)
        self._candidates = Candidates("simulated", Tiers(zone), self.health, guarded, self.clock, None, self._random)
        self._source = guarded.wants_source
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._later(0.0, self._arrive)

    def change_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Discovery says something new."""
        self.endpoints = tuple(endpoints)
        self.health.retain(self.endpoints, self.clock.seconds())

    def run(self, seconds: float) -> Outcome:
        """Let time pass; what was counted in it alone."""
        self.outcome = Outcome(series=[Counter() for _ in range(int(seconds) + 1)])
        self._began = self.clock.seconds()
        until = self._began + seconds
        while self._events and self._events[0][0] <= until:
            due, _, event = heapq.heappop(self._events)
            self.clock.advance(max(0.0, due - self.clock.seconds()))
            event()
        self.clock.advance(until - self.clock.seconds())
        return self.outcome

    def finish(self) -> None:
        """Let everything that is open end, and nothing begin."""
        self._rate = 0.0
        while self._events:
            due, _, event = heapq.heappop(self._events)
            self.clock.advance(max(0.0, due - self.clock.seconds()))
            event()

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.seconds() + seconds, next(self._numbers), event))

    def _arrive(self) -> None:
        if not self._rate:
            return
        self._later(self._random.expovariate(self._rate), self._arrive)
        self.outcome.connections += 1
        number = self._random.randrange(_SOURCES)
        source = TCPAddress(f"10.9.{number >> 8}.{number & 255}", 40000) if self._source else None
        self._attempt(_Connection(self.clock.seconds(), source))

    def _attempt(self, connection: _Connection) -> None:
        now = self.clock.seconds()
        try:
            endpoint = self._candidates.choose(self.endpoints, connection.exclude, connection.source)
        except Refusal:
            self.outcome.failed += 1
            return
        assert endpoint is not None
        connection.attempts += 1
        self.balancer.opened(endpoint)
        self.health.opened(endpoint, now, connection)
        self.outcome.attempts[endpoint.address] += 1
        if now - self._began < len(self.outcome.series):
            self.outcome.series[int(now - self._began)][endpoint.address] += 1
        behaviour = self.behaviours.get(endpoint.address, HEALTHY)
        takes = behaviour.seconds * self._random.lognormvariate(0.0, behaviour.spread)
        self._later(takes, lambda: self._end(connection, endpoint, behaviour, takes))

    def _end(self, connection: _Connection, endpoint: Endpoint, behaviour: Behaviour, takes: float) -> None:
        now = self.clock.seconds()
        if behaviour.code is None:
            self.balancer.established(endpoint, takes)
            self.health.established(endpoint, now, connection)
            self.outcome.seconds.append(now - connection.began)
            self._later(self._random.expovariate(1 / self._life), lambda: self.balancer.closed(endpoint))
            return
        self.balancer.failed(endpoint, AttemptFailure(behaviour.code, "simulated", endpoint, takes))
        self.health.failed(endpoint, behaviour.code, "simulated", now, connection)
        if connection.attempts == self._attempts:
            self.outcome.failed += 1
            return
        connection.exclude |= {endpoint}
        self._later(self._random.uniform(0.0, _RETRY_WAIT), lambda: self._attempt(connection))


@attrs.define(eq=False)
class _Connection:
    """One connection of the application."""

    began: float
    source: Address | None
    attempts: int = 0
    exclude: frozenset[Endpoint] = frozenset()
