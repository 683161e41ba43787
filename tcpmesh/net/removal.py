"""
What becomes of live connections whose endpoint discovery has removed: ``on_removed`` of their service.

Ring 3. One of the judges of :class:`tcpmesh.net.review.Review`. An endpoint is an address: its weight does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import attrs
from twisted.logger import Logger

from tcpmesh.codes import ENDPOINT_REMOVED
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.plane import DataPlane, LiveConnection
from tcpmesh.settings import OnRemoved
from tcpmesh.values import Endpoint, format_duration

__all__ = ["RETURN", "Removal"]

RETURN = 5.0  # seconds in which an endpoint may come back as if it had never been away

_SHOWN = 10  # endpoints that went away together, with a line each

_log = Logger(namespace="tcpmesh")
_Place = tuple[str, str]  # service and address, as a record has them


@attrs.define(eq=False)
class _Departure:
    """Endpoints of a service that went away together."""

    service: str
    places: set[_Place]  # those that have not come back
    call: Any = None  # the end of the time in which they may


class Removal:
    """
    Ends connections of endpoints that are gone for longer than :data:`RETURN`.

    With ``drain``, each at a time of its own within ``timeouts.shutdown``, as ``on_change: drain`` does; and none while
    the service has no endpoint at all, since nobody could connect again.

    :param on_removed: by service.
    :param examine: lets the review look at connections.
    """

    def __init__(
        self,
        plane: DataPlane,
        on_removed: Mapping[str, OnRemoved],
        examine: Callable[[Iterable[LiveConnection]], None],
    ) -> None:
        self._plane = plane
        self._on_removed = {service: how for service, how in on_removed.items() if how != "keep"}
        self._examine = examine
        self._state = plane.state.current
        self._there: dict[str, frozenset[str]] = {}  # by service: the addresses that were there last
        self._leaving: dict[_Place, _Departure] = {}  # which may come back
        self._gone: dict[_Place, None] = {}
        self._draining: dict[LiveConnection, Any] = {}
        for service in self._on_removed:
            self._there[service] = _addresses(self._state.endpoints.get(service, ()))
        if self._on_removed:
            plane.state.observe(self._changed)

    def stop(self) -> None:
        """Forget who is to end later."""
        for call in (*(departure.call for departure in self._leaving.values()), *self._draining.values()):
            if call.active():
                call.cancel()
        self._leaving.clear()
        self._draining.clear()
        self._gone.clear()
        self._on_removed = {}

    def judge(self, connection: LiveConnection, _state: MeshState) -> Refusal | None:
        """Whether its endpoint is still there. (Judge)"""
        if not self._gone:
            return None
        record = connection.record
        place = (record.dst_service, record.dst_addr)
        if place not in self._gone or connection.is_closed:
            return None
        refusal = Refusal(
            ENDPOINT_REMOVED, f"discovery of service {record.dst_service!r} removed the endpoint {record.dst_addr}"
        )
        # What is not established yet has nothing that could be spared, and another endpoint may take it.
        if self._on_removed.get(record.dst_service) == "drain" and record.established:
            self._drain(connection, refusal)
            return None
        return refusal

    # --- what has changed

    def _changed(self, state: MeshState) -> None:
        before, self._state = self._state, state
        if state.endpoints is before.endpoints:
            return
        for service, how in self._on_removed.items():
            endpoints = state.endpoints.get(service, ())
            if endpoints is before.endpoints.get(service, ()) or (not endpoints and how == "drain"):
                continue
            was, self._there[service] = self._there[service], _addresses(endpoints)
            if added := self._there[service] - was:
                self._returned({(service, address) for address in added})
            if removed := was - self._there[service]:
                self._remove(service, removed)

    def _remove(self, service: str, addresses: frozenset[str]) -> None:
        used = {_place(connection) for connection in self._plane.live}
        self._gone = {place: None for place in self._gone if place in used}
        places = {place for place in used if place[0] == service and place[1] in addresses}.difference(self._leaving)
        if places:
            departure = _Departure(service, places)
            departure.call = self._plane.clock.callLater(RETURN, self._left, departure)
            self._leaving.update(dict.fromkeys(places, departure))

    def _returned(self, places: set[_Place]) -> None:
        for place in places & self._leaving.keys():
            departure = self._leaving.pop(place)
            departure.places.discard(place)
            if not departure.places:
                departure.call.cancel()
        returned = places & self._gone.keys()
        if not returned:
            return
        for place in returned:
            del self._gone[place]
        for connection in [one for one in self._draining if _place(one) in returned]:
            self._draining.pop(connection).cancel()

    def _left(self, departure: _Departure) -> None:
        service, how = departure.service, self._on_removed[departure.service]
        if how == "drain" and not self._state.endpoints.get(service):
            departure.call = self._plane.clock.callLater(RETURN, self._left, departure)
            return
        for place in departure.places:
            del self._leaving[place]
        concerned: dict[_Place, list[LiveConnection]] = {}
        for connection in self._plane.live:
            place = _place(connection)
            if place in departure.places and not connection.is_closed:
                concerned.setdefault(place, []).append(connection)
        self._gone.update(dict.fromkeys(concerned))
        for place, connections in islice(concerned.items(), _SHOWN):
            self._tell(f"endpoint {place[1]} of service {service!r} is gone", connections, how)
        others = [connection for found in islice(concerned.values(), _SHOWN, None) for connection in found]
        if others:
            self._tell(f"{len(concerned) - _SHOWN} more endpoints of service {service!r} are gone", others, how)
        self._examine([connection for found in concerned.values() for connection in found])

    def _tell(self, what: str, connections: list[LiveConnection], how: OnRemoved) -> None:
        within = f"within {format_duration(self._shutdown(connections[0]))}" if how == "drain" else "now"
        _log.info(
            "{code} {what}; {whose} connections ({count}) end {within} (on_removed: {how})",
            code=ENDPOINT_REMOVED.id,
            what=what,
            whose="its" if what.startswith("endpoint") else "their",
            count=len(connections),
            within=within,
            how=how,
        )

    # --- drain

    def _drain(self, connection: LiveConnection, refusal: Refusal, least: float = 0.0) -> None:
        if connection not in self._draining:
            wait = least + self._shutdown(connection) * self._plane.random.random()
            self._draining[connection] = self._plane.clock.callLater(wait, self._drained, connection, refusal)

    def _drained(self, connection: LiveConnection, refusal: Refusal) -> None:
        del self._draining[connection]
        if connection.is_closed:
            return
        if self._state.endpoints.get(connection.record.dst_service):
            connection.withdraw(refusal)
        else:
            self._drain(connection, refusal, RETURN)  # it could not connect again

    def _shutdown(self, connection: LiveConnection) -> float:
        return float(connection.timeouts.shutdown)  # type: ignore[attr-defined]


def _addresses(endpoints: Iterable[Endpoint]) -> frozenset[str]:
    return frozenset(str(endpoint.address) for endpoint in endpoints)


def _place(connection: LiveConnection) -> _Place:
    return connection.record.dst_service, connection.record.dst_addr
