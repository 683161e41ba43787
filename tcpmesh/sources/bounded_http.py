"""
An HTTP answer of bounded size: what a server sends is counted below HTTP, headers and framing too, and cut when it is
too much.

Ring 3.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from zope.interface import implementer

__all__ = ["AnswerBody", "BoundedEndpoint", "ByteBudget"]


class ByteBudget(Protocol):
    """
    What one user of a connection allows.

    :ivar allowed: bytes that may still come.
    :ivar exceeded: whether more came; the connection was cut then.
    :ivar transport: of the newest connection, for its user to close.
    """

    allowed: int
    exceeded: bool
    transport: Any


class _BoundedProtocol(ProtocolWrapper):
    """Between the connection and HTTP."""

    factory: _BoundedFactory

    def connectionMade(self) -> None:
        """Let the user close the connection when it is over. (IProtocol)"""
        self.factory.budget.transport = self.transport
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Count and pass on. (IProtocol)"""
        budget = self.factory.budget
        budget.allowed -= len(data)
        if budget.allowed < 0:
            budget.exceeded = True
            budget.transport.abortConnection()
            return
        super().dataReceived(data)


class _BoundedFactory(WrappingFactory):
    """Makes bounded protocols."""

    noisy = False
    protocol = _BoundedProtocol

    def __init__(self, wrapped: IProtocolFactory, budget: ByteBudget) -> None:
        super().__init__(wrapped)
        self.budget = budget


@implementer(IStreamClientEndpoint)
class BoundedEndpoint:
    """Connects, with a bounded protocol between the connection and whoever uses it."""

    def __init__(self, endpoint: IStreamClientEndpoint, budget: ByteBudget) -> None:
        self._endpoint = endpoint
        self._budget = budget

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect. (IStreamClientEndpoint)"""
        connecting: Any = self._endpoint.connect(_BoundedFactory(factory, self._budget))
        return connecting.addCallback(lambda bounded: bounded.wrappedProtocol)  # type: ignore[no-any-return]


class AnswerBody(protocol.Protocol):
    """Collects the body of an answer; ``whole`` fires at its end, and fails if that is not where it should be."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._parts: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        """Keep: the connection below is bounded. (IProtocol)"""
        self._parts.append(data)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """Tell. (IProtocol)"""
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)
