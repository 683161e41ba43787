"""
Inbound listeners: what the connections of one have in common, and the leg of each that is accepted.

Ring 3. What becomes of a connection then is said by :mod:`tcpmesh.net.inbound`.
"""

from __future__ import annotations

import attrs

from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.net.arrival import ArrivingConnection
from tcpmesh.net.inbound import InboundConnection
from tcpmesh.net.legs import Leg
from tcpmesh.net.listener import ListenerLimit
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.prelude import Prelude
from tcpmesh.net.probed import DialTurns
from tcpmesh.net.tls import TLSLeg
from tcpmesh.proxy_protocol_settings import ProxySources
from tcpmesh.route_settings import InboundRoute
from tcpmesh.route_table import RouteTable
from tcpmesh.settings import InboundSettings, Timeouts

__all__ = ["InboundListener"]


@attrs.frozen(eq=False)
class InboundListener:
    """One inbound listener: its settings, the times that hold for it and what it shares."""

    settings: InboundSettings
    timeouts: Timeouts
    plane: DataPlane
    limit: ListenerLimit | None = None
    probe_dials: DialTurns = attrs.field(factory=DialTurns)
    header_sources: ProxySources = attrs.field(
        init=False, default=attrs.Factory(lambda self: ProxySources(self.settings.proxy_protocol.accept_from), True)
    )
    routes: RouteTable[InboundRoute] = attrs.field(init=False)
    looks_at_hello: bool = attrs.field(init=False)

    @routes.default
    def _routes(self) -> RouteTable[InboundRoute]:
        return RouteTable((route.sni, route) for route in self.settings.all_routes)

    @looks_at_hello.default
    def _looks_at_hello(self) -> bool:
        return self.settings.looks_at_hello

    @property
    def name(self) -> str:
        """As records call it."""
        return self.settings.name

    def build(self) -> Leg:
        """
        Make the protocol for one accepted connection.

        :raises Refusal: when this proxy has no identity to show.
        """
        connection = InboundConnection(self)
        leg: Leg
        if self.settings.proxy_protocol.accept_from or self.looks_at_hello:
            leg = Prelude(connection, connection, self.plane, connection.begin_early)
        else:
            leg = self.tls_leg(connection, _AcceptedLeg)
        connection.src = leg
        return leg

    def tls_leg(self, connection: ArrivingConnection, kind: type[TLSLeg]) -> TLSLeg:
        """
        Make the leg that speaks TLS with the peer.

        :raises Refusal: when this proxy has no identity to show.
        """
        plane, settings = self.plane, self.settings
        state = plane.state.current
        workload = connection.record.workload  # that of its route
        context = plane.contexts.server(state, workload, settings.tls, probe=settings.probe is not None)
        verification = PeerVerification(
            state.bundles, None, plane.wall_clock, known=plane.known_chains, deny_list=state.deny_list
        )
        core = TLSCore(context, verification, server=True)
        connection.shown = state.svids[workload].chain
        return kind(
            connection,
            connection,
            core,
            self.timeouts,
            plane,
            client=False,
            truncation_is_end=settings.truncation == "eof",
        )


class _AcceptedLeg(TLSLeg):
    """The leg of a peer that came to us."""

    __slots__ = ()

    def connectionMade(self) -> None:
        self.keeper.begin(self.transport)  # type: ignore[attr-defined]
        super().connectionMade()
