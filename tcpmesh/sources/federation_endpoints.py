"""
One other trust domain each whose bundle a SPIFFE bundle endpoint serves: when it is asked, and what is kept of it.

Ring 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.codes import BAD_CONFIGURATION, BUNDLE_STALE
from tcpmesh.errors import StartError, TcpmeshError
from tcpmesh.identity.bundle_document import BundleDocument, BundleError, parse_bundle
from tcpmesh.identity.certificates import span
from tcpmesh.identity.endpoint_url import EndpointURL, parse_endpoint_url
from tcpmesh.identity.federated import refresh_after
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.bundle_cache import Kept
from tcpmesh.sources.federation_relations import Relation, Surroundings
from tcpmesh.values import DNSName
from tcpmesh.wall_clock import WallClock

if TYPE_CHECKING:
    from cryptography import x509

    from tcpmesh.sources.bundle_endpoint import EndpointTrust

__all__ = ["EndpointRelation", "fetch_from_endpoint"]

_FIRST_RETRY = 5.0  # seconds, doubling: while there is no bundle at all
_KEEP_AGAIN = 3600.0  # seconds after which a bundle that has not changed is written down again, for its age
_log = Logger()


def fetch_from_endpoint(reactor: Any, url: EndpointURL, trust: EndpointTrust, wall_clock: WallClock) -> Deferred[bytes]:
    """Ask a real endpoint. Its HTTP client is loaded only where one is configured."""
    from tcpmesh.sources.bundle_endpoint import fetch_bundle

    return fetch_bundle(reactor, url, trust, wall_clock)


class EndpointRelation(Relation):
    """A trust domain whose bundle is served by an endpoint; the file, if there is one, is the bundle to begin with."""

    def __init__(self, trust_domain: TrustDomain, settings: FederationSettings, around: Surroundings) -> None:
        super().__init__(trust_domain, settings, around)
        assert settings.url is not None
        self._url = parse_endpoint_url(settings.url)
        self._retry = _FIRST_RETRY
        self._kept: tuple[bytes, float] = b"", 0.0  # the digest of what was kept last, and when
        self._not_kept = ""  # why it could not be
        self._asking: Deferred[Any] | None = None
        self._stopped = False

    def load(self) -> BundleDocument | None:
        """Read every file that there is; raises StartError."""
        self._authorities()
        return super().load()

    def start(self) -> None:
        """Begin with what was kept, or the file if there is one, and ask the endpoint; raises like :meth:`load`."""
        document = self.load()
        if not self._take_kept() and document is not None:
            self._accept(document, str(self._settings.bundle))
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

    @property
    def _endpoint(self) -> str:
        """Whom it was asked of: what another one said is not taken for it."""
        return f"{self._settings.profile} {self._url.text} {self._settings.endpoint_id or ''}".strip()

    def _take_kept(self) -> bool:
        """Use what was kept before a restart; whether there was something to use."""
        cache, now = self._around.cache, self._around.wall_clock()
        if cache is None:
            return False
        try:
            kept = cache.load(self._trust_domain, self._endpoint, now)
            if kept is not None:
                _check_better(kept, self._file.path if self._file is not None else None)
        except BundleError as error:
            text = "the bundle of {domain} that was kept is not used: it {reason}"
            _log.warn(text, domain=self._name, reason=str(error))
            return False
        if kept is None:
            return False
        self._accept(kept.document, f"{self._url}, kept in {cache.path}")
        if self.held.bundle is None:
            return False
        self.held.received = min(kept.received, now)
        age = max(0.0, now - kept.received)
        if kept.doubt:
            _log.warn(
                "{code} the bundle of {domain} that was kept {doubt}; it is in use all the same until its endpoint "
                "answers, since {why}",
                code=BUNDLE_STALE.id,
                domain=self._name,
                doubt=kept.doubt,
                why=f"{self._settings.bundle} is older still" if kept.document.authorities else "it revokes",
            )
        elif age > refresh_after(self.held.refresh_hint, self._settings.refresh, 1.0):
            _log.warn(
                "{code} the bundle of {domain} is the one of {age} ago, kept over the restart, until its endpoint "
                "answers",
                code=BUNDLE_STALE.id,
                domain=self._name,
                age=span(age),
            )
        return True

    def _keep(self, data: bytes) -> None:
        """Write down what was received; not each time, when nothing has changed."""
        cache, now = self._around.cache, self._around.wall_clock()
        digest = hashlib.sha256(data).digest()
        if cache is None or (digest == self._kept[0] and 0 <= now - self._kept[1] < _KEEP_AGAIN):
            return
        reason = ""
        try:
            cache.keep(self._trust_domain, self._endpoint, data, now)
            self._kept = digest, now
        except StartError as error:
            reason = error.reason
        if reason and reason != self._not_kept:
            _log.warn("the bundle of {domain} cannot be kept: {reason}", domain=self._name, reason=reason)
        self._not_kept = reason

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
            return EndpointTrust(
                DNSName(self._url.host), authorities=self._authorities(), deny_list=self._around.deny_list
            )
        domain = self._settings.endpoint_id.trust_domain
        # Of that trust domain's bundles the one that is held here, if it serves itself: the newest there is.
        own = self.held.bundle if domain == self._trust_domain else self._around.known().get(domain)
        bundles = {domain: own} if own is not None else {}
        return EndpointTrust(self._settings.endpoint_id, bundles, deny_list=self._around.deny_list)

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
            if not self.held.failure:
                self._keep(data)

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


def _check_better(kept: Kept, file: Path | None) -> None:
    """
    Insist that what was kept is better than what would be used instead: the file, or nothing.

    Whoever puts a newer file there means it. An older one may list what was withdrawn since, so that what was kept is
    better however old it is; and a revocation holds until somebody takes it back.

    :raises BundleError: when it is not.
    """
    written = None
    if file is not None:
        with suppress(OSError):  # read a moment ago, and gone
            written = file.stat().st_mtime
    if written is not None and written > kept.received:
        raise BundleError(f"was received before {file} was written, which is used instead")
    if kept.doubt and file is None and kept.document.authorities:
        raise BundleError(kept.doubt)
