"""
Whom a policy means: patterns of SPIFFE IDs and of DNS names.

Ring 1. Both work on whole segments or labels, never on text: ``/ns/a`` is no beginning of ``/ns/ab``, and ``evil.test``
no end of ``notevil.test``. ``*`` stands for exactly one of them, ``**`` for one or more, at the open end only.
"""

from __future__ import annotations

from typing import NewType

import attrs

from tcpmesh.addresses import shown
from tcpmesh.dns_patterns import DEEP, ONE
from tcpmesh.dns_patterns import DnsPattern as DnsPattern
from tcpmesh.dns_patterns import parse_dns_pattern as parse_dns_pattern
from tcpmesh.identity.spiffe import MAX_ID_BYTES, SpiffeId, TrustDomain

__all__ = ["DnsPattern", "IdPattern", "IdPrefix", "parse_dns_pattern", "parse_id_pattern", "parse_id_prefix"]

_SCHEME = "spiffe://"


@attrs.frozen
class IdPattern:
    """
    A set of SPIFFE IDs.

    :ivar segments: the trust domain, then the path's segments; ``*`` for any one of them.
    :ivar deep: one or more further segments must follow.
    :ivar text: as it was written; two patterns that mean the same are equal.
    """

    segments: tuple[str, ...]
    deep: bool = False
    text: str = attrs.field(default="", eq=False)

    @classmethod
    def below(cls, domain: TrustDomain) -> IdPattern:
        """Every ID of a trust domain."""
        return cls((domain.name,), deep=True, text=domain.name)

    @property
    def is_exact(self) -> bool:
        """Whether it is one ID."""
        return not self.deep and ONE not in self.segments

    def matches(self, identity: SpiffeId) -> bool:
        """Whether the ID is of the set."""
        return self.covers((identity.trust_domain.name, *identity.segments))

    def covers(self, segments: tuple[str, ...], deep: bool = False) -> bool:
        """Whether all of another set is of this one too; its segments may be ``*``."""
        length = len(self.segments)
        if len(segments) < length or (not self.deep and (deep or len(segments) > length)):
            return False
        if self.deep and not deep and len(segments) == length:
            return False
        return all(own in (ONE, other) for own, other in zip(self.segments, segments, strict=False))

    def __str__(self) -> str:
        return self.text


# The same values, of patterns that are written in another way.
IdPrefix = NewType("IdPrefix", IdPattern)


def parse_id_pattern(text: str) -> IdPattern:
    """
    Read a SPIFFE ID, any of whose path segments may be ``*`` and whose last one may be ``**``.

    :raises ValueError: saying what is wrong.
    """
    if "*" not in text:
        identity = SpiffeId.parse(text)
        if not identity.path:
            raise ValueError(
                f"{shown(text)} names a whole trust domain, which no peer's certificate does; for all of its IDs write "
                f"trust_domains: [{identity.trust_domain}]"
            )
        return IdPattern((identity.trust_domain.name, *identity.segments), text=text)
    domain, segments = _split(text)
    deep = segments[-1] == DEEP
    kept = segments[:-1] if deep else segments
    for segment in kept:
        if segment == DEEP:
            raise ValueError(f"in {shown(text)}, '**' can only be the last segment; '*' stands for one segment")
        if "*" in segment and segment != ONE:
            raise ValueError(
                f"in {shown(text)}, '*' stands for a whole segment and not for a part of {shown(segment)}; write each "
                "ID, or let a segment of its own tell them apart"
            )
    if deep or ONE in kept:
        SpiffeId.from_segments(domain, *(segment for segment in kept if segment != ONE))
    return IdPattern((domain.name, *kept), deep, text)


def parse_id_prefix(text: str) -> IdPrefix:
    """
    Read the beginning of SPIFFE IDs, which ends with ``/``: every ID that has more behind it is meant.

    :raises ValueError: saying what is wrong.
    """
    if "*" in text:
        raise ValueError(f"{shown(text)} has a wildcard, which a prefix has not; patterns are written in ids")
    if not text.endswith("/"):
        SpiffeId.parse(text)
        raise ValueError(
            f"{shown(text)} does not end at a segment: write {shown(text + '/')} for every ID below it, or name it in "
            "ids if it is one"
        )
    identity = SpiffeId.parse(text[:-1])
    return IdPrefix(IdPattern((identity.trust_domain.name, *identity.segments), deep=True, text=text))


def _split(text: str) -> tuple[TrustDomain, list[str]]:
    """The parts of a pattern with wildcards: what is no segment of one is told here."""
    if len(text) > MAX_ID_BYTES:
        raise ValueError(f"the pattern has {len(text)} characters, more than {MAX_ID_BYTES}")
    if not text.startswith(_SCHEME):
        raise ValueError(f"{shown(text)} does not start with {_SCHEME!r}")
    authority, slash, path = text[len(_SCHEME) :].partition("/")
    if "*" in authority:
        raise ValueError(
            f"{shown(text)} has a wildcard in its trust domain; list trust_domains, or write any: authenticated"
        )
    domain = TrustDomain(authority)
    segments = path.split("/") if slash else []
    if not segments or "" in segments:
        raise ValueError(f"{shown(text)} has an empty path segment (a double or a trailing slash)")
    return domain, segments
