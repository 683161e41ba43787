"""
TLS that is passed through: an application's own connection goes to an endpoint, or from a peer to an application, byte
by byte, and nothing of it is decrypted here.

Ring 3. Who takes this way has sent a ClientHello, which the listener looked at; plaintext never gets here.
"""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure

from tcpmesh.codes import CONNECT_FAILED, CONNECT_TIMEOUT, ESTABLISH_TIMEOUT
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.attempt import AttemptOwner, UpstreamConnection
from tcpmesh.net.dialling import Dial
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


class PassthroughAttempt(LegOwner):
    """
    One attempt at one endpoint, which is TCP alone: what the endpoint says to the application is between the two.

    Takes what :class:`~tcpmesh.net.attempt.Attempt` takes, and ends in the same two ways.
    """

    __slots__ = (
        "_connection",
        "_dial",
        "_done",
        "_endpoint",
        "_leg",
        "_owner",
        "_plane",
        "_timeouts",
        "_until",
        "_upstream",
        "started",
    )

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
        self._owner = owner
        self._connection = connection
        self._upstream = upstream
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._until = until
        self._plane = plane
        self._leg = RawLeg(connection, self, timeouts, plane, on_connected=self._connected)
        self._dial: Dial | None = None
        self._done = False
        self.started = plane.clock.seconds()
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
        self._done = True
        self._hang_up()

    def withdraw(self, refusal: Refusal) -> None:
        """It may not go on: it has failed."""
        self._hang_up()
        self._fail(refusal)

    def _hang_up(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._leg.transport is not None:
            self._leg.reset()

    def _not_connected(self, refusal: Refusal) -> None:
        self._dial = None
        if refusal.code is CONNECT_TIMEOUT and self._until - self.started < self._timeouts.connect:
            refusal = Refusal(ESTABLISH_TIMEOUT, refusal.reason, refusal.errno)
        self._fail(refusal)

    def _connected(self, leg: Leg) -> None:
        self._dial = None
        connection = self._connection
        connection.leg_opened(leg)
        connection.record.connect_ms = round((self._plane.clock.seconds() - self.started) * 1000, 3)
        version = self._upstream.settings.proxy_protocol
        if version != "none":  # before payload, and none itself: it is not counted
            leg.send(connection.header_for_server(version))
        self._done = True
        self._owner.attempt_succeeded(leg)

    def _fail(self, refusal: Refusal) -> None:
        if not self._done:
            self._done = True
            if refusal.errno:
                self._connection.record.errno = refusal.errno
            self._owner.attempt_failed(refusal)

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """The connection broke in the moment in which it was made. (LegOwner)"""
        self._fail(Refusal(loss.code if loss.code.retryable else CONNECT_FAILED, loss.reason, loss.errno))
