"""
The admin interface: plain HTTP.

Ring 3. On TCP only ``/live``, ``/ready`` and ``/metrics``; on a unix socket of mode 0600 ``/connections``,
``/identity`` and ``/status`` as well, and ``/authority`` and ``/identity/reload``, which do something and therefore
take only POST. One request per connection, a deadline for each and a limit on their number, so that whoever can reach
it can do no more than ask.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort, IProtocol, IPushProducer, IReactorTime
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web import server
from twisted.web.http import Request
from twisted.web.resource import Resource
from zope.interface import implementer

from tcpmesh.codes import CANNOT_LISTEN
from tcpmesh.errors import StartError
from tcpmesh.net.sockets import claim_unix_path, only_for_the_owner
from tcpmesh.observe.live import LiveConnections, as_connection
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.proxy_status import IProxyStatus
from tcpmesh.observe.records import SCHEMA_VERSION, as_json_line, rfc3339
from tcpmesh.observe.text import printable
from tcpmesh.values import Address, UnixAddress

__all__ = ["IProxyStatus", "listen", "tcp_site", "unix_site"]

CONNECTIONS = 64  # at a time; more are closed unanswered
DEADLINE = 30.0  # seconds from accept to the end of the answer
_SLICE = 100  # connections described in one reactor turn
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"


Route = Callable[[Request], tuple[int, str, bytes | Iterator[bytes]]]


def tcp_site(metrics: Metrics, status: IProxyStatus, clock: IReactorTime) -> WrappingFactory:
    """What may be asked over TCP, where anybody may ask."""
    return _guarded(_public(metrics, status), clock)


def unix_site(
    metrics: Metrics, status: IProxyStatus, live: LiveConnections, clock: IReactorTime, now: Callable[[], float]
) -> WrappingFactory:
    """
    What may be asked on the unix socket, by whom the file's mode lets in.

    :param now: wall-clock seconds since the epoch.
    """
    routes = _public(metrics, status)
    routes[b"/connections"] = lambda _: (200, _JSON, _connections(live, now))
    routes[b"/identity"] = lambda _: (200, _JSON, _json(status.identities()))
    routes[b"/status"] = lambda _: (200, _JSON, _json(status.status()))
    actions: dict[bytes, Route] = {
        b"/authority": lambda request: (200, _JSON, _json(status.change_authority(_arguments(request)))),
        b"/identity/reload": lambda _: (200, _JSON, _json(status.reload_identities())),
    }
    return _guarded(routes, clock, actions)


def listen(reactor: Any, address: Address, site: WrappingFactory) -> IListeningPort:
    """
    Listen for admin connections; a unix socket is made with mode 0600, replacing one that nobody answers on.

    :raises StartError: CANNOT_LISTEN naming the address and why.
    """
    try:
        if not isinstance(address, UnixAddress):
            port: IListeningPort = reactor.listenTCP(address.port, site, interface=address.host)
            return port
        claim_unix_path(address)
        with only_for_the_owner():
            port = reactor.listenUNIX(address.path, site, mode=0o600)
    except CannotListenError as failure:
        why = getattr(failure.socketError, "strerror", None) or str(failure.socketError)
        raise StartError(CANNOT_LISTEN, f"admin: cannot listen on {address}: {why}") from failure
    return port


def _public(metrics: Metrics, status: IProxyStatus) -> dict[bytes, Route]:
    def live(_: Request) -> tuple[int, str, bytes]:
        return 200, _TEXT, b"live\n"

    def ready(_: Request) -> tuple[int, str, bytes]:
        is_ready, why = status.ready()
        return (200, _TEXT, b"ready\n") if is_ready else (503, _TEXT, f"not ready: {printable(why)}\n".encode())

    def scrape(request: Request) -> tuple[int, str, bytes]:
        accept = request.getHeader(b"accept") or b""
        content_type, text = metrics.render(accept.decode("latin-1"))
        return 200, content_type, text

    return {b"/live": live, b"/ready": ready, b"/metrics": scrape}


def _arguments(request: Request) -> dict[str, str]:
    """What stands behind the question mark; of several of one name the last."""
    arguments = request.args or {}
    return {
        name.decode("utf-8", "replace"): values[-1].decode("utf-8", "replace") for name, values in arguments.items()
    }


def _json(values: Mapping[str, Any]) -> bytes:
    return (as_json_line(values) + "\n").encode()


def _connections(live: LiveConnections, now: Callable[[], float]) -> Iterator[bytes]:
    """One JSON object, made a slice at a time: thousands of connections must not stop the proxy to be listed."""
    records = live.snapshot()
    head = {"v": SCHEMA_VERSION, "time": rfc3339(now()), "count": len(records)}
    yield as_json_line(head).encode()[:-1] + b',"connections":['
    for start in range(0, len(records), _SLICE):
        described = [as_json_line(as_connection(record, now())) for record in records[start : start + _SLICE]]
        yield (",\n" if start else "\n").encode() + ",\n".join(described).encode()
    yield b"]}\n"


class _Root(Resource):
    """Answers by exact path; there is no tree, and nothing to list."""

    def __init__(self, routes: dict[bytes, Route], actions: dict[bytes, Route], clock: IReactorTime) -> None:
        super().__init__()
        self.isLeaf = True
        self._routes = routes | actions
        self._actions = actions
        self._clock = clock

    def render(self, request: Request) -> int:
        """Answer one request and close. (IResource)"""
        route = self._routes.get(request.path)
        allowed = (b"POST",) if request.path in self._actions else (b"GET", b"HEAD")
        body: bytes | Iterator[bytes]
        if route is None:
            code, content_type, body = 404, _TEXT, self._not_found()
        elif request.method not in allowed:
            request.setHeader(b"allow", b", ".join(allowed))
            code, content_type, body = 405, _TEXT, b"only " + b" and ".join(allowed) + b"\n"
        else:
            code, content_type, body = route(request)
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
        return server.NOT_DONE_YET

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


class _Request(server.Request):
    """A request that is its connection's last."""

    def process(self) -> None:
        """(Request)."""
        self.channel.persistent = 0
        self.setHeader(b"connection", b"close")
        super().process()

    def setHeader(self, name: str | bytes, value: str | bytes) -> None:  # noqa: N802  Twisted's name
        """Set a header, but not which software in which version this is. (Request)"""
        if name != b"Server":
            super().setHeader(name, value)


class _Site(server.Site):
    """A site without request log, its once-a-second timer, and bodies; tracebacks it does not show anyway."""

    noisy = False

    def startFactory(self) -> None:
        """(Factory)."""

    def stopFactory(self) -> None:
        """(Factory)."""

    def log(self, request: Request) -> None:
        """(HTTPFactory)."""

    def getContentFile(self, _length: int | None) -> io.BytesIO:  # noqa: N802  Twisted's name
        """(Request.gotLength)."""
        return _Nothing()


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

    def __init__(self, site: server.Site, clock: IReactorTime) -> None:
        super().__init__(site)
        self.clock = clock

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:  # type: ignore[override]
        """(IProtocolFactory)."""
        return None if len(self.protocols) >= CONNECTIONS else super().buildProtocol(addr)


def _guarded(
    routes: dict[bytes, Route], clock: IReactorTime, actions: dict[bytes, Route] | None = None
) -> WrappingFactory:
    return _Guarded(_Site(_Root(routes, actions or {}, clock), _Request, timeout=DEADLINE, reactor=clock), clock)
