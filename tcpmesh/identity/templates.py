"""
The template language of ``identity.mapping``: literal segments and ``{variables}``, each a whole segment of the path.

Ring 1. Two values never give one segment, and no value gives more than one: so a template that holds every variable of
a name gives every name an ID of its own. Values are never trimmed and never change their case.
"""

from __future__ import annotations

import re

import attrs

from tcpmesh.addresses import shown
from tcpmesh.identity.spiffe import MAX_ID_BYTES

__all__ = ["Template", "Variable", "decode_segment", "encode_segment", "parse_prefix", "parse_template"]

_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+\Z")
_SLASH_OUTSIDE_BRACES = re.compile(r"/(?![^{}]*\})")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-")
_ESCAPED = tuple(chr(b) if b in _PLAIN else "__" if b == ord("_") else f"_x{b:02X}" for b in range(256))
_ALLOWED = "letters, digits, '.', '_' and '-'"


@attrs.frozen
class Variable:
    """A segment that is filled in: ``name`` is a variable of the kind of name, a claim, or a JSON pointer to one."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


@attrs.frozen
class Template:
    """The segments of a path, fixed in number and order."""

    segments: tuple[str | Variable, ...]

    @property
    def variables(self) -> frozenset[str]:
        """The names of its variables."""
        return frozenset(segment.name for segment in self.segments if isinstance(segment, Variable))

    def __str__(self) -> str:
        return "/".join(str(segment) for segment in self.segments)


def parse_template(text: str) -> Template:
    """
    Read ``ns/{namespace}/sa/{service_account}``.

    :raises ValueError: for an empty segment, a variable beside a literal, or what no SPIFFE path may hold.
    """
    if not text:
        raise ValueError("the template is empty; write segments and variables, such as ns/{namespace}")
    if len(text) > MAX_ID_BYTES:
        raise ValueError(f"the template has {len(text)} characters, more than the {MAX_ID_BYTES} of a SPIFFE ID")
    if text.startswith("/"):
        raise ValueError(f"{shown(text)} begins with a slash; it continues the prefix: write {shown(text.lstrip('/'))}")
    return Template(tuple(_segment(piece, text) for piece in _SLASH_OUTSIDE_BRACES.split(text)))


def parse_prefix(text: str) -> tuple[str, ...]:
    """
    Read ``/k8s/prod`` as its segments.

    :raises ValueError: for anything but a slash before each segment.
    """
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} is not a path; write {shown('/' + text)}")
    if len(text) > MAX_ID_BYTES:
        raise ValueError(f"the prefix has {len(text)} characters, more than the {MAX_ID_BYTES} of a SPIFFE ID")
    if text == "/":
        raise ValueError("'/' leaves no path to any other name; write a prefix of its own, such as /k8s/prod")
    if text.endswith("/"):
        raise ValueError(f"{shown(text)} ends with a slash; write {shown(text.rstrip('/') or '/k8s')}")
    segments = tuple(text[1:].split("/"))
    for segment in segments:
        _check_literal(segment, text)
    return segments


def _segment(piece: str, text: str) -> str | Variable:
    if piece.startswith("{") and piece.endswith("}") and not set("{}") & set(piece[1:-1]):
        if len(piece) == 2:
            raise ValueError(f"{shown(text)} has a variable without a name")
        return Variable(piece[1:-1])
    if "{" in piece or "}" in piece:
        raise ValueError(
            f"{shown(piece)} in {shown(text)} is neither a literal nor one variable; a variable fills a whole segment, "
            "else two values could run together"
        )
    _check_literal(piece, text)
    return piece


def _check_literal(segment: str, text: str) -> None:
    if not segment:
        raise ValueError(f"{shown(text)} has an empty segment (a double or a trailing slash)")
    if segment in (".", ".."):
        raise ValueError(f"{shown(text)} has the dot segment {segment!r}")
    if not _SEGMENT.match(segment):
        raise ValueError(f"segment {shown(segment)} may only hold {_ALLOWED}")


def encode_segment(value: str, *, escape: bool) -> str:
    """
    Make one segment of a value, another one for every other value.

    :param escape: write ``_`` as ``__`` and each byte (UTF-8) that a SPIFFE path may not hold as ``_x`` and two
        upper-case hex digits; otherwise such values are refused.
    :raises ValueError: for a value that has no segment; the message follows the value's name.
    """
    if not value:
        raise ValueError("is empty, and a path has no empty segment")
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not text: it holds half of a surrogate pair") from None
    if not escape:
        if _SEGMENT.match(value):
            return value
        raise ValueError(
            f"is {shown(value)}, and a SPIFFE path segment may only hold {_ALLOWED} and not be '.' or '..'; "
            "to allow it, set characters: escape"
        )
    if value in (".", ".."):
        return _ESCAPED_DOT + value[1:]
    return "".join([_ESCAPED[byte] for byte in data])


_ESCAPED_DOT = "_x2E"  # only where a dot segment would come out: elsewhere a dot stays


def decode_segment(segment: str, *, escape: bool) -> str:
    """
    Read what :func:`encode_segment` wrote.

    :raises ValueError: when it gives this segment to no value; the message follows the segment.
    """
    if not escape:
        return segment
    data = bytearray()
    rest = segment
    while rest:
        if (match := _ESCAPE.match(rest)) is None:
            raise ValueError("is not an escaped text: '_' is followed by '_', or by 'x' and two upper-case hex digits")
        data += b"_" if match[0] == "__" else bytes([int(match[1], 16)]) if match[1] else match[0].encode()
        rest = rest[match.end() :]
    try:
        value = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not an escaped text: its bytes are no UTF-8") from None
    if encode_segment(value, escape=True) != segment:
        raise ValueError(f"is not how {shown(value)} is escaped")
    return value


_ESCAPE = re.compile(r"__|_x([0-9A-F]{2})|[^_]+")
