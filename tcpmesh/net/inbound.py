"""
Inbound: peers come in over mutual TLS, are verified and authorized, and only then is the application dialled.

Ring 3. accept → limits → handshake under a deadline → verify → authorize → dial → preface → relay → record. Where TLS
is passed through there is no handshake of ours and nobody is verified; the policies are asked all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpmesh.codes import HEALTH_CHECKED, STOPPING, TARGET_FAILED
from tcpmesh.dataplane.preface import ALPN, CHECK_ALPN, OK, Preface
from tcpmesh.dataplane.probe import PROBE_ALPN
from tcpmesh.errors import Refusal
from tcpmesh.net.announcing import header_for_application
from tcpmesh.net.arrival import ArrivingConnection
from tcpmesh.net.dialling import Dial
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.probed import ProbeReply
from tcpmesh.net.requests import inbound_request
from tcpmesh.net.routing import another_name
from tcpmesh.net.sockets import tune_plain
from tcpmesh.net.tls import TLSLeg
from tcpmesh.policy.evaluate import Verdict
from tcpmesh.settings import OnChange
from tcpmesh.values import UNAUTHENTICATED, Address, AuthorizationRequest, Effect, PeerIdentity

if TYPE_CHECKING:
    from tcpmesh.net.inbound_listener import InboundListener

# Who is denied, by which entry and why, or how many others there are, is for our own log.
_OWN_BUSINESS = ("TM-I606", "TM-L")


class InboundConnection(ArrivingConnection):
    """One connection from a peer to our application."""

    __slots__ = ("_dial", "_dial_started", "_probe", "_request")

    def __init__(self, listener: InboundListener) -> None:
        super().__init__(listener)
        self._dial: Dial | None = None
        self._dial_started = 0.0
        self._probe: ProbeReply | None = None
        self._request: AuthorizationRequest | None = None

    @property
    def closes_on_expiry(self) -> bool:
        """As the listener says. (LiveConnection)"""
        return self.listener.settings.on_expiry == "close"

    @property
    def on_change(self) -> OnChange:
        """As the listener says. (DecidedConnection)"""
        return self.listener.settings.on_change

    # --- the peer

    def leg_secured(self, leg: TLSLeg) -> None:
        """The peer is verified: ask the policies."""
        self.end_handshake()
        self.deadline(None)
        self.record.handshake_ms = self.milliseconds_since(self._started)
        asked = self.record.sni  # in the ClientHello that the route was chosen by
        self.note_peer(leg)
        if self.listener.looks_at_hello and self.record.sni != asked:
            self._refuse(another_name(asked, self.record.sni))
            return
        state = self.plane.state.current
        try:
            peer = leg.core.verification.rejudge(state.bundles, state.deny_list)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._note_identity(peer)
        alpn = leg.core.alpn
        if alpn == CHECK_ALPN:
            self._answer_check()
            return
        request = self._request = inbound_request(self.record, peer, self._source, self.route.target)
        if alpn == PROBE_ALPN:
            listener = self.listener
            self._probe = ProbeReply(self, leg, request, listener.settings, self.route, listener.probe_dials)
            self._probe.start()
            return
        self.ask(request, state)

    def passed_through(self) -> None:
        """The peer's TLS is for the application: nobody is verified, and the policies must say that this is meant."""
        self.record.passthrough = True
        request = self._request = inbound_request(self.record, UNAUTHENTICATED, self._source, self.route.target)
        self.ask(request, self.plane.state.current)

    @property
    def _source(self) -> Address:
        """Where the peer is, as far as a load balancer in between may say."""
        assert self.src is not None
        carried = self.carried.source if self.carried is not None else None
        return carried or self.src.transport.peer  # type: ignore[no-any-return]

    def _note_identity(self, peer: PeerIdentity) -> None:
        self.record.src_identity = str(peer)
        self.record.src_serial = peer.serial
        self.record.src_not_before = peer.not_before
        self.record.src_not_after = peer.not_after

    def _answer_check(self) -> None:
        """Say that we live to whoever is one of the mesh; the application and the policies have no part in it."""
        if self.plane.stopping:
            self._refuse(Refusal(STOPPING, "this proxy is stopping"))
        else:
            self.tls.refuse(OK)
            self.close(HEALTH_CHECKED, "", "proxy")

    # --- decision

    def authorization_request(self) -> AuthorizationRequest:
        """What policies were asked about it."""
        assert self._request is not None
        return self._request

    def note_decision(self, verdict: Verdict) -> None:
        """Write down what was decided; permission too, whatever becomes of the application."""
        super().note_decision(verdict)
        if verdict.allowed:
            self.record.decision = Effect.ALLOW.value

    def permitted(self) -> None:
        """The peer may come in: dial the application. (DecidingConnection)"""
        full = self.take_places()
        if full is not None:
            self._refuse(full)
        else:
            self._dial_target()

    def forbidden(self, refusal: Refusal) -> None:
        """The peer may not. (DecidingConnection)"""
        self._refuse(refusal)

    # --- target

    def _dial_target(self) -> None:
        self._dial_started = self.plane.clock.seconds()
        leg = PlainLeg(self, self, on_connected=self._target_connected)
        self.dst = leg
        self._dial = self.plane.sockets.dial(self.route.target, leg, self.timeouts.connect, self._dial_failed)

    def _dial_failed(self, refusal: Refusal) -> None:
        self._dial = None
        self.dst = None
        if not self.is_closed:
            self._refuse(Refusal(TARGET_FAILED, f"the application is not reachable: {refusal.code} {refusal.reason}"))

    def _target_connected(self, leg: Leg) -> None:
        self.leg_opened(leg)
        self._dial = None
        tune_plain(leg.transport)
        self.record.connect_ms = self.milliseconds_since(self._dial_started)
        version = self.listener.settings.proxy_protocol.send
        if version != "none":  # before payload, and none itself: it is not counted
            wire = self.src.transport  # type: ignore[union-attr]
            leg.send(header_for_application(version, self.carried, wire, self.record, self.verification))
        peer = self.wire
        if peer is not None and peer.core.alpn == ALPN:
            peer.send_preface(OK)
        if not self.is_closed:
            self.establish()

    def dst_lost(self, refusal: Refusal) -> None:
        """The application went away before payload could flow."""
        self._refuse(Refusal(TARGET_FAILED, f"the application closed at once: {refusal.reason}"))

    # --- refusing

    def _refuse(self, refusal: Refusal) -> None:
        """Tell a tcpmesh peer why in the preface; a foreign one sees a reset."""
        leg = self.wire
        if leg is not None and leg.core.alpn in (ALPN, CHECK_ALPN):
            text = refusal.code.summary if refusal.code.id.startswith(_OWN_BUSINESS) else refusal.reason
            leg.refuse(Preface(ok=False, code=refusal.code.id, text=text).encode())
        else:
            self.src.reset()  # type: ignore[union-attr]
        self.close(refusal.code, refusal.reason, "proxy")

    def abandon(self) -> None:
        """The peer went away, or we stop: drop what is under way."""
        super().abandon()
        if self._probe is not None:
            self._probe.cancel()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self.dst is not None and self.dst.transport is not None:
            self.dst.reset()
