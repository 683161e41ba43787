"""
Positioned nodes to settings classes, by the types of their fields.

Ring 1. Reads ours and any plugin author's: whatever a class declares is its rule. Nothing is raised for what an
operator wrote; it is noted, and the reading goes on with the next key, so that all problems are seen at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

import attrs

from tcpmesh.addresses import shown
from tcpmesh.config.construction import Objection, construct
from tcpmesh.config.hints import (
    LISTS,
    Schema,
    UnreadableTypeError,
    alternatives,
    describe,
    plain,
    plugin_kind,
    schema,
)
from tcpmesh.config.later import ELSEWHERE, is_later_key
from tcpmesh.config.lookup import IPluginLookup
from tcpmesh.config.nodes import Entry, ListNode, MapNode, Node, Scalar
from tcpmesh.config.places import Place
from tcpmesh.config.problems import Problems, closest, did_you_mean
from tcpmesh.config.scalars import REFERENCES
from tcpmesh.config.words import read_scalar
from tcpmesh.errors import Mark
from tcpmesh.interfaces import IPluginFactory, PluginKind
from tcpmesh.settings import PluginChoice

__all__ = ["FAILED", "Leftover", "Reference", "SettingsReader"]

FAILED: Final = object()  # what a read that noted a problem gives

_T = TypeVar("_T")


@attrs.frozen
class Reference:
    """A name that must be that of something else; ``target`` is its type, one of the names of values.py."""

    target: Any
    name: str
    place: Place
    mark: Mark


@attrs.frozen(eq=False)
class Leftover:
    """A workload whose further keys belong to its source, which is known when everything is read."""

    place: Place
    source: Any  # a name, None, or FAILED
    keys: MapNode


class SettingsReader:
    """
    Reads nodes, and remembers what the checks of the whole need: what was built and what was written where.

    :param directory: what relative paths are relative to.
    """

    def __init__(self, directory: Path, plugins: IPluginLookup, problems: Problems) -> None:
        self._directory = directory
        self._plugins = plugins
        self._problems = problems
        self._built: list[tuple[Place, Any]] = []
        self.marks: dict[str, Mark] = {}  # by path
        self.references: list[Reference] = []
        self.leftovers: list[Leftover] = []
        self.meant: dict[str, set[str | None]] = {}  # by path of a mapping: keys that are misspelt in it
        self.chosen: dict[str, tuple[str, IPluginFactory]] = {}  # by path: each plugin that was found

    def of(self, settings: type[_T]) -> Iterator[tuple[Place, _T]]:
        """Every instance of a class that could be built, in the order of reading."""
        return ((place, built) for place, built in self._built if isinstance(built, settings))

    def read(self, node: Node, hint: Any, place: Place) -> Any:
        """
        Read a node as a value of a type.

        :raises UnreadableTypeError: when nothing can be read into such a type.
        """
        self.marks[place.path] = node.mark
        found = alternatives(hint)
        if isinstance(node, Scalar):
            return self._scalar(node, hint, place)
        members = found.of(node)
        if not members:
            what = "a list" if isinstance(node, ListNode) else "a mapping"
            hyphen = "; begin each entry with '- '" if found.lists else ""
            return self._note(f"{place}: expected {describe(hint)}, got {what}{hyphen}", node.mark)
        (member,) = members
        if isinstance(node, ListNode):
            return self._list(node, member, place)
        kind = plugin_kind(member)
        if kind is not None:
            return self._choice(node, kind, place)
        if get_origin(member) is not None:
            return self._dict(node, member, place)
        return self.read_class(node, member, place)

    def _note(self, message: str, mark: Mark) -> Any:
        self._problems.add(message, mark)
        return FAILED

    def _scalar(self, node: Scalar, hint: Any, place: Place) -> Any:
        try:
            value, member = read_scalar(node, hint, self._directory, place.pattern)
        except ValueError as error:
            return self._note(f"{place}: {error}", node.mark)
        if member in REFERENCES:
            self.references.append(Reference(member, value, place, node.mark))
        return value

    def _list(self, node: ListNode, hint: Any, place: Place) -> Any:
        (of, *_) = get_args(hint)
        items = [self.read(item, of, place.item(index)) for index, item in enumerate(node.items)]
        if any(item is FAILED for item in items):
            return FAILED
        return LISTS[get_origin(hint)](items)

    def _dict(self, node: MapNode, hint: Any, place: Place) -> Any:
        key_hint, value_hint = get_args(hint)
        values = {}
        for text, entry in node.entries.items():
            at = place.entry(text)
            key = self._scalar(entry.key, plain(key_hint), at)
            if key in values and key is not FAILED:
                self._problems.add(f"key {shown(text)} is given twice{place.inside}, in two spellings", entry.key.mark)
            values[key] = self.read(entry.value, value_hint, at)
        return FAILED if FAILED in values or any(value is FAILED for value in values.values()) else values

    def _choice(self, node: MapNode, kind: PluginKind, place: Place) -> Any:
        entry = node.entries.get("plugin")
        if entry is None:
            for text, other in node.entries.items():
                if closest(text, ["plugin"]):
                    return self._note(
                        f"unknown key {shown(text)}{place.inside}; did you mean 'plugin'?", other.key.mark
                    )
            known = ", ".join(self._plugins.names(kind))
            return self._note(f"key 'plugin' is missing{place.inside}; {kind.name} plugins: {known}", node.mark)
        name = self.read(entry.value, str, place.key("plugin"))
        if name is FAILED:
            return FAILED
        siblings = {text: entry for text, entry in node.entries.items() if text != "plugin"}
        return self.choose(kind, name, MapNode(node.mark, siblings), place, entry.value.mark)

    def choose(self, kind: PluginKind, name: str, siblings: MapNode, place: Place, mark: Mark) -> Any:
        """Read the settings of a plugin; ``mark`` is where its name was written."""
        factory = self._factory(kind, name, place, mark)
        if factory is None:
            return FAILED
        self.chosen[place.path] = name, factory
        settings = self.read_plugin(
            siblings, factory.settings, f"{kind.name} plugin {name!r}", place.settings_of(name), mark
        )
        return FAILED if settings is FAILED else PluginChoice(name, settings, siblings.mark)

    def _factory(self, kind: PluginKind, name: str, place: Place, mark: Mark) -> IPluginFactory | None:
        try:
            return self._plugins.find(kind, name)
        except LookupError as error:
            message = str(error.args[0]) if error.args else f"there is no {kind.name} plugin {shown(name)}"
        self._problems.add(f"{place}: {message}", mark)
        return None

    def read_plugin(
        self, node: MapNode, settings: type, whose: str, place: Place, mark: Mark, beside: Iterable[str] = ()
    ) -> Any:
        """Read a class that a plugin declares; one that cannot be read is a problem like any other."""
        try:
            return self.read_class(node, settings, place, beside)
        except UnreadableTypeError as error:
            return self._note(f"{place}: the {whose} cannot be configured, its author must correct this: {error}", mark)

    def read_class(self, node: MapNode, settings: type, place: Place, beside: Iterable[str] = ()) -> Any:
        """
        Read a mapping into an attrs class; ``beside`` are keys that were read before and may be suggested.

        :raises UnreadableTypeError: when the class is not made for that.
        """
        declared = schema(settings)
        values: dict[str, Any] = dict.fromkeys(declared.places, node.mark)
        unknown: dict[str, Entry] = {}
        for text, entry in node.entries.items():
            field = declared.fields.get(text)
            if field is None:
                unknown[text] = entry
            else:
                hint = declared.hints[field.name]
                values[field.alias or text] = self._field(entry.value, field, hint, place.key(text))
        meant: set[str | None] = set()
        if declared.open:
            self.leftovers.append(Leftover(place, values.get("source"), MapNode(node.mark, unknown)))
        else:
            meant = {self.unknown_key(entry.key, settings, place, beside) for entry in unknown.values()}
            self.meant[place.path] = meant
        for text, field in declared.fields.items():
            if text in node.entries:
                continue
            if field.default is not attrs.NOTHING:
                self._default(field, declared.hints[field.name], node.mark, place.key(text), values)
                continue
            values[field.alias or text] = FAILED
            if text not in meant:
                self._problems.add(f"key {text!r} is missing{place.inside}", node.mark)
        if any(value is FAILED for value in values.values()):
            return FAILED
        instance, objections = construct(settings, values)
        for objection in objections:
            self._object(objection, declared, node, place)
        if objections:
            return FAILED
        self._built.append((place, instance))
        return instance

    def _field(self, node: Node, field: attrs.Attribute[Any], hint: Any, place: Place) -> Any:
        known = len(self._problems)
        value = self.read(node, hint, place)
        if not field.repr:  # the author keeps it out of logs; so do we
            self._problems.conceal(known, f"{place}: the value, which is secret and not shown, is not {describe(hint)}")
        return value

    def _default(
        self, field: attrs.Attribute[Any], hint: Any, mark: Mark, place: Place, values: dict[str, Any]
    ) -> None:
        """A plugin that is chosen by default has settings too."""
        kind = plugin_kind(hint)
        if kind is None:
            return
        default: Any = field.default
        choice = default.factory() if hasattr(default, "factory") else default
        if isinstance(choice, PluginChoice) and choice.settings is None:
            values[field.alias or field.name] = self.choose(kind, choice.plugin, MapNode(mark), place, mark)

    def _object(self, objection: Objection, declared: Schema, node: MapNode, place: Place) -> None:
        for text, field in declared.fields.items():
            if objection.argument == (field.alias or field.name) and text in node.entries:
                message = objection.message if field.repr else "the value, which is secret and not shown, is refused"
                self._problems.add(f"{place.key(text)}: {message}", node.entries[text].value.mark)
                return
        self._problems.add(f"{place}: {objection.message}", node.mark)

    def unknown_key(self, key: Scalar, settings: type, place: Place, more: Iterable[str] = ()) -> str | None:
        """
        Complain about a key; ``more`` are keys that are known here although the class does not declare them.

        :return: the key that was probably meant.
        """
        if is_later_key(place.pattern, key.text):
            self._problems.add(f"{place.key(key.text)} is not in this version", key.mark)
            return None
        declared = schema(settings)
        known = [*declared.fields, *more]
        inner = [
            f"{text}.{key.text}"
            for text, field in declared.fields.items()
            for member in alternatives(declared.hints[field.name]).mappings
            if plugin_kind(member) is None and get_origin(member) is None and key.text in schema(member).fields
        ]
        hint = did_you_mean(key.text, known, "known keys") if known else "; nothing can be set here"
        before, colon, after = key.text.partition(":")
        if colon and before in known:
            hint = f"; a space is missing in {shown(f'{before}: {after}')}"
        elif key.text in ELSEWHERE.get(place.pattern, ()):
            hint = f"; this is said in {ELSEWHERE[place.pattern][key.text]}"
        elif inner:
            hint = f"; did you mean {inner[0]!r}?"
        self._problems.add(f"unknown key {shown(key.text)}{place.inside}{hint}", key.mark)
        return closest(key.text, known)
