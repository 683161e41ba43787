"""What the documentation holds: its fenced blocks, its links, and the commands that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")  # may be broken over two lines
_INDENTED = re.compile(r"^ {4}(?:\$ )?(.+)$", re.MULTILINE)
_NEXT = re.compile(r"^\*\*Next:\*\* (.+)$", re.MULTILINE)


@attrs.frozen
class Block:
    """
    One fenced block.

    :param language: the first word behind the fence, empty without one.
    :param words: the others: ``name=value``, or a bare name with an empty value.
    :param comment: an HTML comment that stands in the line before.
    """

    language: str
    words: dict[str, str]
    text: str
    line: int
    comment: str


def documents() -> list[Path]:
    """Everything that is written for users."""
    return [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in order."""
    found = []
    for match in _FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        before = text[: match.start()]
        comment = re.search(r"<!-- ?(.*?) ?-->\n\Z", before)
        pairs = dict(word.partition("=")[::2] for word in words)
        found.append(Block(language, pairs, match["text"], before.count("\n") + 1, comment[1] if comment else ""))
    return found


def section(text: str, heading: str) -> str:
    """
    The part below a heading of the second level.

    :raises AssertionError: when there is no such heading.
    """
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"there is no section {heading!r}"
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def links(text: str) -> list[str]:
    """The targets of all links outside code."""
    return _LINK.findall(_SPAN.sub("", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """What its headings can be linked by."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str, name: str) -> Iterator[list[str]]:
    """The words behind ``name``, wherever it is shown as something to type: in code, and in a code's next step."""
    prose = _FENCE.sub("", text)
    code = [line for block in blocks(text) if block.language in ("sh", "") for line in block.text.splitlines()]
    code += _INDENTED.findall(prose)
    code += [" ".join(span.split()) for span in _SPAN.findall(prose)]
    for line in code:
        for command in re.split(r"[;|&()]+", line):
            words = command.split()
            if words[:1] == [name]:
                yield words[1:]
    for line in _NEXT.findall(prose):
        for match in re.finditer(rf"(?:^|: |\(|; |, ){name} ([^;,)]+)", line):
            yield match[1].split()
