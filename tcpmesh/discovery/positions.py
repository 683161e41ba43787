"""
Which endpoint of a service has which number, and that it keeps it while others come and go.

Ring 1, pure. A listener with ``per_endpoint`` has a port for each number. Clients of such services remember ports for
as long as they run, so a port must never lead elsewhere only because an endpoint before it in the list went away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tcpmesh.addresses import shown
from tcpmesh.values import Address, Endpoint

__all__ = ["INDEX", "Moved", "Positions", "index_of"]

INDEX = "index"  # the word of an endpoint's metadata that says its number, from 0


def index_of(endpoint: Endpoint) -> int | None:
    """
    Give the number that an endpoint's metadata says, None when they say none.

    :raises ValueError: when what they say is no number.
    """
    text = dict(endpoint.metadata).get(INDEX)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ValueError(f"{endpoint.address} has the index {shown(text)}, which is not a whole number from 0")
    return int(text)


@attrs.frozen
class Moved:
    """A number that has another holder than before."""

    position: int
    before: Address
    now: Address


class Positions:
    """
    The numbers of one service's endpoints, from 0 to below ``count``.

    Where one endpoint says an index, only indexes count. Else an endpoint keeps the number that it had, also while it
    is away; a new one gets its place in the list if nobody there has it, else a number that nobody ever had, else that
    of one that is gone.

    :ivar complaints: what is wrong with the endpoints of the last update, in words.
    """

    def __init__(self, count: int) -> None:
        self._holders: list[Address | None] = [None] * count  # also of those that are away
        self._present: Mapping[Address, Endpoint] = {}
        self.complaints: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self._holders)

    def at(self, position: int) -> Endpoint | None:
        """The endpoint with this number, None while there is none."""
        holder = self._holders[position]
        return None if holder is None else self._present.get(holder)

    def holder(self, position: int) -> Address | None:
        """Who has this number, although it may be away; None when nobody ever had it."""
        return self._holders[position]

    def number_of(self, endpoint: Endpoint) -> int | None:
        """The number that an endpoint has, None while it has none."""
        return self._holders.index(endpoint.address) if endpoint.address in self._holders else None

    def update(self, endpoints: Sequence[Endpoint]) -> Sequence[Moved]:
        """Take a delivery, and say which numbers it gave to others than before."""
        before = list(self._holders)
        self._present = {endpoint.address: endpoint for endpoint in endpoints}
        if any(INDEX in dict(endpoint.metadata) for endpoint in endpoints):
            self.complaints = tuple(self._by_index(endpoints))
        else:
            self.complaints = tuple(self._by_order(endpoints))
        pairs = enumerate(zip(before, self._holders, strict=True))
        return [Moved(number, was, now) for number, (was, now) in pairs if was and now and was != now]

    def _by_index(self, endpoints: Sequence[Endpoint]) -> Iterator[str]:
        self._holders = [None if holder in self._present else holder for holder in self._holders]
        taken: dict[int, Endpoint] = {}
        for endpoint in endpoints:
            try:
                index = index_of(endpoint)
            except ValueError as error:
                yield str(error)
                continue
            if index is None:
                yield f"{endpoint.address} has no index, and others have"
            elif index >= len(self):
                yield f"{endpoint.address} has the index {index}; the last port is that of {len(self) - 1}"
            elif index in taken:
                yield f"{endpoint.address} has the index {index}, as {taken[index].address} has"
            else:
                taken[index] = endpoint
                self._holders[index] = endpoint.address

    def _by_order(self, endpoints: Sequence[Endpoint]) -> Iterator[str]:
        known = set(self._holders)
        new = [(number, one.address) for number, one in enumerate(endpoints) if one.address not in known]
        for number, address in list(new):
            if number < len(self) and self.at(number) is None:
                self._holders[number] = address
                new.remove((number, address))
        free = [*self._numbers(never_held=True), *self._numbers(never_held=False)]
        for position, (_number, address) in zip(free, new, strict=False):
            self._holders[position] = address
        for _number, address in new[len(free) :]:
            yield f"{address} has no port: the {len(self)} that there are lead to others"

    def _numbers(self, *, never_held: bool) -> Iterable[int]:
        return (
            number
            for number, holder in enumerate(self._holders)
            if self.at(number) is None and (holder is None) is never_held
        )
