"""
The numbers of a service's endpoints on the data path: which endpoint a port of a per_endpoint listener leads to.

Ring 3. Only services that have such a listener have one; it follows every delivery of discovery, whether anybody
connects or not, so that who gets which number does not depend on the traffic.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from tcpmesh.codes import NO_ENDPOINT
from tcpmesh.discovery.positions import Moved, Positions
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.values import Endpoint

__all__ = ["ServicePositions"]

_log = Logger()
_SHOWN = 5  # of what changed, in one line


class ServicePositions:
    """
    Follows the endpoints of one service.

    :param count: how many ports its largest per_endpoint listener has.
    """

    def __init__(self, service: str, count: int, cell: MeshStateCell) -> None:
        self._service = service
        self._positions = Positions(count)
        self._endpoints: object = None
        self._complaints: Sequence[str] = ()
        self._follow(cell.current)
        cell.observe(self._follow)

    def endpoint(self, position: int) -> Endpoint:
        """
        Give the endpoint that has this number.

        :raises Refusal: NO_ENDPOINT, while it is away or nobody has had the number yet.
        """
        found = self._positions.at(position)
        if found is not None:
            return found
        holder = self._positions.holder(position)
        why = "nobody has had that number yet" if holder is None else f"{holder}, which had that number, is gone"
        raise Refusal(NO_ENDPOINT, f"service {self._service!r} has no endpoint {position}: {why}")

    def number_of(self, endpoint: Endpoint) -> int | None:
        """The number of an endpoint, None when it has none."""
        return self._positions.number_of(endpoint)

    def _follow(self, state: MeshState) -> None:
        endpoints = state.endpoints.get(self._service, ())
        if endpoints is self._endpoints:
            return
        self._endpoints = endpoints
        moved = self._positions.update(endpoints)
        if moved:
            self._tell("its clients now find another endpoint on a port", [_words(one) for one in moved])
        complaints = self._positions.complaints
        if complaints != self._complaints:
            self._complaints = complaints
            if complaints:
                self._tell("not every endpoint has a port", complaints)

    def _tell(self, what: str, details: Sequence[str]) -> None:
        more = f"; and {len(details) - _SHOWN} more" if len(details) > _SHOWN else ""
        text = "; ".join(details[:_SHOWN]) + more
        _log.warn("service {service!r}: {what}: {text}", service=self._service, what=what, text=text)


def _words(moved: Moved) -> str:
    return f"endpoint {moved.position} is {moved.now}, it was {moved.before}"
