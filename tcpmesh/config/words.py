"""
One scalar to a value of a type that may have several: words that are given, and ways of writing.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from tcpmesh.addresses import shown
from tcpmesh.config.hints import Alternatives, alternatives, describe, plugin_kind, required_keys
from tcpmesh.config.later import is_later_value
from tcpmesh.config.nodes import Scalar
from tcpmesh.config.problems import did_you_mean
from tcpmesh.config.scalars import SCALARS, misread, quoted

__all__ = ["read_scalar"]


def read_scalar(node: Scalar, hint: Any, directory: Path, pattern: str) -> tuple[Any, Any]:
    """
    Read a scalar.

    :param pattern: of the place, to tell a word of a later version from a misspelt one.
    :return: the value, and which member of the type it is of.
    :raises ValueError: with what was expected and what came.
    """
    found = alternatives(hint)
    for word in found.words:
        if _is_word(node, word):
            return word, type(word)
    if found.words and is_later_value(pattern, node.text):
        raise ValueError(f"{shown(node.text)} is not in this version")
    if not node.text and not node.quoted:
        raise ValueError(f"there is no value; expected {describe(hint)}")
    if not found.scalars:
        raise ValueError(_refusal(node, hint, found))
    _refuse_bare_word(node, hint, found)
    messages = []
    for member in found.scalars:
        try:
            return SCALARS[member].read(node, directory), member
        except ValueError as error:
            messages.append(str(error))
    if len(messages) > 1 or (found.words and node.tag != "str"):
        raise ValueError(_refusal(node, hint, found))
    raise ValueError(messages[0])


def _is_word(node: Scalar, word: str | int | bool) -> bool:
    if isinstance(word, str):
        return node.tag == "str" and node.text == word
    tag = "bool" if isinstance(word, bool) else "int"
    return node.tag == tag and node.text.lower() == str(word).lower()


def _texts(found: Alternatives) -> Sequence[str]:
    return [word for word in found.words if isinstance(word, str)]


def _refuse_bare_word(node: Scalar, hint: Any, found: Alternatives) -> None:
    """``trust: sistem`` and ``access: stdout`` are not files, although a file may be written there."""
    if not found.words or Path not in found.scalars or node.tag != "str" or not node.text:
        return
    if "/" not in node.text and "." not in node.text:
        raise ValueError(
            f"expected {describe(hint)}, got {shown(node.text)}{did_you_mean(node.text, _texts(found))} "
            f"(a file of that name is written {quoted('./' + node.text)})"
        )


def _as_collection(node: Scalar, found: Alternatives) -> str:
    """How to write the same in the list or the mapping that is expected, where that is plain."""
    for member in found.lists:
        element = alternatives(get_args(member)[0])
        if element.scalars or element.words:
            return f"; write [{quoted(node.text)}]"
    for member in found.mappings:
        if plugin_kind(member) is not None:
            return f"; write {{plugin: {node.text}}}"
        required = required_keys(member)
        if len(required) == 1:
            ((key, inner),) = required.items()
            value = f"[{quoted(node.text)}]" if alternatives(inner).lists else quoted(node.text)
            return f"; write {{{key}: {value}}}"
    return ""


def _refusal(node: Scalar, hint: Any, found: Alternatives) -> str:
    expected = describe(hint)
    if node.tag == "str":
        if node.quoted and any(node.text == str(word) for word in found.words):
            return f"expected {expected}, got the text {quoted(node.text)}; remove the quotes"
        hint = did_you_mean(node.text, _texts(found)) or _as_collection(node, found)
        return f"expected {expected}, got {shown(node.text)}{hint}"
    meaning = f"YAML reads {node.text[:40]} as {misread(node)}"
    if node.text in _texts(found):
        return f"{meaning}; write {quoted(node.text)}"
    if node.tag in ("int", "float"):
        return f"expected {expected}, got the number {node.text[:40]}"
    read = misread(node)
    return f"expected {expected}, got {node.text[:40]}" + (f", which YAML reads as {read}" if read != node.text else "")
