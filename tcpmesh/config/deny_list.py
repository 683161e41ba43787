"""
Deny-lists: what one key cannot say alone, and lists in files of their own.

Ring 1. Nothing is ever taken from a list that is wrong anywhere: somebody who should be denied may be in the part that
cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from tcpmesh.config.nodes import MapNode, Scalar, compose
from tcpmesh.config.places import ROOT
from tcpmesh.config.problems import Problems
from tcpmesh.config.structure import SettingsReader
from tcpmesh.config.syntax import decode
from tcpmesh.errors import Mark, Problem
from tcpmesh.identity.deny_list import MAX_ENTRIES, DenyEntry, DenyListSettings, duplicates
from tcpmesh.interfaces import IPluginFactory, PluginKind

__all__ = ["MAX_FILE_BYTES", "check_deny_list", "read_deny_list"]

MAX_FILE_BYTES = 256 * 1024
_MAX_VALUES = 8 * MAX_ENTRIES


@attrs.frozen
class DenyListFile:
    """What a file holds: nobody is denied by ``entries: []``, and an empty file is a mistake."""

    entries: list[DenyEntry]


class _NoPlugins:
    """Nothing in such a file selects a plugin. (IPluginLookup)"""

    def names(self, _kind: PluginKind) -> list[str]:
        return []

    def find(self, _kind: PluginKind, name: str) -> IPluginFactory:
        raise LookupError(f"there is no plugin {name!r} here")


def read_deny_list(data: bytes, file: Path) -> tuple[DenyEntry, ...]:
    """
    Read a deny-list.

    :param file: what to call it in messages.
    :raises tcpmesh.errors.ConfigurationError: with everything that is wrong, each at its line and column.
    """
    problems = Problems(str(file))
    top = Mark(problems.file, 1, 1)
    if len(data) > MAX_FILE_BYTES:
        problems.fail(f"the file is larger than {MAX_FILE_BYTES // 1024} KiB", top)
    root = compose(decode(data, problems), problems, _MAX_VALUES)
    if root is None or (isinstance(root, Scalar) and root.tag == "null"):
        problems.fail("the file is empty; write 'entries: []' to deny nobody", top)
    if not isinstance(root, MapNode):
        problems.fail("a deny-list begins with 'entries:', and each entry below it with '- '", root.mark)
    reader = SettingsReader(file.absolute().parent, _NoPlugins(), problems)
    read: Any = reader.read(root, DenyListFile, ROOT)
    for _, built in reader.of(DenyListFile):
        for problem in _complaints(built.entries, root.mark):
            problems.add(problem.message, problem.mark)
    problems.raise_if_any()
    assert isinstance(read, DenyListFile), "a failed read leaves a problem"
    return tuple(read.entries)


def check_deny_list(read: SettingsReader) -> Iterator[Problem]:
    """Everything that is wrong with ``identity.deny_list``."""
    for place, settings in read.of(DenyListSettings):
        for problem in _complaints(settings.entries, settings.mark):
            yield Problem(f"{place}: {problem.message}", problem.mark)
        if settings.mark is not None and settings.file is None and "entries" not in _written(read, place.path):
            yield Problem(f"{place}: it says nothing; write file: FILE, entries:, or both", settings.mark)


def _written(read: SettingsReader, path: str) -> set[str]:
    return {key for key in ("entries", "file") if f"{path}.{key}" in read.marks}


def _complaints(entries: list[DenyEntry], mark: Mark | None) -> Iterator[Problem]:
    for entry, earlier in duplicates(entries):
        first = f"; first in line {earlier.mark.line}" if earlier.mark is not None else ""
        yield Problem(f"{entry} is denied twice{first}", entry.mark)
    if len(entries) > MAX_ENTRIES:
        yield Problem(
            f"{len(entries)} entries are more than a deny-list holds ({MAX_ENTRIES}); let certificates live shorter, "
            "or replace the authority that issued them",
            mark,
        )
