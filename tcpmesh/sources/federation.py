"""
The bundles of other trust domains: kept current from files and from SPIFFE bundle endpoints.

Ring 3. What one trust domain's bundle comes from is ``federation_relations``' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.logger import Logger

from tcpmesh.codes import NO_BUNDLE
from tcpmesh.errors import StartError
from tcpmesh.identity.deny_list import NOBODY, DenyList
from tcpmesh.identity.federated import FederatedBundle, merged_bundles
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import FederationSettings
from tcpmesh.sources.bundle_cache import BundleCache
from tcpmesh.sources.federation_endpoints import EndpointRelation, fetch_from_endpoint
from tcpmesh.sources.federation_relations import Bundles, Fetch, FileRelation, Relation, Surroundings, chance
from tcpmesh.wall_clock import WallClock, wall_clock

__all__ = ["Federation"]

_log = Logger()


class Federation:
    """
    All other trust domains that the configuration names.

    :param relations: by trust domain, checked by ``tcpmesh.config``.
    :param own: the proxy's own trust domain.
    :param clock: the reactor, when there are endpoints to ask.
    :param fetch: asks an endpoint.
    :param random: from 0 to 1.
    :param cache: the directory in which what endpoints served is kept over a restart; None: nowhere.
    :param deny_list: gives the deny-list of the moment, which endpoints are held against, too.
    """

    def __init__(
        self,
        relations: Mapping[TrustDomain, FederationSettings],
        own: TrustDomain | None,
        clock: Any,
        wall_clock: WallClock = wall_clock,
        *,
        fetch: Fetch = fetch_from_endpoint,
        random: Callable[[], float] = chance,
        cache: Path | None = None,
        deny_list: Callable[[], DenyList] = lambda: NOBODY,
    ) -> None:
        self._known: Callable[[], Bundles] = dict
        self._changed: Callable[[], None] = lambda: None
        self._told: dict[TrustDomain, str] = {}
        self.own = own
        self._cache = BundleCache(cache) if cache is not None else None
        around = Surroundings(
            own,
            clock,
            wall_clock,
            lambda: self._known(),
            lambda: self._changed(),
            fetch,
            random,
            self._cache,
            deny_list,
        )
        self._relations: list[Relation] = [
            (FileRelation if settings.url is None else EndpointRelation)(domain, settings, around)
            for domain, settings in relations.items()
        ]

    @property
    def held(self) -> tuple[FederatedBundle, ...]:
        """Where each trust domain's bundle stands."""
        return tuple(relation.held for relation in self._relations)

    def check(self) -> list[StartError]:
        """What :meth:`start` would complain of; nothing is started."""
        return _complaints([relation.load for relation in self._relations])

    def start(self, known: Callable[[], Bundles], changed: Callable[[], None]) -> None:
        """
        Read the files and begin to ask the endpoints.

        :param known: gives the bundles of all trust domains, as they are used at the moment.
        :param changed: called whenever :attr:`held` has another bundle.
        :raises StartError: naming each file that cannot be used.
        """
        self._known, self._changed = known, changed
        if self._cache is not None:
            self._cache.open().close()  # what nobody can use is a mistake, and not a bundle less at the next restart
        problems = _complaints([relation.start for relation in self._relations])
        if problems:
            raise StartError(problems[0].code, "; ".join(problem.reason for problem in problems))

    def merged(self, pooled: Bundles) -> Bundles:
        """
        The bundles to verify peers with; what is left out of them is told once.

        :param pooled: the bundles that identity sources deliver.
        """
        merged, refused = merged_bundles(pooled, self.held, self.own)
        told = {domain: f"it is not used, and its peers are refused: it {why}" for domain, why in refused.items()}
        for entry in self.held:
            if entry.trust_domain in pooled:
                also = "an identity source delivers one too, which is not used: identity.federation wins"
                told.setdefault(entry.trust_domain, also)
        for domain, what in told.items():
            if self._told.get(domain) != what:
                code = f"{NO_BUNDLE.id} " if domain in refused else ""
                _log.warn("{code}the bundle of {domain}: {what}", code=code, domain=str(domain), what=what)
        self._told = told
        return MappingProxyType(merged)

    def reload(self) -> None:
        """Look at every file and ask every endpoint now; what comes of it is told as always."""
        for relation in self._relations:
            relation.reload()

    def stop(self) -> None:
        """Ask no more, and give up what is under way. Safe in every order."""
        for relation in self._relations:
            relation.stop()


def _complaints(steps: list[Callable[[], Any]]) -> list[StartError]:
    problems = []
    for step in steps:
        try:
            step()
        except StartError as error:
            problems.append(error)
    return problems
