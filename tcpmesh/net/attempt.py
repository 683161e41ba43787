"""
One attempt at one endpoint: TCP, TLS, verification, preface, each under its own deadline.

Ring 3. It ends in exactly one of two ways, and tells its owner which.
"""

from __future__ import annotations

from typing import Any

from tcpmesh.codes import (
    CLOSED_BEFORE_OK,
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
from tcpmesh.net.endpoint_attempt import AttemptOwner, EndpointAttempt, UpstreamConnection
from tcpmesh.net.leg_owners import Loss, TLSLegOwner
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.net.upstream_core import upstream_core
from tcpmesh.settings import Timeouts
from tcpmesh.values import Endpoint

# What an inbound proxy refuses with. Any other code would be a peer's claim about things that only we can know.
FROM_PEERS = ("TM-P", "TM-U106", "TM-O102", "TM-O199", "TM-I5", "TM-I6", "TM-L106", "TM-L107")


class Attempt(EndpointAttempt, TLSLegOwner):
    """
    One attempt over mutual TLS.

    :raises Refusal: (from the constructor) when this proxy has no identity to show.
    """

    __slots__ = ("_deadline", "_phase_started")

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
        super().__init__(owner, connection, endpoint, timeouts, plane, state, until)
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
        self._deadline: Any = None
        self._phase_started = self.started
        connection.shown = state.svids[workload].chain

    @property
    def wire(self) -> TLSLeg:
        """The leg to the endpoint, connected or not. (EndpointAttempt)"""
        leg: TLSLeg = self._leg
        return leg

    # --- the steps

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

    def _end(self) -> None:
        super()._end()
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
