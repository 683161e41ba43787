"""
The check as the running proxy makes it: with the identities that it holds, over its own sockets.

Ring 3. Nothing here blocks; how many connections there are at a time and how long all of it may take is limited, and
whoever asked and went away ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import attrs
from twisted.internet import defer
from twisted.internet.defer import Deferred, FirstError, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tcpmesh.checking.acceptance import Acceptance, Hearing
from tcpmesh.checking.approach import Approach
from tcpmesh.checking.choice import Choice, WrongChoiceError, choose
from tcpmesh.checking.findings import Pair, as_mapping
from tcpmesh.checking.knowledge import Knowledge
from tcpmesh.checking.layers import LayerCheck, Over
from tcpmesh.errors import Refusal
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.probing import Inquiry

__all__ = ["SECONDS", "LiveChecks"]

SECONDS = 24.0  # for one question; the admin interface gives 30 from its accept to the end of the answer
_CONNECTIONS = 8  # at a time, of one question
_QUESTIONS = 4  # at a time
_PAIRS = 200  # of one question


@attrs.define(eq=False)
class _Question:
    """One question under way: what it may still use."""

    plane: DataPlane
    know: Callable[[], Knowledge]
    ends: float  # by the reactor's clock
    inquiries: set[Inquiry]

    @property
    def left(self) -> float:
        """Seconds."""
        return float(self.ends - self.plane.clock.seconds())


class LiveChecks:
    """
    Every check that is under way in this process.

    :param seconds: for one question; what there is no time for is not looked at.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._running: set[Deferred[Any]] = set()
        self._inquiries: set[Inquiry] = set()  # those of answered questions too, while they close

    def ask(self, plane: DataPlane, know: Callable[[], Knowledge], choice: Choice) -> Deferred[dict[str, Any]]:
        """
        Look at what is chosen; fires with plain JSON values: ``checks``, or why there are none: ``wrong``, ``busy``.

        Cancelling it ends whatever is under way.

        :param know: what is known at the moment: asked for each pair, since TLS contexts are kept for one generation.
        """
        knowledge = know()
        try:
            pairs = choose(knowledge.settings, knowledge.state.endpoints, choice)
        except WrongChoiceError as error:
            return succeed({"wrong": str(error)})
        if len(self._running) >= _QUESTIONS:
            return succeed({"busy": f"{_QUESTIONS} checks are under way already"})
        question = _Question(plane, know, plane.clock.seconds() + self._seconds, self._inquiries)
        found: dict[int, dict[str, Any]] = {}
        pending = iter(enumerate(pairs[:_PAIRS]))
        workers = [Deferred.fromCoroutine(_work(question, pending, found)) for _ in range(_CONNECTIONS)]
        outcome: Deferred[Any] = gatherResults(workers, consumeErrors=True)
        self._running.add(outcome)
        outcome.addErrback(_first, workers)
        outcome.addBoth(self._end, outcome)
        outcome.addCallback(
            lambda _: {
                "file": str(knowledge.settings.file),
                "sha256": knowledge.settings.digest,
                "generation": knowledge.state.generation,
                "left_out": max(0, len(pairs) - _PAIRS),
                "checks": [found[number] for number in sorted(found)],
            }
        )
        return outcome

    def _end(self, result: Any, outcome: Deferred[Any]) -> Any:
        self._running.discard(outcome)
        return result

    def stop(self) -> None:
        """End everything that is under way, connections that are closing too."""
        for outcome in list(self._running):
            outcome.cancel()
        for inquiry in list(self._inquiries):
            inquiry.abort()


def _first(failure: Failure, workers: list[Deferred[None]]) -> Failure:
    """What really failed, of several that run together; the others have nobody to work for."""
    for worker in workers:
        worker.cancel()
    error = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure


async def _work(question: _Question, pending: Iterator[tuple[int, Pair]], found: dict[int, dict[str, Any]]) -> None:
    for number, pair in pending:
        # The data path has its turn between two pairs: each costs some signatures.
        await deferLater(question.plane.clock, 0)
        knowledge = question.know()
        check = LayerCheck(pair, knowledge)
        with suppress(Over):
            await _check(check, question)
        identity = str(knowledge.settings.identity.workloads[pair.workload].id)
        found[number] = as_mapping(pair, identity, check.findings)


async def _check(check: LayerCheck, question: _Question) -> None:
    approach = check.begin()
    core = approach.core(probe=True)
    inquiry = Inquiry(
        question.plane, approach.address, core, approach.timeouts, question.inquiries, approach.announcement
    )
    try:
        if question.left <= 0:
            check.out_of_time()
        failure = await _reach(inquiry, check, question)
        check.shaken(failure, approach.leaf(core), proved=core.verification.peer is not None)
        acceptance = await _listen(inquiry, Hearing(core.alpn, approach.asker, asked=approach.preface), question)
    finally:
        inquiry.close()
    if acceptance is not None and acceptance.not_for_us:
        acceptance = await _listen_again(approach, question)
    if acceptance is None:
        check.out_of_time()
    else:
        check.accepted(acceptance)


async def _reach(inquiry: Inquiry, check: LayerCheck, question: _Question) -> Refusal | None:
    try:
        await inquiry.connect().addTimeout(question.left, question.plane.clock)
        return await inquiry.shake_hands().addTimeout(max(0.0, question.left), question.plane.clock)
    except Refusal as refusal:
        check.unreached(refusal)
    except defer.TimeoutError:
        check.out_of_time()
    raise AssertionError("both end the check")


async def _listen(inquiry: Inquiry, hearing: Hearing, question: _Question) -> Acceptance | None:
    """What the peer makes of us; None when the time for the question is over before the peer's is."""
    try:
        return await inquiry.listen(hearing).addTimeout(max(0.0, question.left), question.plane.clock)
    except defer.TimeoutError:
        return None


async def _listen_again(approach: Approach, question: _Question) -> Acceptance | None:
    """The peer tells others how it sees them: ask as the data path does."""
    core = approach.core(probe=False)
    inquiry = Inquiry(
        question.plane, approach.address, core, approach.timeouts, question.inquiries, approach.announcement
    )
    try:
        await inquiry.connect().addTimeout(max(0.0, question.left), question.plane.clock)
        failure = await inquiry.shake_hands().addTimeout(max(0.0, question.left), question.plane.clock)
        if failure is not None:
            return Acceptance(refusal=failure)
        return await _listen(inquiry, Hearing(core.alpn, approach.asker, refused_probe=True), question)
    except Refusal as refusal:
        return Acceptance(refusal=refusal)
    except defer.TimeoutError:
        return None
    finally:
        inquiry.close()
