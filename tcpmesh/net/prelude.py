"""
What comes before the real protocol on an accepted connection: a PROXY header, a look at a ClientHello, or both.

Ring 3. A listener that wants neither never comes here. One that does builds a :class:`Prelude` for a connection instead
of its leg, and the connection has that as ``src`` until the real leg takes the transport over:

1. ``on_connected(prelude)``: the transport is there (``prelude.transport.peer``). The owner does what it does with any
   accepted connection (``accepted``, its place among pending handshakes, socket options), then one of
2. ``prelude.read(reader, seconds, on_read, on_refused)``: bytes go to the sans-IO reader. Afterwards exactly one of
   ``on_read(result)``, ``on_refused(refusal)`` and the owner's ``leg_lost(prelude, loss)`` (a reset) is called, unless
   the owner resets the connection itself. After ``on_read`` the transport is paused, so that the owner may take its
   time, and ``reader.rest`` is what the next one is to be given: everything for a reader that only peeked. The next
   may be another reader, ``prelude.read(..., first=reader.rest)``, or
3. ``prelude.hand_over(leg, rest)``: ``leg`` gets the transport as if it had just been accepted, then ``rest`` as its
   first bytes. From then on the prelude is nobody's. A plain leg holds nothing before it relays: make it a
   :class:`ReplayingLeg` with ``early=rest``, and hand over without ``rest``.

A refused connection is the owner's to end: ``prelude.reset()`` and ``close``. A FIN is heard only while a reader waits;
later it stays in the kernel until the real leg reads. The connection is counted once: ``leg_replaced`` moves its socket
from the prelude to the leg.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.python.failure import Failure

from tcpmesh.dataplane.record_layer import READ_BYTES
from tcpmesh.errors import Refusal
from tcpmesh.net.leg_owners import LegKeeper, LegOwner
from tcpmesh.net.legs import Leg, PlainLeg
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.tls import CAUTIOUS_BYTES

__all__ = ["Prelude", "PreludeKeeper", "PreludeReader", "ReplayingLeg"]


class PreludeReader(Protocol):
    """What a prelude feeds; it does no I/O, and keeps copies of bytes, never the views that it is given."""

    @property
    def rest(self) -> bytes:
        """Once there is a result: the bytes that the next reader, or the leg, is to begin with."""

    def feed(self, data: bytes | memoryview) -> Any | None:
        """
        Take more bytes, a view that is valid only during the call; None as long as the result needs more.

        :raises Refusal: when they are not what was expected, or more than it can be.
        """

    def ended(self) -> Refusal:
        """Say what it means that the peer sent FIN now, before there is a result."""

    def late(self, seconds: float) -> Refusal:
        """Say what it means that there is no result after so many seconds."""


class PreludeKeeper(LegKeeper, Protocol):
    """The connection that a prelude opens."""

    def leg_replaced(self, old: Leg, new: Leg) -> None:
        """The socket of one leg, and its part in the connection, are another's from now on."""


class Prelude(Leg):
    """
    The first leg of an accepted connection, until its first bytes are read.

    :param on_connected: called with this prelude when it has its transport, which is paused.
    """

    __slots__ = ("_deadline", "_on_connected", "_on_read", "_on_refused", "_plane", "_reader", "any_byte")

    def __init__(
        self, keeper: PreludeKeeper, owner: LegOwner, plane: DataPlane, on_connected: Callable[[Prelude], None]
    ) -> None:
        super().__init__(keeper, owner)
        self._plane = plane
        self._on_connected: Callable[[Prelude], None] | None = on_connected
        self._reader: PreludeReader | None = None
        self._on_read: Callable[[Any], None] | None = None
        self._on_refused: Callable[[Refusal], None] | None = None
        self._deadline: Any = None
        self.any_byte = False

    def connectionMade(self) -> None:
        """Hold everything until a reader is there; a reset is still heard. (IProtocol)"""
        self.transport.read_bytes = CAUTIOUS_BYTES
        self.transport.pauseProducing()
        on_connected, self._on_connected = self._on_connected, None
        assert on_connected is not None
        on_connected(self)

    def read(
        self,
        reader: PreludeReader,
        seconds: float,
        on_read: Callable[[Any], None],
        on_refused: Callable[[Refusal], None],
        first: bytes = b"",
    ) -> None:
        """Give bytes to ``reader``, beginning with ``first``, until it has a result, for ``seconds`` at most."""
        assert self._reader is None
        self._reader, self._on_read, self._on_refused = reader, on_read, on_refused
        self._deadline = self._plane.clock.callLater(seconds, self._expired, seconds)
        self.transport.resumeProducing()
        if first:
            self._feed(first)

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Bytes from the peer. (IProtocol)"""
        self.any_byte = True
        self._feed(data)

    def _feed(self, data: bytes | memoryview) -> None:
        assert self._reader is not None
        try:
            result = self._reader.feed(data)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if result is not None:
            on_read = self._on_read
            assert on_read is not None
            self._stop()
            on_read(result)

    def _refuse(self, refusal: Refusal) -> None:
        on_refused = self._on_refused
        assert on_refused is not None
        self._stop()
        on_refused(refusal)

    def _stop(self) -> None:
        """The reader's work is done."""
        self._reader = self._on_read = self._on_refused = None
        self._cancel_deadline()
        self.transport.pauseProducing()

    def _expired(self, seconds: float) -> None:
        if not self._given_up and self._reader is not None:
            self._refuse(self._reader.late(seconds))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def hand_over(self, leg: Leg, rest: bytes = b"") -> None:
        """Let ``leg`` have the transport, and ``rest`` as the first bytes from the peer; not once it is closed."""
        assert self._reader is None
        assert not self._given_up
        transport = self.transport
        self._given_up = True
        transport.read_bytes = READ_BYTES
        transport.protocol = leg
        self.keeper.leg_replaced(self, leg)  # type: ignore[attr-defined]
        leg.makeConnection(transport)
        # It may have failed, or been refused, as it was connected: nothing more is delivered then.
        if rest and not leg.given_up:
            leg.dataReceived(rest)

    @property
    def interrupted(self) -> Refusal | None:
        """What it means that nothing more comes now; None while no reader waits."""
        return self._reader.ended() if self._reader is not None else None

    def finish(self) -> None:
        """Close in order: nobody was told anything."""
        self.finishing = True
        self.transport.loseConnection()

    # --- from the transport

    def readConnectionLost(self) -> None:
        """The peer's FIN, before there is a result. (IHalfCloseableProtocol)"""
        if self._reader is not None and not self._given_up:
            self._refuse(self._reader.ended())

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The socket is closed. (IProtocol)"""
        self._cancel_deadline()
        super().connectionLost(reason)
        self._reader = self._on_read = self._on_refused = None


class ReplayingLeg(PlainLeg):
    """A plain leg whose first bytes were read before it had the transport; they are payload like any that follow."""

    __slots__ = ("_early",)

    def __init__(self, keeper: LegKeeper, owner: LegOwner, *, on_connected: Any = None, early: bytes = b"") -> None:
        super().__init__(keeper, owner, on_connected=on_connected)
        self._early = early

    def start_relaying(self) -> None:
        """Deliver payload, beginning with whatever was read already."""
        # Before anything is delivered: the delivery may pause us again.
        super().start_relaying()
        early, self._early = self._early, b""
        if early:
            self.owner.leg_data(self, early)
