"""
The two ends of a connection inside the proxy, and what they tell whoever owns them.

Ring 3. A leg is a Twisted protocol on one transport. The plain leg is here, the TLS leg in ``tls.py``; a relay joins
two of them and does not know which is which.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.codes import INTERNAL, PEER_VANISHED, RESET
from tcpmesh.net.leg_owners import LegKeeper, LegOwner, Loss

_log = Logger()


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class Leg:
    """
    What both kinds of leg share: being a producer for the other leg's transport, ending, and telling how it ended.

    ``owner`` changes when the relay takes over, ``keeper`` never. Slotted, and not Twisted's Protocol, which cannot be:
    there are thousands of these.
    """

    __slots__ = ("_given_up", "_gone", "ended", "finishing", "keeper", "owner", "transport", "truncated")

    def __init__(self, keeper: LegKeeper, owner: LegOwner) -> None:
        self.keeper = keeper
        self.owner: Any = owner
        self.transport: Any = None
        self.ended = False  # the peer's stream is complete
        self.truncated = False  # the stream ended without close_notify, and that was taken for an end
        self.finishing = False
        self._given_up = False  # reset by us, or a loss that was reported
        self._gone = False

    def makeConnection(self, transport: Any) -> None:
        """Take the transport. (IProtocol)"""
        self.transport = transport
        try:
            self.connectionMade()
        except Exception:  # noqa: BLE001  who dialled may not hear of it: the connection would hang without a record
            _log.failure("a leg failed as it was connected")
            self.lost(Loss(INTERNAL, "an internal error as the connection was made"))

    def connectionMade(self) -> None:
        """There is a transport, which neither reads nor hears of a reset before it is told to. (IProtocol)"""
        raise NotImplementedError

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Bytes from the peer. (IProtocol)"""
        raise NotImplementedError

    # --- towards the peer

    def send(self, data: bytes | memoryview) -> None:
        """Write payload; whatever the kernel refuses is queued and pauses the producer."""
        raise NotImplementedError

    def end(self) -> None:
        """Half-close: say that no more payload comes, after what is queued."""
        raise NotImplementedError

    def finish(self) -> None:
        """Both directions have ended: close, after what is queued."""
        raise NotImplementedError

    def reset(self) -> None:
        """Break the connection: drop what is queued and send RST, so that nobody takes it for an end."""
        if self._given_up:
            return
        self._given_up = True
        self.transport.abortConnection()
        self.gone()

    def start_relaying(self) -> None:
        """Deliver payload to the owner from now on."""
        self.transport.resumeProducing()

    @property
    def given_up(self) -> bool:
        """Whether it was reset by us, or its loss reported: nothing more is read from it."""
        return self._given_up

    @property
    def unsent(self) -> int:
        """Bytes that are queued in this process."""
        return int(self.transport.unsent) if self.transport is not None else 0

    @property
    def unsent_payload(self) -> int:
        """At most so many bytes of payload are among those that are queued."""
        return self.unsent

    # --- IPushProducer: the other leg's transport calls these

    def pauseProducing(self) -> None:
        """Stop reading: the other leg cannot take more."""
        if not self._given_up:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        if not self._given_up:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The other leg's transport is gone; its own leg tells the owner, which decides about this one."""

    # --- from the transport

    def writeConnectionLost(self) -> None:
        """Our FIN is out. (IHalfCloseableProtocol)"""

    def readConnectionLost(self) -> None:
        """The peer's FIN came. (IHalfCloseableProtocol)"""

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The socket is closed. (IProtocol)"""
        try:
            if not self._given_up:
                if self.finishing and not self.unsent:
                    self.gone()
                else:
                    self.lost(self._explain_loss(reason))
        finally:
            self.keeper.leg_closed(self)

    def _explain_loss(self, reason: Failure | None) -> Loss:
        """Say why the transport broke."""
        if reason is not None and not reason.check(ConnectionDone, ConnectionLost, ConnectionAborted):
            # The reactor caught (and logged) an exception of ours.
            return Loss(INTERNAL, f"an internal error: {reason.type.__name__ if reason.type else reason}")
        errno = self.transport.errno_name
        if errno in ("ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"):
            return Loss(PEER_VANISHED, f"the peer no longer answers ({errno})", errno)
        return Loss(RESET, "reset by the peer", errno or "ECONNRESET")

    def lost(self, loss: Loss) -> None:
        """Report a loss, once, and make sure that the socket goes."""
        if self._given_up:
            return
        self._given_up = True
        self.transport.abortConnection()
        self.owner.leg_lost(self, loss)

    def gone(self) -> None:
        """Report that everything is delivered, once."""
        if not self._gone:
            self._gone = True
            self.owner.leg_gone(self)


class PlainLeg(Leg):
    """The leg to an application: bytes as they are, FIN for an end."""

    __slots__ = ("_fin_sent", "_on_connected")

    def __init__(self, keeper: LegKeeper, owner: LegOwner, *, on_connected: Any = None) -> None:
        super().__init__(keeper, owner)
        self._on_connected = on_connected
        self._fin_sent = False

    def connectionMade(self) -> None:
        """Hold everything until the other leg is there; a reset is still heard. (IProtocol)"""
        self.transport.pauseProducing()
        if self._on_connected is not None:
            self._on_connected(self)

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Payload. (IProtocol)"""
        self.owner.leg_data(self, data)

    def readConnectionLost(self) -> None:
        """The application has sent everything. (IHalfCloseableProtocol)"""
        self.ended = True
        self.owner.leg_ended(self)

    def writeConnectionLost(self) -> None:
        """Our FIN is out. (IHalfCloseableProtocol)"""
        self._fin_sent = True
        if self.finishing:
            self.transport.loseConnection()

    def send(self, data: bytes | memoryview) -> None:
        """Write payload."""
        self.transport.write(data)

    def end(self) -> None:
        """Send FIN after what is queued."""
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()

    def finish(self) -> None:
        """Close after our FIN; the application's has come already."""
        self.finishing = True
        if self._fin_sent:
            self.transport.loseConnection()
