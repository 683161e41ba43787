"""
Policies in files of their own: what is in all of them together, or everything that is wrong.

Ring 1. Files come as bytes. One that has not changed since it was read last is not parsed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from tcpmesh.config.names import Names, check_references
from tcpmesh.config.nodes import MapNode, Scalar, compose
from tcpmesh.config.places import Place
from tcpmesh.config.problems import Problems
from tcpmesh.config.scalars import REFERENCES
from tcpmesh.config.structure import SettingsReader
from tcpmesh.config.syntax import decode
from tcpmesh.errors import ConfigurationError, Mark, Problem
from tcpmesh.interfaces import IPluginFactory, PluginKind
from tcpmesh.policy.language import Policy, PolicyFile, check_names
from tcpmesh.values import InboundName, ServiceName

__all__ = ["MAX_BYTES", "NoPlugins", "PolicyReader"]

MAX_BYTES = 16 * 2**20  # of all files together
_PLACE = Place("", "authorization.*:rules")  # so that keys of later versions are told from misspelt ones


@attrs.frozen(eq=False)
class _Parsed:
    digest: bytes
    policies: tuple[Policy, ...]


class PolicyReader:
    """
    Reads the files of one entry of ``authorization``, again and again.

    :param inline: policies that stand in front of those in files.
    :param inbound: the names that there are, so that one that refers to nothing is found.
    :param services: the same.
    """

    def __init__(self, inline: Sequence[Policy], inbound: Iterable[str], services: Iterable[str]) -> None:
        self._inline = tuple(inline)
        nowhere = Mark("", 1, 1)
        given = dict.fromkeys(REFERENCES, ()) | {
            InboundName: tuple(Scalar(nowhere, name) for name in inbound),
            ServiceName: tuple(Scalar(nowhere, name) for name in services),
        }
        self._names = Names(given, frozenset())
        self._known: dict[Path, _Parsed] = {}

    def read(self, files: Sequence[tuple[Path, bytes]]) -> tuple[Policy, ...]:
        """
        All policies in their order.

        :raises ConfigurationError: with everything that is wrong, each at its file, line and column.
        """
        if sum(len(data) for _, data in files) > MAX_BYTES:
            raise ConfigurationError([Problem(f"there are more than {MAX_BYTES // 2**20} MiB of policies in files")])
        parsed: dict[Path, _Parsed] = {}
        problems: list[Problem] = []
        for path, data in files:
            digest = hashlib.sha256(data).digest()
            known = self._known.get(path)
            try:
                parsed[path] = known if known and known.digest == digest else _Parsed(digest, self._parse(path, data))
            except ConfigurationError as error:
                problems.extend(error.problems)
        policies = (*self._inline, *(policy for file in parsed.values() for policy in file.policies))
        if not problems:
            try:
                check_names(policies)
            except ValueError as error:
                problems.append(Problem(str(error)))
        if problems:
            raise ConfigurationError(problems)
        self._known = parsed
        return policies

    def _parse(self, path: Path, data: bytes) -> tuple[Policy, ...]:
        problems = Problems(str(path))
        root = compose(decode(data, problems), problems)
        if not isinstance(root, MapNode):
            problems.fail(
                "this is no file of policies: expected the key 'policies' and a list; to say that there are none, "
                "write policies: []",
                Mark(problems.file, 1, 1),
            )
        reader = SettingsReader(path.parent, NoPlugins(), problems)
        found = reader.read(root, PolicyFile, _PLACE)
        check_references(reader.references, self._names, problems)
        problems.raise_if_any()
        assert isinstance(found, PolicyFile), "a failed read leaves a problem"
        return tuple(found.policies)


class NoPlugins:
    """For files none of whose keys chooses a plugin. (IPluginLookup)"""

    def find(self, kind: PluginKind, name: str) -> IPluginFactory:
        """There is none."""
        raise LookupError(name)

    def names(self, kind: PluginKind) -> Sequence[str]:
        """None."""
        return ()
