"""
The discovery ``http-registry``: asks a registry over HTTP, again and again, which instances of a service are well.

The answer is that of Consul's ``/v1/health/service/NAME?passing=true``: a list of objects with ``Node`` and ``Service``
(``Address``, ``Port``, ``Weights``). Nothing here blocks: the request is Twisted's, its answer comes as a Deferred.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol, cast
from urllib.parse import quote, urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.interfaces import IDiscoveryObserver, IServiceDiscovery, IServiceDiscoveryFactory, PluginContext
from tcpmesh.values import Duration, Endpoint, TCPAddress, parse_address

MAX_ANSWER = 1 << 20  # bytes; a registry that says more is not believed
MAX_INSTANCES = 1000
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _check_url(_instance: object, _attribute: object, value: str) -> None:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError(f"{value!r} is not an address like http://127.0.0.1:8500 or https://registry.example.test")
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise ValueError(
            f"{value!r}: on another machine a registry needs https, or anybody between could answer for it"
        )


def _check_positive(_instance: object, attribute: attrs.Attribute[Duration], value: Duration) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be longer than nothing")


@attrs.frozen
class HTTPRegistrySettings:
    """``url`` is the registry's, ``name`` what the service is called there; asked every ``interval``."""

    url: str = attrs.field(validator=_check_url)
    name: str
    interval: Duration = attrs.field(default=Duration(10.0), validator=_check_positive)
    timeout: Duration = attrs.field(default=Duration(5.0), validator=_check_positive)


class Asking(Protocol):
    """What asks: an Agent of Twisted's, or a test's."""

    def request(self, method: bytes, uri: bytes) -> Deferred[Any]:
        """Fires with an IResponse."""


@implementer(IServiceDiscovery)
class HTTPRegistry:
    """One request at a time; what it says goes on while the registry is not to be asked."""

    def __init__(self, settings: HTTPRegistrySettings, context: PluginContext, agent: Asking) -> None:
        self._settings = settings
        self._clock = context.clock
        self._agent = agent
        self._uri = f"{settings.url.rstrip('/')}/v1/health/service/{quote(settings.name, safe='')}?passing=true"
        self._asked: Deferred[Any] | None = None
        self._call: IDelayedCall | None = None
        self._observer: IDiscoveryObserver | None = None

    def start(self, observer: IDiscoveryObserver) -> None:
        """Ask now, and go on."""
        self._observer = observer
        self._ask()

    def stop(self) -> None:
        """Ask no more, and listen to no answer."""
        self._observer = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._asked is not None:
            self._asked.cancel()

    def _ask(self) -> None:
        self._call = None
        asked = self._agent.request(b"GET", self._uri.encode("ascii"))
        asked.addCallback(_read)
        asked.addTimeout(self._settings.timeout, cast("Any", self._clock))
        asked.addCallback(instances)
        self._asked = asked
        asked.addCallbacks(self._tell, self._complain)
        asked.addBoth(self._wait)

    def _tell(self, endpoints: Sequence[Endpoint]) -> None:
        if self._observer is not None:
            self._observer.endpoints_changed(endpoints)

    def _complain(self, failure: Failure) -> None:
        if self._observer is not None:
            self._observer.endpoints_failed(f"{self._uri}: {failure.getErrorMessage() or failure.type.__name__}")

    def _wait(self, _nothing: None) -> None:
        self._asked = None
        if self._observer is not None:
            self._call = self._clock.callLater(self._settings.interval, self._ask)


def _read(response: Any) -> Deferred[bytes]:
    """
    The body.

    :raises ValueError: (as the Deferred's failure) for any status but 200, and for a body that is too long.
    """

    def check_status(data: bytes) -> bytes:
        if response.code != 200:
            raise ValueError(f"the registry answered with status {response.code}")
        return data

    body = _Body(MAX_ANSWER)
    response.deliverBody(body)
    return body.complete.addCallback(check_status)


class _Body(TwistedProtocol):
    """Collects a body up to its end, or to a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()
        self.complete: Deferred[bytes] = Deferred(lambda _cancelled: self._leave())

    def _leave(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """One piece more."""
        self._data += data
        if len(self._data) > self._most:
            self._leave()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008  Twisted's signature
        """The end, or what broke it."""
        if self.complete.called:
            return
        if len(self._data) > self._most:
            self.complete.errback(ValueError(f"the answer is longer than {self._most} bytes"))
        elif reason.type.__name__ in ("ResponseDone", "PotentialDataLoss"):
            self.complete.callback(bytes(self._data))
        elif not reason.check(CancelledError):
            self.complete.errback(reason)


def instances(body: bytes) -> tuple[Endpoint, ...]:
    """
    Read the registry's answer.

    :raises ValueError: naming the first instance that cannot be used; half an answer would move all connections.
    """
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    if not isinstance(listed, list) or len(listed) > MAX_INSTANCES:
        raise ValueError(f"the answer is not a list of at most {MAX_INSTANCES} instances")
    found: dict[TCPAddress, Endpoint] = {}
    for number, entry in enumerate(listed):
        try:
            endpoint = _endpoint(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"instance {number} cannot be used: {type(error).__name__}: {error}") from None
        assert isinstance(endpoint.address, TCPAddress)
        found.setdefault(endpoint.address, endpoint)
    return tuple(found.values())


def _endpoint(entry: dict[str, Any]) -> Endpoint:
    service = entry["Service"]
    # Consul leaves the service's address empty when it is the node's.
    host, port = service.get("Address") or entry["Node"]["Address"], service["Port"]
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError("Address is not text, or Port is not a number")
    address = parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    weight = service.get("Weights", {}).get("Passing", 1)
    if not isinstance(address, TCPAddress) or not isinstance(weight, int) or not 0 <= weight <= 1000:
        raise ValueError(f"{host}:{port} with the weight {weight!r}")
    return Endpoint(address, weight)


@implementer(IServiceDiscoveryFactory)
class HTTPRegistryFactory:
    """Makes discoveries that ask a registry."""

    name = "http-registry"
    description = "the instances that an HTTP registry says are well"
    settings = HTTPRegistrySettings

    def create(self, settings: HTTPRegistrySettings, context: PluginContext) -> HTTPRegistry:
        """Make the discovery of one service."""
        from twisted.web.client import Agent  # a large module, for those only who use this

        # In a proxy the clock is the reactor.
        return HTTPRegistry(settings, context, Agent(cast("Any", context.clock), connectTimeout=settings.timeout))
