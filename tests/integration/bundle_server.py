"""An HTTPS server that answers whatever a test wants, also what no decent server would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as _reactor  # noqa: TID251  trial installed it
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.values import Svid

reactor: Any = _reactor
Answer = Callable[[Any], None]  # is given the transport once a request has come


def response(body: bytes = b"", status: bytes = b"200 OK", *headers: bytes) -> Answer:
    """An ordinary answer."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", body]
    return lambda transport: transport.write(b"\r\n".join(lines))


def raw(data: bytes, *, close: bool = False) -> Answer:
    """These bytes, and perhaps the end."""

    def answer(transport: Any) -> None:
        transport.write(data)
        if close:
            transport.loseConnection()

    return answer


@implementer(IOpenSSLServerConnectionCreator)
class _Presented:
    """TLS with an identity."""

    def __init__(self, svid: Svid) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate(svid.leaf)
        for intermediate in svid.chain[1:]:
            self._context.add_extra_chain_cert(intermediate)
        self._context.use_privatekey(svid.private_key)  # type: ignore[arg-type]

    def serverConnectionForTLS(self, _protocol: Any) -> SSL.Connection:
        """(IOpenSSLServerConnectionCreator)"""
        return SSL.Connection(self._context, None)


class _Conversation(Protocol):
    """Reads one request and answers it."""

    factory: _Server

    def __init__(self) -> None:
        self._request = b""
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.factory.conversations.append(self)

    def dataReceived(self, data: bytes) -> None:
        if self.factory.greeting:
            self.transport.write(self.factory.greeting)  # type: ignore[union-attr]
        before = self._request
        self._request += data
        if b"\r\n\r\n" in self._request and b"\r\n\r\n" not in before:
            self.factory.requests.append(self._request)
            self.factory.answer(self.transport)

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        self.gone.callback(None)


class _Server(Factory):
    noisy = False
    protocol = _Conversation

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.greeting = b""
        self.requests: list[bytes] = []
        self.conversations: list[_Conversation] = []


class BundleServer:
    """
    Listens on loopback until it is stopped.

    :param svid: what it presents; None for plain HTTP.
    :ivar answer: may be changed at any time.
    """

    def __init__(self, svid: Svid | None, answer: Answer) -> None:
        self._server = _Server(answer)
        if svid is None:
            self._port = reactor.listenTCP(0, self._server, interface="127.0.0.1")
        else:
            self._port = reactor.listenSSL(0, self._server, _Presented(svid), interface="127.0.0.1")
        self.number = int(self._port.getHost().port)

    @property
    def requests(self) -> list[bytes]:
        """What was asked."""
        return self._server.requests

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self._server.conversations)

    def answer(self, answer: Answer) -> None:
        """Answer like this from now on."""
        self._server.answer = answer

    def shout(self, data: bytes) -> None:
        """Answer whatever comes with this, a request or not."""
        self._server.greeting = data

    def gone(self) -> Deferred[Any]:
        """Fires when every client that came is gone."""
        return gatherResults([conversation.gone for conversation in self._server.conversations])

    async def stop(self) -> None:
        """Take nobody any more, and wait for those that are there."""
        await self._port.stopListening()
        for conversation in self._server.conversations:
            if not conversation.gone.called:
                conversation.transport.abortConnection()  # type: ignore[union-attr]
        await self.gone()
