"""
The claims of a token: one JSON object, and what is in it by name or JSON pointer (RFC 6901).

Ring 1. Verifies no signature. Whoever wrote the claims may be anybody: their size, depth and kind are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from tcpmesh.addresses import shown

__all__ = ["MAX_BYTES", "check_reference", "find", "parse"]

MAX_BYTES = 65536
_MAX_REFERENCE = 512  # characters
_TOKEN = re.compile(rb"\s*[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\s*\Z")
_BAD_ESCAPE = re.compile(r"~(?![01])")
_WORDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def parse(data: bytes) -> dict[str, Any]:
    """
    Read a JSON object without duplicate keys.

    :raises ValueError: the message follows the file's name, and shows nothing of the file.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes, too large for the claims of a token")
    if _TOKEN.match(data):
        raise ValueError("is a token and not its claims; save the decoded payload, its second part, as JSON")
    try:
        claims = json.loads(data, object_pairs_hook=_object, parse_constant=_constant)
    except _DuplicateKeyError as error:
        raise ValueError(f"has the key {shown(str(error))} twice") from None
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise ValueError("is not JSON") from None
    if not isinstance(claims, dict):
        raise ValueError("is JSON and not an object; claims are names and values in braces")  # noqa: TRY004 - for the operator
    return claims


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKeyError(key)
        found[key] = value
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and the infinities are not JSON (RFC 8259 section 6)


def check_reference(reference: str) -> None:
    """
    Accept the name of a claim, or a JSON pointer, which begins with a slash.

    :raises ValueError: for what can refer to nothing.
    """
    if not reference or len(reference) > _MAX_REFERENCE:
        raise ValueError(f"a claim has a name of 1 to {_MAX_REFERENCE} characters")
    if reference.startswith("/"):
        if _BAD_ESCAPE.search(reference):
            raise ValueError(f"{shown(reference)} is no JSON pointer: '~' is written ~0, and '/' in a name ~1")
    elif "/" in reference:
        pointer = "/" + reference.replace("~", "~0").replace("/", "~1")
        raise ValueError(
            f"{shown(reference)} is neither a claim nor a JSON pointer: write {shown('/' + reference)}, or for one "
            f"claim of that name {shown(pointer)}"
        )


def find(claims: Mapping[str, Any], reference: str) -> str:
    """
    The text of a claim. Lists have no names, and their order no meaning: nothing is found in them.

    :raises LookupError: when it is missing or no text; the message follows the claim's name.
    """
    value: Any = claims
    for name in _names(reference):
        if not isinstance(value, dict) or name not in value:
            raise LookupError("is missing")
        value = value[name]
    if isinstance(value, str):
        return value
    raise LookupError(f"is {_WORDS.get(type(value), 'null')}, not text")


def _names(reference: str) -> list[str]:
    if not reference.startswith("/"):
        return [reference]
    return [name.replace("~1", "/").replace("~0", "~") for name in reference[1:].split("/")]
