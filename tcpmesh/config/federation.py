"""
Whether each trust domain that is named says where its bundle comes from, and nothing that contradicts it.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.identity.endpoint_url import parse_endpoint_url
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.settings import FederationSettings, IdentitySettings, Settings
from tcpmesh.values import format_duration

__all__ = ["check_bundles_from", "check_federation"]

_LEAST, _MOST = 10.0, 86400.0  # seconds


def check_federation(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with ``identity.federation``."""
    own = next((settings.trust_domain for _, settings in read.of(Settings)), None)
    for place, identity in read.of(IdentitySettings):
        if identity.bundle_cache is not None and all(one.url is None for one in identity.federation.values()):
            at = place.key("bundle_cache")
            yield Problem(f"{at}: no bundle comes from an endpoint, and files need no copy", read.marks.get(at.path))
        for domain, settings in identity.federation.items():
            at = place.key("federation").entry(str(domain))
            if domain == own:
                message = f"{domain} is this proxy's own trust domain; its bundle comes from identity.sources"
                yield Problem(f"{at}: {message}", read.marks.get(at.path))
            for key, message in _complaints(domain, settings, _written(read, at)):
                where = at.key(key) if key in _written(read, at) else at
                yield Problem(f"{where}: {message}", read.marks.get(where.path))


def check_bundles_from(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with ``identity.bundles_from``."""
    for place, identity in read.of(IdentitySettings):
        for domain, sources in identity.bundles_from.items():
            at = place.key("bundles_from").entry(str(domain))
            if domain in identity.federation:
                message = "its bundle comes from identity.federation, whatever a source delivers; remove one of the two"
                yield Problem(f"{at}: {message}", read.marks.get(at.path))
            if not sources:
                message = "the list is empty; name the identity source whose bundle counts"
                yield Problem(f"{at}: {message}", read.marks.get(at.path))
            for index, source in enumerate(sources):
                if source in sources[:index]:
                    yield Problem(f"{at}: {source!r} is named twice", read.marks.get(at.item(index).path))


def _written(read: SettingsReader, at: Place) -> set[str]:
    names = ("bundle", "url", "profile", "endpoint_id", "trust", "refresh")
    return {name for name in names if at.key(name).path in read.marks}


def _complaints(domain: TrustDomain, settings: FederationSettings, written: set[str]) -> Iterator[tuple[str, str]]:
    """The key that is wrong, and why."""
    if settings.url is None:
        if settings.bundle is None:
            yield "", "write bundle: FILE, or url: and profile: of a SPIFFE bundle endpoint"
        for key in sorted(written - {"bundle"}):
            yield key, "this is for a bundle endpoint, and there is no url"
        return
    if settings.refresh is not None and not _LEAST <= settings.refresh <= _MOST:
        yield "refresh", f"write {format_duration(_LEAST)} to {format_duration(_MOST)}"
    try:
        named = parse_endpoint_url(settings.url).is_dns_name
    except ValueError as error:
        yield "url", str(error)
        named = True
    if settings.profile is None:
        yield "", "key 'profile' is missing; write https_web or https_spiffe, as the endpoint's operator says"
    elif settings.profile == "https_web":
        yield from _web(settings, named)
    else:
        yield from _spiffe(domain, settings, written)


def _web(settings: FederationSettings, named: bool) -> Iterator[tuple[str, str]]:
    if not named:
        yield "url", "with profile https_web the server is verified by its DNS name; write that instead of an address"
    if settings.endpoint_id is not None:
        yield "endpoint_id", "with profile https_web the server is verified by its DNS name; remove this"
    if settings.bundle is not None:
        yield "bundle", "with profile https_web nothing is verified with it; remove this"


def _spiffe(domain: TrustDomain, settings: FederationSettings, written: set[str]) -> Iterator[tuple[str, str]]:
    if "trust" in written:
        yield "trust", "with profile https_spiffe the server is verified by its SPIFFE ID; remove this"
    if settings.endpoint_id is None:
        yield "", "key 'endpoint_id' is missing; write the server's SPIFFE ID, such as spiffe://DOMAIN/spire/server"
    elif not settings.endpoint_id.path:
        yield "endpoint_id", f"{settings.endpoint_id} names a whole trust domain; a server's ID has a path after it"
    elif settings.endpoint_id.trust_domain == domain:
        if settings.bundle is None:
            yield "", "key 'bundle' is missing; the server is of this trust domain, and needs a bundle to begin with"
    elif settings.bundle is not None:
        verified = settings.endpoint_id.trust_domain
        yield "bundle", f"the server is verified with the bundle of {verified}, so nothing is with this; remove it"
