"""
What a policy that answers later has answered, and what it is being asked, so that nothing is asked twice.

Ring 1. One for each policy of the mesh state, and a new one when the policy changes: so an answer counts for one
generation of the policy. It belongs to everything that a request says but the port that the peer happens to come from:
identity and certificate, address, listener and names. Whoever needs the port must answer with ``valid_for`` 0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from tcpmesh.policy.answers import nonsense
from tcpmesh.values import AuthorizationRequest, Decision, TCPAddress

__all__ = ["MAX_ANSWERS", "LaterAnswers"]

MAX_ANSWERS = 10_000  # of one policy; about a kilobyte each


class LaterAnswers:
    """
    Remembers answers for as long as they say, the least recently used ones the shortest, and joins equal questions.

    Failures are not remembered: the next connection asks again.

    :ivar in_use: whether there is anything to look for; stays False with a policy that answers at once.
    """

    __slots__ = ("_clock", "_known", "_limit", "_questions", "in_use")

    def __init__(self, clock: IReactorTime, limit: int = MAX_ANSWERS) -> None:
        self._clock = clock
        self._limit = limit
        self._known: OrderedDict[AuthorizationRequest, tuple[Decision, float | None]] = OrderedDict()
        self._questions: dict[AuthorizationRequest, _Question] = {}
        self.in_use = False

    def __len__(self) -> int:
        return len(self._known)

    @property
    def asking(self) -> int:
        """How many questions wait for their answer."""
        return len(self._questions)

    def renewed(self) -> LaterAnswers:
        """Give one for the policy that takes the place of this one's."""
        return LaterAnswers(self._clock, self._limit)

    def find(self, request: AuthorizationRequest) -> Decision | Deferred[Decision] | None:
        """The answer, if it is known and still holds, or will be; None if the policy has to be asked."""
        key = _key(request)
        known = self._known.get(key)
        if known is not None:
            decision, until = known
            now = self._clock.seconds()
            if until is None or now < until:
                self._known.move_to_end(key)
                return decision if until is None else attrs.evolve(decision, valid_for=until - now)
            del self._known[key]
        question = self._questions.get(key)
        return question.join() if question is not None else None

    def hold(self, request: AuthorizationRequest, answer: Deferred[Decision]) -> Deferred[Decision]:
        """
        Take the answer that a policy will give, and give it to whoever asks the same meanwhile and after.

        The policy's answer is cancelled when nobody waits for it any longer.
        """
        self.in_use = True
        key = _key(request)
        question = _Question(answer, lambda: self._forget(key, question))
        waiting = question.join()
        self._questions[key] = question
        answer.addBoth(self._answered, key, question)
        return waiting

    def _answered(self, result: object, key: AuthorizationRequest, question: _Question) -> None:
        wanted = self._forget(key, question)  # else a newer question may have been answered meanwhile
        if wanted and isinstance(result, Decision) and not nonsense(result):
            self._remember(key, result)
        question.answered(result)

    def _forget(self, key: AuthorizationRequest, question: _Question) -> bool:
        """Let nobody join any more, for it is answered, or given up; whether anybody could until now."""
        current = self._questions.get(key) is question
        if current:
            del self._questions[key]
        return current

    def _remember(self, key: AuthorizationRequest, decision: Decision) -> None:
        valid_for = decision.valid_for
        if valid_for is not None and not valid_for > 0:
            return
        self._known[key] = (decision, None if valid_for is None else self._clock.seconds() + valid_for)
        self._known.move_to_end(key)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)


class _Question:
    """
    One question to the policy, and everybody who waits for the answer.

    :param abandoned: called when nobody waits any longer, before the policy is told.
    """

    __slots__ = ("_abandoned", "_answer", "_waiting")

    def __init__(self, answer: Deferred[Decision], abandoned: Callable[[], object]) -> None:
        self._answer = answer
        self._abandoned = abandoned
        self._waiting: dict[Deferred[Decision], None] = {}

    def join(self) -> Deferred[Decision]:
        """Wait too."""
        waiter: Deferred[Decision] = Deferred(self._leave)
        self._waiting[waiter] = None
        return waiter

    def answered(self, result: object) -> None:
        """Tell everybody."""
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(result)  # type: ignore[arg-type]  # nonsense is told as what it is

    def _leave(self, waiter: Deferred[Decision]) -> None:
        self._waiting.pop(waiter, None)
        if not self._waiting:
            self._abandoned()
            self._answer.cancel()


def _key(request: AuthorizationRequest) -> AuthorizationRequest:
    source = request.source
    return attrs.evolve(request, source=TCPAddress(source.host, 0)) if isinstance(source, TCPAddress) else request
