"""
Outbound: applications come in on a plain local listener, and leave over mutual TLS to a verified peer, or with their
own TLS as it is.

Ring 3. accept → limits → (ClientHello →) route → for one service after the other: authorize → connector (retry,
balance, timeouts) → relay → record. The application is not read from until the peer has accepted: its bytes, and its
FIN, wait in the kernel; only its reset is heard. The exception is a listener whose routes need the ClientHello.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tcpmesh.codes import NO_BYTE, STOPPING
from tcpmesh.dataplane.client_hello import ClientHello, ClientHelloReader
from tcpmesh.dataplane.contexts import own_svid
from tcpmesh.errors import Refusal
from tcpmesh.net.announcing import header_for_server
from tcpmesh.net.attempt import Attempt
from tcpmesh.net.connector import Establishment
from tcpmesh.net.deciding import DecidingConnection
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg
from tcpmesh.net.passthrough import PassthroughAttempt
from tcpmesh.net.prelude import Prelude, ReplayingLeg
from tcpmesh.net.requests import outbound_request
from tcpmesh.net.routing import Way, another_may_do, is_of_the_service, no_route
from tcpmesh.net.sockets import tune_plain
from tcpmesh.net.tls import TLSLeg
from tcpmesh.net.upstream import Upstream
from tcpmesh.proxy_protocol_settings import ProxyProtocolVersion
from tcpmesh.settings import OnChange
from tcpmesh.values import Address, AuthorizationRequest

if TYPE_CHECKING:
    from tcpmesh.net.outbound_listener import OutboundListener

# What an application can do that does not begin with TLS, where the listener must see its ClientHello.
_WAY_OUT = (
    "this listener waits for TLS of the application's own (routes with sni or passthrough); give other protocols, "
    "above all those whose server speaks first, a listener without"
)


class OutboundConnection(DecidingConnection):
    """One connection from a local application to a service."""

    __slots__ = ("_ahead", "_establishment", "_hello", "_request", "_way", "listener", "upstream")

    def __init__(self, listener: OutboundListener) -> None:
        super().__init__(listener.plane, "outbound", listener.name, listener.settings.workload, listener.timeouts)
        self.listener = listener
        self.limit = listener.limit
        self.upstream: Upstream | None = None  # the service that is tried, or took it; None before there is a route
        self._way: Way | None = None
        self._ahead: Iterator[str] = iter(())  # the services that are tried when this one fails
        self._hello: ClientHello | None = None
        self._establishment: Establishment | None = None
        self._request: AuthorizationRequest | None = None
        if listener.settings.service is not None:
            self.record.dst_service = listener.settings.service

    # --- which way

    def begin(self, leg: Leg) -> None:
        """The application is connected."""
        if self._welcome(leg):
            self._go(self.listener.ways.default)

    def begin_early(self, prelude: Prelude) -> None:
        """The application is connected, and where it goes is told by what it says first."""
        if not self._welcome(prelude):
            return
        reader = ClientHelloReader(_WAY_OUT)

        def on_read(hello: ClientHello) -> None:
            self._hello = hello
            self.record.sni = hello.server_name
            way = self.listener.ways.find(hello.server_name)
            if way is None:
                self._end(no_route(hello))
            elif self.plane.stopping:
                self._end(Refusal(STOPPING, "this proxy is stopping"))
            else:
                prelude.hand_over(ReplayingLeg(self, self, early=reader.rest))
                self._go(way)

        prelude.read(reader, self.timeouts.handshake, on_read, self._end)

    def _welcome(self, leg: Leg) -> bool:
        """Count it, and look at whether it may come at all."""
        self.accepted(leg.transport)
        tune_plain(leg.transport)
        try:
            self.listener.check_client(leg)
            svid = own_svid(self.plane.state.current, self.record.workload)
        except Refusal as refusal:
            self._end(refusal)
            return False
        self.record.src_identity = str(svid.id)
        return True

    def _go(self, way: Way | None) -> None:
        assert way is not None, "without a ClientHello there is one route, for all"
        self._way = way
        if self.listener.settings.routes is not None:
            self.record.route = way.name
            self.record.passthrough = way.passthrough
        self._ahead = iter(way.order(self.plane.random))
        self._try(next(self._ahead))

    # --- one service

    def _try(self, service: str) -> None:
        listener, state = self.listener, self.plane.state.current
        self.upstream = listener.upstreams[service]
        self.timeouts = listener.times[service]
        self.record.dst_service = service
        self._establishment = self._request = None
        if not state.decides_outbound:
            self.decided_by = state.policies
            self.permitted()
            return
        try:
            request = self.authorization_request()
        except Refusal as refusal:
            self._end(refusal)
            return
        self.ask(request, state)

    def authorization_request(self) -> AuthorizationRequest:
        """
        What policies are asked about it, made when it is needed first.

        :raises Refusal: when there is no own identity any longer.
        """
        if self._request is None:
            svid = own_svid(self.plane.state.current, self.record.workload)
            self._request = outbound_request(self.record, svid, self.source)
        return self._request

    def permitted(self) -> None:
        """The policies allow the service: reach it. (DecidingConnection)"""
        full = self.take_places()
        if full is not None:
            self._end(full)
            return
        assert self.upstream is not None
        assert self._way is not None
        self._establishment = Establishment(
            self,
            self.upstream,
            self.record.workload,
            self.timeouts,
            self.plane,
            position=self.listener.position,
            started=self._started,
            make_attempt=PassthroughAttempt if self._way.passthrough else Attempt,
        )
        self._establishment.attempt()

    def forbidden(self, refusal: Refusal) -> None:
        """The policies deny the service, which is the last word: no other one is tried. (DecidingConnection)"""
        self._end(refusal)

    def _end(self, refusal: Refusal) -> None:
        """Nobody took the connection: the application sees a reset, never a clean end."""
        assert self.src is not None
        self.src.reset()
        self.close(refusal.code, refusal.reason, "src" if refusal.code is NO_BYTE else "proxy")

    # --- LiveConnection

    @property
    def wire(self) -> TLSLeg | None:
        """The leg to the service, that of an attempt under way among it."""
        if isinstance(self.dst, TLSLeg):
            return self.dst
        return self._establishment.wire if self._establishment is not None else None

    @property
    def closes_on_expiry(self) -> bool:
        """As the service says. (LiveConnection)"""
        return self.upstream is not None and self.upstream.settings.on_expiry == "close"

    @property
    def on_change(self) -> OnChange:
        """As the service says. (DecidedConnection)"""
        return self.upstream.settings.on_change if self.upstream is not None else "close"

    def withdraw(self, refusal: Refusal) -> None:
        """Before anything was sent another endpoint may do better; what is wrong with ourselves stays so."""
        attempting = self.dst is None and self._establishment is not None and refusal.code.retryable
        if not (attempting and self._establishment.withdraw(refusal)):  # type: ignore[union-attr]
            super().withdraw(refusal)

    # --- EstablishmentOwner

    @property
    def source(self) -> Address:
        """Where the application is. (EstablishmentOwner)"""
        assert self.src is not None
        return self.src.transport.peer  # type: ignore[no-any-return]

    def header_for_server(self, version: ProxyProtocolVersion) -> bytes:
        """With the application's own address. (UpstreamConnection)"""
        assert self.src is not None
        return header_for_server(version, self.src.transport.peer, self.src.transport.own)

    def note_peer(self, leg: TLSLeg) -> None:
        """Write down what the handshake told; the server name stays the one that the application asked for."""
        super().note_peer(leg)
        if self._hello is not None:
            self.record.sni = self._hello.server_name

    def upstream_established(self, leg: Leg) -> None:
        """The service accepted: let payload flow."""
        self.dst = leg
        leg.owner = self  # its attempt has ended; until the relay owns it, what breaks is ours
        self.record.decision = "allow"
        # What is passed through begins with the application's ClientHello: an endpoint that got it is the only one.
        self.establish(None if self.record.passthrough else self._early_loss)

    def upstream_refused(self, refusal: Refusal) -> None:
        """The service did not take it: maybe the next one does."""
        following = next(self._ahead, None) if another_may_do(refusal.code) and not self.plane.stopping else None
        if following is None:
            self._end(refusal)
            return
        self.plane.sink.attempt_failed(self.record, refusal.code, refusal.reason)
        if is_of_the_service(refusal.code):  # else its attempts are noted
            self.record.note_passed_over(refusal.code, refusal.reason)
        self.record.forget_endpoint()
        # Whether limits count it or not: it is allowed nowhere until the next decision.
        self.plane.limiting.release(self)
        self._try(following)

    def _early_loss(self, loss: Loss) -> bool:
        """The service's leg broke before any payload moved; maybe another endpoint will do."""
        assert self.src is not None
        assert self._establishment is not None
        self.src.owner = self
        if not self._establishment.resume(loss):
            assert self.relay is not None
            self.src.owner = self.relay
            return False
        self.relay = None
        self.dst = None
        return True

    def dst_lost(self, refusal: Refusal) -> None:
        """Never asked: until the relay owns it, which is at once, the upstream leg is the establishment's."""
        raise AssertionError(refusal)

    def abandon(self) -> None:
        """The application went away, or we stop."""
        super().abandon()
        if self._establishment is not None:
            self._establishment.cancel()

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Report the end, once."""
        if self._establishment is not None:
            self._establishment.closed()
        super().close(*args, **kwargs)
