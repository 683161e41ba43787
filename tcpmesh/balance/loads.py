"""
How many connections each endpoint has, and how many are under way to it.

Ring 1. Kept by address, so that a change of weight, zone or priority keeps the counts; forgotten when the endpoint is
no longer offered and has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

from tcpmesh.values import Address

__all__ = ["Load", "Loads"]

_ROOM = 64


class Load:
    """
    The connections of one endpoint. News that cannot be leaves a count at zero, never below.

    :ivar pending: attempts under way.
    :ivar open: established connections.
    """

    __slots__ = ("open", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self.open = 0

    @property
    def both(self) -> int:
        """What the endpoint has, and may have in a moment."""
        return self.pending + self.open

    def opened(self) -> None:
        """An attempt begins."""
        self.pending += 1

    def established(self) -> None:
        """An attempt is a connection now."""
        self.failed()
        self.open += 1

    def failed(self) -> None:
        """An attempt came to nothing."""
        if self.pending:
            self.pending -= 1

    def closed(self) -> None:
        """A connection ended."""
        if self.open:
            self.open -= 1


_Kept = TypeVar("_Kept", bound=Load)


class Loads(Generic[_Kept]):
    """
    The loads of a service's endpoints.

    :param make: a load for an endpoint that is new.
    """

    def __init__(self, make: Callable[[], _Kept]) -> None:
        self._make = make
        self._kept: dict[Address, _Kept] = {}
        self._sweep_at = _ROOM

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[_Kept]:
        return iter(self._kept.values())

    def of(self, address: Address) -> _Kept:
        """The load of an endpoint, of a new one too."""
        load = self._kept.get(address)
        if load is None:
            load = self._kept[address] = self._make()
        return load

    def find(self, address: Address) -> _Kept | None:
        """The load of an endpoint that is known."""
        return self._kept.get(address)

    def sweep(self, present: Callable[[], Collection[Address]]) -> None:
        """
        Forget endpoints that are not present and have no connection; to be called when endpoints are new.

        Done only when the number of those that are kept has doubled since the last time: one that is away for a moment
        is known when it returns, and thousands that come and go leave nothing behind.
        """
        if len(self._kept) < self._sweep_at:
            return
        addresses = present()
        self._kept = {address: load for address, load in self._kept.items() if load.both or address in addresses}
        self._sweep_at = 2 * len(self._kept) + _ROOM
