"""
The client of a SPIFFE bundle endpoint: one GET over TLS, answered by whom it should be, or an error.

Ring 3. SPIFFE_Federation.md section 5, profiles ``https_web`` and ``https_spiffe``. No redirects, no cookies, no
proxies, no compression, nothing kept from one request to the next; bounded in bytes and in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.errors import Refusal, TcpmeshError
from tcpmesh.identity.bundle_document import MAX_BUNDLE_BYTES
from tcpmesh.identity.certificates import shown
from tcpmesh.identity.chain import bundle_gap
from tcpmesh.identity.deny_list import NOBODY, DenyList
from tcpmesh.identity.endpoint_url import EndpointURL
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.identity.verify import MAX_CHAIN_LENGTH
from tcpmesh.sources.bounded_http import AnswerBody, BoundedEndpoint
from tcpmesh.values import ExpectedIdentity, TrustBundle
from tcpmesh.wall_clock import WallClock

__all__ = ["EndpointError", "EndpointTrust", "fetch_bundle"]

_DEADLINE = 20.0  # seconds for everything
_CONNECT = 10.0  # seconds for one address
_MAX_HEAD = 24576  # bytes of status line and headers, with the rest of the TLS record that they end in
_MAX_FRAMING = 65536  # bytes that a chunked body may have beside its data
_OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION


class EndpointError(TcpmeshError):
    """No answer that can be used; the message continues the endpoint's name."""


@attrs.frozen(eq=False)
class EndpointTrust:
    """
    Who must answer, and by whose authorities that is verified.

    :param expected: a SPIFFE ID (``https_spiffe``) or the URL's own DNS name (``https_web``).
    :param bundles: for a SPIFFE ID: what is held now, that of its trust domain among it.
    :param authorities: for a DNS name: whom to trust; None for the system's store.
    :param deny_list: gives whom nobody believes, whoever vouches.
    """

    expected: ExpectedIdentity
    bundles: Mapping[TrustDomain, TrustBundle] = attrs.field(factory=dict)
    authorities: Sequence[x509.Certificate] | None = None
    deny_list: Callable[[], DenyList] = lambda: NOBODY


def fetch_bundle(
    reactor: Any, url: EndpointURL, trust: EndpointTrust, wall_clock: WallClock, *, deadline: float = _DEADLINE
) -> Deferred[bytes]:
    """
    Get the document that an endpoint serves.

    :param deadline: seconds until all of it must be there.
    :return: its bytes; fails with :class:`EndpointError` for anything but a complete answer with status 200, also when
        it is cancelled.
    """
    attempt = _Attempt(reactor, trust, wall_clock, deadline)
    answer = Deferred.fromCoroutine(attempt.run(url))
    attempt.limit(answer)
    return answer.addBoth(attempt.finished)


@implementer(IOpenSSLClientConnectionCreator, IAgentEndpointFactory)
class _Attempt:
    """One request on a connection of its own."""

    def __init__(self, reactor: Any, trust: EndpointTrust, wall_clock: WallClock, deadline: float) -> None:
        self._reactor = reactor
        self._trust = trust
        self._sni = b""
        self.verification = PeerVerification(trust.bundles, (trust.expected,), wall_clock, deny_list=trust.deny_list())
        self.allowed = _MAX_HEAD  # bytes that may still come
        self.exceeded = False
        self._deadline = deadline
        self._late = False
        self._timer: IDelayedCall | None = None
        self.transport: Any = None

    def limit(self, answer: Deferred[bytes]) -> None:
        """Cancel it at the deadline. Not ``addTimeout``: whoever is cancelled below hides it in an error of its own."""

        def too_late() -> None:
            self._timer, self._late = None, True
            answer.cancel()

        if not answer.called:
            self._timer = self._reactor.callLater(self._deadline, too_late)

    async def run(self, url: EndpointURL) -> bytes:
        """Ask and read the answer."""
        if isinstance(self._trust.expected, SpiffeId):
            gap = bundle_gap(self._trust.expected.trust_domain, self._trust.bundles)
            if gap:
                raise EndpointError(f"cannot be verified: {gap}")
        if url.is_dns_name:
            self._sni = url.host.encode("ascii")
        agent = Agent.usingEndpointFactory(self._reactor, self)
        headers = Headers({b"Accept": [b"application/json"], b"User-Agent": [b"tcpmesh"]})
        response = await agent.request(b"GET", url.text.encode("ascii"), headers)
        _check_response(response)
        self.allowed += MAX_BUNDLE_BYTES + _MAX_FRAMING
        body = AnswerBody()
        response.deliverBody(body)
        return await body.whole

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802
        """Where to connect; never without TLS. (IAgentEndpointFactory)"""
        if uri.scheme != b"https":
            raise EndpointError("is not an https:// URL")
        plain = HostnameEndpoint(self._reactor, uri.host.decode("ascii"), uri.port, timeout=_CONNECT)
        return BoundedEndpoint(wrapClientTLS(self, plain), self)

    def clientConnectionForTLS(self, _protocol: Any) -> SSL.Connection:  # noqa: N802
        """Make the TLS connection. (IOpenSSLClientConnectionCreator)"""
        context = _context(self._trust)
        context.set_verify(SSL.VERIFY_PEER, self._verify)  # Twisted needs the connection's app data for itself
        connection = SSL.Connection(context, None)
        if self._sni:
            connection.set_tlsext_host_name(self._sni)
        return connection

    def _verify(self, _connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        return self.verification.certificate(certificate, error, depth, bool(ok))

    def finished(self, result: bytes | Failure) -> bytes:
        """Close what is open, and say in words why there is no answer."""
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self.transport.abortConnection()
        if not isinstance(result, Failure):
            if self.verification.peer is None:
                raise EndpointError("answered without having been verified")
            try:
                self.verification.recheck(self._trust.bundles, self._trust.deny_list())
            except Refusal as refusal:  # denied while it answered
                raise EndpointError(_stranger(refusal)) from None
            return result
        raise EndpointError(self._reason(_innermost(result))) from result.value

    def _reason(self, error: BaseException | None) -> str:
        if self.exceeded:
            return f"sends more than the {MAX_BUNDLE_BYTES} bytes of a bundle and {_MAX_HEAD} of headers"
        if self.verification.refusal is not None:
            return _stranger(self.verification.refusal)
        if isinstance(error, EndpointError):
            return str(error)
        if self._late:
            return f"gave no complete answer within {self._deadline:g} s"
        return _in_words(error)


def _stranger(refusal: Refusal) -> str:
    return f"is not who it should be: {refusal.code.id} {refusal.reason}"


def _check_response(response: IResponse) -> None:
    if 300 <= response.code < 400:
        raise EndpointError(f"answered with status {response.code}, and redirects are not followed: correct the URL")
    if response.code != 200:
        raise EndpointError(f"answered with status {response.code}, not 200")
    coding = b", ".join(response.headers.getRawHeaders(b"Content-Encoding", [])).lower().strip()
    if coding not in (b"", b"identity"):
        raise EndpointError(f"answered with content coding {shown(coding.decode('latin-1'), 40)}, which is not read")
    if isinstance(response.length, int) and response.length > MAX_BUNDLE_BYTES:
        raise EndpointError(f"announces {response.length} bytes, more than {MAX_BUNDLE_BYTES}")


def _innermost(failure: Failure) -> BaseException | None:
    """What is inside of twisted.web's bundles of reasons."""
    while isinstance(reasons := getattr(failure.value, "reasons", None), list) and reasons:
        failure = reasons[-1]
    return failure.value


def _in_words(error: BaseException | None) -> str:
    if isinstance(error, SSL.Error):
        details = ", ".join(str(entry[-1]) for entry in (error.args[0] if error.args else ())) or type(error).__name__
        return f"does not complete a TLS handshake ({shown(details)})"
    if isinstance(error, PotentialDataLoss):
        return "does not say where its answer ends (neither Content-Length nor chunks)"
    if isinstance(error, ConnectError | DNSLookupError):
        return f"cannot be reached: {shown(str(error))}"
    return f"gave no complete answer: {type(error).__name__}: {shown(str(error))}"


def _context(trust: EndpointTrust) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify_depth(MAX_CHAIN_LENGTH)
    authorities = trust.authorities
    if isinstance(trust.expected, SpiffeId):
        authorities = trust.bundles[trust.expected.trust_domain].authorities
    if authorities is None:
        context.set_default_verify_paths()
        return context
    store = context.get_cert_store()
    if store is None:
        raise TypeError("an SSL.Context without a certificate store")
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # any certificate of a bundle is an anchor
    for authority in dict.fromkeys(authorities):
        store.add_cert(crypto.X509.from_cryptography(authority))
    return context
