"""
The load balancer ``p2c-ewma``: of two endpoints drawn by lot, the one that costs less.

Ring 1. The cost is the time that the endpoint takes to be established, times its connections and attempts for its
weight plus one. Of the time the worst of late counts (a peak EWMA: it jumps up at once, and is forgotten over
``decay``), so that an endpoint in trouble is avoided after one bad sample. Two draws instead of the least of all keep
many proxies from running to the same endpoint, and cost the same with ten endpoints and ten thousand
(Mitzenmacher, The Power of Two Choices in Randomized Load Balancing).

What fails counts as slow, however fast it failed, and slower each time that it is tried again: an endpoint that refuses
at once repels. While its penalty fades it gets one attempt at a time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tcpmesh.balance.draws import Draws
from tcpmesh.balance.loads import Load, Loads
from tcpmesh.balance.recent import Recent
from tcpmesh.balance_interfaces import IEstimatingBalancer, ILossBalancer
from tcpmesh.codes import CANCELLED, ESTABLISH_TIMEOUT
from tcpmesh.interfaces import ILoadBalancerFactory, PluginContext
from tcpmesh.values import Address, AttemptFailure, Duration, Endpoint, format_duration

__all__ = ["P2cEwma", "P2cEwmaFactory", "P2cEwmaSettings"]

# Seconds.
_FIRST_GUESS = 0.03  # what an attempt takes, before any has been seen
_LEAST = 0.001  # differences below are this machine's own
_LEAST_PENALTY = 1.0
_MOST = 60.0
_PENALTY_GROWTH = 10.0

_TYPICAL_SHARE = 0.05  # of each sample in what is typical
_CLEARLY = 0.8  # the second must cost less than this much of the first, else they are equal, and lots have been drawn
_MUCH = 0.5  # the same where the lot fell on one endpoint twice
_MORE_DRAWS = 6

#: Codes, or beginnings of codes, of failures that are our own doing: they say nothing of the endpoint.
_OURS = ("TM-I1", "TM-I2", "TM-I3", "TM-L103")
#: The attempt was given up: the endpoint would have taken at least so long.
_GIVEN_UP = (CANCELLED, ESTABLISH_TIMEOUT)


def _check_decay(_instance: object, _attribute: object, value: float) -> None:
    if not 0.1 <= value <= 3600.0:
        raise ValueError(f"a decay of {format_duration(value)} is not between 100ms and 1h")


@attrs.frozen
class P2cEwmaSettings:
    """``decay``: in this time about two thirds of what was learned of an endpoint are forgotten."""

    decay: Duration = attrs.field(default=Duration(10.0), validator=_check_decay)


class _State(Load):
    """
    What is known of one endpoint.

    :ivar estimate: seconds to be established as of ``at``; below zero until there is a sample.
    :ivar failures: in a row.
    :ivar penalized: when the last failure was counted.
    :ivar silent: since when attempts are pending and nothing was heard.
    """

    __slots__ = ("at", "estimate", "failures", "penalized", "silent")

    def __init__(self) -> None:
        super().__init__()
        self.estimate = -1.0
        self.at = 0.0
        self.failures = 0
        self.penalized = -math.inf
        self.silent = 0.0


class _Choice:
    """One tuple of endpoints: how to draw from it, and by position the state and the part of the mean weight."""

    __slots__ = ("draws", "mean_weight", "states")

    def __init__(self, endpoints: Sequence[Endpoint], loads: Loads[_State]) -> None:
        self.draws = Draws(endpoints)
        self.states = [loads.of(endpoint.address) for endpoint in self.draws.endpoints]
        self.mean_weight = self.draws.total / len(self.states) if self.states else 1.0


@implementer(IEstimatingBalancer, ILossBalancer)
class P2cEwma:
    """
    Picks the cheaper of two; a weight below 1 gets none.

    :param clock: seconds from here.
    :param generator: the source of randomness, so that tests own it.
    """

    def __init__(self, settings: P2cEwmaSettings, clock: IReactorTime, generator: random.Random) -> None:
        self._decay: float = settings.decay
        self._clock = clock
        self._random = generator
        self._loads = Loads(_State)
        self._choices = Recent(self._prepare)
        self._total = 0  # connections and attempts, of all endpoints
        self._typical = _FIRST_GUESS  # the geometric mean of what established ones took of late
        self._is_measured = False

    def _prepare(self, endpoints: Sequence[Endpoint]) -> _Choice:
        def present() -> set[Address]:
            kept = {endpoint.address for choice in self._choices for endpoint in choice.draws.endpoints}
            return kept | {endpoint.address for endpoint in endpoints}

        self._loads.sweep(present)
        return _Choice(endpoints, self._loads)

    def pick(self, endpoints: Sequence[Endpoint], exclude: frozenset[Endpoint]) -> Endpoint | None:
        """
        Draw two and choose. (ILoadBalancer)

        Equal costs leave the first draw, and lots are drawn with replacement: so the shares are those of the weights
        while nothing speaks against an endpoint. Where both are the same, a third must cost much less. Where the better
        of them has failed, more lots are drawn: a few draws find one of the good half, if half of all fail.
        """
        choice = self._choices.of(endpoints)
        draws = choice.draws
        first = draws.draw(self._random, exclude)
        if first is None or len(draws.endpoints) == 1:
            return None if first is None else draws.endpoints[first]
        second = draws.draw(self._random, exclude)
        enough = _CLEARLY
        if second == first:
            second, enough = draws.other(self._random, first, exclude), _MUCH
        if second is None:
            return draws.endpoints[first]
        now = self._clock.seconds()
        chosen, cost = first, self._cost(choice, first, now)
        other = self._cost(choice, second, now)
        if other < cost * enough:
            chosen, cost = second, other
        for _ in range(_MORE_DRAWS):
            if not self._has_failed(choice.states[chosen], now):
                break
            further = draws.draw(self._random, exclude)
            if further is not None and (other := self._cost(choice, further, now)) < cost:
                chosen, cost = further, other
        return draws.endpoints[chosen]

    def _has_failed(self, state: _State, now: float) -> bool:
        """Whether its last attempt failed, not too long ago, or before the one that is under way."""
        return state.failures > 0 and (state.pending > 0 or self._time(state, now) * _MUCH > self._typical)

    def _cost(self, choice: _Choice, position: int, now: float) -> float:
        state = choice.states[position]
        time = self._time(state, now)
        both = state.pending + state.open
        load = both * choice.mean_weight / choice.draws.endpoints[position].weight
        is_overdue = state.pending > 0 and now - state.silent > time
        if is_overdue:
            time = now - state.silent
        if is_overdue or state.failures:
            if state.pending and state.failures:
                return math.inf  # one attempt shows whether it is well again
            # That nobody stays there is no reason to go there.
            load = max(load, self._total / len(choice.states))
        return time * (load + 1.0)

    def _time(self, state: _State, now: float) -> float:
        """What an attempt is expected to take: what is known fades into what is typical of the service."""
        if state.estimate < 0:
            return self._typical
        return self._typical + (state.estimate - self._typical) * math.exp((state.at - now) / self._decay)

    def expected(self, endpoint: Endpoint) -> float | None:
        """What an attempt is expected to take now, its penalty included. (IEstimatingBalancer)"""
        state = self._loads.find(endpoint.address)
        return None if state is None or state.estimate < 0 else self._time(state, self._clock.seconds())

    def opened(self, endpoint: Endpoint) -> None:
        """Count an attempt. (ILoadBalancer)"""
        state = self._loads.of(endpoint.address)
        if not state.pending:
            state.silent = self._clock.seconds()
        state.opened()
        self._total += 1

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Count a connection, and how long it took. (ILoadBalancer)"""
        state = self._loads.of(endpoint.address)
        self._total -= state.both
        state.established()
        self._total += state.both
        now = self._clock.seconds()
        time = min(max(duration, _LEAST), _MOST)
        self._sample(state, time, now)
        state.silent = now
        state.failures = 0
        share = _TYPICAL_SHARE if self._is_measured else 1.0
        self._typical *= (time / self._typical) ** share
        self._is_measured = True

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Count the attempt no more; what is the endpoint's fault is a sample worse than all before. (ILoadBalancer)"""
        state = self._loads.find(endpoint.address)
        if state is None:
            return
        self._total -= state.both
        state.failed()
        self._total += state.both
        now = self._clock.seconds()
        if failure.code in _GIVEN_UP:
            if failure.duration > self._time(state, now):
                self._sample(state, min(failure.duration, _MOST), now)
            return
        state.silent = now
        self._penalize(state, failure, now)

    def lost(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Take a connection that broke before it was used for an attempt that failed. (ILossBalancer)"""
        state = self._loads.find(endpoint.address)
        if state is not None:
            self._penalize(state, failure, self._clock.seconds())

    def _penalize(self, state: _State, failure: AttemptFailure, now: float) -> None:
        if failure.code.id.startswith(_OURS):
            return
        time = self._time(state, now)
        # Attempts that failed together are one incident: only who was tried again has not learned.
        again = now - failure.duration >= state.penalized
        penalty = max(_LEAST_PENALTY, failure.duration, time * _PENALTY_GROWTH if again else time)
        state.estimate, state.at, state.penalized = min(penalty, _MOST), now, now
        state.failures += 1

    def closed(self, endpoint: Endpoint) -> None:
        """Count the connection no more. (ILoadBalancer)"""
        state = self._loads.find(endpoint.address)
        if state is not None:
            self._total -= state.both
            state.closed()
            self._total += state.both

    def _sample(self, state: _State, time: float, now: float) -> None:
        expected = self._time(state, now)
        if state.estimate >= 0 and time < expected:
            # What was measured long ago has faded into what is typical already.
            kept = math.exp((state.at - now) / self._decay)
            time += (expected - time) * kept
        state.estimate, state.at = time, now


@implementer(ILoadBalancerFactory)
class P2cEwmaFactory:
    """Makes such balancers; each draws from ``generator``."""

    name = "p2c-ewma"
    description = "of two by lot, the one that takes connections faster and has fewer"
    settings = P2cEwmaSettings

    def __init__(self, generator: random.Random | None = None) -> None:
        self._random = generator or random.Random()  # noqa: S311 - spreads load, guards nothing

    def create(self, settings: P2cEwmaSettings, context: PluginContext) -> P2cEwma:
        """Make the balancer of one service."""
        return P2cEwma(settings, context.clock, self._random)
