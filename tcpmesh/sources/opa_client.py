"""
Asks Open Policy Agent over HTTP: a few connections that are kept, a bounded queue, bounded answers.

Ring 3. Imported when such a policy starts, since twisted.web is large. No redirects, no cookies, no compression. A
question has no side effect: one that was lost with a kept connection is asked once more.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.interfaces import IConsumer, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from tcpmesh.addresses import shown
from tcpmesh.codes import POLICY_FAILED
from tcpmesh.errors import Refusal
from tcpmesh.policy.opa_exchange import MAX_ANSWER_BYTES
from tcpmesh.sources.bounded_http import AnswerBody, BoundedEndpoint
from tcpmesh.sources.opa_place import OpaPlace

__all__ = ["OpaClient"]

_MAX_HEAD = 24576  # bytes of status line, headers and framing, with the rest of the TLS record that they end in
_ALLOWED = MAX_ANSWER_BYTES + _MAX_HEAD
_KEPT = 60  # seconds for which an idle connection is kept


class OpaClient:
    """
    Asks, a bounded number of questions at a time.

    :param connections: how many questions are under way at once, each on a connection of its own.
    :param waiting: how many more may wait for one of them.
    """

    def __init__(self, reactor: Any, place: OpaPlace, connections: int, waiting: int) -> None:
        self._place = place
        self._lanes = [_Lane(reactor, place) for _ in range(connections)]
        self._idle = list(self._lanes)
        self._most = waiting
        self._queue: dict[Deferred[bytes], bytes] = {}
        self._running: dict[Deferred[bytes], Deferred[bytes]] = {}
        self._beginning = False
        self._stopped = False

    @property
    def waiting(self) -> int:
        """How many questions wait for a connection."""
        return len(self._queue)

    def ask(self, question: bytes) -> Deferred[bytes]:
        """
        Ask one question.

        :return: the answer's body; fails with Refusal, saying why there is none. Cancelling it ends the request.
        :raises Refusal: when too many wait already.
        """
        if self._stopped:
            raise Refusal(POLICY_FAILED, "the proxy is stopping")
        if not self._idle and len(self._queue) >= self._most:
            raise Refusal(POLICY_FAILED, f"{self._most} questions wait for Open Policy Agent already")
        answer: Deferred[bytes] = Deferred(self._leave)
        self._queue[answer] = question
        self._begin_next()
        return answer

    def stop(self) -> Deferred[Any]:
        """End what is under way, and close every connection."""
        self._stopped = True
        for answer in [*self._queue, *self._running]:
            answer.addErrback(lambda failure: failure.trap(CancelledError, Refusal) and None)
            answer.cancel()
        return gatherResults([lane.close() for lane in self._lanes], consumeErrors=True)

    def _begin_next(self) -> None:
        """Begin whatever can be begun; a request that fails at once calls this again, which must not go deeper."""
        if self._beginning:
            return
        self._beginning = True
        while self._idle and self._queue:
            answer = next(iter(self._queue))
            question, lane = self._queue.pop(answer), self._idle.pop()
            self._running[answer] = work = lane.ask(question)
            work.addBoth(self._ended, lane, answer)
        self._beginning = False

    def _leave(self, answer: Deferred[bytes]) -> None:
        if self._queue.pop(answer, None) is None:
            work = self._running.pop(answer, None)
            if work is not None:
                work.cancel()

    def _ended(self, result: bytes | Failure, lane: _Lane, answer: Deferred[bytes]) -> None:
        self._idle.append(lane)
        if self._running.pop(answer, None) is not None:  # else nobody waits for it any more
            if isinstance(result, Failure):
                answer.errback(result)
            else:
                answer.callback(result)
        self._begin_next()


@implementer(IAgentEndpointFactory)
class _Lane:
    """One connection at most, and one question at a time. (ByteBudget)"""

    def __init__(self, reactor: Any, place: OpaPlace) -> None:
        self._reactor = reactor
        self._place = place
        self._pool: Any = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 1
        self._pool.cachedConnectionTimeout = _KEPT
        self._pool.retryAutomatically = False
        self._agent = Agent.usingEndpointFactory(reactor, self, pool=self._pool)
        self._headers = {b"Accept": [b"application/json"], b"Content-Type": [b"application/json"]}
        self._headers[b"User-Agent"] = [b"tcpmesh"]
        if place.token:
            self._headers[b"Authorization"] = [b"Bearer " + place.token.encode("ascii")]
        self._transport: Any = None
        self._connects = 0
        self.allowed = 0
        self.exceeded = False

    @property
    def transport(self) -> Any:
        """The connection; None before the first one, and after one that was cut."""
        return self._transport

    @transport.setter
    def transport(self, transport: Any) -> None:
        self._transport = transport
        self._connects += 1

    def ask(self, question: bytes) -> Deferred[bytes]:
        """Ask one question; the answer fails with Refusal, or with CancelledError when it is cancelled."""
        work = Deferred.fromCoroutine(self._ask_again(question))
        return work.addErrback(self._explain)

    def close(self) -> Deferred[Any]:
        """Close the connection that is kept."""
        closing: Deferred[Any] = self._pool.closeCachedConnections()
        return closing

    async def _ask_again(self, question: bytes) -> bytes:
        connects = self._connects
        try:
            return await self._ask_once(question)
        except Exception as error:
            # Was it a kept connection that one side had given up, without a word on this question? What fails while
            # connecting, and what we refuse, has no reasons below it.
            lost = hasattr(error, "reasons") and self._connects == connects and self.allowed == _ALLOWED
            if not lost or isinstance(_innermost(error), CancelledError):
                raise
        return await self._ask_once(question)

    async def _ask_once(self, question: bytes) -> bytes:
        self.allowed, self.exceeded = _ALLOWED, False
        url = self._place.url.encode("ascii")
        try:
            response = await self._agent.request(b"POST", url, Headers(self._headers), _Question(question))
            _check_response(response)
            body = AnswerBody()
            response.deliverBody(body)
            return await body.whole
        except BaseException:
            if self._transport is not None:  # whatever is left in it belongs to this question
                self._transport.abortConnection()
                self._transport = None
            raise

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802
        """Where to connect. (IAgentEndpointFactory)"""
        return BoundedEndpoint(self._place.endpoint(self._reactor), self)

    def _explain(self, failure: Failure) -> Failure:
        error = _innermost(failure.value)
        if isinstance(error, (CancelledError, Refusal)):
            return failure
        if self.exceeded:
            what = f"sends more than the {MAX_ANSWER_BYTES} bytes of an answer"
        else:
            what = f"gave no answer: {type(error).__name__}: {shown(str(error))}"
        return Failure(Refusal(POLICY_FAILED, f"Open Policy Agent at {self._place} {what}"))


def _check_response(response: IResponse) -> None:
    """:raises Refusal: for anything that cannot be an answer."""
    if response.code != 200:
        raise Refusal(POLICY_FAILED, f"Open Policy Agent answered with status {response.code}, not 200")
    if response.headers.hasHeader(b"Content-Encoding"):
        raise Refusal(POLICY_FAILED, "Open Policy Agent answered with a content coding, which is not read")


def _innermost(error: BaseException | None) -> BaseException | None:
    """What is inside of twisted.web's bundles of reasons."""
    while isinstance(reasons := getattr(error, "reasons", None), list) and reasons:
        error = reasons[-1].value
    return error


@implementer(IBodyProducer)
class _Question:
    """The body of a request, written at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:  # noqa: N802
        """(IBodyProducer)"""
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """(IBodyProducer)"""

    def resumeProducing(self) -> None:
        """(IBodyProducer)"""

    def stopProducing(self) -> None:
        """(IBodyProducer)"""
