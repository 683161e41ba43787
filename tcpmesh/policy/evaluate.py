"""
Asks all policies and makes one verdict of their answers. Fails closed.

Ring 1. Any denial denies, someone must allow, and a policy that raises, answers nonsense or does not answer in time
denies. Answers that are there at once give a verdict at once: no Deferred on the common path.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh.codes import (
    DENIED_BY_RULE,
    NO_RULE_ALLOWS,
    OUTBOUND_DENIED,
    OUTBOUND_NOT_ALLOWED,
    POLICY_FAILED,
    POLICY_TIMED_OUT,
    Code,
)
from tcpmesh.errors import Refusal
from tcpmesh.mesh_state import MeshState, NamedPolicy
from tcpmesh.policy.answers import nonsense
from tcpmesh.timeouts import DECISION_BUDGET
from tcpmesh.values import AuthorizationRequest, Decision, Effect, PolicyNote, format_duration

__all__ = ["Verdict", "decide", "decide_by"]


@attrs.frozen
class Verdict:
    """
    What becomes of a connection; ``code`` is None exactly when it is allowed.

    :ivar notes: of all policies that were asked.
    :ivar valid_for: seconds for which this stands; the least of all policies that were asked, None for no end.
    """

    allowed: bool
    decision: Decision
    code: Code | None = None
    notes: tuple[PolicyNote, ...] = ()
    valid_for: float | None = None


_ABANDONED = Verdict(False, Decision(Effect.DENY, reason="the connection ended before the decision"), NO_RULE_ALLOWS)


def decide_by(
    state: MeshState, request: AuthorizationRequest, clock: IReactorTime, log: Logger
) -> Verdict | Deferred[Verdict]:
    """Decide about one connection by what a mesh state has about its direction: policies, default, time."""
    if request.service:
        outbound = [named for named in state.policies if named.outbound]
        return decide(outbound, request, clock, log, state.decision_budget, default=state.defaults.outbound)
    return decide(state.policies, request, clock, log, state.decision_budget, default=state.defaults.inbound)


def decide(
    policies: Sequence[NamedPolicy],
    request: AuthorizationRequest,
    clock: IReactorTime,
    log: Logger,
    budget: float = DECISION_BUDGET,
    *,
    default: Effect = Effect.DENY,
) -> Verdict | Deferred[Verdict]:
    """
    Decide about one connection.

    Policies are asked in order until one denies. A Deferred comes only when a policy returned one that has not
    fired; it fails only with CancelledError, when the caller cancels it, which cancels the policies too.

    :param budget: seconds for all answers together; what is missing then is cancelled and denies.
    :param default: what becomes of it when no policy allows or denies.
    """
    inquiry = _Inquiry(request, log, default)
    for order, named in enumerate(policies):
        asked = clock.seconds()
        inquiry.ask(order, named)
        if clock.seconds() - asked > budget:
            inquiry.too_slow(named.name, budget)
        if inquiry.verdict is not None:
            return inquiry.verdict
    return inquiry.conclude() or inquiry.wait(clock, budget)


class _Inquiry:
    """The answers to one request so far."""

    __slots__ = (
        "_allowing",
        "_default",
        "_log",
        "_mute",
        "_notes",
        "_pending",
        "_request",
        "_result",
        "_timer",
        "_until",
        "verdict",
    )

    def __init__(self, request: AuthorizationRequest, log: Logger, default: Effect) -> None:
        self.verdict: Verdict | None = None
        self._request = request
        self._log = log
        self._default = default
        self._mute: frozenset[int] | set[int] = frozenset()  # policies that cannot have meant this peer, if they allow
        self._notes: tuple[PolicyNote, ...] = ()
        self._until: float | None = None
        self._allowing: tuple[int, Decision] | None = None
        self._pending: dict[int, tuple[str, Deferred[Decision]]] = {}
        self._result: Deferred[Verdict] | None = None
        self._timer: IDelayedCall | None = None

    def ask(self, order: int, named: NamedPolicy) -> None:
        """Put the request to one policy."""
        if not named.knows_strangers and not self._request.peer.is_authenticated:
            self._mute = {*self._mute, order}
        answers = named.answers
        try:
            answer = answers.find(self._request) if answers is not None and answers.in_use else None
            if answer is None:
                answer = named.policy.decide(self._request)
                if answers is not None and isinstance(answer, Deferred):
                    answer = answers.hold(self._request, answer)
        except Exception:  # noqa: BLE001 - a plugin's failure denies; logged with its traceback
            self._failed(Failure(), order, named.name)
            return
        if isinstance(answer, Deferred):
            self._pending[order] = (named.name, answer)
            position = (order, named.name)
            answer.addCallbacks(self._answered, self._failed, callbackArgs=position, errbackArgs=position)
        else:
            self._answered(answer, order, named.name)

    def conclude(self) -> Verdict | None:
        """The verdict, once nothing more can change it."""
        if self.verdict is None and not self._pending:
            if self._allowing is not None:
                self.verdict = Verdict(True, self._allowing[1], None, self._notes, self._until)
            else:
                self.verdict = self._by_default()
        return self.verdict

    def _by_default(self) -> Verdict:
        request = self._request
        direction = "outbound" if request.service else "inbound"
        if not request.peer.is_authenticated:
            reason = (
                f"no policy allows a peer without an identity at inbound listener {request.inbound!r}; only "
                "any: unauthenticated does"
            )
            return Verdict(False, Decision(Effect.DENY, reason=reason), NO_RULE_ALLOWS, self._notes, self._until)
        if self._default is Effect.ALLOW:
            reason = f"no policy denies {request.peer}, and defaults.{direction} is allow"
            decision = Decision(Effect.ALLOW, "", f"defaults.{direction}", reason)
            return Verdict(True, decision, None, self._notes, self._until)
        if request.service:
            reason = f"no policy allows {request.peer} to use service {request.service!r}"
        else:
            reason = f"no policy allows {request.peer} at inbound listener {request.inbound!r}"
        code = OUTBOUND_NOT_ALLOWED if request.service else NO_RULE_ALLOWS
        return Verdict(False, Decision(Effect.DENY, reason=reason), code, self._notes, self._until)

    def wait(self, clock: IReactorTime, budget: float) -> Deferred[Verdict]:
        """Give the missing answers their time."""
        self._timer = clock.callLater(budget, self._timed_out, budget)
        self._result = Deferred(lambda _: self._end())
        return self._result

    def _answered(self, answer: object, order: int, plugin: str) -> None:
        self._pending.pop(order, None)
        if self.verdict is not None:
            return
        if wrong := nonsense(answer):
            reason = f"policy plugin {plugin!r} answered with {wrong}"
            self._log.error("{reason}; that denies", reason=reason)
            self._deny(POLICY_FAILED, plugin, reason)
            return
        assert isinstance(answer, Decision), "nothing is wrong with it"
        self._notes += answer.notes
        if answer.valid_for is not None:
            self._until = answer.valid_for if self._until is None else min(self._until, answer.valid_for)
        if answer.effect is Effect.DENY:
            reason = answer.reason or f"policy plugin {plugin!r} denies {self._request.peer}"
            code = OUTBOUND_DENIED if self._request.service else DENIED_BY_RULE
            self._decide(Verdict(False, _named(answer, plugin, reason), code, self._notes, self._until))
        else:
            counts = answer.effect is Effect.ALLOW and order not in self._mute
            if counts and (self._allowing is None or order < self._allowing[0]):
                self._allowing = (order, _named(answer, plugin, answer.reason))
            self._report()

    def _failed(self, failure: Failure, order: int, plugin: str) -> None:
        self._pending.pop(order, None)
        if self.verdict is not None and failure.check(CancelledError):
            return  # we cancelled it
        if isinstance(failure.value, Refusal):  # a failure that the plugin explains, and that needs no traceback
            self._log.debug("policy plugin {plugin} refuses: {reason}", plugin=plugin, reason=failure.value.reason)
            if self.verdict is None:
                self._deny(failure.value.code, plugin, f"policy plugin {plugin!r}: {failure.value.reason}")
            return
        self._log.failure("policy plugin {plugin} failed; that denies", failure=failure, plugin=plugin)
        if self.verdict is None:
            name = failure.type.__name__ if failure.type else "an exception"
            self._deny(POLICY_FAILED, plugin, f"policy plugin {plugin!r} raised {name}; its traceback is in the log")

    def too_slow(self, plugin: str, budget: float) -> None:
        """It blocked everything for longer than it may take, and denies whatever it said."""
        if self.verdict is None or self.verdict.allowed:
            reason = f"policy plugin {plugin!r} blocked the proxy for longer than {format_duration(budget)}"
            self._log.error("{reason}; that denies", reason=reason)
            self._deny(POLICY_TIMED_OUT, plugin, reason)

    def _timed_out(self, budget: float) -> None:
        self._timer = None
        plugins = ", ".join(repr(name) for name, _ in self._pending.values())
        reason = f"policy plugin {plugins} did not answer within {format_duration(budget)}"
        self._log.error("{reason}; that denies", reason=reason)
        self._deny(POLICY_TIMED_OUT, next(iter(self._pending.values()))[0], reason)

    def _deny(self, code: Code, plugin: str, reason: str) -> None:
        self._decide(Verdict(False, Decision(Effect.DENY, plugin, "", reason), code))

    def _decide(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._report()

    def _report(self) -> None:
        """Fire the result if there is one to fire and it is decided."""
        if self._result is None:
            if self.verdict is not None:
                self._end()
        elif (verdict := self.conclude()) is not None:
            result = self._result
            self._result = None
            self._end()
            result.callback(verdict)

    def _end(self) -> None:
        """Cancel whatever still runs."""
        if self.verdict is None:
            self.verdict = _ABANDONED  # so that the cancelled policies' failures count for nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for plugin, answer in list(self._pending.values()):
            try:
                answer.cancel()
            except Exception:  # noqa: BLE001 - a plugin's canceller; the verdict stands
                self._log.failure("policy plugin {plugin} failed while it was cancelled", plugin=plugin)


def _named(answer: Decision, plugin: str, reason: str) -> Decision:
    """The answer, with a policy and a reason for the record even if the plugin gave none."""
    if answer.policy and answer.reason == reason:
        return answer
    return attrs.evolve(answer, policy=answer.policy or plugin, reason=reason)
