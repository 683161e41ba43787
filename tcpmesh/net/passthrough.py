"""
TLS that is passed through: an application's own connection goes to an endpoint, or from a peer to an application, byte
by byte, and nothing of it is decrypted here.

Ring 3. Who takes this way has sent a ClientHello, which the listener looked at; plaintext never gets here.
"""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure

from tcpmesh.codes import CONNECT_FAILED
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.endpoint_attempt import AttemptOwner, EndpointAttempt, UpstreamConnection
from tcpmesh.net.leg_owners import LegKeeper, LegOwner, Loss
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.prelude import ReplayingLeg
from tcpmesh.net.sockets import tune_wire
from tcpmesh.net.upstream import Upstream
from tcpmesh.settings import Timeouts
from tcpmesh.values import Endpoint

__all__ = ["PassthroughAttempt", "RawLeg"]


class RawLeg(ReplayingLeg):
    """A leg that crosses the network with somebody else's TLS: a plain leg that notices when its peer has vanished."""

    __slots__ = ("_plane", "_timeouts")

    def __init__(
        self,
        keeper: LegKeeper,
        owner: LegOwner,
        timeouts: Timeouts,
        plane: DataPlane,
        *,
        on_connected: Any = None,
        early: bytes = b"",
    ) -> None:
        super().__init__(keeper, owner, on_connected=on_connected, early=early)
        self._timeouts = timeouts
        self._plane = plane

    def connectionMade(self) -> None:
        """Set the wire's options. (IProtocol)"""
        if tune_wire(self.transport, self._timeouts):
            self._plane.liveness.add(self.transport, self._timeouts.user_timeout)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The socket is closed. (IProtocol)"""
        self._plane.liveness.discard(self.transport)
        super().connectionLost(reason)


class PassthroughAttempt(EndpointAttempt):
    """
    One attempt at one endpoint, which is TCP alone: what the endpoint says to the application is between the two.

    Takes what :class:`~tcpmesh.net.attempt.Attempt` takes, and ends in the same two ways.
    """

    __slots__ = ("_upstream",)

    wire = None  # no leg of ours speaks TLS

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
        super().__init__(owner, connection, endpoint, timeouts, plane, state, until)
        self._upstream = upstream
        self._leg = RawLeg(connection, self, timeouts, plane, on_connected=self._connected)

    def _connected(self, leg: Leg) -> None:
        self._dial = None
        connection = self._connection
        connection.leg_opened(leg)
        connection.record.connect_ms = round((self._plane.clock.seconds() - self.started) * 1000, 3)
        version = self._upstream.settings.proxy_protocol
        if version != "none":  # before payload, and none itself: it is not counted
            leg.send(connection.header_for_server(version))
        self._succeed()

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """The connection broke in the moment in which it was made. (LegOwner)"""
        self._fail(Refusal(loss.code if loss.code.retryable else CONNECT_FAILED, loss.reason, loss.errno))
