"""
The connector: from a service's name to an established, verified, accepted connection, or to the reason why not.

Ring 3. pick endpoint → TCP → TLS → verify → preface, each under its own deadline; a failure whose code is retryable
may be followed by another attempt, as the service's retry strategy says, while no payload byte has left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tcpmesh.codes import HANDSHAKE_TIMEOUT, PREFACE_TIMEOUT, REFUSED_BY_PEER, by_id
from tcpmesh.dataplane.preface import ALPN, Preface
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.net.legs import Leg, LegKeeper, Loss
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.sockets import Dial
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.settings import Timeouts
from tcpmesh.values import AttemptFailure, Endpoint, RetryContext


class EstablishmentOwner(LegKeeper, Protocol):
    """Who wants the connection; it keeps the legs' descriptors."""

    record: ConnectionRecord

    def leg_opened(self) -> None:
        """One more socket belongs to the connection."""

    def note_peer(self, leg: TLSLeg) -> None:
        """Write down what the handshake told."""

    def upstream_established(self, leg: TLSLeg) -> None:
        """The peer is verified and has accepted; nothing was read from it beyond its preface."""

    def upstream_refused(self, refusal: Refusal) -> None:
        """No attempt succeeded and none follows."""


class _DialledLeg(TLSLeg):
    """The leg to an endpoint."""

    on_connected: Callable[[], None]

    def connectionMade(self) -> None:
        self.on_connected()
        super().connectionMade()


class Establishment:
    """
    All attempts for one connection.

    It owns the upstream leg until the peer has accepted. After ``upstream_established`` it may be asked to
    :meth:`resume` when the leg broke before any payload moved.
    """

    __slots__ = (
        "_attempt_started",
        "_deadline",
        "_dial",
        "_endpoint",
        "_failed",
        "_leg",
        "_owner",
        "_phase_started",
        "_plane",
        "_retry",
        "_started",
        "_timeouts",
        "_wait",
        "_waits",
        "_workload",
        "upstream",
    )

    def __init__(
        self, owner: EstablishmentOwner, upstream: Upstream, workload: str, timeouts: Timeouts, plane: DataPlane
    ) -> None:
        self._owner = owner
        self.upstream = upstream
        self._workload = workload
        self._timeouts = timeouts
        self._plane = plane
        self._started = plane.clock.seconds()
        self._attempt_started = self._phase_started = self._started
        self._retry = RetryContext(upstream.name)
        self._waits = upstream.attempts(self._retry)
        self._failed: frozenset[Endpoint] = frozenset()
        self._endpoint: Endpoint | None = None
        self._dial: Dial | None = None
        self._leg: TLSLeg | None = None
        self._deadline: Any = None
        self._wait: Any = None

    @property
    def speaks_preface(self) -> bool:
        """Whether the established peer is a tcpmesh that told us it accepts."""
        return self._leg is not None and self._leg.core.alpn == ALPN

    # --- one attempt

    def attempt(self) -> None:
        """Try once; the outcome comes to the owner."""
        self._wait = None
        record = self._owner.record
        record.attempts += 1
        self._attempt_started = self._phase_started = self._plane.clock.seconds()
        self._endpoint = None
        try:
            state = self._plane.state.current
            endpoint = self.upstream.pick(state, self._failed)
            leg = self._new_leg(endpoint)
        except Refusal as refusal:
            self._attempt_failed(refusal)
            return
        record.generation = state.generation
        record.dst_addr = str(endpoint.address)
        record.dst_identity = ""
        record.connect_ms = record.handshake_ms = None
        self._endpoint = endpoint
        self.upstream.opened(endpoint)
        self._leg = leg
        self._dial = self._plane.sockets.dial(endpoint.address, leg, self._timeouts.connect, self._attempt_failed)

    def _new_leg(self, endpoint: Endpoint) -> TLSLeg:
        plane, settings = self._plane, self.upstream.settings
        state = plane.state.current
        context = plane.contexts.client(state, self._workload, settings.tls, settings.trust)
        verification = PeerVerification(state.bundles, self.upstream.expected(endpoint), plane.wall_clock)
        core = TLSCore(
            context,
            verification,
            server=False,
            sni=self.upstream.sni(endpoint),
            alpn=ALPN if settings.preface == "auto" else b"",
        )
        leg = _DialledLeg(
            self._owner,
            self,
            core,
            self._timeouts,
            plane.clock,
            client=True,
            truncation_is_end=settings.truncation == "eof",
        )
        leg.on_connected = self._connected
        return leg

    def _connected(self) -> None:
        self._dial = None
        self._owner.leg_opened()
        record = self._owner.record
        record.connect_ms = self._phase_ms()
        self._arm(
            self._timeouts.handshake,
            Refusal(HANDSHAKE_TIMEOUT, f"no complete handshake within {self._timeouts.handshake:g} s"),
        )

    def leg_secured(self, leg: TLSLeg) -> None:
        """The peer is who we expect. (TLSLegOwner)"""
        record = self._owner.record
        record.handshake_ms = self._phase_ms()
        peer = leg.core.verification.peer
        assert peer is not None
        record.dst_identity = str(peer)
        record.dst_serial = peer.serial
        record.dst_not_after = peer.not_after
        self._owner.note_peer(leg)
        if leg.core.alpn == ALPN:
            self._arm(
                self._timeouts.preface,
                Refusal(PREFACE_TIMEOUT, f"the peer did not accept within {self._timeouts.preface:g} s"),
            )
            leg.await_preface()
        else:
            self._succeed(leg)

    def leg_prefaced(self, leg: TLSLeg, preface: Preface) -> None:
        """The peer has decided. (TLSLegOwner)"""
        if preface.ok:
            self._succeed(leg)
            return
        code = by_id(preface.code)
        text = preface.text or "without a reason"
        if code is None:
            refusal = Refusal(REFUSED_BY_PEER, f"the peer refused with {preface.code!a}: {text!a}")
        else:
            refusal = Refusal(code, f"refused by the peer: {text}")
        leg.end()
        leg.finish()
        self._attempt_failed(refusal)

    def _succeed(self, leg: TLSLeg) -> None:
        self._arm(None)
        assert self._endpoint is not None
        self.upstream.established(self._endpoint, self._plane.clock.seconds() - self._attempt_started)
        self._owner.upstream_established(leg)

    # --- failing

    def leg_refused(self, leg: TLSLeg, refusal: Refusal) -> None:
        """The handshake or the preface failed. (TLSLegOwner)"""
        self._owner.record.dst_identity = leg.core.verification.presented
        self._attempt_failed(refusal)

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """The connection broke. (LegOwner)"""
        if leg is not self._leg:
            return  # the leg of an attempt that has failed already
        self._owner.record.errno = loss.errno
        self._attempt_failed(Refusal(loss.code, f"while connecting: {loss.reason}"))

    def _expire(self, refusal: Refusal) -> None:
        assert self._leg is not None
        self._leg.reset()
        self._attempt_failed(refusal)

    def _attempt_failed(self, refusal: Refusal) -> None:
        self._arm(None)
        self._dial = None
        self._leg = None
        endpoint = self._endpoint
        duration = self._plane.clock.seconds() - self._attempt_started
        failure = AttemptFailure(refusal.code, refusal.reason, endpoint, duration)
        if endpoint is not None:
            self.upstream.failed(endpoint, failure)
            self._failed |= {endpoint}
        self._try_again(failure, refusal)

    def _try_again(self, failure: AttemptFailure, refusal: Refusal) -> None:
        self._endpoint = None
        self._retry.failures.append(failure)
        self._retry.elapsed = self._plane.clock.seconds() - self._started
        wait = self.upstream.next_wait(self._waits) if refusal.code.retryable else None
        if wait is None:
            self._owner.upstream_refused(refusal)
            return
        self._plane.sink.attempt_failed(self._owner.record, refusal.code, refusal.reason)
        self._wait = self._plane.clock.callLater(wait, self.attempt)

    def resume(self, loss: Loss) -> bool:
        """
        The established leg broke before any payload moved: try again, if the code and the strategy say so.

        Only for peers without a preface: one that said ok has dialled its application, which may have acted on that.
        """
        if self.speaks_preface or not loss.code.retryable:
            return False
        assert self._endpoint is not None
        self.upstream.closed(self._endpoint)
        self._failed |= {self._endpoint}
        refusal = Refusal(loss.code, loss.reason)
        self._leg = None
        duration = self._plane.clock.seconds() - self._attempt_started
        self._try_again(AttemptFailure(loss.code, loss.reason, self._endpoint, duration), refusal)
        return True

    def closed(self) -> None:
        """The established connection ended."""
        if self._endpoint is not None and self._leg is not None:
            self.upstream.closed(self._endpoint)
            self._leg = None

    def cancel(self) -> None:
        """Nobody wants the connection any longer; the owner is told nothing more."""
        self._arm(None)
        if self._wait is not None and self._wait.active():
            self._wait.cancel()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._leg is not None and self._leg.transport is not None:
            self._leg.owner = self._owner
            self._leg.reset()
        self._leg = None

    # --- LegOwner: nothing to do before payload flows

    def leg_data(self, leg: Leg, data: bytes | memoryview) -> None:
        """(LegOwner)."""
        raise AssertionError(f"{leg!r} delivered {len(data)} bytes before it was asked to")

    def leg_ended(self, leg: Leg) -> None:
        """(LegOwner)."""

    def leg_gone(self, leg: Leg) -> None:
        """(LegOwner)."""

    # --- time

    def _arm(self, seconds: float | None, refusal: Refusal | None = None) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        if seconds is not None:
            self._deadline = self._plane.clock.callLater(seconds, self._expire, refusal)

    def _phase_ms(self) -> float:
        now = self._plane.clock.seconds()
        elapsed, self._phase_started = now - self._phase_started, now
        return float(round(elapsed * 1000, 3))
