"""
How ``tcpmesh identity check`` shows what was found, by the proxy or from its files.

Ring 4. Takes plain JSON values, part of which strangers wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tcpmesh.checking.findings import LAYERS, Outcome
from tcpmesh.errors import Mark
from tcpmesh.observe.text import printable

__all__ = ["is_answer", "locate", "status_of", "text_lines"]

_INDENT = " " * 22


def is_answer(answer: Any) -> bool:
    """Whether it has the form of what a proxy answers."""
    if not isinstance(answer, dict) or not isinstance(answer.get("left_out"), int):
        return False
    checks = answer.get("checks")
    return isinstance(checks, list) and all(isinstance(check, dict) and _is_check(check) for check in checks)


def _is_check(check: Mapping[str, Any]) -> bool:
    layers, behind = check.get("layers"), check.get("not_looked_at")
    return (
        isinstance(layers, list)
        and isinstance(behind, list)
        and all(isinstance(layer, dict) and _is_layer(layer) for layer in layers)
    )


def _is_layer(layer: Mapping[str, Any]) -> bool:
    number, outcomes = layer.get("layer"), [outcome.value for outcome in Outcome]
    placed = isinstance(layer.get("place", ""), str)
    return placed and type(number) is int and 1 <= number <= len(LAYERS) and layer.get("outcome") in outcomes


def locate(answer: dict[str, Any], marks: Mapping[str, Mark]) -> None:
    """Add ``where`` to every layer that names a place in the configuration: its file, and its line if it is known."""
    for check in answer["checks"]:
        for layer in check["layers"]:
            place = layer.get("place")
            if place:
                mark = marks.get(place)
                layer["where"] = f"{place} at {mark}" if mark is not None else f"{place} in {answer.get('file', '')}"


def status_of(answer: Mapping[str, Any]) -> int:
    """1 when something is broken; 2 when a layer could not be looked at; else 0."""
    layers = [layer for check in answer["checks"] for layer in check["layers"]]
    if any(layer["outcome"] == Outcome.BROKEN.value for layer in layers):
        return 1
    # That a peer has no way to say that it accepts is no gap of ours.
    unknown = [layer for layer in layers if layer["outcome"] == Outcome.UNKNOWN.value]
    hidden = any(layer["layer"] < len(LAYERS) or layer.get("unfinished") for layer in unknown)
    return 2 if hidden or answer["left_out"] else 0


def text_lines(answer: Mapping[str, Any], *, live: bool) -> Iterator[str]:
    """
    For people.

    :param live: whether the proxy itself has looked.
    """
    for check in answer["checks"]:
        yield printable(_head(check) + (", as the running proxy sees it" if live else ""))
        for layer in check["layers"]:
            yield from _layer(layer)
        if check["not_looked_at"]:
            yield printable(f"  not looked at: {', '.join(map(str, check['not_looked_at']))}")
    if answer["left_out"]:
        yield f"{answer['left_out']} others were not looked at: say which, with --service or --peer"


def _head(check: Mapping[str, Any]) -> str:
    who = f"{check.get('workload')} ({check.get('id')})"
    if check.get("endpoint") is not None:
        return f"{who} to {check.get('service') or 'nobody that is known'} at {check['endpoint']}"
    return f"{who} to {check['service']}" if check.get("service") is not None else who


def _layer(layer: Mapping[str, Any]) -> Iterator[str]:
    code = f"{layer['code']} " if layer.get("code") else ""
    head = f"  L{layer['layer']} {LAYERS[layer['layer'] - 1]:8}{layer['outcome'].upper():9}"
    yield printable(f"{head}{code}{layer.get('text', '')}")
    for name in ("expected", "next", "where"):
        if layer.get(name):
            yield printable(f"{_INDENT}{name}: {layer[name]}")
