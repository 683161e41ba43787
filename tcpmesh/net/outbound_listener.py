"""
Outbound listeners: what the connections of one have in common, and the leg of each that is accepted.

Ring 3. What becomes of a connection then is said by :mod:`tcpmesh.net.outbound`.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from tcpmesh.codes import CLIENT_NOT_ALLOWED
from tcpmesh.errors import Refusal
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.listener import ListenerLimit
from tcpmesh.net.local_client import LocalClient, identify_local_client
from tcpmesh.net.outbound import OutboundConnection
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.prelude import Prelude
from tcpmesh.net.routing import Way, ways
from tcpmesh.net.upstream import Upstream
from tcpmesh.route_table import RouteTable
from tcpmesh.settings import OutboundSettings, Timeouts

__all__ = ["OutboundListener"]


@attrs.frozen(eq=False)
class OutboundListener:
    """
    One outbound listener: its settings, the services behind it and what it shares.

    :ivar upstreams: by name, every service that its routes lead to.
    :ivar timeouts: before the service is known; then :attr:`times` hold.
    :ivar position: with a port for each endpoint: whose this one is.
    """

    settings: OutboundSettings
    upstreams: Mapping[str, Upstream]
    timeouts: Timeouts
    plane: DataPlane
    limit: ListenerLimit | None = None
    position: int | None = None
    times: Mapping[str, Timeouts] = attrs.field(init=False)
    ways: RouteTable[Way] = attrs.field(init=False)
    looks_at_hello: bool = attrs.field(init=False)

    @times.default
    def _times(self) -> Mapping[str, Timeouts]:
        # The listener is more specific than its service: several listeners may lead to one.
        own = self.settings.timeouts
        return {
            name: self.timeouts.override(upstream.settings.timeouts).override(own)
            for name, upstream in self.upstreams.items()
        }

    @ways.default
    def _ways(self) -> RouteTable[Way]:
        return ways(self.settings.all_routes)

    @looks_at_hello.default
    def _looks_at_hello(self) -> bool:
        return self.settings.looks_at_hello

    @property
    def name(self) -> str:
        """As records call it."""
        return self.settings.name

    def build(self) -> Leg:
        """Make the protocol for one accepted connection."""
        connection = OutboundConnection(self)
        leg: Leg
        if self.looks_at_hello:
            leg = Prelude(connection, connection, self.plane, connection.begin_early)
        else:
            leg = PlainLeg(connection, connection, on_connected=connection.begin)
        connection.src = leg
        return leg

    def check_client(self, leg: Leg) -> None:
        """
        Look at who has connected, if only some may.

        :raises Refusal: CLIENT_NOT_ALLOWED.
        """
        allowed = self.settings.clients
        if not allowed.uids and not allowed.gids:
            return
        client = identify_local_client(leg.transport.socket)
        if client is None or not _is_allowed(client, allowed.uids, allowed.gids):
            who = f"uid {client.uid}" if client is not None else "an unknown user"
            raise Refusal(
                CLIENT_NOT_ALLOWED,
                f"{who} may not use {self.name!r}; allowed: uids {allowed.uids}, gids {allowed.gids}",
            )


def _is_allowed(client: LocalClient, uids: list[int], gids: list[int]) -> bool:
    return client.uid in uids or any(gid in gids for gid in client.gids)
