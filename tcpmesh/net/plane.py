"""
What all connections of the data path share.

Ring 3. One object per process, made by the composition; a connection holds a reference to it and nothing else global.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from cryptography import x509
from twisted.internet.defer import Deferred

from tcpmesh.codes import CONNECTION_LIMIT, HANDSHAKE_LIMIT, OUT_OF_DESCRIPTORS, Code
from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal
from tcpmesh.identity.known_chains import KnownChains
from tcpmesh.mesh_state import MeshStateCell
from tcpmesh.net.expiry import Expiries
from tcpmesh.net.handshake_turns import HandshakeTurns
from tcpmesh.net.limiting import Limiting
from tcpmesh.net.liveness import Liveness
from tcpmesh.net.sockets import Sockets
from tcpmesh.observe.records import ConnectionRecord, IRecordSink
from tcpmesh.open_files import PER_CONNECTION


class LiveConnection(Protocol):
    """What draining and the review of live connections need to know of one."""

    record: ConnectionRecord
    shown: tuple[x509.Certificate, ...]  # our own chain, as the peer saw it; empty before we show one

    @property
    def is_closed(self) -> bool:
        """Whether its end was reported; only a lingering socket may be left."""

    @property
    def verification(self) -> PeerVerification | None:
        """What is known of the peer on the wire; None while there is no wire."""

    @property
    def closes_on_expiry(self) -> bool:
        """Whether it is to end with its peer's certificate."""

    def cut(self, code: Code, reason: str) -> None:
        """End it now, visibly broken."""

    def withdraw(self, refusal: Refusal) -> None:
        """What it was allowed by is gone: end it, or look for another peer while that is still possible."""


class Gate:
    """
    Counts connections, their sockets and pending handshakes against the limits.

    :param max_sockets: with how many connected sockets no further connection is taken; None for no limit. A connection
        has two, and for a moment more when attempts fail: their sockets linger so that the peer gets to read why.
    """

    __slots__ = ("connections", "handshakes", "max_connections", "max_handshakes", "max_sockets", "sockets")

    def __init__(self, max_connections: int, max_handshakes: int, max_sockets: int | None = None) -> None:
        self.max_connections = max_connections
        self.max_handshakes = max_handshakes
        self.max_sockets = max_sockets
        self.connections = 0
        self.handshakes = 0
        self.sockets = 0

    def enter(self) -> Code | None:
        """Take a connection's place; the code says which limit is reached when there is none."""
        if self.connections >= self.max_connections:
            return CONNECTION_LIMIT
        if self.max_sockets is not None and self.sockets + PER_CONNECTION > self.max_sockets:
            return OUT_OF_DESCRIPTORS
        self.connections += 1
        return None

    def leave(self) -> None:
        """Give the connection's place back."""
        self.connections -= 1

    def begin_handshake(self) -> Code | None:
        """Take a place among the pending handshakes."""
        if self.handshakes >= self.max_handshakes:
            return HANDSHAKE_LIMIT
        self.handshakes += 1
        return None

    def end_handshake(self) -> None:
        """Give that place back."""
        self.handshakes -= 1


@attrs.define(eq=False)
class DataPlane:
    """
    Everything a connection needs beside its listener.

    ``wall_clock`` gives seconds since the epoch, for records; ``clock`` is the reactor's monotonic time, for timers.
    """

    clock: Any  # IReactorTime
    wall_clock: Callable[[], float]
    sockets: Sockets
    state: MeshStateCell
    contexts: TLSContexts
    sink: IRecordSink
    gate: Gate
    liveness: Liveness
    known_chains: KnownChains = attrs.field(factory=KnownChains)
    handshake_turns: HandshakeTurns = attrs.field(
        default=attrs.Factory(lambda self: HandshakeTurns(self.clock), takes_self=True)
    )
    expiries: Expiries = attrs.field(
        default=attrs.Factory(lambda self: Expiries(self.clock, self.wall_clock), takes_self=True)
    )
    limiting: Limiting = attrs.field(
        default=attrs.Factory(lambda self: Limiting(self.state, self.clock), takes_self=True)
    )
    verdicts: Expiries = attrs.field(  # of policies, where they stand for some time only
        default=attrs.Factory(lambda self: Expiries(self.clock, self.wall_clock), takes_self=True)
    )
    random: random.Random = attrs.field(factory=random.SystemRandom)
    live: set[LiveConnection] = attrs.field(factory=set)
    stopping: bool = False  # what is not established yet is better served elsewhere
    _numbers: int = 0
    _drained: Deferred[None] | None = None

    def next_number(self) -> int:
        """A number for a record, unique in this process."""
        self._numbers += 1
        return self._numbers

    def forget(self, connection: LiveConnection) -> None:
        """The connection's sockets are closed."""
        self.live.discard(connection)
        self.expiries.discard(connection)
        self.verdicts.discard(connection)
        self.gate.leave()
        if not self.live and self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def when_idle(self) -> Deferred[None]:
        """Fires once no connection lives."""
        if self._drained is None:
            self._drained = Deferred()
            if not self.live:
                drained, self._drained = self._drained, None
                drained.callback(None)
                return drained
        return self._drained
