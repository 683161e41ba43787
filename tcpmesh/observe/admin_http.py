"""
How the admin interface speaks HTTP, and how little one can do to it.

Ring 3. One request per connection, a deadline for each and a limit on their number, so that whoever can reach it can do
no more than ask.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPFactory, Request, datetimeToString
from zope.interface import implementer

__all__ = ["CONNECTIONS", "DEADLINE", "TEXT", "Answer", "Route", "guarded"]

CONNECTIONS = 64  # at a time; more are closed unanswered
DEADLINE = 30.0  # seconds from accept to the end of the answer
TEXT = "text/plain; charset=utf-8"

#: Status, content type, and the body, whole or in slices.
Answer = tuple[int, str, bytes | Iterator[bytes]]
Route = Callable[[Request], Answer | Deferred[Answer]]

_log = Logger()


class _Root:
    """Answers by exact path; there is no tree, and nothing to list."""

    def __init__(self, routes: dict[bytes, Route], actions: dict[bytes, Route], clock: IReactorTime) -> None:
        self._routes = routes | actions
        self._actions = actions
        self._clock = clock

    def answer(self, request: Request) -> None:
        """Answer one request and close."""
        route = self._routes.get(request.path)
        allowed = (b"POST",) if request.path in self._actions else (b"GET", b"HEAD")
        answer: Answer | Deferred[Answer]
        if route is None:
            answer = 404, TEXT, self._not_found()
        elif request.method not in allowed:
            request.setHeader(b"allow", b", ".join(allowed))
            answer = 405, TEXT, b"only " + b" and ".join(allowed) + b"\n"
        else:
            try:
                answer = route(request)
            except Exception:  # noqa: BLE001  one answer's failure is not the interface's
                self._failed(Failure(), request)
                return
        if isinstance(answer, Deferred):
            self._wait(request, answer)
        else:
            self._write(request, answer)

    def _wait(self, request: Request, answer: Deferred[Answer]) -> None:
        """Write what comes, unless whoever asked goes away, which ends it."""
        gone = request.notifyFinish()
        gone.addErrback(lambda _: answer.cancel())
        answer.addCallback(lambda answer: self._write(request, answer))
        answer.addErrback(self._failed, request)

    def _failed(self, failure: Failure, request: Request) -> None:
        if request.channel is None:
            return  # nobody is there to be told
        if failure.check(CancelledError):
            self._write(request, (503, TEXT, b"given up, since this proxy is stopping\n"))
            return
        _log.failure("answering {path} failed", failure, path=request.path)
        self._write(request, (500, TEXT, b"an internal error; its traceback is in the log\n"))

    def _write(self, request: Request, answer: Answer) -> None:
        code, content_type, body = answer
        request.setResponseCode(code)
        for name, value in (
            ("content-type", content_type),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
        ):
            request.setHeader(name.encode(), value.encode())
        if isinstance(body, bytes):
            request.setHeader(b"content-length", str(len(body)).encode())
            if request.method != b"HEAD":
                request.write(body)
            request.finish()
        elif request.method == b"HEAD":
            request.finish()
        else:
            _Slices(request, self._clock, body).start()

    def _not_found(self) -> bytes:
        return b"not found; here are " + b" ".join(sorted(self._routes)) + b"\n"


@implementer(IPushProducer)
class _Slices:
    """Writes an answer one slice per reactor turn, and only as fast as it is read."""

    def __init__(self, request: Request, clock: IReactorTime, slices: Iterator[bytes]) -> None:
        self._request = request
        self._clock = clock
        self._slices = slices
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin."""
        self._request.notifyFinish().addErrback(lambda _: self.stopProducing())
        self._request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        """(IPushProducer)."""
        if self._call is None:
            self._call = self._clock.callLater(0, self._produce)

    def pauseProducing(self) -> None:
        """(IPushProducer)."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def stopProducing(self) -> None:
        """(IProducer)."""
        self.pauseProducing()
        self._slices = iter(())

    def _produce(self) -> None:
        self._call = None
        data = next(self._slices, None)
        if data is None:
            self._request.unregisterProducer()
            self._request.finish()
            return
        self.resumeProducing()
        self._request.write(data)  # which may pause us


class _Nothing(io.BytesIO):
    """Where a request's body goes: nobody here reads one, so none is kept."""

    def write(self, data: Any) -> int:
        return len(data)


class _Request(Request):
    """A request that is its connection's last; its answer does not say which software in which version this is."""

    def gotLength(self, length: int | None) -> None:  # noqa: N802  Twisted's name
        """(Request)."""
        self.content = _Nothing()

    def process(self) -> None:
        """(Request)."""
        self.channel.persistent = 0
        self.setHeader(b"connection", b"close")
        self.setHeader(b"date", datetimeToString())
        self.channel.site.root.answer(self)  # type: ignore[attr-defined]


class _Site(HTTPFactory):
    """
    Pages without request log and its once-a-second timer.

    Not Twisted's ``Site``: its sessions, templates and remote pages would be two megabytes of every proxy.
    """

    noisy = False

    def __init__(self, root: _Root, clock: IReactorTime) -> None:
        super().__init__(timeout=DEADLINE, reactor=clock)
        self.root = root

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """(IProtocolFactory)."""
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory = _Request
        channel.site = self
        return channel

    def startFactory(self) -> None:
        """(Factory)."""

    def stopFactory(self) -> None:
        """(Factory)."""

    def log(self, request: Request) -> None:
        """(HTTPFactory)."""


class _Guard(ProtocolWrapper):
    """Ends a connection at its deadline, whoever is slow."""

    _deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """(IProtocol)."""
        self._deadline = self.factory.clock.callLater(DEADLINE, self._expire)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]
        """(IProtocol)."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        super().connectionLost(reason)

    def _expire(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]


class _Guarded(WrappingFactory):
    """Wraps the site's connections, up to their limit."""

    protocol = _Guard  # type: ignore[assignment]
    noisy = False

    def __init__(self, site: _Site, clock: IReactorTime) -> None:
        super().__init__(site)
        self.clock = clock

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:  # type: ignore[override]
        """(IProtocolFactory)."""
        return None if len(self.protocols) >= CONNECTIONS else super().buildProtocol(addr)


def guarded(
    routes: dict[bytes, Route], clock: IReactorTime, actions: dict[bytes, Route] | None = None
) -> WrappingFactory:
    """
    Make a site.

    :param routes: by path, for GET.
    :param actions: by path, for POST: they do something.
    """
    return _Guarded(_Site(_Root(routes, actions or {}, clock), clock), clock)
