"""
How a peer comes in: from accept to a verified certificate, with what is read before TLS.

Ring 3. Who must begin with a PROXY header is the configuration's to say (``proxy_protocol.accept_from``). They must,
and all others' first bytes are TLS: a receiver that guesses can be told addresses by anybody (section 5 of the
specification, HAProxy's doc/proxy-protocol.txt).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from tcpmesh.codes import HANDSHAKE_TIMEOUT, HANDSHAKE_TRUNCATED, INTERNAL, NO_BYTE, PEER_ALERT
from tcpmesh.dataplane.client_hello import ClientHello, ClientHelloReader
from tcpmesh.dataplane.proxy_header import ProxyHeader
from tcpmesh.dataplane.proxy_reader import ProxyHeaderReader
from tcpmesh.errors import Refusal
from tcpmesh.net.deciding import DecidingConnection
from tcpmesh.net.leg_owners import Loss
from tcpmesh.net.legs import Leg
from tcpmesh.net.passthrough import RawLeg
from tcpmesh.net.prelude import Prelude
from tcpmesh.net.routing import no_route
from tcpmesh.net.tls import TLSLeg
from tcpmesh.route_settings import InboundRoute

if TYPE_CHECKING:
    from tcpmesh.net.inbound_listener import InboundListener

__all__ = ["ArrivingConnection"]

_LEFT = (NO_BYTE, HANDSHAKE_TRUNCATED, PEER_ALERT)  # it was the peer who ended the handshake


class ArrivingConnection(DecidingConnection):
    """
    One connection from a peer, up to the end of its handshake.

    ``carried`` is what a load balancer in between has said; None when there was none to be asked. ``route`` is where it
    goes; a listener whose routes need the ClientHello knows that when it has come.
    """

    __slots__ = ("_handshaking", "_route", "carried", "listener")

    def __init__(self, listener: InboundListener) -> None:
        super().__init__(listener.plane, "inbound", listener.name, "", listener.timeouts)
        self.listener = listener
        self.limit = listener.limit
        self.carried: ProxyHeader | None = None
        self._handshaking = False
        self._route: InboundRoute | None = None
        if not listener.looks_at_hello:
            self._take_route(listener.routes.default)

    @property
    def route(self) -> InboundRoute:
        """Where it goes."""
        assert self._route is not None
        return self._route

    def _take_route(self, route: InboundRoute | None) -> None:
        assert route is not None, "without a ClientHello there is one route, for all"
        self._route = route
        self.record.workload = route.workload or ""
        self.record.dst_addr = str(route.target)
        if self.listener.settings.routes is not None:
            self.record.route = route.name

    @property
    def tls(self) -> TLSLeg:
        """The leg to the peer, once TLS has begun."""
        assert isinstance(self.src, TLSLeg)
        return self.src

    @property
    def wire(self) -> TLSLeg | None:
        """The leg to the peer; None before TLS begins. (LiveConnection)"""
        return self.src if isinstance(self.src, TLSLeg) else None

    def begin(self, transport: Any) -> None:
        """The peer is connected."""
        if self._admit(transport):
            self.deadline(self.timeouts.handshake, self._handshake_expired)

    def _admit(self, transport: Any) -> bool:
        self.accepted(transport)
        code = self.plane.gate.begin_handshake()
        if code is not None:
            self.src.reset()  # type: ignore[union-attr]
            self.close(code, f"{self.plane.gate.handshakes} handshakes are pending", "proxy")
            return False
        self._handshaking = True
        return True

    def begin_early(self, prelude: Prelude) -> None:
        """The peer is connected, and there may be something to read before TLS."""
        if not self._admit(prelude.transport):
            return
        if prelude.transport.peer in self.listener.header_sources:
            reader = ProxyHeaderReader()

            def on_read(header: ProxyHeader) -> None:
                self.came_through(header)
                self._look(prelude, reader.rest)

            prelude.read(reader, self.listener.settings.proxy_protocol.timeout, on_read, self.refuse_arrival)
        else:
            self._look(prelude)

    def _look(self, prelude: Prelude, rest: bytes = b"") -> None:
        """If the ClientHello says where it goes, wait for that."""
        if not self.listener.looks_at_hello:
            self.secure(prelude, self.timeouts.handshake, rest)
            return
        reader = ClientHelloReader()
        until = self.plane.clock.seconds() + self.timeouts.handshake  # it is the first part of the handshake

        def on_read(hello: ClientHello) -> None:
            self.record.sni = hello.server_name
            route = self.listener.routes.find(hello.server_name)
            if route is None:
                self.refuse_arrival(no_route(hello))
                return
            self._take_route(route)
            if route.passthrough:
                self.end_handshake()
                self.record.generation = self.plane.state.current.generation
                prelude.hand_over(RawLeg(self, self, self.timeouts, self.plane, early=reader.rest))
                self.passed_through()
            else:
                self.secure(prelude, max(0.0, until - self.plane.clock.seconds()), reader.rest)

        prelude.read(reader, self.timeouts.handshake, on_read, self.refuse_arrival, first=rest)

    def passed_through(self) -> None:
        """TLS is not for us: its first bytes wait in ``src``."""
        raise NotImplementedError

    def came_through(self, header: ProxyHeader) -> None:
        """Whoever is connected relays for somebody else."""
        # What is not used is not kept: thousands of tiny TLVs take more room than the connection itself.
        self.carried = attrs.evolve(header, tlvs=(), client_tls=None)
        if header.source is not None:
            self.record.src_via, self.record.src_addr = self.record.src_addr, str(header.source)

    def refuse_arrival(self, refusal: Refusal) -> None:
        """What came before TLS is not what must come."""
        left = refusal.code is NO_BYTE
        assert self.src is not None
        (self.src.finish if left else self.src.reset)()
        self.close(refusal.code, refusal.reason, "src" if left else "proxy")

    def secure(self, prelude: Prelude, seconds: float, rest: bytes) -> None:
        """What comes before TLS is read: ``rest`` and what follows is the handshake, for which so much time is left."""
        self.record.generation = self.plane.state.current.generation  # it may have changed since the accept
        try:
            leg = self.listener.tls_leg(self, TLSLeg)
        except Refusal as refusal:
            self.refuse_arrival(refusal)
            return
        self.deadline(seconds, self._handshake_expired)
        prelude.hand_over(leg, rest)

    def _handshake_expired(self) -> None:
        self.src.reset()  # type: ignore[union-attr]
        self.close(HANDSHAKE_TIMEOUT, f"no complete handshake within {self.timeouts.handshake:g} s", "proxy")

    def end_handshake(self) -> None:
        """It is pending no longer: its place is another's."""
        if self._handshaking:
            self._handshaking = False
            self.plane.gate.end_handshake()

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """A leg broke while the connection was being established. (LegOwner)"""
        if leg is self.src and self._handshaking and loss.code is not INTERNAL:
            self.record.errno = loss.errno
            early = leg.interrupted if isinstance(leg, Prelude) else None
            if early is not None:
                self.close(early.code, f"before TLS: {loss.reason}", "src")
            else:
                code = HANDSHAKE_TRUNCATED if leg.any_byte else NO_BYTE  # type: ignore[attr-defined]
                self.close(code, f"during the handshake: {loss.reason}", "src")
        else:
            super().leg_lost(leg, loss)

    def leg_refused(self, leg: TLSLeg, refusal: Refusal) -> None:
        """Handshake or verification failed; the alert is on its way."""
        verification = leg.core.verification
        self.record.presented, self.record.expected = verification.presented, verification.wanted
        self.close(refusal.code, refusal.reason, "src" if refusal.code in _LEFT else "proxy")

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Report the end, once."""
        self.end_handshake()
        super().close(*args, **kwargs)
