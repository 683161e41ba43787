"""
The names that a configuration gives, and whether every reference is to one of them.

Ring 1. Names are taken from the nodes, not from what could be built of them, so that one mistake inside of a service
does not make it unknown to all who refer to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tcpmesh.addresses import shown
from tcpmesh.config.nodes import ListNode, MapNode, Node, Scalar
from tcpmesh.config.problems import Problems, did_you_mean
from tcpmesh.config.scalars import REFERENCES
from tcpmesh.config.structure import Reference
from tcpmesh.values import InboundName, OutboundName, ServiceName, SourceName, WorkloadName

__all__ = ["Names", "check_names", "check_references", "names_given"]

# Names are shown in logs, metrics, commands and URLs; one alphabet spares each of them its own escaping.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

Names = Mapping[Any, tuple[Scalar, ...]]


def names_given(root: MapNode) -> Names:
    """Every name that the file gives, by the type of the references to it."""
    return {
        ServiceName: tuple(_keys(_at(root, "services"))),
        SourceName: tuple(_keys(_at(root, "identity", "sources"))),
        WorkloadName: tuple(_keys(_at(root, "identity", "workloads"))),
        InboundName: tuple(_names(_at(root, "inbound"))),
        OutboundName: tuple(_names(_at(root, "outbound"))),
    }


def _at(node: Node | None, *keys: str) -> Node | None:
    for key in keys:
        entry = node.entries.get(key) if isinstance(node, MapNode) else None
        node = None if entry is None else entry.value
    return node


def _keys(node: Node | None) -> Iterator[Scalar]:
    if isinstance(node, MapNode):
        for entry in node.entries.values():
            yield entry.key


def _names(node: Node | None) -> Iterator[Scalar]:
    for item in node.items if isinstance(node, ListNode) else ():
        name = _at(item, "name")
        if isinstance(name, Scalar) and name.tag == "str":
            yield name


def check_names(names: Names, problems: Problems) -> None:
    """Refuse names that cannot be shown everywhere, and two listeners of one name."""
    for kind, given in names.items():
        for name in given:
            if name.tag == "str" and not _NAME.fullmatch(name.text):
                problems.add(
                    f"{shown(name.text)} cannot name {_article(REFERENCES[kind])}: use up to 63 letters, digits, '.', "
                    "'_' and '-', beginning with a letter or digit",
                    name.mark,
                )
    taken: dict[str, Scalar] = {}
    for name in _in_order((*names[InboundName], *names[OutboundName])):
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
    known = {kind: {name.text for name in given} for kind, given in names.items()}
    for reference in references:
        if reference.name not in known[reference.target]:
            what = REFERENCES[reference.target]
            listed = [name.text for name in names[reference.target]]
            problems.add(
                f"{reference.place}: there is no {what} {shown(reference.name)}"
                + did_you_mean(reference.name, listed, f"{what}s"),
                reference.mark,
            )
