"""
Sets of DNS names, as routes and policies write them.

Ring 0. Labels are compared as a whole: ``evil.test`` is no end of ``notevil.test``.
"""

from __future__ import annotations

import attrs

from tcpmesh.addresses import parse_dns_name, shown

__all__ = ["DEEP", "ONE", "DnsPattern", "parse_dns_pattern"]

ONE = "*"
DEEP = "**"


@attrs.frozen
class DnsPattern:
    """
    A set of DNS names.

    :ivar labels: in lower case, the last one first; ``*`` for any one of them.
    :ivar deep: one or more further labels must stand in front.
    """

    labels: tuple[str, ...]
    deep: bool = False

    def matches(self, name: str) -> bool:
        """Whether the name is of the set, in whatever case; what a stranger sends as a name need not be one."""
        if not (name.isascii() and name.isprintable()):
            return False
        labels = name.lower().split(".")[::-1]
        length = len(self.labels)
        if len(labels) <= length if self.deep else len(labels) != length:
            return False
        return "" not in labels and all(own in (ONE, other) for own, other in zip(self.labels, labels, strict=False))

    def __str__(self) -> str:
        return ".".join([*([DEEP] if self.deep else []), *reversed(self.labels)])


def parse_dns_pattern(text: str) -> DnsPattern:
    """
    Read ``db.example.com``, ``*.example.com`` (one label in front) or ``**.example.com`` (one or more).

    :raises ValueError: saying what is wrong.
    """
    wildcard, dot, rest = text.partition(".")
    if not dot or wildcard not in (ONE, DEEP):
        if "*" in text:
            raise ValueError(f"in {shown(text)}, a wildcard can only be the whole first label, as in *.example.com")
        return DnsPattern(_labels(text))
    if "*" in rest:
        raise ValueError(f"{shown(text)} has two wildcards; only the first label can be one")
    labels = _labels(rest)
    return DnsPattern(labels, deep=True) if wildcard == DEEP else DnsPattern((*labels, ONE))


def _labels(text: str) -> tuple[str, ...]:
    return tuple(reversed(parse_dns_name(text).name.split(".")))
