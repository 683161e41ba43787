"""
The active checks of all services: each endpoint in its turn, a bounded number at a time, and the services by turns.

Ring 3. What a check finds is for the service's health to judge. A check that could not be made, for want of an
identity, of descriptors or of room, says nothing about the endpoint and is made again soon; nor does one whose time was
over while this process did not run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.codes import CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, INTERNAL, PREFACE_TIMEOUT, STOPPING
from tcpmesh.errors import Refusal
from tcpmesh.health.faults import is_answer, is_fault
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.announcing import header_for_check
from tcpmesh.net.check_connections import Check, TCPCheck, TLSCheck
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.upstream_core import SecuredService
from tcpmesh.settings import Timeouts
from tcpmesh.upstream_settings import CheckSettings
from tcpmesh.values import Address, Endpoint

__all__ = ["AT_ONCE", "CheckedService", "HealthChecks"]

AT_ONCE = 32  # checks under way, each with a socket and for its timeout at most
SOON = 1.0  # seconds until a check that could not be made is tried again, if its interval is not shorter
HELD_UP = 0.5  # seconds: a timeout so late was not the endpoint's: its answer may have waited as long as we did

_TIMEOUTS = (CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, PREFACE_TIMEOUT)
_log = Logger(namespace="tcpmesh.health")


@attrs.frozen(eq=False)
class CheckedService:
    """
    A service whose endpoints are checked.

    :ivar workload: as whom TLS checks come.
    :ivar timeouts: those of its connections.
    """

    name: str
    check: CheckSettings
    service: SecuredService
    health: ServiceHealth
    workload: str
    timeouts: Timeouts


@attrs.define(eq=False)
class _Round:
    """One endpoint's checks."""

    of: CheckedService
    endpoint: Endpoint
    timer: Any = None
    running: Deferred[None] | None = None
    check: Check | None = None
    over: bool = False

    def end(self) -> None:
        """No more checks."""
        self.over = True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        if self.running is not None:
            self.running.cancel()
        if self.check is not None:
            self.check.abort()


def check_of(plane: DataPlane, of: CheckedService, endpoint: Endpoint) -> Check:
    """The check that a service's settings ask for."""
    announcement = header_for_check(of.service.settings.proxy_protocol)
    if of.check.type == "tcp":
        return TCPCheck(plane, endpoint.address, of.check.timeout, announcement)
    return TLSCheck(plane, of.service, endpoint, of.workload, of.check.timeout, of.timeouts, announcement)


class HealthChecks:
    """
    Makes them, from :meth:`start` to :meth:`stop`.

    :param at_once: how many may be under way.
    """

    def __init__(
        self,
        plane: DataPlane,
        services: Sequence[CheckedService],
        at_once: int = AT_ONCE,
        make: Callable[[DataPlane, CheckedService, Endpoint], Check] = check_of,
    ) -> None:
        self._plane = plane
        self._services = services
        self._at_once = at_once
        self._make = make
        self._rounds: dict[str, dict[Address, _Round]] = {service.name: {} for service in services}
        self._due: dict[str, deque[_Round]] = {}  # by service, the one whose turn is next first
        self._under_way = 0
        self._beginning = False
        self._started = False
        self._seen: dict[str, tuple[Endpoint, ...]] = {}

    def start(self) -> None:
        """Check every endpoint now, and from now on."""
        self._started = True
        self._plane.state.observe(self._follow)
        self._follow(self._plane.state.current)

    def stop(self) -> None:
        """End all checks, those under way too."""
        self._started = False
        self._due.clear()
        for rounds in self._rounds.values():
            for each in rounds.values():
                each.end()
            rounds.clear()

    # --- which endpoints

    def _follow(self, state: MeshState) -> None:
        if not self._started:
            return
        for service in self._services:
            endpoints = state.endpoints.get(service.name, ())
            if endpoints is not self._seen.get(service.name, ()):
                self._seen[service.name] = endpoints
                self._follow_service(service, endpoints)
        self._begin()

    def _follow_service(self, service: CheckedService, endpoints: tuple[Endpoint, ...]) -> None:
        rounds = self._rounds[service.name]
        there = {endpoint.address for endpoint in endpoints}
        gone = [rounds.pop(address) for address in rounds.keys() - there]
        for each in gone:
            each.over = True  # the end of one check lets another begin, which is to be none of theirs
        for each in gone:
            each.end()
        for endpoint in endpoints:
            known = rounds.get(endpoint.address)
            if known is None:
                known = rounds[endpoint.address] = _Round(service, endpoint)
                self._queue(known)
            known.endpoint = endpoint

    # --- when

    def _begin(self) -> None:
        if self._beginning:
            return  # a check was over at once, and the loop goes on
        self._beginning = True
        try:
            while self._due and self._under_way < self._at_once:
                each = self._next()
                if not each.over:
                    self._run(each)
        finally:
            self._beginning = False

    def _is_due(self, each: _Round) -> None:
        each.timer = None
        self._queue(each)
        self._begin()

    def _queue(self, each: _Round) -> None:
        self._due.setdefault(each.of.name, deque()).append(each)

    def _next(self) -> _Round:
        # By turns: a service of which hundreds do not answer must not hold up the checks of the others.
        name = next(iter(self._due))
        waiting = self._due.pop(name)
        each = waiting.popleft()
        if waiting:
            self._due[name] = waiting
        return each

    def _run(self, each: _Round) -> None:
        self._under_way += 1
        clock, timeout = self._plane.clock, each.of.check.timeout
        check = each.check = self._make(self._plane, each.of, each.endpoint)
        started = clock.seconds()
        running = each.running = check.run().addTimeout(timeout, clock)
        running.addBoth(self._done, each, check, started)

    # --- and what comes of it

    def _done(self, outcome: Failure | None, each: _Round, check: Check, started: float) -> None:
        self._under_way -= 1
        each.running = None
        if each.over or not self._started:
            # An endpoint that is gone, or a proxy that stops: nobody wants to know.
            if isinstance(outcome, Failure) and not outcome.check(CancelledError, defer.TimeoutError, Refusal):
                _log.failure("a health check failed", outcome)
            self._begin()
            return
        now = self._plane.clock.seconds()
        interval = each.of.check.interval * (1 + each.of.check.jitter * (2 * self._plane.random.random() - 1))
        refusal = self._refusal(outcome, check)
        if refusal is not None and is_answer(refusal.code):
            refusal = None  # who is verified and says no is alive
        if refusal is None or self._counts(refusal, each, now - started):
            each.of.health.checked(each.endpoint.address, refusal, now - started, now)
        else:
            _log.debug(
                "service {service!r}: {address} could not be checked: {reason}",
                service=each.of.name,
                address=str(each.endpoint.address),
                reason=str(refusal),
            )
            interval = min(interval, SOON)
        each.timer = self._plane.clock.callLater(max(0.0, started + interval - now), self._is_due, each)
        self._begin()

    @staticmethod
    def _counts(refusal: Refusal, each: _Round, duration: float) -> bool:
        if refusal.code in _TIMEOUTS and duration > each.of.check.timeout + HELD_UP:
            return False
        return is_fault(refusal.code) or refusal.code is STOPPING

    @staticmethod
    def _refusal(outcome: Failure | None, check: Check) -> Refusal | None:
        if outcome is None:
            return None
        if outcome.check(defer.TimeoutError):
            return check.late
        if outcome.check(Refusal):
            assert isinstance(outcome.value, Refusal)
            return outcome.value
        _log.failure("a health check failed", outcome)
        return Refusal(INTERNAL, "making the check failed")
