"""
What ``identity.mapping`` must keep to: templates that tell names apart, prefixes that do not overlap.

Ring 1. The language itself is :mod:`tcpmesh.identity.templates`.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from tcpmesh.addresses import shown
from tcpmesh.config.places import Place
from tcpmesh.config.problems import did_you_mean, enumerate_words
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.identity.claims import check_reference
from tcpmesh.identity.foreign import KINDS, VARIABLES
from tcpmesh.identity.mapping import indistinct
from tcpmesh.identity.templates import Template, parse_prefix, parse_template
from tcpmesh.settings import MappingSettings

__all__ = ["check_mapping"]


def check_mapping(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with the mappings, each by itself and among each other."""
    prefixes: list[_Owned] = []
    for place, mapping in read.of(MappingSettings):
        yield from _check_issuer(read, place, mapping)
        yield from _check_names(read, place, mapping)
        try:
            prefixes.append(_Owned(place.key("prefix"), parse_prefix(mapping.prefix)))
        except ValueError as error:
            yield _at(read, place.key("prefix"), str(error))
        try:
            template = parse_template(mapping.template)
        except ValueError as error:
            yield _at(read, place.key("template"), str(error))
        else:
            yield from _check_template(read, place, mapping, template)
    yield from _check_prefixes(read, prefixes)


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))


def _check_issuer(read: SettingsReader, place: Place, mapping: MappingSettings) -> Iterator[Problem]:
    kind, issuer = mapping.from_, mapping.issuer
    if kind in ("claims", "certificate") and not issuer:
        whose = 'the "iss" of the claims' if kind == "claims" else 'the issuer\'s name, such as "CN=CA,O=Example"'
        if issuer is None:
            message = f"key 'issuer' is missing in {place}: {whose}; each issuer's names need a mapping of their own"
            yield Problem(message, read.marks.get(place.path))
        else:
            yield _at(read, place.key("issuer"), f"the text is empty; expected {whose}")
    elif kind in ("aws", "dns") and issuer is not None:
        yield _at(read, place.key("issuer"), f"{KINDS[kind]} names have no issuer; remove the key")
    elif issuer == "":
        yield _at(read, place.key("issuer"), 'the text is empty; expected the "iss" of the cluster\'s tokens')


def _check_names(read: SettingsReader, place: Place, mapping: MappingSettings) -> Iterator[Problem]:
    if mapping.subject and mapping.from_ != "claims":
        whole = enumerate_words(VARIABLES[mapping.from_]).replace(" or ", " and ")
        yield _at(read, place.key("subject"), f"only claims are chosen from; a {KINDS[mapping.from_]} is {whole}")
    elif place.key("subject").path in read.marks and not mapping.subject:
        yield _at(read, place.key("subject"), "the list is empty; name the claims that together say who it is")
    else:
        for index, name in enumerate(mapping.subject):
            yield from _check_variable(read, place.key("subject").item(index), mapping, name)
    for name, texts in mapping.where.items():
        at = place.key("where").entry(name)
        yield from _check_variable(read, at, mapping, name)
        if not texts:
            yield _at(read, at, "the list is empty, so no name would be mapped")


def _check_variable(read: SettingsReader, place: Place, mapping: MappingSettings, name: str) -> Iterator[Problem]:
    kind = mapping.from_
    if kind == "claims":
        try:
            check_reference(name)
        except ValueError as error:
            yield _at(read, place, str(error))
    elif name not in VARIABLES[kind]:
        known = VARIABLES[kind]
        hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
        yield _at(read, place, f"a {KINDS[kind]} has no {shown(name)}{hint}")


def _check_template(
    read: SettingsReader, place: Place, mapping: MappingSettings, template: Template
) -> Iterator[Problem]:
    at = place.key("template")
    unknown = [problem for name in sorted(template.variables) for problem in _check_variable(read, at, mapping, name)]
    yield from unknown
    confused = [] if unknown else indistinct(mapping.from_, template, mapping.where, mapping.subject)
    if confused:
        listed = ", ".join(f"{{{name}}}" for name in confused)
        one = len(confused) == 1
        yield _at(
            read,
            at,
            f"two {KINDS[mapping.from_]} names could get one SPIFFE ID: {listed} {'is' if one else 'are'} not in "
            f"{shown(str(template))}; add {'it' if one else 'them'}, or allow one text for {'it' if one else 'each'} "
            "in where",
        )


@attrs.frozen
class _Owned:
    """A prefix that is one mapping's own; ``place`` is that of the key."""

    place: Place
    segments: tuple[str, ...]

    @property
    def folded(self) -> tuple[str, ...]:
        return tuple(segment.lower() for segment in self.segments)

    def __str__(self) -> str:
        return "/" + "/".join(self.segments)


def _check_prefixes(read: SettingsReader, prefixes: list[_Owned]) -> Iterator[Problem]:
    """
    Refuse prefixes that share an ID, by whole segments: ``/k8s`` holds ``/k8s/prod`` and not ``/k8s-prod``.

    Such as differ in case only share none, but are told apart by nobody who reads them.
    """
    # In this order whatever lies in a prefix follows it, with nothing between but what lies in it too.
    outer: list[_Owned] = []
    for owned in sorted(prefixes, key=lambda one: (one.folded, read.marks[one.place.path].line)):
        while outer and owned.folded[: len(outer[-1].segments)] != outer[-1].folded:
            outer.pop()
        if outer:
            yield _overlap(read, outer[-1], owned)
        outer.append(owned)


def _overlap(read: SettingsReader, outer: _Owned, inner: _Owned) -> Problem:
    first, second = sorted((outer, inner), key=lambda one: read.marks[one.place.path].line)
    where = f"{first.place} ({first}, line {read.marks[first.place.path].line})"
    if inner.segments[: len(outer.segments)] != outer.segments:
        what = f"{second} and {where} overlap but for upper and lower case"
    elif outer.segments == inner.segments:
        what = f"{second} is the prefix of {where} too"
    else:
        what = f"{second} {'lies in' if second is inner else 'holds'} {where}"
    return _at(
        read, second.place, f"{what}, so that names of both could get one SPIFFE ID; give each a prefix of its own"
    )
