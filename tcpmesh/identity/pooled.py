"""
Whose word counts when several identity sources deliver a bundle for one trust domain.

Ring 1, pure. A bundle is complete: what is absent from it is withdrawn, and no other source may undo that unasked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tcpmesh.identity.certificates import name_text, subject_key_identifier
from tcpmesh.identity.life import SourceLife
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import TrustBundle

__all__ = ["PooledBundles", "counts", "pooled_bundles"]

_LISTED = 5

#: By trust domain: the names of the sources whose bundle of it counts.
Choice = Mapping[TrustDomain, Sequence[str]]


@attrs.frozen
class PooledBundles:
    """
    By trust domain: its authorities, and what of them is left out since the sources contradict each other.

    Nobody can change the bundles: what was judged by them is judged anew only when there are others.
    """

    bundles: Mapping[TrustDomain, TrustBundle]
    disputes: Mapping[TrustDomain, str]


def counts(source: str, domain: TrustDomain, choice: Choice) -> bool:
    """Whether what the source says of a trust domain counts."""
    return domain not in choice or source in choice[domain]


def pooled_bundles(sources: Iterable[SourceLife], choice: Choice = MappingProxyType({})) -> PooledBundles:
    """
    Put together what the sources deliver; bundles of different trust domains are never mixed.

    Of a trust domain in ``choice`` the bundles of the sources named there count, all that any of them lists. Of any
    other one an authority counts when every source that has ever delivered a bundle of it listed it the last time: who
    gives up a bundle does not bring back what it had withdrawn. An authority that was renewed with its name and key is
    the same one.
    """
    delivered: dict[TrustDomain, dict[bytes, x509.Certificate]] = {}
    words: dict[TrustDomain, dict[str, set[object]]] = {}
    for source in sources:
        present = source.snapshot.bundles if source.snapshot is not None else {}
        for domain, bundle in {**source.said, **present}.items():
            if counts(source.name, domain, choice):
                words.setdefault(domain, {})[source.name] = {_authority(each) for each in bundle.authorities}
                if domain in present:
                    listed = {each.public_bytes(Encoding.DER): each for each in bundle.authorities}
                    delivered.setdefault(domain, {}).update(listed)
    bundles, disputes = {}, {}
    for domain, pool in delivered.items():
        if domain not in choice:
            agreed = set.intersection(*words[domain].values())
            doubtful = [key for key, each in pool.items() if _authority(each) not in agreed]
            if doubtful:
                disputes[domain] = _dispute([pool.pop(key) for key in doubtful], words[domain], bool(pool))
        bundles[domain] = TrustBundle(domain, tuple(pool.values()))
    return PooledBundles(MappingProxyType(bundles), MappingProxyType(disputes))


def _authority(certificate: x509.Certificate) -> object:
    """What stays when a certificate is renewed with its name and key."""
    try:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):  # a key that nobody can use
        return certificate.public_bytes(Encoding.DER)
    return certificate.subject, key


def _dispute(left_out: list[x509.Certificate], by_source: Mapping[str, object], rest: bool) -> str:
    names = [f"{name_text(a.subject)} (key {subject_key_identifier(a) or 'not named'})" for a in left_out[:_LISTED]]
    more = len(left_out) - _LISTED
    shown = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    whole = "" if rest else ", which leaves none, so that all its peers are refused"
    return (
        f"identity sources {', '.join(map(repr, by_source))} deliver different bundles; not used are the authorities "
        f"that not all of them list, {shown}{whole}; say in identity.bundles_from which source counts"
    )
