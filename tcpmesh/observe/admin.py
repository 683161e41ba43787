"""
The admin interface: what may be asked where.

Ring 3. On TCP only ``/live``, ``/ready`` and ``/metrics``; on a unix socket of mode 0600 ``/connections``,
``/decisions``, ``/endpoints``, ``/identity``, ``/policy/notes`` and ``/status`` as well, and ``/authority``,
``/identity/check``, ``/identity/reload`` and ``/policy/reload``, which do something and therefore take only POST.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.protocols.policies import WrappingFactory
from twisted.web.http import Request

from tcpmesh.codes import CANNOT_LISTEN
from tcpmesh.errors import StartError
from tcpmesh.net.sockets import claim_unix_path, only_for_the_owner
from tcpmesh.observe.admin_http import CONNECTIONS, DEADLINE, TEXT, Answer, Route, guarded
from tcpmesh.observe.live import LiveConnections, as_connection
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.proxy_status import IProxyStatus
from tcpmesh.observe.records import SCHEMA_VERSION, as_json_line, rfc3339
from tcpmesh.observe.text import printable
from tcpmesh.values import Address, UnixAddress

__all__ = ["CONNECTIONS", "DEADLINE", "IProxyStatus", "listen", "tcp_site", "unix_site"]

_SLICE = 100  # connections described in one reactor turn
_JSON = "application/json"


def tcp_site(metrics: Metrics, status: IProxyStatus, clock: IReactorTime) -> WrappingFactory:
    """What may be asked over TCP, where anybody may ask."""
    return guarded(_public(metrics, status), clock)


def unix_site(
    metrics: Metrics, status: IProxyStatus, live: LiveConnections, clock: IReactorTime, now: Callable[[], float]
) -> WrappingFactory:
    """
    What may be asked on the unix socket, by whom the file's mode lets in.

    :param now: wall-clock seconds since the epoch.
    """
    routes = _public(metrics, status)
    routes[b"/connections"] = lambda _: (200, _JSON, _connections(live, now))
    routes[b"/decisions"] = lambda request: status.explain_decisions(_all_arguments(request)).addCallback(_as_answer)
    routes[b"/endpoints"] = lambda request: (200, _JSON, status.endpoints(_all_arguments(request)))
    routes[b"/identity"] = lambda _: (200, _JSON, _json(status.identities()))
    routes[b"/policy/notes"] = lambda _: (200, _JSON, _json(status.policy_notes()))
    routes[b"/status"] = lambda _: (200, _JSON, _json(status.status()))
    actions: dict[bytes, Route] = {
        b"/authority": lambda request: (200, _JSON, _json(status.change_authority(_arguments(request)))),
        b"/identity/check": lambda request: status.check_identities(_all_arguments(request)).addCallback(_as_answer),
        b"/identity/reload": lambda _: (200, _JSON, _json(status.reload_identities())),
        b"/policy/reload": lambda _: status.reload_policies().addCallback(_as_answer),
    }
    return guarded(routes, clock, actions)


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
        return 200, TEXT, b"live\n"

    def ready(_: Request) -> tuple[int, str, bytes]:
        is_ready, why = status.ready()
        return (200, TEXT, b"ready\n") if is_ready else (503, TEXT, f"not ready: {printable(why)}\n".encode())

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


def _all_arguments(request: Request) -> dict[str, Sequence[str]]:
    arguments = request.args or {}
    return {
        name.decode("utf-8", "replace"): [value.decode("utf-8", "replace") for value in values]
        for name, values in arguments.items()
    }


def _as_answer(values: Mapping[str, Any]) -> Answer:
    return 200, _JSON, _json(values)


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
