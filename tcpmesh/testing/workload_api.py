"""
A SPIFFE Workload API for tests, which misbehaves when it is told to.

Public. Speaks real HTTP/2 and gRPC: to a source in the same process without a reactor, or on a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, SettingsFrame
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from tcpmesh.testing.memory_pipe import connect_in_memory
from tcpmesh.testing.workload_messages import x509_bundles_response, x509_svid_response
from tcpmesh.values import IdentitySnapshot

__all__ = ["FakeWorkloadAPI", "WorkloadAPICall"]

_SERVICE = "/SpiffeWorkloadAPI/"
_INVALID_ARGUMENT, _UNIMPLEMENTED = 3, 12
_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]

Headers = Sequence[tuple[str, str]]


class WorkloadAPICall(Protocol):
    """One connection to the fake, and the one call on it; the fake's methods act on all that are open."""

    def __init__(self, api: FakeWorkloadAPI) -> None:
        self._api = api
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._stream = 0
        self._begun = False
        self._waiting = bytearray()  # for the client to open its window
        self._trailers: Headers | None = None
        self._over = False
        self.method = ""

    def connectionMade(self) -> None:
        """(IProtocol)."""
        self._api.calls.append(self)
        self._h2.initiate_connection()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """(IProtocol)."""
        if self._api.frozen:
            return
        for event in self._h2.receive_data(data):
            if isinstance(event, RequestReceived) and event.stream_id is not None:
                self._stream = event.stream_id
                self._flush()
                headers = {str(name): str(value) for name, value in event.headers}
                self.method = headers[":path"].removeprefix(_SERVICE)
                self._api.take_request(self, headers)
        self._send()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """(IProtocol)."""
        if self in self._api.calls:
            self._api.calls.remove(self)

    def begin(self, headers: Headers = _HEADERS) -> None:
        """Send the answer's headers, once."""
        if not self._begun:
            self._begun = True
            self._h2.send_headers(self._stream, headers)

    def send_message(self, message: bytes, flag: int = 0) -> None:
        """Send a message, as fast as the client's windows allow."""
        self.send_bytes(bytes([flag]) + len(message).to_bytes(4, "big") + message)

    def send_bytes(self, data: bytes) -> None:
        """Send the bytes as they are, as a part of the answer."""
        self.begin()
        self._waiting += data
        self._send()

    def finish(self, trailers: Headers) -> None:
        """End the answer when everything has been sent; a first thing to say is a trailers-only answer."""
        self._trailers = trailers if self._begun else [*_HEADERS, *trailers]
        self._send()

    def close_stream(self) -> None:
        """End the answer with a last, empty DATA frame, without trailers."""
        self.begin()
        self._over = True
        self._h2.end_stream(self._stream)
        self._flush()

    def reset_stream(self, code: ErrorCodes) -> None:
        """Send RST_STREAM."""
        self._over = True
        self._h2.reset_stream(self._stream, code)
        self._flush()

    def go_away(self, code: ErrorCodes, words: bytes) -> None:
        """Send GOAWAY."""
        self._over = True
        self._h2.close_connection(code, additional_data=words or None)
        self._flush()

    def write(self, data: bytes) -> None:
        """Send bytes on the connection that HTTP/2 did not make."""
        if self.transport is not None:
            self.transport.write(data)

    def cut(self) -> None:
        """Close the connection, whatever the state of the call."""
        if self.transport is not None:
            self.transport.loseConnection()

    @property
    def answerable(self) -> bool:
        """Whether there was a request, and its answer has not ended."""
        return bool(self.method) and not self._over

    @property
    def stream(self) -> int:
        """The number of the call's stream."""
        return self._stream

    def _send(self) -> None:
        while self._waiting:
            room = min(self._h2.local_flow_control_window(self._stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                break
            self._h2.send_data(self._stream, bytes(self._waiting[:room]))
            del self._waiting[:room]
        if self._trailers is not None and not self._waiting:
            trailers, self._trailers = self._trailers, None
            self._begun = True
            self._over = True
            self._h2.send_headers(self._stream, trailers, end_stream=True)
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self.write(data)


class FakeWorkloadAPI:
    """
    Answers ``FetchX509SVID`` and ``FetchX509Bundles``; until :meth:`serve` or :meth:`refuse` it keeps silent.

    :ivar calls: whose connections are open.
    :ivar requests: the headers of every request so far.
    :ivar reachable: whether :meth:`connect` succeeds.
    :ivar frozen: takes nothing in and answers nothing, like a process that was stopped.
    :ivar chunk: bytes that arrive at a time over :meth:`connect`; 0 for as many as there are.
    """

    def __init__(self, snapshot: IdentitySnapshot | None = None, hints: Sequence[str] = ()) -> None:
        self.calls: list[WorkloadAPICall] = []
        self.requests: list[dict[str, str]] = []
        self.reachable = True
        self.frozen = False
        self.chunk = 0
        self._messages: dict[str, bytes] = {}
        self._status: Headers | None = None
        if snapshot is not None:
            self.serve(snapshot, hints)

    def factory(self) -> Factory[Any]:
        """For a reactor's ``listenUNIX`` or ``listenTCP``."""
        factory: Factory[Any] = Factory.forProtocol(lambda: WorkloadAPICall(self))
        factory.noisy = False
        return factory

    def connect(self, _reactor: Any, _address: object, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect a client's protocol to a new call, in memory; for ``WorkloadAPIFactory(connect=...)``."""
        if not self.reachable:
            return fail(ConnectError(string="nobody listens"))
        client: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        connect_in_memory(client, WorkloadAPICall(self), self.chunk)  # type: ignore[arg-type]
        return succeed(client)

    def take_request(self, call: WorkloadAPICall, headers: dict[str, str]) -> None:
        """Answer a request as far as the answer is known."""
        self.requests.append(headers)
        if headers.get("workload.spiffe.io") != "true":
            call.finish(_status(_INVALID_ARGUMENT, "security header missing from request"))
        elif call.method not in ("FetchX509SVID", "FetchX509Bundles"):
            call.finish(_status(_UNIMPLEMENTED, f"unknown method {call.method}"))
        elif self._status is not None:
            call.finish(self._status)
        elif call.method in self._messages:
            call.send_message(self._messages[call.method])

    # --- what it serves

    def serve(self, snapshot: IdentitySnapshot, hints: Sequence[str] = ()) -> None:
        """Send this to every open call, and to every one to come."""
        self._status = None
        self._messages = {
            "FetchX509SVID": x509_svid_response(snapshot, hints),
            "FetchX509Bundles": x509_bundles_response(snapshot.bundles.values()),
        }
        self._each(lambda call: call.send_message(self._messages[call.method]))

    def refuse(self, status: int, words: str = "") -> None:
        """End every open call, and every one to come, with this gRPC status."""
        self._status = _status(status, words)
        self.end(status, words)

    # --- how it misbehaves, once, on the calls that are open

    def send(self, message: bytes, flag: int = 0) -> None:
        """Send any message; a ``flag`` of 1 says that it is compressed."""
        self._each(lambda call: call.send_message(message, flag))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes where a message is expected."""
        self._each(lambda call: call.send_bytes(data))

    def end(self, status: int = 0, words: str = "") -> None:
        """End with a status; the next call is answered as before."""
        self._each(lambda call: call.finish(_status(status, words)))

    def end_with(self, headers: Headers) -> None:
        """End with these trailers, whatever they are."""
        self._each(lambda call: call.finish(headers))

    def begin_with(self, headers: Headers) -> None:
        """Begin the answer with these headers, ``:status`` first; for calls that got nothing yet."""
        self._each(lambda call: call.begin(headers))
        self._each(lambda call: call.send_bytes(b""))

    def end_without_trailers(self) -> None:
        """End without a status."""
        self._each(lambda call: call.close_stream())

    def reset(self, code: ErrorCodes = ErrorCodes.INTERNAL_ERROR) -> None:
        """Reset the stream."""
        self._each(lambda call: call.reset_stream(code))

    def go_away(self, code: ErrorCodes = ErrorCodes.NO_ERROR, words: bytes = b"") -> None:
        """Send GOAWAY."""
        self._each(lambda call: call.go_away(code, words))

    def cut(self) -> None:
        """Close the connections."""
        for call in list(self.calls):
            call.cut()

    def write(self, data: bytes) -> None:
        """Send bytes that HTTP/2 did not make."""
        for call in list(self.calls):
            call.write(data)

    def flood_pings(self, count: int) -> None:
        """Send PING frames, each of which wants an answer."""
        self.write(PingFrame(0, opaque_data=b"flooding").serialize() * count)

    def flood_settings(self, count: int) -> None:
        """Send SETTINGS frames, each of which wants an answer."""
        self.write(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 65535}).serialize() * count)

    def flood_continuations(self, count: int) -> None:
        """Begin headers, and let CONTINUATION frames follow that never end them."""
        self._each(
            lambda call: call.write(
                HeadersFrame(call.stream, data=b"\x00").serialize()
                + ContinuationFrame(call.stream, data=b"x").serialize() * count
            )
        )

    def _each(self, action: Callable[[WorkloadAPICall], None]) -> None:
        for call in list(self.calls):
            if call.answerable:
                action(call)


def _status(status: int, words: str) -> Headers:
    return [("grpc-status", str(status)), ("grpc-message", quote(words, safe=" "))]
