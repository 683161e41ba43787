"""
What a balancer has worked out for a tuple of endpoints, kept for as long as it is asked about that tuple.

Ring 1. A service has one tuple at a time, and now and then a second: what is left of it while some endpoints are
ejected, or the next priority for a connection that was refused by all of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from tcpmesh.values import Endpoint

__all__ = ["Recent"]

_KEPT = 4
_Prepared = TypeVar("_Prepared")


class Recent(Generic[_Prepared]):
    """
    Prepares tuples that are new; knows the last four by their identity, so that none is compared.

    :param prepare: called with each new tuple. What is not a tuple may change, and is prepared in each call.
    """

    def __init__(self, prepare: Callable[[Sequence[Endpoint]], _Prepared]) -> None:
        self._prepare = prepare
        self._known: list[tuple[Sequence[Endpoint], _Prepared]] = []  # the latest first

    def of(self, endpoints: Sequence[Endpoint]) -> _Prepared:
        """What belongs to these endpoints."""
        for position, (known, prepared) in enumerate(self._known):
            if known is endpoints:
                if position:
                    self._known.insert(0, self._known.pop(position))
                return prepared
        prepared = self._prepare(endpoints)
        if isinstance(endpoints, tuple):
            self._known.insert(0, (endpoints, prepared))
            del self._known[_KEPT:]
        return prepared

    def __iter__(self) -> Iterator[_Prepared]:
        return iter([prepared for _, prepared in self._known])
