"""
The connector: from a service to an established, verified, accepted connection, or to the reason why not.

Ring 3. The pool gives an endpoint, maybe after a wait → attempt; a failure whose code is retryable may be followed by
another attempt, as the service's retries have it, while no payload byte has left. All of it is under one deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from tcpmesh.codes import CANCELLED, CIRCUIT_OPEN, CLOSED_BEFORE_OK, ESTABLISH_TIMEOUT, INTERNAL, STOPPING
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.errors import Refusal
from tcpmesh.net.attempt import Attempt
from tcpmesh.net.booking import Booking
from tcpmesh.net.endpoint_attempt import EndpointAttempt
from tcpmesh.net.establishment_owner import EstablishmentOwner
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.retrying import late
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.net.waiting import Waiter
from tcpmesh.settings import Timeouts
from tcpmesh.values import Address, AttemptFailure, Endpoint, RetryContext

_log = Logger()


class Establishment:
    """
    All attempts for one connection at one service.

    What fails is noted in the owner's record, behind what is there already: for a connection that tries one service
    after the other, each has an Establishment, with the same ``started``.

    :param position: the number of the endpoint that it must be, None for any.
    :param started: by the clock, when the connection was accepted: ``timeouts.establish`` counts from there.
    :param make_attempt: what each attempt is, called as :class:`~tcpmesh.net.attempt.Attempt` is.

    After ``upstream_established`` it may be asked to :meth:`resume`, when the leg broke before any payload moved.
    """

    __slots__ = (
        "_attempt", "_attempts", "_began", "_booking", "_context", "_established", "_failed", "_had_time", "_last",
        "_make_attempt", "_owner", "_plane", "_position", "_started", "_timeouts", "_until", "_wait", "_waiter",
        "_waits", "_workload", "upstream"
    )  # fmt: skip

    def __init__(
        self,
        owner: EstablishmentOwner,
        upstream: Upstream,
        workload: str,
        timeouts: Timeouts,
        plane: DataPlane,
        *,
        position: int | None = None,
        started: float | None = None,
        make_attempt: Callable[..., EndpointAttempt] = Attempt,
    ) -> None:
        now = plane.clock.seconds()
        self._owner = owner
        self.upstream = upstream
        self._workload = workload
        self._timeouts = timeouts
        self._plane = plane
        self._position = position
        self._make_attempt = make_attempt
        self._started = now if started is None else started
        self._began = now  # the last attempt
        self._until = self._started + timeouts.establish
        self._context = RetryContext(upstream.name)
        self._waits = upstream.retries.begin(self._context)
        self._attempts = 0  # at this service
        self._failed: frozenset[Endpoint] = frozenset()
        self._last: AttemptFailure | None = None  # for the reason when the time is over
        self._had_time = False  # whether an attempt failed that was not merely cut short
        self._booking: Booking | None = None  # of the attempt under way, or of the established connection
        self._attempt: EndpointAttempt | None = None
        self._established: Leg | None = None
        self._waiter: Waiter | None = None
        self._wait: Any = None

    def attempt(self) -> None:
        """Try; the outcome comes to the owner. The circuit is asked, and told, for those who take any endpoint."""
        health = self.upstream.pool.health
        if health.impaired and self._position is None:
            why = health.refuses(self._plane.clock.seconds(), self)
            if why is not None:
                self._refuse(Refusal(CIRCUIT_OPEN, f"service {self.upstream.name!r}: {why}"))
                return
        self._try()

    def _try(self) -> None:
        self._wait = None
        self.upstream.retries.pausing.pop(self, None)
        if self._plane.clock.seconds() >= self._until:  # another service may give less time than the one before
            self._end(Refusal(ESTABLISH_TIMEOUT, "there was no time left to try"))
            return
        try:
            found = self.upstream.pool.book(self, self._failed, self._position, self._timeouts, self._until)
        except Refusal as refusal:
            self._end(refusal)
        except Exception:  # noqa: BLE001  one connection's failure: without this it would hang without a record
            _log.failure("choosing an endpoint of service {service!r} failed", service=self.upstream.name)
            self._end(Refusal(INTERNAL, "choosing an endpoint failed"))
        else:
            if isinstance(found, Booking):
                self._dial(found)
            else:
                self._waiter = found
                self._owner.record.waiting = True

    # --- Waiting

    @property
    def source(self) -> Address:
        """Where the connection comes from. (Waiting)"""
        return self._owner.source

    def room_found(self, booking: Booking) -> None:
        """The wait is over. (Waiting)"""
        self._note_wait()
        self._dial(booking)

    def room_refused(self, refusal: Refusal) -> None:
        """The wait was in vain. (Waiting)"""
        self._note_wait()
        if refusal.code.retryable and refusal.code is not STOPPING:  # which is said of ourselves here
            self._try_again(AttemptFailure(refusal.code, refusal.reason, None, 0.0), refusal)
        else:
            self._end(refusal)

    def _note_wait(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._owner.record.note_wait(self._plane.clock.seconds() - waiter.came)

    # --- AttemptOwner

    def _dial(self, booking: Booking) -> None:
        plane = self._plane
        self._owner.record.attempts += 1
        self._attempts += 1
        self._booking = booking
        self._began = began = plane.clock.seconds()
        if self._attempts == 1:
            self.upstream.retries.budget.connection(began)
        try:
            state, where, until = plane.state.current, booking.endpoint, self._until
            self._attempt = self._make_attempt(
                self, self._owner, self.upstream, where, self._workload, self._timeouts, plane, state, until
            )
            self._attempt.start()
        except Refusal as refusal:
            self._refused(refusal, plane.clock.seconds() - began)
        except Exception:  # noqa: BLE001  as above
            _log.failure("attempting service {service!r} failed", service=self.upstream.name)
            if self._attempt is not None:
                self._attempt.cancel()  # whatever of it has begun must not speak for the next one
            self._refused(Refusal(INTERNAL, "attempting the service failed"), plane.clock.seconds() - began)

    def attempt_succeeded(self, leg: Leg) -> None:
        """The endpoint accepted. (AttemptOwner)"""
        assert self._booking is not None
        self._booking.established(self._duration())
        self._attempt = None
        self._established = leg
        self._owner.upstream_established(leg)

    def attempt_failed(self, refusal: Refusal) -> None:
        """The endpoint did not. (AttemptOwner)"""
        self._refused(refusal, self._duration())

    def _refused(self, refusal: Refusal, duration: float) -> None:
        booking, self._booking = self._booking, None
        assert booking is not None
        failure = AttemptFailure(refusal.code, refusal.reason, booking.endpoint, duration)
        hurried = refusal.code is ESTABLISH_TIMEOUT and duration < self._timeouts.connect
        self._had_time |= not hurried
        booking.failed(failure, hurried=hurried)
        self._try_again(failure, refusal)

    def resume(self, loss: Loss) -> bool:
        """
        The established leg broke before any payload moved: try again, if there is time and the retries have it so.

        Only for peers without a preface: one that said ok has dialled its application, which may have acted on that.
        """
        leg, booking, now = self._established, self._booking, self._plane.clock.seconds()
        if not isinstance(leg, TLSLeg) or booking is None or leg.core.alpn == ALPN:
            return False
        if loss.code is INTERNAL or now >= self._until:
            return False
        self._established = self._booking = None
        # An alert keeps its own code; any other loss at this point is a refusal without words.
        code = loss.code if loss.code.retryable else CLOSED_BEFORE_OK
        failure = AttemptFailure(code, loss.reason, booking.endpoint, now - self._began)
        booking.lost(failure)
        self._try_again(failure, Refusal(code, loss.reason))
        return True

    # --- what follows a failure

    def _try_again(self, failure: AttemptFailure, refusal: Refusal) -> None:
        self._attempt = None
        now = self._plane.clock.seconds()
        context, record = self._context, self._owner.record
        if failure.endpoint is not None:
            self._failed |= {failure.endpoint}
            record.note_failure(str(failure.endpoint.address), failure.code, failure.reason, failure.duration)
        if failure.code is not ESTABLISH_TIMEOUT:
            self._last = failure
        context.failures.append(failure)
        context.elapsed = now - self._started
        context.remaining = max(0.0, self._until - now)
        if not refusal.code.retryable:
            self._end(refusal)
            return
        wait = self.upstream.retries.next_wait(self._waits, now, context.remaining)
        if isinstance(wait, str):
            self._end(Refusal(refusal.code, f"{refusal.reason}; no retry: {wait}", refusal.errno) if wait else refusal)
            return
        self._plane.sink.attempt_failed(record, refusal.code, refusal.reason)
        self._wait = self._plane.clock.callLater(wait, self._try)
        self.upstream.retries.pausing[self] = None

    def stop(self) -> None:
        """The proxy stops while the next attempt is waited for. (Pausing)"""
        self._wait.cancel()
        last = f"; lastly {self._last.code} {self._last.reason}" if self._last is not None else ""
        self._end(Refusal(STOPPING, f"this proxy is stopping, attempts: {self._attempts}{last}"))

    def _end(self, refusal: Refusal) -> None:
        """Nothing follows; the circuit is told, which had let it try."""
        if refusal.code is ESTABLISH_TIMEOUT:
            refusal = late(refusal, self._timeouts, self._attempts, self._last)
        if self._position is None:
            now = self._plane.clock.seconds()
            # Who spent the time in the queue has tried nothing that could be to blame.
            code = CANCELLED if refusal.code is ESTABLISH_TIMEOUT and not self._had_time else refusal.code
            self.upstream.pool.health.connection_failed(code, refusal.reason, now, self)
        self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        self.upstream.pool.counts.refused[refusal.code] += 1
        self._owner.upstream_refused(refusal)

    # --- from outside

    @property
    def wire(self) -> TLSLeg | None:
        """The leg of the attempt that is under way."""
        return self._attempt.wire if self._attempt is not None else None

    def withdraw(self, refusal: Refusal) -> bool:
        """End the attempt under way as a failed one; says whether there is one, or one to come at another endpoint."""
        if self._attempt is None:
            return self._wait is not None or self._waiter is not None
        self._attempt.withdraw(refusal)
        return True

    def closed(self) -> None:
        """The established connection ended."""
        if self._established is not None and self._booking is not None:
            self._booking.closed()
            self._booking = None
        self._established = None

    def cancel(self) -> None:
        """Nobody wants the connection any longer; the owner is told nothing more."""
        pool = self.upstream.pool
        if self._wait is not None and self._wait.active():
            self._wait.cancel()
            self.upstream.retries.pausing.pop(self, None)
        if self._waiter is not None:
            pool.leave(self._waiter)
            self._note_wait()
        gone = "the client went away"
        if self._attempt is not None:
            duration = self._duration()
            attempt, self._attempt = self._attempt, None
            attempt.cancel()
            assert self._booking is not None
            booking, self._booking = self._booking, None
            booking.failed(AttemptFailure(CANCELLED, gone, booking.endpoint, duration))
        if self._established is None and self._position is None:
            pool.health.connection_failed(CANCELLED, gone, self._plane.clock.seconds(), self)

    def _duration(self) -> float:
        attempt = self._attempt
        return float(self._plane.clock.seconds() - attempt.started) if attempt is not None else 0.0
