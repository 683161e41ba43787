"""
Those endpoints of a service that are ejected or upon probation, and whether there is room for one more.

Ring 1, pure: ``now`` is the reactor's clock in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from tcpmesh.health.ejection import Ejection
from tcpmesh.values import Address

__all__ = ["Ejected"]


@attrs.define(eq=False)
class Ejected:
    """
    One service.

    :ivar max_share: of its endpoints, how many may be away, rounded down.
    """

    max_share: float
    _most: int = 0
    _ejections: dict[Address, Ejection] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self._ejections)

    def __iter__(self) -> Iterator[Address]:
        return iter(self._ejections)

    def of_all(self, total: int) -> None:
        """So many endpoints there are from now on."""
        # 0.7 of ten are seven, whatever floating point makes of the product.
        self._most = int(self.max_share * total + 1e-9)

    def add(self, address: Address, ejection: Ejection) -> None:
        """It is ejected, maybe again."""
        self._ejections[address] = ejection

    def discard(self, address: Address) -> None:
        """It is back, or no endpoint any longer."""
        self._ejections.pop(address, None)

    @property
    def has_room(self) -> bool:
        """Whether one more may be ejected."""
        return len(self._ejections) < self._most

    def unwanted(self, now: float) -> Address | None:
        """One that gives its place up, if there are to be any: see :meth:`Ejection.is_unwanted`."""
        if not self._most:
            return None
        return next((address for address, ejection in self._ejections.items() if ejection.is_unwanted(now)), None)

    def surplus(self) -> list[Address]:
        """Those that are too many, whose time ends first."""
        away = sorted(self._ejections, key=lambda address: self._ejections[address].until or 0.0)
        return away[: max(0, len(away) - self._most)]
