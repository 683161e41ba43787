"""
YAML text to positioned nodes: what was written where, before anybody asks what it means.

Ring 1. PyYAML composes the text; nothing is ever constructed from it. Everything a hostile or mangled file could
make large (depth, aliases, merged keys) is bounded here, so that the readers behind need not care.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import attrs
import yaml

from tcpmesh.addresses import shown
from tcpmesh.config.problems import Problems
from tcpmesh.config.syntax import check_characters, explain
from tcpmesh.errors import Mark

__all__ = ["Entry", "ListNode", "MapNode", "Node", "Scalar", "compose", "compose_all"]

MAX_DEPTH = 32
MAX_VALUES = 100_000

# What YAML 1.1 takes an unquoted scalar for. "other" is what has no meaning here: "=" and the like.
Tag = Literal["str", "int", "float", "bool", "null", "timestamp", "other"]
_TAGS: dict[str, Tag] = {
    f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "timestamp")
}
_MERGE = "tag:yaml.org,2002:merge"

# Escapes in double quotes can make what no file may hold: controls, line separators, halves of surrogate pairs. The
# others look like nothing, or like a space, and make equal texts differ: no-break space, zero-width characters,
# bidirectional controls.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\uffff]"
)


@attrs.frozen(eq=False)
class Scalar:
    """One word, number or text; ``tag`` is how YAML reads it, ``text`` how it is written (without quotes)."""

    mark: Mark
    text: str
    tag: Tag = "str"
    quoted: bool = False


@attrs.frozen(eq=False)
class ListNode:
    """A sequence."""

    mark: Mark
    items: tuple[Node, ...]


@attrs.frozen(eq=False)
class Entry:
    """A key and its value; the key keeps its own place."""

    key: Scalar
    value: Node


@attrs.frozen(eq=False)
class MapNode:
    """A mapping, with merge keys already merged in, by the text of its keys."""

    mark: Mark
    entries: dict[str, Entry] = attrs.field(factory=dict)


Node = Scalar | ListNode | MapNode


def compose(text: str, problems: Problems, max_values: int = MAX_VALUES) -> Node | None:
    """
    Read one document; None if there is nothing in it.

    Duplicate keys, tags and invisible characters are added to ``problems`` and left out.

    :param max_values: how many values it may hold, with every alias followed and every merge done.

    :raises tcpmesh.errors.ConfigurationError: when the text is not YAML, or too deep or too large to go on.
    """
    (root,) = _compose(text, problems, max_values, lambda loader: [loader.get_single_node()])
    return None if root is None else _Conversion(problems, max_values).convert(root)


def compose_all(text: str, problems: Problems, max_values: int = MAX_VALUES) -> list[Node]:
    """
    Read every document of a stream, those with nothing in them left out; else as :func:`compose`.

    :param max_values: how many values all of them together may hold.
    :raises tcpmesh.errors.ConfigurationError: as :func:`compose`.
    """

    def documents(loader: _Loader) -> list[Any]:
        found = []
        while loader.check_node():
            found.append(loader.get_node())
        return found

    conversion = _Conversion(problems, max_values)
    return [conversion.convert(root) for root in _compose(text, problems, max_values, documents)]


def _compose(text: str, problems: Problems, max_values: int, read: Callable[[_Loader], list[Any]]) -> list[Any]:
    check_characters(text, problems)
    loader = _Loader(text, problems, max_values)
    try:
        return read(loader)
    except yaml.YAMLError as error:
        message, mark = explain(error)
        problems.fail(message, _at(problems.file, mark) if mark is not None else None)
    except (ValueError, OverflowError):  # an escape or a directive with a number beyond all bounds
        problems.fail("a number in an escape or a directive is too large", _at(problems.file, loader.get_mark()))
    finally:
        loader.dispose()


def _at(file: str, mark: Any) -> Mark:
    return Mark(file, mark.line + 1, mark.column + 1)


class _Loader(yaml.SafeLoader):
    """Composes nodes, no deeper than allowed, and refuses tags."""

    def __init__(self, text: str, problems: Problems, max_values: int) -> None:
        super().__init__(text)
        self._problems = problems
        self._max_values = max_values
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose whatever comes next."""
        event: Any = self.peek_event()
        mark = _at(self._problems.file, event.start_mark)
        if self._depth >= MAX_DEPTH:
            self._problems.fail(f"this is nested deeper than {MAX_DEPTH} levels", mark)
        self._nodes += 1
        if self._nodes > 2 * self._max_values:  # every value may have a key
            self._problems.fail(f"the file holds more than {self._max_values} values", mark)
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._problems.add(f"YAML tags are not supported: remove {shown(tag)}, or for text put it in quotes", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Conversion:
    """
    Turns PyYAML's nodes into ours, each once: an alias is the same node again.

    ``_sizes`` counts every node as often as aliases repeat it, without repeating the work.
    """

    def __init__(self, problems: Problems, max_values: int) -> None:
        self._problems = problems
        self._max_values = max_values
        self._done: dict[int, Node] = {}
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()
        self._entries = 0

    def convert(self, node: yaml.Node) -> Node:
        """Convert a node and all below it."""
        known = self._done.get(id(node))
        if known is not None:
            return known
        mark = _at(self._problems.file, node.start_mark)
        if id(node) in self._open:
            self._problems.fail("an alias inside of what it stands for: this would never end", mark)
        self._open.add(id(node))
        converted: Node
        if isinstance(node, yaml.MappingNode):
            converted = self._mapping(node, mark)
            size = sum(self._sizes[id(entry.value)] for entry in converted.entries.values())
        elif isinstance(node, yaml.SequenceNode):
            converted = ListNode(mark, tuple(self.convert(item) for item in node.value))
            size = sum(self._sizes[id(item)] for item in converted.items)
        else:
            converted = self._scalar(node, mark)
            size = 0
        self._open.discard(id(node))
        self._bound(size + 1, mark)
        self._done[id(node)] = converted
        self._sizes[id(converted)] = size + 1
        return converted

    def _bound(self, size: int, mark: Mark) -> None:
        if size > self._max_values:
            self._problems.fail(f"this holds more than {self._max_values} values once its aliases are followed", mark)

    def _scalar(self, node: Any, mark: Mark) -> Scalar:
        text: str = node.value
        unseen = _UNSEEN.search(text)
        if unseen is not None:
            # Without the text, which may be a secret; its place is enough.
            self._problems.add(
                f"this holds the invisible character U+{ord(unseen.group()):04X}; remove or retype it", mark
            )
        return Scalar(mark, text, _TAGS.get(node.tag, "other"), quoted=node.style is not None)

    def _mapping(self, node: Any, mark: Mark) -> MapNode:
        own: dict[str, Entry] = {}
        merged: list[Entry] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE and key_node.style is None:
                merged += self._merged(value_node)
                continue
            key = self._key(key_node)
            value = self.convert(value_node)
            if key is None:
                continue
            first = own.get(key.text)
            if first is not None:
                self._problems.add(
                    f"key {shown(key.text)} is given twice; first in line {first.key.mark.line}", key.mark
                )
                continue
            own[key.text] = Entry(key, value)
        for entry in merged:  # of several, the first that is merged wins; the mapping's own keys win over all
            own.setdefault(entry.key.text, entry)
        self._count(len(own), mark)
        return MapNode(mark, own)

    def _count(self, entries: int, mark: Mark) -> None:
        self._entries += entries
        self._bound(self._entries, mark)

    def _key(self, node: Any) -> Scalar | None:
        mark = _at(self._problems.file, node.start_mark)
        if not isinstance(node, yaml.ScalarNode):
            self._problems.add("a key must be a word, not a list or a mapping", mark)
            return None
        if not node.value and node.style is None:
            self._problems.add("a key is missing in front of ':'", mark)
            return None
        key = self.convert(node)
        assert isinstance(key, Scalar)
        return key

    def _merged(self, node: yaml.Node) -> list[Entry]:
        mark = _at(self._problems.file, node.start_mark)
        value = self.convert(node)
        parts = value.items if isinstance(value, ListNode) else (value,)
        entries: list[Entry] = []
        for part in parts:
            if isinstance(part, MapNode):
                self._count(len(part.entries), mark)
                entries += part.entries.values()
            else:
                self._problems.add("'<<' merges a mapping or a list of mappings into this one", mark)
        return entries
