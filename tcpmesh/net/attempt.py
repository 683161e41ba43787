"""
One attempt at one endpoint: TCP, TLS, verification, preface, each under its own deadline.

Ring 3. It ends in exactly one of two ways, and tells its owner which.
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography import x509

from tcpmesh.codes import (
    CLOSED_BEFORE_OK,
    CONNECT_TIMEOUT,
    ESTABLISH_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_TRUNCATED,
    PREFACE_TIMEOUT,
    REFUSED_BY_PEER,
    Code,
    by_id,
)
from tcpmesh.dataplane.preface import ALPN, Preface
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.dialled_leg import dialled_leg
from tcpmesh.net.dialling import Dial
from tcpmesh.net.leg_owners import LegKeeper, Loss, TLSLegOwner
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.net.upstream_core import upstream_core
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.proxy_protocol_settings import ProxyProtocolVersion
from tcpmesh.settings import Timeouts
from tcpmesh.values import Endpoint

# What an inbound proxy refuses with. Any other code would be a peer's claim about things that only we can know.
FROM_PEERS = ("TM-P", "TM-U106", "TM-O102", "TM-O199", "TM-I5", "TM-I6", "TM-L106", "TM-L107")


class UpstreamConnection(LegKeeper, Protocol):
    """The connection that an attempt is for: its record, and the keeper of its legs' descriptors."""

    record: ConnectionRecord
    shown: tuple[x509.Certificate, ...]

    def leg_opened(self, leg: Leg) -> None:
        """One more socket belongs to the connection."""

    def note_peer(self, leg: TLSLeg) -> None:
        """Write down what the handshake told."""

    def header_for_server(self, version: ProxyProtocolVersion) -> bytes:
        """What a server is sent before TLS that wants to know whom it is for."""


class IAttempt(Protocol):
    """What an Establishment needs of an attempt."""

    started: float  # by the clock

    @property
    def wire(self) -> TLSLeg | None:
        """The leg to the endpoint, if it speaks TLS."""

    def start(self) -> None:
        """Dial."""

    def cancel(self) -> None:
        """Stop; the owner is told nothing."""

    def withdraw(self, refusal: Refusal) -> None:
        """Its peer is no longer allowed: it has failed."""


class AttemptOwner(Protocol):
    """Who is told how it ended."""

    def attempt_succeeded(self, leg: Leg) -> None:
        """The peer is verified and has accepted; nothing was read from it beyond its preface."""

    def attempt_failed(self, refusal: Refusal) -> None:
        """It came to nothing; the socket, if there was one, is closing."""


class Attempt(TLSLegOwner):
    """
    One attempt; :meth:`start` begins it.

    :param until: by the clock, when everything must be done: a step that this cuts short fails with ESTABLISH_TIMEOUT.
    :raises Refusal: (from the constructor) when this proxy has no identity to show.
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_dial",
        "_done",
        "_endpoint",
        "_leg",
        "_owner",
        "_phase_started",
        "_plane",
        "_timeouts",
        "_until",
        "started",
    )

    def __init__(
        self,
        owner: AttemptOwner,
        connection: UpstreamConnection,
        upstream: Upstream,
        endpoint: Endpoint,
        workload: str,
        timeouts: Timeouts,
        plane: DataPlane,
        state: MeshState,
        until: float,
    ) -> None:
        settings = upstream.settings
        core = upstream_core(upstream, endpoint, workload, plane, state, ALPN)
        self._owner = owner
        self._connection = connection
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._until = until
        self._plane = plane
        announces = settings.proxy_protocol != "none"
        self._leg = dialled_leg(
            (lambda _transport: connection.header_for_server(settings.proxy_protocol)) if announces else None,
            connection,
            self,
            core,
            timeouts,
            plane,
            client=True,
            truncation_is_end=settings.truncation == "eof",
        )
        self._dial: Dial | None = None
        self._deadline: Any = None
        self._done = False
        self.started = self._phase_started = plane.clock.seconds()
        connection.shown = state.svids[workload].chain
        record = connection.record
        record.generation = state.generation
        record.forget_endpoint()
        record.dst_addr = str(endpoint.address)

    def start(self) -> None:
        """Dial."""
        seconds = min(self._timeouts.connect, max(0.0, self._until - self.started))
        self._dial = self._plane.sockets.dial(self._endpoint.address, self._leg, seconds, self._not_connected)

    def cancel(self) -> None:
        """Stop; the owner is told nothing."""
        self._end()
        if self._dial is not None:
            self._dial.cancel()
        if self._leg.transport is not None:
            self._leg.reset()

    @property
    def wire(self) -> TLSLeg:
        """The leg to the endpoint, connected or not."""
        return self._leg

    def withdraw(self, refusal: Refusal) -> None:
        """Its peer is no longer allowed: it has failed."""
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._leg.transport is not None:
            self._leg.reset()
        self._fail(refusal)

    # --- the steps

    def _not_connected(self, refusal: Refusal) -> None:
        if refusal.code is CONNECT_TIMEOUT and self._until - self.started < self._timeouts.connect:
            refusal = Refusal(ESTABLISH_TIMEOUT, refusal.reason, refusal.errno)
        self._fail(refusal)

    def connected(self) -> None:
        """TCP is connected: the handshake begins."""
        self._dial = None
        self._connection.leg_opened(self._leg)
        self._connection.record.connect_ms = self._phase_ms()
        self._arm(self._timeouts.handshake, HANDSHAKE_TIMEOUT, "no complete handshake")

    def leg_secured(self, leg: TLSLeg) -> None:
        """The peer is who we expect. (TLSLegOwner)"""
        record = self._connection.record
        record.handshake_ms = self._phase_ms()
        try:
            state = self._plane.state.current
            peer = leg.core.verification.rejudge(state.bundles, state.deny_list)
        except Refusal as refusal:
            leg.reset()
            self.leg_refused(leg, refusal)
            return
        record.dst_identity = str(peer)
        record.dst_serial = peer.serial
        record.dst_not_after = peer.not_after
        self._connection.note_peer(leg)
        if leg.core.alpn == ALPN:
            self._arm(self._timeouts.preface, PREFACE_TIMEOUT, "the peer did not say whether it accepts")
            leg.await_preface()
        else:
            self._succeed()

    def leg_prefaced(self, leg: TLSLeg, preface: Preface) -> None:
        """The peer has decided. (TLSLegOwner)"""
        if preface.ok:
            self._succeed()
            return
        leg.end()
        leg.finish()
        code = by_id(preface.code)
        text = preface.text or "without a reason"
        if code is None or not code.id.startswith(FROM_PEERS):
            self._fail(Refusal(REFUSED_BY_PEER, f"the peer refused with {preface.code!a}: {text!a}"))
        else:
            self._fail(Refusal(code, f"refused by the peer: {text}"))

    # --- the ends

    def _succeed(self) -> None:
        self._end()
        self._owner.attempt_succeeded(self._leg)

    def _fail(self, refusal: Refusal) -> None:
        if not self._done:
            self._end()
            if refusal.errno:
                self._connection.record.errno = refusal.errno
            self._owner.attempt_failed(refusal)

    def _end(self) -> None:
        self._done = True
        self._cancel_deadline()

    def leg_refused(self, leg: TLSLeg, refusal: Refusal) -> None:
        """The handshake or the preface failed. (TLSLegOwner)"""
        verification = leg.core.verification
        if not self._done and verification.peer is None:
            record = self._connection.record
            record.presented, record.expected = verification.presented, verification.wanted
        self._fail(refusal)

    def leg_lost(self, _leg: Leg, loss: Loss) -> None:
        """The connection broke. (LegOwner)"""
        # Nothing was sent yet: whatever broke here, another endpoint may do better.
        if self._leg.core.verification.peer is None:
            self._fail(Refusal(HANDSHAKE_TRUNCATED, f"during the handshake: {loss.reason}", loss.errno))
        else:
            self._fail(Refusal(CLOSED_BEFORE_OK, f"before the peer accepted: {loss.reason}", loss.errno))

    # --- time

    def _arm(self, seconds: float, code: Code, what: str) -> None:
        self._cancel_deadline()
        remaining = max(0.0, self._until - self._phase_started)
        if remaining < seconds:
            seconds, code = round(remaining, 3), ESTABLISH_TIMEOUT
        self._deadline = self._plane.clock.callLater(
            seconds, self._expire, Refusal(code, f"{what} within {seconds:g} s")
        )

    def _cancel_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _expire(self, refusal: Refusal) -> None:
        self._leg.reset()
        self._fail(refusal)

    def _phase_ms(self) -> float:
        now = self._plane.clock.seconds()
        elapsed, self._phase_started = now - self._phase_started, now
        return float(round(elapsed * 1000, 3))
