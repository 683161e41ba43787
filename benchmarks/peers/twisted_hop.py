"""One hop in stock Twisted: endpoints, ``wrapClientTLS``, ``CertificateOptions``, and a relay of two protocols.

Run as a program by `benchmarks.peers.twisted_endpoints`. It is what somebody who knows Twisted writes without knowing
more: flow control both ways, and nobody is dialled for a client that has not proved who it is. Stock TLS has no
half-close: the end of either side is the end of both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from zope.interface import implementer

_HOST = "127.0.0.1"
_BACKLOG = 4096
_log = Logger(namespace="twisted_hop")


class Leg(Protocol):
    """Hands what it reads to the other leg; what comes before there is one is kept."""

    transport: Any

    def __init__(self) -> None:
        self._other: Leg | None = None
        self._early: list[bytes] = []

    def connectionMade(self) -> None:
        """Small messages shall not wait for each other."""
        self.transport.setTcpNoDelay(True)

    def join(self, other: Leg) -> None:
        """Relay to and from ``other``, each paused while its counterpart cannot send."""
        for source, target in ((self, other), (other, self)):
            source._other = target
            target.transport.registerProducer(source.transport, True)
            target.transport.writeSequence(source._early)
            source._early = []
        self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Bytes from this leg's peer."""
        if self._other is None:
            self._early.append(data)
        else:
            self._other.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        """The end of one leg is the end of the other, after what it has still to send."""
        if self._other is not None:
            self._other.transport.unregisterProducer()
            self._other.transport.loseConnection()
            self._other = None


class PlainLeg(Leg):
    """Accepts a plain connection, and dials at once."""

    def __init__(self, upstream: Any) -> None:
        super().__init__()
        self._upstream = upstream
        self._dialling: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        """Accepted."""
        super().connectionMade()
        self._dial()

    def _dial(self) -> None:
        self.transport.pauseProducing()
        self._dialling = self._upstream.connect(Factory.forProtocol(Leg))
        self._dialling.addCallbacks(self._dialled, self._failed)
        self._dialling.addErrback(lambda failure: _log.failure("cannot relay", failure))

    def _dialled(self, other: Leg) -> None:
        self._dialling = None
        self.join(other)

    def _failed(self, failure: Any) -> None:
        if self._dialling is not None:  # else it was us who gave up
            self._dialling = None
            _log.failure("cannot reach the next hop", failure)
            self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        """Also while the next hop is dialled."""
        if self._dialling is not None:
            dialling, self._dialling = self._dialling, None
            dialling.cancel()
        super().connectionLost(reason)


@implementer(IHandshakeListener)
class TLSLeg(PlainLeg):
    """Accepts a TLS connection, and dials when the client's certificate is verified."""

    def connectionMade(self) -> None:
        """The handshake is still to come."""
        Leg.connectionMade(self)

    def handshakeCompleted(self) -> None:  # noqa: N802  # Twisted's name
        """The client is one of ours."""
        self._dial()


class Accepting(Factory):
    """Makes a leg for each accepted connection."""

    noisy = False

    def __init__(self, leg: type[PlainLeg], upstream: Any) -> None:
        self._leg, self._upstream = leg, upstream

    def buildProtocol(self, addr: Any) -> PlainLeg:
        """Accepted."""
        return self._leg(self._upstream)


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Listen until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("first", "second"))
    for name in ("listen", "connect"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("certificate", "key", "bundle"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--server-name", required=True)
    given = parser.parse_args(arguments)

    leaf, *chain = (crypto.X509.from_cryptography(each) for each in _certificates(given.certificate))
    key = crypto.load_privatekey(crypto.FILETYPE_PEM, given.key.read_bytes())
    trust = ssl.trustRootFromCertificates(
        ssl.Certificate.loadPEM(each.public_bytes(Encoding.PEM)) for each in _certificates(given.bundle)
    )
    options = {"raiseMinimumTo": ssl.TLSVersion.TLSv1_3, "extraCertChain": chain}
    upstream: Any = TCP4ClientEndpoint(reactor, _HOST, given.connect)
    if given.side == "first":
        own = ssl.PrivateCertificate.fromCertificateAndKeyPair(ssl.Certificate(leaf), ssl.KeyPair(key))
        creator = ssl.optionsForClientTLS(
            given.server_name, trustRoot=trust, clientCertificate=own, extraCertificateOptions=options
        )
        server: Any = TCP4ServerEndpoint(reactor, given.listen, _BACKLOG, _HOST)
        listening = server.listen(Accepting(PlainLeg, wrapClientTLS(creator, upstream)))
    else:
        context = ssl.CertificateOptions(privateKey=key, certificate=leaf, trustRoot=trust, **options)
        server = SSL4ServerEndpoint(reactor, given.listen, context, _BACKLOG, _HOST)
        listening = server.listen(Accepting(TLSLeg, upstream))
    until_killed: Deferred[None] = listening.addCallback(lambda _port: Deferred())
    return until_killed


def _certificates(path: Path) -> Iterable[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    react(main, sys.argv[1:])
