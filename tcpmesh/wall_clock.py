"""
The wall clock: the one place that asks the operating system for the time of day.

Ring 0. Imports nothing of tcpmesh. Validity periods of certificates are about this time; everything that waits takes
the reactor's clock instead. Whoever needs it takes it as a parameter, with :func:`wall_clock` as the default.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["WallClock", "wall_clock"]

WallClock = Callable[[], float]  # seconds since the epoch; may be stepped, forwards and backwards


def wall_clock() -> float:
    """Seconds since the epoch."""
    return time.time()  # noqa: TID251  the documented exception
