"""
A connection that goes on only if the policies allow it: what both directions have in common about that.

Ring 3.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from tcpmesh.codes import INTERNAL, STOPPING
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.connection import MeshConnection
from tcpmesh.net.plane import DataPlane
from tcpmesh.observe.records import Direction
from tcpmesh.policy.evaluate import Verdict, decide_by
from tcpmesh.settings import Timeouts
from tcpmesh.values import AuthorizationRequest, Effect

__all__ = ["DecidingConnection"]

_log = Logger()


class DecidingConnection(MeshConnection):
    """
    Asks; afterwards exactly one of :meth:`permitted` and :meth:`forbidden` is called, unless it ended meanwhile.

    It may ask again, when it goes on to another service.
    """

    __slots__ = ("_verdict",)

    def __init__(
        self, plane: DataPlane, direction: Direction, listener: str, workload: str, timeouts: Timeouts
    ) -> None:
        super().__init__(plane, direction, listener, workload, timeouts)
        self._verdict: Deferred[Verdict] | None = None

    def ask(self, request: AuthorizationRequest, state: MeshState) -> None:
        """Ask the policies of a mesh state."""
        self.decided_by = state.policies
        verdict = decide_by(state, request, self.plane.clock, _log)
        if isinstance(verdict, Deferred):
            self._verdict = verdict
            verdict.addCallbacks(self._decided, self._decision_failed, callbackArgs=(state.policies,))
        else:
            self._decided(verdict, state.policies)

    def permitted(self) -> None:
        """The policies allow it; whether their limits have room was not asked."""
        raise NotImplementedError

    def forbidden(self, refusal: Refusal) -> None:
        """The policies deny it, or it comes too late."""
        raise NotImplementedError

    def note_decision(self, verdict: Verdict) -> None:
        """Write down what was decided, and by which rule."""
        record, decision = self.record, verdict.decision
        record.policy, record.rule, record.notes = decision.policy, decision.rule, verdict.notes
        if not verdict.allowed:
            record.decision = Effect.DENY.value

    def _decided(self, verdict: Verdict, policies: object) -> None:
        self._verdict = None
        if self.is_closed:
            return
        self.note_decision(verdict)
        if verdict.code is not None:
            self.forbidden(Refusal(verdict.code, verdict.decision.reason))
        elif self.plane.stopping:
            self.forbidden(Refusal(STOPPING, "this proxy is stopping"))
        else:
            if self.decided_by is policies:  # else how long it stands is for those to say that came since
                self.stands(verdict)
            self.permitted()

    def _decision_failed(self, failure: Any) -> None:
        # Only abandon cancels, and what follows then is not ours to say.
        if not self.is_closed and not failure.check(CancelledError):
            _log.failure("deciding about a connection failed", failure)
            self.forbidden(Refusal(INTERNAL, "deciding failed"))

    def abandon(self) -> None:
        """Nobody wants to know any longer."""
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            verdict.cancel()
