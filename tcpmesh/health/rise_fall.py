"""
Up or down by active checks: several in a row must agree before anything changes.

Ring 1, pure.
"""

from __future__ import annotations

import attrs

__all__ = ["RiseFall"]


@attrs.define
class RiseFall:
    """
    One endpoint. It counts as up until ``fall`` checks in a row say otherwise, then as down until ``rise`` do.

    :ivar against: how many checks in a row have contradicted the present state.
    """

    rise: int
    fall: int
    up: bool = True
    against: int = 0

    def note(self, good: bool) -> bool:
        """Take the outcome of a check; says whether that changed ``up``."""
        if good is self.up:
            self.against = 0
            return False
        self.against += 1
        if self.against < (self.fall if self.up else self.rise):
            return False
        self.up, self.against = not self.up, 0
        return True
