"""
The names that a configuration gives, and whether every reference is to one of them.

Ring 1. Names are taken from the nodes, not from what could be built of them, so that one mistake inside of a service
does not make it unknown to all who refer to it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from tcpmesh.addresses import shown
from tcpmesh.config.nodes import ListNode, MapNode, Node, Scalar
from tcpmesh.config.problems import Problems, closest, did_you_mean
from tcpmesh.config.scalars import REFERENCES
from tcpmesh.config.structure import Reference
from tcpmesh.settings import IdentitySettings, Settings, keys
from tcpmesh.values import InboundName, OutboundName, ServiceName, SourceName, WorkloadName

__all__ = ["Names", "check_names", "check_references", "names_given"]

# Names are shown in logs, metrics, commands and URLs; one alphabet spares each of them its own escaping.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

# Where the names of each type are given: as keys of a mapping, or as the "name" of a list's entries.
_SECTIONS: Mapping[Any, tuple[tuple[str, ...], type[MapNode] | type[ListNode]]] = {
    ServiceName: (("services",), MapNode),
    SourceName: (("identity", "sources"), MapNode),
    WorkloadName: (("identity", "workloads"), MapNode),
    InboundName: (("inbound",), ListNode),
    OutboundName: (("outbound",), ListNode),
}


@attrs.frozen(eq=False)
class Names:
    """
    Every name that the file gives, by the type of the references to it.

    ``doubtful`` are the types whose section is misspelt or of the wrong shape: that is said once, at the section,
    and not again at each reference to what may be in it.
    """

    given: Mapping[Any, tuple[Scalar, ...]]
    doubtful: frozenset[Any]

    def of(self, kind: Any) -> list[str]:
        """The names of one type."""
        return [name.text for name in self.given[kind]]


def names_given(root: MapNode) -> Names:
    """Collect the names of a file."""
    sections = {kind: _section(root, path) for kind, (path, _) in _SECTIONS.items()}
    doubtful = frozenset(
        kind for kind, (_, shape) in _SECTIONS.items() if not isinstance(sections[kind], (shape, types.NoneType))
    )
    given = {kind: () if kind in doubtful else tuple(_names_in(section)) for kind, section in sections.items()}
    return Names(given, doubtful)


def _section(root: MapNode, path: tuple[str, ...]) -> Node | None:
    """The section at a path, or whatever stands in its way; None if it was left out and nothing looks like it."""
    node: Node = root
    for key, settings in zip(path, (Settings, IdentitySettings), strict=False):
        if not isinstance(node, MapNode):
            return node
        entry = node.entries.get(key)
        if entry is None:
            known = keys(settings)
            strangers = (other for text, other in node.entries.items() if text not in known)
            return next((other.key for other in strangers if closest(other.key.text, known) == key), None)
        node = entry.value
    return node


def _names_in(section: Node | None) -> Iterator[Scalar]:
    """Keys of a mapping; in a list, each entry's ``name``."""
    if isinstance(section, MapNode):
        yield from (entry.key for entry in section.entries.values())
    elif isinstance(section, ListNode):
        for item in section.items:
            entry = item.entries.get("name") if isinstance(item, MapNode) else None
            if entry is not None and isinstance(entry.value, Scalar) and entry.value.tag == "str":
                yield entry.value


def check_names(names: Names, problems: Problems) -> None:
    """Refuse names that cannot be shown everywhere, and two listeners of one name."""
    for kind, given in names.given.items():
        for name in given:
            if name.tag == "str" and not _NAME.fullmatch(name.text):
                problems.add(
                    f"{shown(name.text)} cannot name {_article(REFERENCES[kind])}: use up to 63 letters, digits, '.', "
                    "'_' and '-', beginning with a letter or digit",
                    name.mark,
                )
    taken: dict[str, Scalar] = {}
    for name in _in_order((*names.given[InboundName], *names.given[OutboundName])):
        first = taken.setdefault(name.text, name)
        if first is not name:
            problems.add(
                f"a listener named {shown(name.text)} exists already, in line {first.mark.line}; "
                "logs and metrics tell listeners apart by name",
                name.mark,
            )


def _in_order(names: Iterable[Scalar]) -> list[Scalar]:
    return sorted(names, key=lambda name: (name.mark.line, name.mark.column))


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def check_references(references: Iterable[Reference], names: Names, problems: Problems) -> None:
    """Every name that something refers to must be given somewhere."""
    known = {kind: frozenset(names.of(kind)) for kind in REFERENCES}
    for reference in references:
        if reference.target not in names.doubtful and reference.name not in known[reference.target]:
            what = REFERENCES[reference.target]
            problems.add(
                f"{reference.place}: there is no {what} {shown(reference.name)}"
                + did_you_mean(reference.name, names.of(reference.target), f"{what}s"),
                reference.mark,
            )
