"""
What attempts at an endpoint have in common, whatever is spoken there: the dial, and an end in exactly one of two ways.

Ring 3. The subclasses say what follows once TCP is connected.
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography import x509

from tcpmesh.codes import CONNECT_TIMEOUT, ESTABLISH_TIMEOUT
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.dialling import Dial
from tcpmesh.net.leg_owners import LegKeeper, LegOwner
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import TLSLeg
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.proxy_protocol_settings import ProxyProtocolVersion
from tcpmesh.settings import Timeouts
from tcpmesh.values import Endpoint

__all__ = ["AttemptOwner", "EndpointAttempt", "UpstreamConnection"]


class UpstreamConnection(LegKeeper, Protocol):
    """The connection that an attempt is for: its record, and the keeper of its legs' descriptors."""

    record: ConnectionRecord
    shown: tuple[x509.Certificate, ...]

    def leg_opened(self, leg: Leg) -> None:
        """One more socket belongs to the connection."""

    def note_peer(self, leg: TLSLeg) -> None:
        """Write down what the handshake told."""

    def header_for_server(self, version: ProxyProtocolVersion) -> bytes:
        """What a server is sent before TLS that wants to know whom it is for."""


class AttemptOwner(Protocol):
    """Who is told how it ended."""

    def attempt_succeeded(self, leg: Leg) -> None:
        """The peer is verified and has accepted; nothing was read from it beyond its preface."""

    def attempt_failed(self, refusal: Refusal) -> None:
        """It came to nothing; the socket, if there was one, is closing."""


class EndpointAttempt(LegOwner):
    """
    One attempt at one endpoint; :meth:`start` begins it. A subclass makes the leg.

    :param until: by the clock, when everything must be done: a step that this cuts short fails with ESTABLISH_TIMEOUT.
    :ivar started: by the clock.
    """

    __slots__ = (
        "_connection", "_dial", "_done", "_endpoint", "_leg", "_owner", "_plane", "_timeouts", "_until", "started"
    )  # fmt: skip

    def __init__(
        self,
        owner: AttemptOwner,
        connection: UpstreamConnection,
        endpoint: Endpoint,
        timeouts: Timeouts,
        plane: DataPlane,
        state: MeshState,
        until: float,
    ) -> None:
        self._owner = owner
        self._connection = connection
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._until = until
        self._plane = plane
        self._leg: Any = None
        self._dial: Dial | None = None
        self._done = False
        self.started = plane.clock.seconds()
        record = connection.record
        record.generation = state.generation
        record.forget_endpoint()
        record.dst_addr = str(endpoint.address)

    @property
    def wire(self) -> TLSLeg | None:
        """The leg to the endpoint, connected or not, if it speaks TLS."""
        raise NotImplementedError

    def start(self) -> None:
        """Dial."""
        seconds = min(self._timeouts.connect, max(0.0, self._until - self.started))
        self._dial = self._plane.sockets.dial(self._endpoint.address, self._leg, seconds, self._not_connected)

    def cancel(self) -> None:
        """Stop; the owner is told nothing."""
        self._end()
        self._hang_up()

    def withdraw(self, refusal: Refusal) -> None:
        """It may not go on, or its peer is no longer allowed: it has failed."""
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

    def _succeed(self) -> None:
        self._end()
        self._owner.attempt_succeeded(self._leg)

    def _fail(self, refusal: Refusal) -> None:
        if not self._done:
            self._end()
            if refusal.errno:
                self._connection.record.errno = refusal.errno
            self._owner.attempt_failed(refusal)

    def _end(self) -> None:
        self._done = True
