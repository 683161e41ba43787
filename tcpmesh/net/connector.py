"""
The connector: from a service to an established, verified, accepted connection, or to the reason why not.

Ring 3. pick endpoint → attempt; a failure whose code is retryable may be followed by another attempt, as the
service's retry strategy says, while no payload byte has left.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.logger import Logger

from tcpmesh.codes import CANCELLED, CLOSED_BEFORE_OK, INTERNAL
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.errors import Refusal
from tcpmesh.net.attempt import Attempt, UpstreamConnection
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.settings import Timeouts
from tcpmesh.values import AttemptFailure, Endpoint, RetryContext

_log = Logger()


class EstablishmentOwner(UpstreamConnection, Protocol):
    """Who wants the connection."""

    def upstream_established(self, leg: TLSLeg) -> None:
        """The peer is verified and has accepted; nothing was read from it beyond its preface."""

    def upstream_refused(self, refusal: Refusal) -> None:
        """No attempt succeeded and none follows."""


class Establishment:
    """
    All attempts for one connection.

    :param position: the number of the endpoint that it must be, None for any.

    After ``upstream_established`` it may be asked to :meth:`resume`, when the leg broke before any payload moved.
    """

    __slots__ = (
        "_attempt",
        "_endpoint",
        "_established",
        "_failed",
        "_owner",
        "_plane",
        "_position",
        "_retry",
        "_started",
        "_timeouts",
        "_wait",
        "_waits",
        "_workload",
        "upstream",
    )

    def __init__(
        self,
        owner: EstablishmentOwner,
        upstream: Upstream,
        workload: str,
        timeouts: Timeouts,
        plane: DataPlane,
        *,
        position: int | None = None,
    ) -> None:
        self._owner = owner
        self.upstream = upstream
        self._workload = workload
        self._timeouts = timeouts
        self._plane = plane
        self._position = position
        self._started = plane.clock.seconds()
        self._retry = RetryContext(upstream.name)
        self._waits = upstream.attempts(self._retry)
        self._failed: frozenset[Endpoint] = frozenset()
        self._endpoint: Endpoint | None = None  # of the attempt under way, or of the established connection
        self._attempt: Attempt | None = None
        self._established: TLSLeg | None = None
        self._wait: Any = None

    def attempt(self) -> None:
        """Try once; the outcome comes to the owner."""
        self._wait = None
        plane = self._plane
        self._owner.record.attempts += 1
        self._endpoint = None
        started = plane.clock.seconds()
        try:
            state = plane.state.current
            endpoint = self.upstream.pick(state, self._failed, self._position)
            # Before anything can fail: a balancer counts, and what it hears to have failed must have been opened.
            self.upstream.opened(endpoint)
            self._endpoint = endpoint
            attempt = Attempt(self, self._owner, self.upstream, endpoint, self._workload, self._timeouts, plane, state)
            self._attempt = attempt
            attempt.start()
        except Refusal as refusal:
            self._refused(refusal, plane.clock.seconds() - started)
        except Exception:  # noqa: BLE001  one connection's failure: without this it would hang without a record
            _log.failure("attempting service {service!r} failed", service=self.upstream.name)
            self._refused(Refusal(INTERNAL, "attempting the service failed"), plane.clock.seconds() - started)

    def attempt_succeeded(self, leg: TLSLeg) -> None:
        """The endpoint accepted. (AttemptOwner)"""
        assert self._endpoint is not None
        self.upstream.established(self._endpoint, self._duration())
        self._attempt = None
        self._established = leg
        self._owner.upstream_established(leg)

    def attempt_failed(self, refusal: Refusal) -> None:
        """The endpoint did not. (AttemptOwner)"""
        self._refused(refusal, self._duration())

    def _refused(self, refusal: Refusal, duration: float) -> None:
        failure = AttemptFailure(refusal.code, refusal.reason, self._endpoint, duration)
        if self._endpoint is not None:
            self.upstream.failed(self._endpoint, failure)
        self._try_again(failure, refusal)

    def resume(self, loss: Loss) -> bool:
        """
        The established leg broke before any payload moved: try again, if the strategy says so.

        Only for peers without a preface: one that said ok has dialled its application, which may have acted on that.
        """
        leg = self._established
        if leg is None or leg.core.alpn == ALPN or loss.code is INTERNAL:
            return False
        endpoint = self._endpoint
        self.closed()
        # An alert keeps its own code; any other loss at this point is a refusal without words.
        code = loss.code if loss.code.retryable else CLOSED_BEFORE_OK
        failure = AttemptFailure(code, loss.reason, endpoint, self._plane.clock.seconds() - self._started)
        self._try_again(failure, Refusal(code, loss.reason))
        return True

    def _try_again(self, failure: AttemptFailure, refusal: Refusal) -> None:
        self._attempt = None
        if failure.endpoint is not None:
            self._failed |= {failure.endpoint}
        self._retry.failures.append(failure)
        self._retry.elapsed = self._plane.clock.seconds() - self._started
        wait = self.upstream.next_wait(self._waits) if refusal.code.retryable else None
        if wait is None:
            self._owner.upstream_refused(refusal)
            return
        self._plane.sink.attempt_failed(self._owner.record, refusal.code, refusal.reason)
        self._wait = self._plane.clock.callLater(wait, self.attempt)

    @property
    def wire(self) -> TLSLeg | None:
        """The leg of the attempt that is under way."""
        return self._attempt.wire if self._attempt is not None else None

    def withdraw(self, refusal: Refusal) -> bool:
        """End the attempt under way as a failed one; says whether there was one."""
        if self._attempt is None:
            return False
        self._attempt.withdraw(refusal)
        return True

    def closed(self) -> None:
        """The established connection ended."""
        if self._established is not None and self._endpoint is not None:
            self.upstream.closed(self._endpoint)
        self._established = None

    def cancel(self) -> None:
        """Nobody wants the connection any longer; the owner is told nothing more."""
        if self._wait is not None and self._wait.active():
            self._wait.cancel()
        if self._attempt is not None:
            assert self._endpoint is not None
            attempt, self._attempt = self._attempt, None
            attempt.cancel()
            # The balancer counts: what was opened must also come to an end.
            reason = "the client went away"
            self.upstream.failed(
                self._endpoint, AttemptFailure(CANCELLED, reason, self._endpoint, self._since(attempt))
            )

    def _duration(self) -> float:
        return self._since(self._attempt) if self._attempt is not None else 0.0

    def _since(self, attempt: Attempt) -> float:
        return float(self._plane.clock.seconds() - attempt.started)
