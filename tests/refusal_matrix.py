"""Reads docs/codes.md: a section per code, and the refusal matrix that integration tests hold the proxies against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import attrs

FILE = Path(__file__).parent.parent / "docs" / "codes.md"


@attrs.frozen
class Section:
    """What the documentation says of one code."""

    meaning: str
    causes: tuple[str, ...]
    next_step: str
    retried: str


@attrs.frozen
class Row:
    """One refusal: what the application sees, what is on the wire, and the codes in both logs."""

    refused_by: str  # outbound or inbound
    cause: str
    application: str
    wire: str
    outbound_log: str
    inbound_log: str


def sections() -> Mapping[str, Section]:
    """The sections by code, in the order of the file."""
    found = {}
    for part in re.split(r"^### (?=TM-)", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        part = re.split(r"^## ", part, flags=re.MULTILINE)[0]
        code, _, body = part.partition("\n")
        if code in found:
            raise ValueError(f"{code} has two sections")
        found[code] = Section(
            meaning=_after("Meaning", body),
            causes=tuple(re.findall(r"^\d\. (.+)$", body, flags=re.MULTILINE)),
            next_step=_after("Next", body),
            retried=_after("Retried", body),
        )
    return found


def rows() -> list[Row]:
    """The matrix: every refusal of either side."""
    return [Row(side, *cells) for side in ("outbound", "inbound") for cells in _table(f"Refused by an {side} listener")]


def endings() -> list[tuple[str, ...]]:
    """The table of ends that are not refusals: cause, application, wire, codes."""
    return _table("Ends that are not refusals")


def _after(label: str, body: str) -> str:
    [text] = re.findall(rf"^\*\*{label}:\*\* (.+)$", body, flags=re.MULTILINE)
    return str(text)


def _table(heading: str) -> list[tuple[str, ...]]:
    text = FILE.read_text(encoding="utf-8").split(f"### {heading}\n", 1)[1]
    lines = re.split(r"\n#", text, maxsplit=1)[0].splitlines()
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines if line.startswith("| ")]
    return cells[2:]  # without the head and the rule below it
