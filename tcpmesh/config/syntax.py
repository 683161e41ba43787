"""
What makes a file unreadable as YAML, said in the words of somebody who writes configurations, not parsers.

Ring 1.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from tcpmesh.config.problems import Problems
from tcpmesh.errors import Mark

__all__ = ["check_characters", "decode", "explain"]

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF8_BOM = b"\xef\xbb\xbf"

# What YAML 1.1 forbids (section 5.1), and the line separators that it counts as lines and editors do not.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_CONFLICT = re.compile("^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)


def decode(data: bytes, problems: Problems) -> str:
    """
    Read the bytes of a file as UTF-8, with or without a byte order mark.

    :raises tcpmesh.errors.ConfigurationError: when they are something else.
    """
    if data.startswith(_UTF16):
        problems.fail("the file is UTF-16; save it as UTF-8", Mark(problems.file, 1, 1))
    data = data.removeprefix(_UTF8_BOM)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        problems.fail(
            f"the file is not UTF-8 from here on (byte 0x{data[error.start]:02x}); save it as UTF-8",
            _mark_at(before, len(before), problems.file),
        )


def check_characters(text: str, problems: Problems) -> None:
    """
    Refuse what is wrong wherever it stands: characters that no YAML file may hold, and marks of a merge conflict.

    :raises tcpmesh.errors.ConfigurationError: with the place of the first one.
    """
    conflict = _CONFLICT.search(text)
    if conflict is not None:
        problems.fail("a merge conflict was left in the file", _mark_at(text, conflict.start(), problems.file))
    found = _FORBIDDEN.search(text)
    if found is None:
        return
    number = ord(found.group())
    problems.fail(
        "the file holds a NUL byte: is it a text file, saved as UTF-8?"
        if number == 0
        else f"the file holds the control character U+{number:04X}; remove it",
        _mark_at(text, found.start(), problems.file),
    )


def _mark_at(text: str, position: int, file: str) -> Mark:
    before = text[:position].replace("\r\n", "\n").replace("\r", "\n")
    return Mark(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def explain(error: yaml.YAMLError) -> tuple[str, Any]:
    """
    Word an error of PyYAML.

    :return: the message, and PyYAML's mark of the place, or None.
    """
    problem = str(getattr(error, "problem", None) or error)
    context = str(getattr(error, "context", None) or "")
    place = getattr(error, "problem_mark", None)
    beginning = getattr(error, "context_mark", None) or place
    for pattern, at_beginning, words in _WORDS:
        found = re.search(pattern, f"{context} | {problem}", re.DOTALL)
        if found is not None:
            line = "?" if beginning is None else beginning.line + 1
            return words.format(*found.groups(), line=line), beginning if at_beginning else place or beginning
    return f"this is not YAML: {context + ', ' if context else ''}{problem}", place or beginning


_QUOTE = "put it in quotes"
# What PyYAML says ("context | problem"), whether the place to show is where the construct begins rather than where
# reading it failed, and what it means. {line} is the line where it begins, {0} the pattern's first group.
_WORDS: list[tuple[str, bool, str]] = [
    (r"found character '\\t'", False, "a tab cannot indent a line or start a value; use spaces"),
    (r"found character '(.+)' that cannot start", False, "a value cannot start with {0}; " + _QUOTE),
    (
        "mapping values are not allowed here",
        False,
        "a second ': ' in one value, a ':' that is missing above, or a line that is indented too far; "
        "put a value that holds ': ' in quotes",
    ),
    (
        "sequence entries are not allowed here",
        False,
        "a list cannot begin here; write it on lines of its own, or put a value that begins with '-' in quotes",
    ),
    (
        "mapping keys are not allowed here",
        False,
        "a key cannot begin here; put a value that begins with '?' in quotes",
    ),
    (
        "scanning a simple key .*could not find expected ':'",
        True,
        "this is neither 'key: value' nor a part of what is above it; is a ':' missing?",
    ),
    ("scanning a quoted scalar .*end of stream", True, "this quote is never closed"),
    (r"found unknown escape character '\\x00'", True, "this quote is never closed"),
    (
        "scanning a quoted scalar .*document separator",
        True,
        "this quote is not closed before the document ends",
    ),
    (
        "found unknown escape character '(.+)'",
        False,
        "a backslash before {0} means nothing in double quotes; write two of them, or use single quotes",
    ),
    (r"expected escape sequence of (\d+)", False, "this escape needs {0} hexadecimal digits"),
    (
        r"parsing a flow sequence .*expected ',' or '\]'",
        False,
        "the '[' of line {line} is not closed: expected ',' or ']' before this",
    ),
    (
        r"parsing a flow mapping .*expected ',' or '\}'",
        False,
        "the '{{' of line {line} is not closed: expected ',' or '}}' before this",
    ),
    (
        "parsing a block mapping .*found '-'",
        False,
        "a list entry ('-') among the keys that begin in line {line}; indent it, or the key above has no value",
    ),
    ("parsing a block mapping .*found ':'", False, "a key is missing in front of ':'"),
    (r"parsing a block collection .*found '\?'", False, "a key among the list entries that begin in line {line}"),
    (
        "parsing a block .*found '<scalar>'",
        False,
        "the value before this had already ended; does a quote close too early?",
    ),
    (
        "parsing a block (?:mapping|collection)",
        False,
        "the indentation of this line fits nothing above; what it seems to belong to begins in line {line}",
    ),
    ("expected the node content, but found '<stream end>'", False, "a value is missing at the end of the file"),
    (
        "expected the node content, but found ':'",
        False,
        "a value is missing in front of ':'; put an address that begins with '[' or ':' in quotes",
    ),
    ("expected the node content, but found '(.*?)'", False, "a value is missing in front of {0!r}"),
    (
        "single document in the stream",
        False,
        "a second document begins here; one file holds one configuration, so remove the '---'",
    ),
    (
        "found undefined alias '(.*)'",
        False,
        "'*{0}' refers to an anchor '&{0}', which is nowhere above; for text, " + _QUOTE,
    ),
    ("scanning an alias", True, "a value that begins with '*' refers to an anchor; for text, " + _QUOTE),
    ("scanning an anchor", True, "a value that begins with '&' is an anchor; for text, " + _QUOTE),
    (
        "scanning a block scalar",
        True,
        "a value that begins with '|' or '>' is a block of text; for one line, " + _QUOTE,
    ),
    ("found duplicate anchor '(.*)'; first", False, "the anchor '&{0}' is given twice; first in line {line}"),
    ("expected '<document start>'", False, "nothing can follow here: the document ended above"),
    ("found incompatible YAML document", False, "%YAML asks for a version other than 1; remove the line"),
    ("found undefined tag handle|scanning a tag|parsing a tag", True, "a value cannot start with '!'; " + _QUOTE),
]
