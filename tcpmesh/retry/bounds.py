"""
How often, and after how long, a strategy of ours may try again: a typing error is told instead of never retrying.

Ring 1.
"""

from __future__ import annotations

from tcpmesh.values import format_duration

__all__ = ["check_attempts", "check_longest"]

_MOST_ATTEMPTS = 10_000
_LONGEST = 3600.0  # seconds: timeouts.establish can be no longer


def check_attempts(_instance: object, _attribute: object, value: int) -> None:
    """
    Validate the setting ``attempts``.

    :raises ValueError: for none, and for more than any connection has time for.
    """
    if value < 1:
        raise ValueError(f"{value} attempts are too few; the first counts, so 1 is the least")
    if value > _MOST_ATTEMPTS:
        raise ValueError(f"{value} attempts are more than any connection has time for; {_MOST_ATTEMPTS} are the most")


def check_longest(what: str, seconds: float) -> None:
    """
    Validate the longest wait, which the message calls ``what``.

    :raises ValueError: for longer than any connection has time for.
    """
    if seconds > _LONGEST:
        raise ValueError(f"a {what} of {format_duration(seconds)} is longer than any connection has time for")
