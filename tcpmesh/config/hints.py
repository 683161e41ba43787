"""
What the type of a field allows: its shape, its members, and how to say it.

Ring 1.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

import attrs

from tcpmesh.config.nodes import ListNode, MapNode
from tcpmesh.config.problems import enumerate_words
from tcpmesh.config.scalars import SCALARS
from tcpmesh.interfaces import PluginKind
from tcpmesh.port_ranges import ListenAddress
from tcpmesh.settings import OTHER_KEYS, PluginChoice, is_place, keys
from tcpmesh.values import Address, ExpectedIdentity

__all__ = [
    "Alternatives",
    "Schema",
    "UnreadableTypeError",
    "alternatives",
    "describe",
    "plain",
    "plugin_kind",
    "required_keys",
    "schema",
]

LISTS: dict[Any, Any] = {list: list, Sequence: list, tuple: tuple, set: set, frozenset: frozenset}
MAPPINGS = (dict, Mapping)


class UnreadableTypeError(TypeError):
    """A settings class declares what no file can be read into; its author is to blame, not the operator."""


@attrs.frozen
class Schema:
    """
    One settings class: its fields by key, their types by field name, the arguments that receive a place, and whether
    the keys that it does not name are somebody else's.
    """

    fields: Mapping[str, attrs.Attribute[Any]]
    hints: Mapping[str, Any]
    places: Sequence[str]
    open: bool


@lru_cache(maxsize=256)
def schema(settings: type) -> Schema:
    """
    Look at a settings class.

    :raises UnreadableTypeError: when it is none, or names types that cannot be resolved.
    """
    if not (isinstance(settings, type) and attrs.has(settings)):
        raise UnreadableTypeError(f"{settings!r} is not an attrs class")
    try:
        hints = get_type_hints(settings, include_extras=True)
        fields = keys(settings)
        hash(tuple(hints.values()))  # what is looked up by type must be hashable; annotations need not be
    except Exception as error:
        raise UnreadableTypeError(f"the types of {settings.__qualname__} cannot be resolved: {error}") from error
    places = [
        field.alias or field.name for field in attrs.fields(settings) if field.init and is_place(hints.get(field.name))
    ]
    return Schema(fields, hints, places, any(OTHER_KEYS in field.metadata for field in attrs.fields(settings)))


def required_keys(hint: Any) -> Mapping[str, Any]:
    """The keys that a mapping of this type must have, with their types, if it is a settings class."""
    if not _is_settings(hint):
        return {}
    declared = schema(hint)
    return {key: declared.hints[field.name] for key, field in declared.fields.items() if field.default is attrs.NOTHING}


def plugin_kind(hint: Any) -> PluginKind | None:
    """The kind of plugin that a field chooses, None for every other field."""
    if get_origin(hint) is not Annotated:
        return None
    return next((note for note in get_args(hint)[1:] if isinstance(note, PluginKind)), None)


def plain(hint: Any) -> Any:
    """The type without annotations and, unless it is known by its name, without NewType."""
    while hint not in SCALARS:
        if get_origin(hint) is Annotated and plugin_kind(hint) is None:
            hint = get_args(hint)[0]
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        else:
            break
    return hint


@attrs.frozen
class Alternatives:
    """The members of a type, by the kind of node that each is read from. None is not a way of writing anything."""

    words: tuple[str | int | bool, ...]
    scalars: tuple[Any, ...]
    lists: tuple[Any, ...]
    mappings: tuple[Any, ...]

    def of(self, node: ListNode | MapNode) -> tuple[Any, ...]:
        """Those that such a node can be."""
        return self.lists if isinstance(node, ListNode) else self.mappings


@lru_cache(maxsize=1024)
def alternatives(hint: Any) -> Alternatives:
    """
    Take a type apart.

    :raises UnreadableTypeError: for a type that nothing can be read into.
    """
    words: list[Any] = []
    scalars: list[Any] = []
    lists: list[Any] = []
    mappings: list[Any] = []
    for member in _members(hint):
        origin = get_origin(member)
        if member in SCALARS:
            scalars.append(member)
        elif origin is Literal:
            words += get_args(member)
        elif origin in LISTS and _is_uniform(member):
            lists.append(member)
        elif (origin in MAPPINGS and _is_keyed(member)) or plugin_kind(member) is not None or _is_settings(member):
            mappings.append(member)
        else:
            raise UnreadableTypeError(f"{member!r} is not a type that a key can have")
    if len(lists) > 1 or len(mappings) > 1:
        raise UnreadableTypeError(f"in {hint!r}, what is written cannot tell which is meant")
    return Alternatives(tuple(words), tuple(scalars), tuple(lists), tuple(mappings))


def _members(hint: Any) -> list[Any]:
    hint = plain(hint)
    if hint in SCALARS or get_origin(hint) not in (Union, types.UnionType):
        return [hint]
    members = [plain(member) for member in get_args(hint) if member is not types.NoneType]
    # Python flattens Address | None and the like; both halves of such a pair are read together.
    for pair in (ListenAddress, Address, ExpectedIdentity):
        if set(get_args(pair)) <= set(members):
            members = [pair, *(member for member in members if member not in get_args(pair))]
    return members


def _is_uniform(hint: Any) -> bool:
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return len(arguments) == 2 and arguments[1] is Ellipsis
    if len(arguments) == 1 and get_origin(hint) in (set, frozenset):
        element = alternatives(arguments[0])
        return not element.lists and not element.mappings  # which may not be hashable
    return len(arguments) == 1


def _is_keyed(hint: Any) -> bool:
    arguments = get_args(hint)
    return len(arguments) == 2 and plain(arguments[0]) in SCALARS


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and attrs.has(hint) and hint is not PluginChoice


def describe(hint: Any) -> str:
    """Say what is expected, with an article."""
    found = alternatives(hint)
    return enumerate_words(
        [
            *(repr(word) for word in found.words),
            *(SCALARS[scalar].description for scalar in found.scalars),
            *("a list" for _ in found.lists),
            *(_describe_mapping(mapping) for mapping in found.mappings),
        ]
    )


def _describe_mapping(hint: Any) -> str:
    required = ["plugin"] if plugin_kind(hint) is not None else list(required_keys(hint))
    if not required:
        known = list(schema(hint).fields) if _is_settings(hint) else []
        if len(known) != 1:
            return f"a mapping with any of the keys {', '.join(known)}" if known else "a mapping"
        required = known
    return f"a mapping with the key{'s' if len(required) > 1 else ''} {', '.join(required)}"
