"""
Inbound listeners: what the connections of one have in common, and the leg of each that is accepted.

Ring 3. What becomes of a connection then is said by :mod:`tcpmesh.net.inbound`.
"""

from __future__ import annotations

import attrs

from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.net.inbound import InboundConnection
from tcpmesh.net.listener import ListenerLimit
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.probed import DialTurns
from tcpmesh.net.tls import TLSLeg
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

    @property
    def name(self) -> str:
        """As records call it."""
        return self.settings.name

    def build(self) -> TLSLeg:
        """
        Make the protocol for one accepted connection.

        :raises Refusal: when this proxy has no identity to show.
        """
        plane, settings = self.plane, self.settings
        state = plane.state.current
        context = plane.contexts.server(state, settings.workload, settings.tls, probe=settings.probe is not None)
        verification = PeerVerification(
            state.bundles, None, plane.wall_clock, known=plane.known_chains, deny_list=state.deny_list
        )
        core = TLSCore(context, verification, server=True)
        connection = InboundConnection(self)
        connection.shown = state.svids[settings.workload].chain
        leg = _AcceptedLeg(
            connection,
            connection,
            core,
            self.timeouts,
            plane,
            client=False,
            truncation_is_end=settings.truncation == "eof",
        )
        connection.src = leg
        return leg


class _AcceptedLeg(TLSLeg):
    """The leg of a peer that came to us."""

    __slots__ = ()

    def connectionMade(self) -> None:
        self.keeper.begin(self.transport)  # type: ignore[attr-defined]
        super().connectionMade()
