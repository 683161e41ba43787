"""
SPIFFE IDs and trust domains, parsed strictly.

Ring 0, although it lives here: every other module talks about these names. Imports nothing of tcpmesh.

The grammar is that of SPIFFE-ID.md sections 2.1 to 2.3, without any normalisation: two IDs are equal
when their text is equal, so an ID in a certificate is either canonical or refused.
"""

from __future__ import annotations

import re
from functools import lru_cache

import attrs

__all__ = ["MAX_ID_BYTES", "MAX_TRUST_DOMAIN_BYTES", "InvalidSpiffeId", "SpiffeId", "TrustDomain"]

MAX_ID_BYTES = 2048  # SPIFFE-ID.md section 2.3: implementations must accept this much
MAX_TRUST_DOMAIN_BYTES = 255

_SCHEME = "spiffe://"
# \Z, never $: "$" would let a trailing newline pass.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")
_ID = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*)\Z")
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+\Z")


class InvalidSpiffeId(ValueError):
    """The text is not a SPIFFE ID (or not a trust domain name); the message says which rule it breaks."""


@attrs.frozen(order=True)
class TrustDomain:
    """The authority part of a SPIFFE ID: the name of one root of trust."""

    name: str = attrs.field()

    @name.validator
    def _check(self, _attribute: object, value: str) -> None:
        if not _TRUST_DOMAIN.match(value):
            raise InvalidSpiffeId(_explain_trust_domain(value))

    @classmethod
    def parse(cls, text: str) -> TrustDomain:
        """
        Read a bare name or a full SPIFFE ID, whose path is dropped.

        :raises InvalidSpiffeId: if it is neither.
        """
        if "/" in text or ":" in text:
            return SpiffeId.parse(text).trust_domain
        return cls(text)

    def __str__(self) -> str:
        return self.name

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID of the trust domain itself, which signing certificates may carry."""
        return SpiffeId(self, "")


@attrs.frozen(order=True)
class SpiffeId:
    """One SPIFFE ID in canonical form; ``str()`` gives the URI back."""

    trust_domain: TrustDomain
    path: str = ""  # empty, or "/" followed by segments

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """
        Read a SPIFFE ID as a certificate or an operator wrote it.

        :raises InvalidSpiffeId: with the rule that the text breaks.
        """
        match = _ID.match(text)
        if match is None or len(text) > MAX_ID_BYTES:
            raise InvalidSpiffeId(_explain(text))
        return cls(_trust_domain(match.group(1)), match.group(2))

    @classmethod
    def from_segments(cls, trust_domain: TrustDomain, *segments: str) -> SpiffeId:
        """
        Build an ID from path segments, none of which may smuggle in a slash or a dot segment.

        :raises InvalidSpiffeId: for a segment outside ``[A-Za-z0-9._-]+`` or equal to ``.`` or ``..``.
        """
        for segment in segments:
            if not _SEGMENT.match(segment):
                raise InvalidSpiffeId(f"{segment!r} is not a path segment: use letters, digits, '.', '_' and '-'")
        return cls.parse(_SCHEME + trust_domain.name + "".join("/" + segment for segment in segments))

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments, none for the ID of a trust domain."""
        return tuple(self.path.split("/")[1:])

    def __str__(self) -> str:
        return _SCHEME + self.trust_domain.name + self.path


@lru_cache(maxsize=1024)
def _trust_domain(name: str) -> TrustDomain:
    return TrustDomain(name)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 120 else text[:117] + "...")


def _explain_trust_domain(name: str) -> str:
    if not name:
        return "a trust domain name is missing"
    if len(name) > MAX_TRUST_DOMAIN_BYTES:
        return f"the trust domain has {len(name)} characters, more than {MAX_TRUST_DOMAIN_BYTES}"
    if name.isascii() and _TRUST_DOMAIN.match(name.lower()):
        return f"trust domain {_shown(name)} is not lower case: did you mean {name.lower()!r}?"
    return f"trust domain {_shown(name)} may only hold a-z, 0-9, '.', '_' and '-'"


def _explain(text: str) -> str:
    if not text:
        return "a SPIFFE ID is missing"
    if len(text) > MAX_ID_BYTES:
        return f"the ID has {len(text)} characters, more than {MAX_ID_BYTES}"
    if not text.startswith(_SCHEME):
        if text.lower().startswith(_SCHEME):
            return f"{_shown(text)} has an upper-case scheme: did you mean {_shown(_SCHEME + text[len(_SCHEME) :])}?"
        return f"{_shown(text)} does not start with {_SCHEME!r}"
    rest = text[len(_SCHEME) :]
    if "%" in rest:
        return f"{_shown(text)} is percent-encoded, which a SPIFFE ID never is"
    if "?" in rest or "#" in rest:
        return f"{_shown(text)} has a query or a fragment, which a SPIFFE ID never has"
    authority, slash, path = rest.partition("/")
    if not _TRUST_DOMAIN.match(authority):
        if "@" in authority or ":" in authority:
            return f"{_shown(text)} has user information or a port, which a SPIFFE ID never has"
        return _explain_trust_domain(authority)
    for segment in path.split("/") if slash else ():
        if not segment:
            return f"{_shown(text)} has an empty path segment (a double or a trailing slash)"
        if segment in (".", ".."):
            return f"{_shown(text)} has the dot segment {segment!r}"
        if not _SEGMENT.match(segment):
            return f"path segment {_shown(segment)} may only hold letters, digits, '.', '_' and '-'"
    return f"{_shown(text)} is not a SPIFFE ID"
