"""
Asks the policies again about live connections, when they have changed and when an answer has run out.

Ring 3. One of the judges of :class:`tcpmesh.net.review.Review`, which calls it for every connection when the policies
of the mesh state are others. A connection that is not decided yet is nobody's business here: it will be decided by the
state of that moment, and be live by then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Protocol, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.codes import INTERNAL, POLICY_CHANGED, POLICY_FAILED, POLICY_TIMED_OUT
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.plane import DataPlane, LiveConnection
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.settings import OnChange, Timeouts
from tcpmesh.values import AuthorizationRequest, Effect

__all__ = ["ASKED_AT_ONCE", "PACE", "DecidedConnection", "PolicyJudge"]

_log = Logger(namespace="tcpmesh")
ASKED_AT_ONCE = 100  # questions about live connections that policies answer later, under way at a time
PACE = 0.05  # seconds until more of those that wait are asked about
PATIENCE = 30.0  # seconds for which a connection outlives policies that say nothing; up to twice that
_NOBODY: object = object()  # stands for policies whose answer has run out


class DecidedConnection(LiveConnection, Protocol):
    """What this module needs to know of a connection beside."""

    decided_by: object  # the policies of the state that it was decided by; None before
    timeouts: Timeouts

    @property
    def on_change(self) -> OnChange:
        """What is to become of it when it is no longer allowed."""

    def authorization_request(self) -> AuthorizationRequest:
        """
        What policies are asked about it.

        :raises Refusal: when there is no own identity any longer, which is for others to judge.
        """

    def stands(self, verdict: Verdict) -> None:
        """It is allowed for as long as the verdict says."""


@attrs.frozen(eq=False)
class _Denial:
    """In place of the policies that a connection was decided by: they deny it, and it is to be ended."""

    policies: object
    refusal: Refusal


class PolicyJudge:
    """
    :param examine: lets the review look at connections.
    """

    def __init__(self, plane: DataPlane, examine: Callable[[Iterable[LiveConnection]], None]) -> None:
        self._plane = plane
        self._examine = examine
        self._draining: dict[LiveConnection, Any] = {}
        self._asking = 0  # answers that are still to come
        self._waiting: dict[LiveConnection, None] = {}  # to be asked about when fewer are under way
        self._call: Any = None
        self._told = -1  # generation in which a connection that goes on was told of
        plane.verdicts.due = self._ran_out

    def stop(self) -> None:
        """Forget who is to end later."""
        for call in self._draining.values():
            if call.active():
                call.cancel()
        self._draining.clear()
        self._waiting.clear()
        if self._call is not None and self._call.active():
            self._call.cancel()

    def judge(self, live: LiveConnection, state: MeshState) -> Refusal | None:
        """Whether the policies still allow it. (Judge)"""
        connection = cast(DecidedConnection, live)
        before = connection.decided_by
        if before is None or before is state.policies:
            return None
        if isinstance(before, _Denial) and before.policies is state.policies:
            connection.decided_by = state.policies
            return before.refusal
        if self._asking >= ASKED_AT_ONCE:
            self._wait(live)
            return None
        try:
            request = connection.authorization_request()
        except Refusal:
            # It may be given back, and then the policies are to be asked: at the next look.
            connection.decided_by = _NOBODY
            self._plane.verdicts.add(connection, self._plane.wall_clock())
            return None
        connection.decided_by = state.policies
        verdict = decide_by(state, request, self._plane.clock, _log)
        if isinstance(verdict, Deferred):
            self._asking += 1
            verdict.addBoth(self._came)
            verdict.addCallback(self._answered, connection, state)
            verdict.addErrback(self._failed, connection, state)
            return None
        return self._consequence(connection, verdict, state)

    def _wait(self, connection: LiveConnection) -> None:
        """
        Ask about it in a moment.

        Thousands of questions at once would wait for each other until their time is over, and that denies.
        """
        self._waiting[connection] = None
        if self._call is None:
            self._call = self._plane.clock.callLater(PACE, self._go_on)

    def _go_on(self) -> None:
        self._call = None
        chosen = list(islice(self._waiting, max(0, ASKED_AT_ONCE - self._asking)))
        for connection in chosen:
            del self._waiting[connection]
        if self._waiting:
            self._call = self._plane.clock.callLater(PACE, self._go_on)
        self._examine(chosen)

    def _came(self, result: Any) -> Any:
        self._asking -= 1
        return result

    def _ran_out(self, connections: Collection[LiveConnection]) -> None:
        """What was said of them holds no longer."""
        due = list(connections)
        for connection in due:
            self._plane.verdicts.discard(connection)
            cast(DecidedConnection, connection).decided_by = _NOBODY
        self._examine(due)

    def _answered(self, verdict: Verdict, connection: DecidedConnection, state: MeshState) -> None:
        if connection.is_closed or connection.decided_by is not state.policies:
            return  # it is asked about anew
        refusal = self._consequence(connection, verdict, state)
        if refusal is not None:
            self._end_later(connection, refusal)

    def _failed(self, failure: Failure, connection: DecidedConnection, state: MeshState) -> None:
        number = connection.record.id
        _log.failure("asking policies about live connection {number} failed", failure, number=number)
        if not connection.is_closed and connection.decided_by is state.policies:
            self._end_later(connection, Refusal(INTERNAL, "asking policies about the live connection failed"))

    def _end_later(self, connection: DecidedConnection, refusal: Refusal) -> None:
        """
        Have it ended in a turn of the review, which ends only so many in each.

        One answer may be that about thousands: policies that are remembered are asked once for each identity.
        """
        connection.decided_by = _Denial(connection.decided_by, refusal)
        self._examine((connection,))

    def _consequence(self, connection: DecidedConnection, verdict: Verdict, state: MeshState) -> Refusal | None:
        if verdict.allowed:
            self._spare(connection)
            connection.stands(verdict)
            return None
        refusal = Refusal(POLICY_CHANGED, _reason(verdict))
        # What is not established yet has nothing that could be spared.
        how = connection.on_change if connection.record.established else "close"
        # A policy that fails has not denied: it may be back before its restart has cut everybody.
        silent = verdict.code in (POLICY_FAILED, POLICY_TIMED_OUT)
        if how == "drain":
            self._end_some_time(connection, refusal, 0.0, connection.timeouts.shutdown)
        elif how == "log":
            self._tell(connection, refusal, state.generation)
        elif silent and connection.record.established:
            self._end_some_time(connection, refusal, PATIENCE, 2 * PATIENCE)
        else:
            return refusal
        # Whoever goes on is asked about again when the denial runs out; that of a policy that failed at the next look.
        again = 0.0 if silent else verdict.valid_for
        if again is not None:
            self._plane.verdicts.add(connection, self._plane.wall_clock() + again)
        return None

    # --- what is not ended at once

    def _end_some_time(self, connection: DecidedConnection, refusal: Refusal, least: float, most: float) -> None:
        """End it in so many seconds, so that not all come back in one moment."""
        if connection in self._draining:
            return  # other policies that deny it, too, give it no more time
        wait = least + (most - least) * self._plane.random.random()
        self._draining[connection] = self._plane.clock.callLater(wait, self._drained, connection, refusal)

    def _drained(self, connection: DecidedConnection, refusal: Refusal) -> None:
        del self._draining[connection]
        if not connection.is_closed:
            connection.withdraw(refusal)

    def _spare(self, connection: DecidedConnection) -> None:
        call = self._draining.pop(connection, None)
        if call is not None:
            call.cancel()

    def _tell(self, connection: DecidedConnection, refusal: Refusal, generation: int) -> None:
        say = _log.debug if generation == self._told else _log.warn
        self._told = generation
        say(
            "{code} connection {number} goes on (on_change: log): {reason}; further ones are told at level debug, "
            "generation {generation}",
            code=refusal.code.id,
            number=connection.record.id,
            reason=refusal.reason,
            generation=generation,
        )


def _reason(verdict: Verdict) -> str:
    decision = verdict.decision
    place = f": {decision.rule}" if decision.effect is Effect.DENY and decision.rule else ""
    return f"no longer allowed: {decision.reason}{place}"
