"""
A peer asks how it is seen: whether it may ask, what the policies would say of it, whether the application answers.

Ring 3. The peer is verified as every other one. Who is not listed in the listener's ``probe.allow`` learns that and
nothing else; who is causes at most one connection to the application, none when it would be refused, and at most one a
second however many ask.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

import tcpmesh
from tcpmesh.codes import INTERNAL, NO_BUNDLE, OWN_DENIED, PROBE_ANSWERED, PROBE_NOT_ALLOWED, STOPPING, Code
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.dataplane.preface import ALPN
from tcpmesh.dataplane.probe import ProbeAnswer, ProbeRefusal, TargetState
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import name_text, not_after, subject_key_identifier
from tcpmesh.net.announcing import header_for_check
from tcpmesh.net.dialling import Dial
from tcpmesh.net.leg_owners import LegKeeper, LegOwner, Loss
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.observe.records import ConnectionRecord, Side
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.route_settings import InboundRoute
from tcpmesh.settings import InboundSettings, Timeouts
from tcpmesh.values import AuthorizationRequest, TCPAddress

__all__ = ["DialTurns", "ProbeReply"]

_log = Logger()
_BETWEEN_DIALS = 1.0  # seconds


class ProbedConnection(LegKeeper, Protocol):
    """The connection that a probe came on."""

    record: ConnectionRecord
    plane: DataPlane
    timeouts: Timeouts

    @property
    def is_closed(self) -> bool:
        """Whether its end was reported."""

    def leg_opened(self, leg: Leg) -> None:
        """One more socket belongs to it."""

    def close(self, code: Code, reason: str, closed_by: Side) -> None:
        """Report its end."""

    def cut(self, code: Code, reason: str) -> None:
        """End it now, visibly broken."""


class DialTurns:
    """When the probes of one listener may connect to its application."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0.0

    def take(self, now: float) -> bool:
        """Whether now, by the reactor's clock; then not again for a second."""
        if now < self._next:
            return False
        self._next = now + _BETWEEN_DIALS
        return True


class ProbeReply(LegOwner):
    """
    Answers one probe; :meth:`start` begins it, and the connection's end ends it.

    :param request: what the policies would be asked about this peer.
    :param route: where the peer would go.
    :param turns: the listener's.
    """

    __slots__ = ("_connection", "_dial", "_leg", "_request", "_route", "_settings", "_turns", "_verdict")

    def __init__(
        self,
        connection: ProbedConnection,
        leg: TLSLeg,
        request: AuthorizationRequest,
        settings: InboundSettings,
        route: InboundRoute,
        turns: DialTurns,
    ) -> None:
        self._connection = connection
        self._leg = leg
        # As the same peer would come with payload: probing is no property that a policy is to judge.
        self._request = attrs.evolve(request, alpn=ALPN.decode("ascii"))
        self._settings = settings
        self._route = route
        self._turns = turns
        self._verdict: Deferred[Verdict] | None = None
        self._dial: Dial | None = None

    def start(self) -> None:
        """Decide whether to answer, and what."""
        probe, peer = self._settings.probe, self._request.peer
        if probe is None or peer.spiffe_id is None or peer.spiffe_id not in probe.allow:
            refusal = Refusal(PROBE_NOT_ALLOWED, f"{peer} may not probe inbound listener {self._settings.name!r}")
            self._refuse(refusal, "you may not ask this listener how it sees you")
            return
        plane = self._connection.plane
        verdict = decide_by(plane.state.current, self._request, plane.clock, _log)
        if isinstance(verdict, Deferred):
            self._verdict = verdict
            verdict.addCallback(self._decided).addErrback(self._failed)
        else:
            self._decided(verdict)

    def cancel(self) -> None:
        """The peer went away, or we stop."""
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            verdict.cancel()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None

    def _decided(self, verdict: Verdict) -> None:
        self._verdict = None
        connection, plane = self._connection, self._connection.plane
        if connection.is_closed:
            return
        try:
            answer = self._answer(verdict)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if not answer.allowed:
            self._say(answer, "not tried", "it would be refused")
        elif not self._turns.take(plane.clock.seconds()):
            self._say(answer, "not tried", "another probe has connected to it within the last second")
        else:
            leg = PlainLeg(connection, self, on_connected=lambda leg: self._connected(leg, answer))
            self._dial = plane.sockets.dial(
                self._route.target,
                leg,
                connection.timeouts.connect,
                lambda refusal: self._no_target(refusal, answer),
            )

    def _failed(self, failure: Any) -> None:
        # Only cancel cancels, and what follows then is not ours to say.
        if not self._connection.is_closed and not failure.check(CancelledError):
            _log.failure("answering a probe failed", failure)
            self._connection.cut(INTERNAL, "answering the probe failed")

    def _answer(self, verdict: Verdict) -> ProbeAnswer:
        """
        What is known before the application is tried.

        :raises Refusal: when this proxy, or the peer, has no identity any longer.
        """
        plane, peer, source = self._connection.plane, self._request.peer, self._request.source
        state, decision = plane.state.current, verdict.decision
        own = own_svid(state, self._route.workload or "")
        anchor = self._leg.core.verification.anchor
        bundle = state.bundles.get(peer.spiffe_id.trust_domain) if peer.spiffe_id is not None else None
        if anchor is None or bundle is None:
            raise Refusal(NO_BUNDLE, "the trust bundles no longer vouch for the peer")
        code, reason = verdict.code, decision.reason
        if verdict.allowed and plane.stopping:
            code, reason = STOPPING, "this proxy is stopping"
        return ProbeAnswer(
            clock=plane.wall_clock(),
            version=tcpmesh.__version__,
            listener=self._settings.name,
            peer=str(peer.spiffe_id),
            peer_serial=peer.serial,
            peer_not_after=peer.not_after,
            peer_source=source.host if isinstance(source, TCPAddress) else str(source),
            authority=name_text(anchor.subject),
            authority_key=subject_key_identifier(anchor),
            authorities=len(bundle.authorities),
            own=str(own.id),
            own_not_after=not_after(own.leaf),
            generation=state.generation,
            allowed=code is None,
            code=code.id if code is not None else "",
            policy=decision.policy,
            rule=decision.rule,
            reason=reason,
        )

    # --- the application

    def _connected(self, leg: Leg, answer: ProbeAnswer) -> None:
        self._dial = None
        self._connection.leg_opened(leg)
        announcement = header_for_check(self._settings.proxy_protocol.send)
        if announcement is not None:
            leg.send(announcement(leg.transport))
        leg.end()
        leg.finish()
        self._say(answer, "reachable", "the application took a connection")

    def _no_target(self, refusal: Refusal, answer: ProbeAnswer) -> None:
        self._dial = None
        self._say(answer, "unreachable", f"{refusal.code} {refusal.reason}")

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """The application did not like a connection without a byte. (LegOwner)"""

    # --- the end

    def _say(self, answer: ProbeAnswer, target: TargetState, text: str) -> None:
        if self._connection.is_closed:
            return
        told = "it would be let in" if answer.allowed else f"it would be refused with {answer.code}"
        plane = self._connection.plane
        # As late as possible: whoever asks compares the clocks.
        answer = attrs.evolve(answer, clock=plane.wall_clock(), target=target, target_text=text)
        self._leg.refuse(answer.encode())
        self._connection.close(PROBE_ANSWERED, f"{self._request.peer} was told: {told}; target {target}", "proxy")

    def _refuse(self, refusal: Refusal, told: str = "") -> None:
        # Which entry denies us, and why, is for our own log, as with a peer that is denied.
        told = told or (refusal.code.summary if refusal.code is OWN_DENIED else refusal.reason)
        self._leg.refuse(ProbeRefusal(refusal.code.id, told).encode())
        self._connection.close(refusal.code, refusal.reason, "proxy")
