"""
How explanations are shown to people.

Ring 4. Takes plain JSON values, part of which strangers wrote or a proxy sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tcpmesh.observe.text import printable

__all__ = ["connection_line", "explanation_lines", "field", "head", "is_explanation", "status_of"]

_WORDS = {"allow": "ALLOWED", "deny": "DENIED", "unknown": "CANNOT TELL"}
_STATUS = {"allow": 0, "deny": 1}


def is_explanation(values: Any) -> bool:
    """Whether it has the form of an explanation."""
    if not isinstance(values, dict) or values.get("decision") not in list(_WORDS):
        return False
    notes, nearest = values.get("notes", []), values.get("nearest", {})
    lists = (notes, values.get("limits", []))
    return isinstance(nearest, dict) and all(
        isinstance(each, list) and all(isinstance(entry, dict) for entry in each) for each in lists
    )


def status_of(explanation: Mapping[str, Any]) -> int:
    """0 allowed, 1 denied, 2 could not tell."""
    return _STATUS.get(explanation["decision"], 2)


def head(explanation: Mapping[str, Any]) -> str:
    """What is decided, and why, in one line."""
    code = f" {explanation['code']}" if explanation.get("code") else ""
    reason = explanation.get("reason") or (f"by policy {explanation['policy']!r}" if explanation.get("policy") else "")
    return printable(f"{_WORDS[explanation['decision']]}{code}" + (f": {reason}" if reason else ""))


def field(name: str, text: str, indent: str = "  ") -> str:
    """One line of an explanation."""
    return printable(f"{indent}{name:<11} {text}")


def connection_line(fields: Mapping[str, Any]) -> str:
    """Who came from where to what."""
    outbound = fields.get("direction") == "outbound"
    where = f"service {fields.get('dst.service')}" if outbound else f"inbound {fields.get('listener')}"
    nobody = "unauthenticated" if fields.get("passthrough") is True and not outbound else "nobody"
    parts = [f"{fields.get('src.identity') or nobody} to {where}"]
    if fields.get("src.addr"):
        parts.append(f"from {fields['src.addr']}")
    parts += [f"{name} {fields[name]}" for name in ("sni", "alpn") if fields.get(name)]
    return field("connection", ", ".join(parts))


def explanation_lines(explanation: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """Everything but the first line."""
    if explanation.get("rule"):
        policy = f"{explanation['policy']}: " if explanation.get("policy") else ""
        yield field("rule", f"{policy}{explanation['rule']}", indent)
    nearest = explanation.get("nearest")
    if nearest:
        yield field("nearest", _nearest(nearest), indent)
    for note in explanation.get("notes", ()):
        says = str(note.get("says", ""))
        kind = "audit" if says == "audit" else "dry-run"
        verb = "notes it" if says == "audit" else says.replace("-", " ")
        yield field(kind, f"policy {note.get('policy')} {verb}: {note.get('rule')}", indent)
    for limit in explanation.get("limits", ()):
        tried = "" if limit.get("enforced") else " (dry-run)"
        rule = f": {limit['rule']}" if limit.get("rule") else ""
        yield field("limit", f"policy {limit.get('policy')}{tried} {limit.get('says')}{rule}", indent)


def _nearest(nearest: Mapping[str, Any]) -> str:
    place = f" at {nearest['place']}" if nearest.get("place") else ""
    misses = nearest.get("misses")
    but = f", but {' and '.join(map(str, misses))}" if isinstance(misses, list) and misses else ""
    return f"policy {nearest.get('policy')}{place} would {nearest.get('would')}{but}"
