"""
What the keys of ``tls`` say together: versions in order, and groups and suites that fit them.

Ring 1. Which of them the TLS library at hand knows is found out where contexts are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.settings import TLSSettings
from tcpmesh.tls_names import GROUPS, SUITES

__all__ = ["check_tls"]


def check_tls(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with how the keys of a ``tls`` fit together."""
    for place, tls in read.of(TLSSettings):
        if tls.min_version > tls.max_version:
            yield _swapped(read, place, tls)
            continue
        groups = [(group, ["1.3"] if GROUPS[group].post_quantum else ["1.2", "1.3"]) for group in tls.groups]
        yield from _check_list(read, place.key("groups"), tls, groups)
        yield from _check_list(
            read, place.key("ciphers"), tls, [(suite, [SUITES[suite].version]) for suite in tls.ciphers]
        )


def _swapped(read: SettingsReader, place: Place, tls: TLSSettings) -> Problem:
    message = f'min_version "{tls.min_version}" is above max_version "{tls.max_version}"'
    if place.key("min_version").path not in read.marks:
        message = (
            f'"{tls.max_version}" is below min_version, which is "{tls.min_version}" unless it is set; add '
            f'min_version: "{tls.max_version}"'
        )
    return _at(read, place.key("max_version"), message)


def _check_list(
    read: SettingsReader, place: Place, tls: TLSSettings, entries: Sequence[tuple[str, Sequence[str]]]
) -> Iterator[Problem]:
    """
    Check one of the lists.

    :param entries: each name with the versions of TLS that can use it.
    """
    if place.path not in read.marks:
        return
    if not entries:
        yield _at(
            read, place, "the list is empty; name at least one, or leave the key out for the library's own choice"
        )
        return
    problems = list(_check_entries(read, place, tls, entries))
    yield from problems
    for version in ("1.2", "1.3"):
        admitted = tls.min_version <= version <= tls.max_version
        if admitted and not problems and not any(version in versions for _, versions in entries):
            bound = "min_version" if version == tls.min_version else "max_version"
            yield _at(read, place, f"none of them is for TLS {version}, which {bound} admits; add one that is")


def _check_entries(
    read: SettingsReader, place: Place, tls: TLSSettings, entries: Sequence[tuple[str, Sequence[str]]]
) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, (name, versions) in enumerate(entries):
        if first.setdefault(name, index) != index:
            yield _at(read, place.item(index), f"{name} is listed already, as {place.item(first[name])}")
        elif all(not tls.min_version <= version <= tls.max_version for version in versions):
            yield _at(read, place.item(index), f"{name} is for TLS {versions[0]}, {_why_not(tls, versions[0])}")


def _why_not(tls: TLSSettings, version: str) -> str:
    if version < tls.min_version:
        return f'which min_version does not admit; add min_version: "{version}", or remove it'
    return f'which max_version "{tls.max_version}" does not admit; remove one of the two'


def _at(read: SettingsReader, place: Place, message: str) -> Problem:
    return Problem(f"{place}: {message}", read.marks.get(place.path))
