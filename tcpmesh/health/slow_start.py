"""
How much of its share an endpoint gets that has just come, or come back: caches are cold, pools are empty.

Ring 1, pure.
"""

from __future__ import annotations

__all__ = ["FIRST_SHARE", "slow_share"]

FIRST_SHARE = 0.1  # so that it gets something to become warm with


def slow_share(since: float, duration: float, now: float) -> float:
    """The share at ``now``, from FIRST_SHARE at ``since`` in a straight line to 1 after ``duration`` seconds."""
    if duration <= 0 or now >= since + duration:
        return 1.0
    return FIRST_SHARE + (1 - FIRST_SHARE) * max(0.0, now - since) / duration
