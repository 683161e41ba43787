"""
Whether what a policy answered is an answer.

Ring 1. A plugin can put anything into a Decision; what is none must deny, and not end the proxy's own calculation.
"""

from __future__ import annotations

import math

from tcpmesh.values import Decision, Effect, PolicyNote

__all__ = ["nonsense"]


def nonsense(answer: object) -> str:
    """What is wrong with an answer, for the sentence "answered with …"; empty if nothing is."""
    if not (isinstance(answer, Decision) and isinstance(answer.effect, Effect)):
        return f"{type(answer).__name__}, not a Decision"
    if answer.valid_for is not None and not _is_duration(answer.valid_for):
        return f"a valid_for of {type(answer.valid_for).__name__} that is no number of seconds"
    if not (isinstance(answer.policy, str) and isinstance(answer.rule, str) and isinstance(answer.reason, str)):
        return "a policy, rule or reason that is no text"
    if not isinstance(answer.notes, tuple) or not all(isinstance(note, PolicyNote) for note in answer.notes):
        return "notes that are no tuple of PolicyNote"
    return ""


def _is_duration(value: object) -> bool:
    """Whether it can be added to a time. NaN cannot: it is never over. What is below zero is over already."""
    try:
        return isinstance(value, (int, float)) and not math.isnan(value)
    except OverflowError:  # an integer beyond every float
        return False
