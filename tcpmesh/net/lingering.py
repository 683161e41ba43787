"""
How a leg to the network closes: FIN, then reading and discarding for a while.

Ring 3. Closing a socket with unread data makes the kernel send RST, which can destroy what the peer has not read yet;
session tickets of TLS 1.3 make unread data the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure

from tcpmesh.net.leg_owners import LegKeeper
from tcpmesh.net.legs import Leg
from tcpmesh.net.plane import DataPlane
from tcpmesh.settings import Timeouts

_LINGER_BYTES = 1024 * 1024


class LingeringLeg(Leg):
    """
    A leg whose peer is given time to read what it was sent.

    :param receive: what gets the bytes that arrive, until the leg closes.
    """

    __slots__ = ("_discarded", "_fin_received", "_fin_sent", "_linger", "_plane", "_receive", "_timeouts")

    def __init__(
        self,
        keeper: LegKeeper,
        owner: Any,
        receive: Callable[[bytes | memoryview], None],
        timeouts: Timeouts,
        plane: DataPlane,
    ) -> None:
        super().__init__(keeper, owner)
        self._receive = receive
        self._timeouts = timeouts
        self._plane = plane
        self._fin_received = False
        self._fin_sent = False
        self._discarded = 0
        self._linger: Any = None

    def finish(self) -> None:
        """Send FIN after what is queued, then read and discard for a while."""
        self._close_behind()

    def _close_behind(self) -> None:
        self.finishing = True
        self._receive = self._on_discard
        self.transport.loseWriteConnection()
        self.transport.resumeProducing()

    def writeConnectionLost(self) -> None:
        """Our FIN is out: all is delivered as far as we can tell. (IHalfCloseableProtocol)"""
        self._fin_sent = True
        if self._fin_received:
            self.transport.loseConnection()
        else:
            self._linger = self._plane.clock.callLater(self._timeouts.linger, self.transport.loseConnection)
        self.gone()

    def _end_lingering(self) -> None:
        """The peer's FIN came: nothing is left to be read."""
        if self._fin_sent:
            self.transport.loseConnection()

    def _on_discard(self, data: bytes | memoryview) -> None:
        self._discarded += len(data)
        if self._discarded > _LINGER_BYTES and self.finishing:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The socket is closed. (IProtocol)"""
        self._plane.liveness.discard(self.transport)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        super().connectionLost(reason)
