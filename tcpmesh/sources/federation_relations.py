"""
One other trust domain each: where its bundle comes from, when it is asked for again, and what is told of it.

Ring 3. A bundle that cannot be refreshed goes on to serve, and that is told; one that was received without a usable
authority replaces what was held, and revokes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.codes import BAD_CONFIGURATION, BUNDLE_STALE, NO_BUNDLE
from tcpmesh.errors import StartError, TcpmeshError
from tcpmesh.identity.bundle_document import BundleDocument, BundleError, parse_bundle
from tcpmesh.identity.endpoint_url import EndpointURL, parse_endpoint_url
from tcpmesh.identity.federated import FederatedBundle, refresh_after
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.bundle_file import BundleFile
from tcpmesh.values import DNSName, TrustBundle
from tcpmesh.wall_clock import WallClock

if TYPE_CHECKING:
    from cryptography import x509

    from tcpmesh.sources.bundle_endpoint import EndpointTrust

__all__ = [
    "Bundles",
    "EndpointRelation",
    "Fetch",
    "FileRelation",
    "Relation",
    "Surroundings",
    "chance",
    "fetch_from_endpoint",
]

LOOK = 2.0  # seconds between two looks at a file
_FIRST_RETRY = 5.0  # seconds, doubling: while there is no bundle at all
_log = Logger()
chance = secrets.SystemRandom().random

Bundles = Mapping[TrustDomain, TrustBundle]


class Fetch(Protocol):
    """Asks an endpoint; :func:`tcpmesh.sources.bundle_endpoint.fetch_bundle` is the real one."""

    def __call__(self, reactor: Any, url: EndpointURL, trust: EndpointTrust, wall_clock: WallClock) -> Deferred[bytes]:
        """Get the bytes that the endpoint serves; fails with a TcpmeshError."""


def fetch_from_endpoint(reactor: Any, url: EndpointURL, trust: EndpointTrust, wall_clock: WallClock) -> Deferred[bytes]:
    """Ask a real endpoint. Its HTTP client is loaded only where one is configured."""
    from tcpmesh.sources.bundle_endpoint import fetch_bundle

    return fetch_bundle(reactor, url, trust, wall_clock)


@attrs.frozen(eq=False)
class Surroundings:
    """What all relations share; see :class:`tcpmesh.sources.federation.Federation`."""

    own: TrustDomain | None
    clock: Any
    wall_clock: WallClock
    known: Callable[[], Bundles]
    changed: Callable[[], None]
    fetch: Fetch
    random: Callable[[], float]


class Relation:
    """One trust domain, whatever its bundle comes from."""

    def __init__(self, trust_domain: TrustDomain, settings: FederationSettings, around: Surroundings) -> None:
        self.held = FederatedBundle(trust_domain)
        self._trust_domain = trust_domain
        self._settings = settings
        self._around = around
        self._file = BundleFile(settings.bundle, trust_domain) if settings.bundle is not None else None
        self._call: IDelayedCall | None = None

    def load(self) -> BundleDocument | None:
        """
        Read the file, if there is one, and nothing else.

        :raises StartError: naming it and what is wrong with it.
        """
        return self._file.load() if self._file is not None else None

    def start(self) -> None:
        """
        Take what the file holds.

        :raises StartError: naming it and what is wrong with it.
        """
        document = self.load()
        if document is not None:
            self._accept(document, str(self._settings.bundle))

    def reload(self) -> None:
        """Look for something new now."""
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing happens any more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _accept(self, document: BundleDocument, origin: str) -> None:
        """Take a document over, or say why not."""
        before, failed = self.held.bundle, self.held.failure
        try:
            change = self.held.accept(document, self._own_bundle(), self._around.wall_clock())
        except BundleError as error:
            self._fail(f"{origin} {error}")
            return
        if failed:
            _log.info("the bundle of {domain} can be refreshed again, from {origin}", domain=self._name, origin=origin)
        if change.text:
            code = {} if document.authorities else {"code": NO_BUNDLE.id}
            (_log.warn if change.alarming else _log.info)(
                "{code} " * len(code) + "the bundle of {domain} from {origin}: {change}",
                **code,
                domain=self._name,
                origin=origin,
                change=change.text,
            )
            for note in document.notes:
                _log.info("the bundle of {domain} from {origin}: {note}", domain=self._name, origin=origin, note=note)
        if self.held.bundle is not before:
            self._around.changed()

    def _own_bundle(self) -> TrustBundle | None:
        return self._around.known().get(self._around.own) if self._around.own is not None else None

    def _fail(self, reason: str) -> None:
        if self.held.failed(reason, self._around.wall_clock()):
            held = self.held.bundle is not None
            _log.warn(
                "{code} the bundle of {domain} cannot be refreshed, {state}: {reason}",
                code=BUNDLE_STALE.id,
                domain=self._name,
                state="the last one goes on to serve" if held else "and there is none yet: its peers are refused",
                reason=reason,
            )

    @property
    def _name(self) -> str:
        return str(self._trust_domain)


class FileRelation(Relation):
    """A trust domain whose bundle lies in a file."""

    def start(self) -> None:
        """Take what the file holds, and look at it from now on; raises like :meth:`load`."""
        super().start()
        self._call = self._around.clock.callLater(LOOK, self._look)

    def reload(self) -> None:
        """Read the file now, without waiting until it has settled."""
        assert self._file is not None
        try:
            self._accept(self._file.load(), str(self._settings.bundle))
        except StartError as error:
            self._fail(error.reason)

    def _look(self) -> None:
        assert self._file is not None
        self._call = self._around.clock.callLater(LOOK, self._look)
        try:
            document = self._file.look(again=bool(self.held.failure))
        except StartError as error:
            self._fail(error.reason)
            return
        if document is not None:
            self._accept(document, str(self._settings.bundle))
        elif not self.held.failure:
            self.held.received = self._around.wall_clock()


class EndpointRelation(Relation):
    """A trust domain whose bundle is served by an endpoint; the file, if there is one, is the bundle to begin with."""

    def __init__(self, trust_domain: TrustDomain, settings: FederationSettings, around: Surroundings) -> None:
        super().__init__(trust_domain, settings, around)
        assert settings.url is not None
        self._url = parse_endpoint_url(settings.url)
        self._retry = _FIRST_RETRY
        self._asking: Deferred[Any] | None = None
        self._stopped = False

    def load(self) -> BundleDocument | None:
        """Read every file that there is; raises StartError."""
        self._authorities()
        return super().load()

    def start(self) -> None:
        """Begin with the file, if there is one, and ask the endpoint; raises like :meth:`load`."""
        super().start()
        self._ask()

    def reload(self) -> None:
        """Ask now, unless an answer is on its way."""
        if self._call is not None:
            self._call.cancel()
            self._ask()

    def stop(self) -> None:
        """Ask no more, and give up what is under way."""
        super().stop()
        self._stopped = True
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        self._call = None
        answer: Deferred[Any] = maybeDeferred(self._request)
        self._asking = answer
        answer.addCallbacks(self._received, self._failed)
        answer.addErrback(self._unexpected)
        answer.addBoth(self._ended)

    def _request(self) -> Deferred[bytes]:
        return self._around.fetch(self._around.clock, self._url, self._trust(), self._around.wall_clock)

    def _trust(self) -> EndpointTrust:
        from tcpmesh.sources.bundle_endpoint import EndpointTrust

        if self._settings.endpoint_id is None:
            return EndpointTrust(DNSName(self._url.host), authorities=self._authorities())
        domain = self._settings.endpoint_id.trust_domain
        # Of that trust domain's bundles the one that is held here, if it serves itself: the newest there is.
        own = self.held.bundle if domain == self._trust_domain else self._around.known().get(domain)
        return EndpointTrust(self._settings.endpoint_id, {domain: own} if own is not None else {})

    def _authorities(self) -> Sequence[x509.Certificate] | None:
        """
        Whom to trust for a DNS name; None for the system's authorities. Read each time: such files are replaced too.

        :raises StartError: naming the file.
        """
        if self._settings.endpoint_id is not None or self._settings.trust == "system":
            return None
        path = self._settings.trust
        try:
            return load_certificates(path.read_bytes())
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror}"
        except MaterialError as error:
            reason = f"{path} {error}"
        raise StartError(BAD_CONFIGURATION, reason)

    def _received(self, data: bytes) -> None:
        try:
            document = parse_bundle(data, self._trust_domain)
        except BundleError as error:
            self._fail(f"what {self._url} serves {error}")
        else:
            self._accept(document, str(self._url))

    def _failed(self, failure: Failure) -> None:
        failure.trap(TcpmeshError, CancelledError)
        error = failure.value
        if not self._stopped:
            self._fail(error.reason if isinstance(error, StartError) else f"{self._url} {error}")

    def _unexpected(self, failure: Failure) -> None:
        _log.failure("refreshing the bundle of {domain} failed", failure, domain=self._name)
        self._fail(f"{self._url}: an internal error ({type(failure.value).__name__}), see the traceback")

    def _ended(self, _result: None) -> None:
        self._asking = None
        if not self._stopped:
            self._wait()

    def _wait(self) -> None:
        seconds = refresh_after(self.held.refresh_hint, self._settings.refresh, self._around.random())
        if self.held.bundle is None:
            seconds, self._retry = min(seconds, self._retry), self._retry * 2
        self._call = self._around.clock.callLater(seconds, self._ask)
