"""
One file descriptor kept back, for the moment when there is none left.

Ring 3. A connection that cannot be accepted stays in the kernel's queue, and its event comes back for ever. With one
descriptor in reserve it can be taken, reset and recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class Reserve:
    """Holds a descriptor of nothing."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._take()

    @contextmanager
    def lent(self) -> Iterator[bool]:
        """Give the descriptor's place up for as long as the block takes; false when there is none to give."""
        if self._descriptor is None:
            self._take()
        if self._descriptor is None:
            yield False
            return
        self.close()
        try:
            yield True
        finally:
            self._take()

    def close(self) -> None:
        """Give it up."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        try:
            self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None  # somebody was quicker; tried again when it is needed
