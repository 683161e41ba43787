"""
One other trust domain each: where its bundle comes from, when it is looked at again, and what is told of it.

Ring 3. Endpoints are in ``federation_endpoints``. A bundle that cannot be refreshed goes on to serve, and that is told;
one that was received without a usable authority replaces what was held, and revokes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from tcpmesh.codes import BUNDLE_STALE, NO_BUNDLE
from tcpmesh.errors import StartError
from tcpmesh.identity.bundle_document import BundleDocument, BundleError
from tcpmesh.identity.deny_list import NOBODY, DenyList
from tcpmesh.identity.endpoint_url import EndpointURL
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.bundle_cache import BundleCache
from tcpmesh.sources.bundle_file import BundleFile
from tcpmesh.values import TrustBundle
from tcpmesh.wall_clock import WallClock

if TYPE_CHECKING:
    from tcpmesh.sources.bundle_endpoint import EndpointTrust

__all__ = ["Bundles", "Fetch", "FileRelation", "Relation", "Surroundings", "chance"]

LOOK = 2.0  # seconds between two looks at a file
_log = Logger()
chance = secrets.SystemRandom().random

Bundles = Mapping[TrustDomain, TrustBundle]


class Fetch(Protocol):
    """Asks an endpoint; :func:`tcpmesh.sources.bundle_endpoint.fetch_bundle` is the real one."""

    def __call__(self, reactor: Any, url: EndpointURL, trust: EndpointTrust, wall_clock: WallClock) -> Deferred[bytes]:
        """Get the bytes that the endpoint serves; fails with a TcpmeshError."""


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
    cache: BundleCache | None = None
    deny_list: Callable[[], DenyList] = lambda: NOBODY


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
