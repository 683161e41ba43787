"""
Limits of policies on the data path: counts every connection that was allowed, from that decision to its end.

Ring 3. Costs nothing while no policy limits anything. A limit is asked for and taken in one step, before anything is
dialled; a connection gives its places back when its end is reported, which happens exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from twisted.logger import Logger

from tcpmesh.codes import POLICY_FAILED
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.policy.limits import Applied, Limits, Places, Who
from tcpmesh.values import AuthorizationRequest, Effect, PolicyNote

__all__ = ["WOULD_LIMIT", "LimitedConnection", "Limiting"]

WOULD_LIMIT = "would-limit"  # what the note of a dry-run says

_log = Logger()


class LimitedConnection(Protocol):
    """What limiting needs to know of a connection."""

    record: ConnectionRecord
    places: Places | None  # where it is counted; None before it was allowed

    @property
    def is_closed(self) -> bool:
        """Whether its end was reported."""

    def authorization_request(self) -> AuthorizationRequest:
        """What policies are asked about it, once it was allowed."""


class Limiting:
    """
    Counts connections.

    :param clock: the reactor, for its monotonic time.
    """

    def __init__(self, cell: MeshStateCell, clock: Any) -> None:
        self._cell = cell
        self._clock = clock
        self._limits = Limits()
        self._policies: object = None
        self._failed: object = None  # the policies of which a failure was told
        self._use(cell.current)
        cell.observe(self._use)

    def _use(self, state: MeshState) -> None:
        if state.policies is self._policies:
            return
        self._policies = state.policies
        found: list[Applied] = []
        for position, named in state.limiting:
            found += [(position, limit) for limit in named.policy.limits]  # type: ignore[attr-defined]
        self._limits.use(found, self._clock.seconds())

    def admit(self, connection: LimitedConnection) -> Refusal | None:
        """
        Count a connection that the policies allow, or say why there is no room; the record then names the limit.

        Nobody gets in past a policy that fails to say what it limits.
        """
        record = connection.record
        try:
            applied, who = _applied(connection, self._cell.current)
            places, full = self._limits.take(applied, who, self._clock.seconds())
        except Exception:  # noqa: BLE001  a plugin's failure refuses; logged with its traceback
            _log.failure("asking for the limits of connection {number} failed", number=record.id)
            return Refusal(POLICY_FAILED, "asking a policy plugin for limits failed; the traceback is in the log")
        for one in full:
            if one.limit.enforced:
                record.decision = Effect.DENY.value
                record.policy, record.rule = one.limit.policy, one.limit.rule
                return Refusal(one.code, one.reason)
            record.notes += (PolicyNote(one.limit.policy, one.limit.rule, WOULD_LIMIT),)
        connection.places = places
        return None

    def release(self, connection: LimitedConnection) -> None:
        """A connection has ended."""
        places, connection.places = connection.places, None
        if places:
            self._limits.release(places, self._clock.seconds())

    def recount(self, connection: Any, state: MeshState) -> None:
        """
        Count a live connection by the limits of the policies as they are now. (Judge)

        Nobody is ended by that: a limit that is lower now keeps others out until enough have gone.

        :param connection: a LimitedConnection.
        """
        places = connection.places
        if places is None or connection.is_closed or not (places or state.limiting):
            return
        try:
            applied, who = _applied(connection, state)
            connection.places = self._limits.retake(places, applied, who, self._clock.seconds())
        except Refusal:
            pass  # its own identity is gone, which is for others to judge; it counts as before until it ends
        except Exception:  # noqa: BLE001  it counts as before; new ones are refused with this failure
            if self._failed is not state.policies:
                self._failed = state.policies
                _log.failure("asking for the limits of live connection {number} failed", number=connection.record.id)

    # --- for metrics

    @property
    def counters(self) -> int:
        """How many counters there are, which memory depends on."""
        return len(self._limits)

    @property
    def in_use(self) -> Mapping[str, int]:
        """By policy: the connections that are counted."""
        return self._limits.in_use()

    @property
    def refused(self) -> Mapping[str, int]:
        """By policy: the connections that were refused."""
        return self._limits.refused

    @property
    def noted(self) -> Mapping[str, int]:
        """By policy: the connections that a dry-run would have refused."""
        return self._limits.noted


def _applied(connection: LimitedConnection, state: MeshState) -> tuple[list[Applied], Who]:
    request = connection.authorization_request()
    found: list[Applied] = []
    for position, named in state.limiting:
        found += [(position, limit) for limit in named.policy.limits_of(request)]  # type: ignore[attr-defined]
    return found, Who(str(request.peer), request.source, connection.record.listener)
