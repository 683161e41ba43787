"""
The client's side of one gRPC call over HTTP/2: one empty request, a stream of messages as the answer.

Ring 3. A connection of its own for each call, in plain text: for sockets that do not leave the machine. Everything
that the server controls is bounded: messages, headers, frames that carry nothing, and the time that each may take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from tcpmesh.identity.certificates import shown
from tcpmesh.sources.grpc_wire import EMPTY_REQUEST, FramingError, MessageBuffer, Status, read_status, status_text
from tcpmesh.sources.http2_frames import FrameGauge, FrameTooLongError

__all__ = ["ANSWER_TIME", "KEEPALIVE", "MAX_FRAMES", "PONG_TIME", "GrpcStream", "StreamEnd"]

ANSWER_TIME = 30.0  # seconds until the first message is there; and each later one, once it has begun
# gRPC's servers end a connection whose client pings more often than every five minutes (its "enhance your calm").
KEEPALIVE = 330.0  # seconds of silence before we ask whether somebody is still there
PONG_TIME = 20.0  # seconds
MAX_FRAMES = 200  # in a minute, not counting those that carry a part of a message; messages count
_WINDOW = 60.0  # seconds
_MAX_HEADERS = 16384  # bytes
_HEADERS = ((":method", "POST"), (":scheme", "http"), (":authority", "localhost"))
_GRPC = (("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "tcpmesh"))


@attrs.frozen
class StreamEnd:
    """
    How a call ended. ``status`` is the server's, or UNAVAILABLE, INTERNAL or the like for what went wrong on the way.

    ``reason`` is one line for the log. OK means that the server ended the call, or the connection, in order.
    """

    status: Status
    reason: str


class GrpcStream(Protocol):
    """
    One call on one connection.

    :param path: ``/SERVICE/METHOD``.
    :param metadata: headers of the request.
    :param on_message: gets each message; it may call :meth:`abort`.
    :param on_end: gets the end, once; never after :meth:`abort`, and no message follows.
    """

    def __init__(
        self,
        clock: IReactorTime,
        path: str,
        metadata: Sequence[tuple[str, str]],
        on_message: Callable[[bytes], None],
        on_end: Callable[[StreamEnd], None],
    ) -> None:
        self._clock = clock
        self._headers = [*_HEADERS, (":path", path), *_GRPC, *metadata]
        self._on_message = on_message
        self._on_end = on_end
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.local_settings = Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS},
        )
        self._h2.decoder.max_header_list_size = _MAX_HEADERS
        self._gauge = FrameGauge()
        self._messages = MessageBuffer()
        self._begun = False  # the first message has come
        self._status: tuple[Status, str] | None = None
        self._finished = False
        self._lost = False
        self._heard = 0.0  # when bytes came last, on the reactor's clock
        self._pinged = False  # and nothing came since
        self._frames = 0
        self._frames_since = 0.0
        self._deadline: IDelayedCall | None = None
        self._keepalive: IDelayedCall | None = None
        self.gone: Deferred[None] = Deferred()  # fires when the connection is no more

    def connectionMade(self) -> None:
        """Send the request. (IProtocol)"""
        if self._finished:  # aborted while it was being connected
            self._cut()
            return
        self._heard = self._frames_since = self._clock.seconds()
        self._h2.initiate_connection()
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, self._headers)
        self._h2.send_data(stream, EMPTY_REQUEST, end_stream=True)
        self._await(ANSWER_TIME, "no message came")
        self._keepalive = self._clock.callLater(KEEPALIVE, self._look_alive)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Take what came, and answer what HTTP/2 wants answered. (IProtocol)"""
        if self._finished:
            return
        self._heard = self._clock.seconds()
        self._pinged = False
        try:
            for piece, idle in self._gauge.split(data):
                if idle:
                    self._count()
                for event in () if self._finished else self._h2.receive_data(piece):
                    self._take(event)
                    if self._finished:
                        return
        except ProtocolError as error:
            self._end(Status.INTERNAL, f"the server breaks HTTP/2: {type(error).__name__}: {shown(str(error))}")
        except FrameTooLongError as error:
            self._end(Status.INTERNAL, f"the server breaks HTTP/2: {error}")
        except FramingError as error:
            self._end(Status.INTERNAL, f"the server breaks gRPC: {error}")
        if not self._finished:
            self._watch()
            self._flush()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Report it, unless the end is known. (IProtocol)"""
        lost = "" if reason is None or reason.check(ConnectionDone) else f": {reason.getErrorMessage()}"
        self._end(Status.UNAVAILABLE, f"the server closed the connection without a status{lost}")
        self._lost = True
        self.gone.callback(None)

    def abort(self) -> None:
        """End now and tell nobody. Safe at any time, and twice."""
        self._finished = True
        for call in (self._deadline, self._keepalive):
            if call is not None and call.active():
                call.cancel()
        self._cut()

    def _cut(self) -> None:
        if self.transport is not None and not self._lost:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def _end(self, status: Status, reason: str) -> None:
        if self._finished:
            return
        self.abort()
        self._on_end(StreamEnd(status, reason))

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    # --- what comes

    def _take(self, event: Event) -> None:
        if isinstance(event, DataReceived) and event.data:
            self._take_data(event)
            return
        if isinstance(event, DataReceived):
            self._count()  # nothing but padding, or an empty frame, which then counts twice
            self._acknowledge(event)
        elif isinstance(event, ResponseReceived):
            self._take_headers(event.headers)
        elif isinstance(event, TrailersReceived):
            self._status = read_status(event.headers)
        elif isinstance(event, StreamEnded):
            self._take_end()
        elif isinstance(event, StreamReset):
            self._end(Status.UNAVAILABLE, f"the server reset the stream ({_error_name(event.error_code)})")
        elif isinstance(event, ConnectionTerminated):
            self._take_goaway(event)

    def _take_data(self, event: DataReceived) -> None:
        self._acknowledge(event)
        for message in self._messages.feed(event.data):
            self._count()
            self._begun = True
            self._cancel_deadline()
            if not self._finished:
                self._on_message(message)
            if self._finished:
                return

    def _acknowledge(self, event: DataReceived) -> None:
        if event.flow_controlled_length and not event.stream_ended:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _take_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._status = read_status(headers)
        if self._status is not None:
            return  # an answer that has nothing but a status
        fields = dict(headers)
        http = fields.get(b":status", b"")
        kind = fields.get(b"content-type", b"")
        encoding = fields.get(b"grpc-encoding", b"identity")
        if http != b"200":
            self._end(Status.UNKNOWN, f"the server answered with the HTTP status {_text(http)}; is it a Workload API?")
        elif not kind.startswith(b"application/grpc"):
            self._end(Status.UNKNOWN, f"the answer is of type {_text(kind)}, not application/grpc")
        elif encoding != b"identity":
            self._end(Status.INTERNAL, f"the answer is compressed ({_text(encoding)}), although nothing was offered")

    def _take_end(self) -> None:
        if self._status is None:
            self._end(Status.UNKNOWN, "the server ended the answer without a status")
            return
        status, words = self._status
        if status is Status.OK and self._messages.partial:
            self._end(Status.DATA_LOSS, "the server ended the answer in the middle of a message")
        else:
            self._end(status, status_text(status, words))

    def _take_goaway(self, event: ConnectionTerminated) -> None:
        if event.error_code == ErrorCodes.NO_ERROR:
            self._end(Status.OK, "the server is going away")
            return
        words = (event.additional_data or b"").decode("utf-8", "replace")
        said = f", {shown(words)}" if words else ""
        reason = f"the server ended the connection ({_error_name(event.error_code)}{said})"
        self._end(Status.UNAVAILABLE, reason)

    def _count(self) -> None:
        """Bound how often the server can make us do something."""
        now = self._clock.seconds()
        if now - self._frames_since >= _WINDOW:
            self._frames, self._frames_since = 0, now
        self._frames += 1
        if self._frames > MAX_FRAMES:
            self._end(Status.RESOURCE_EXHAUSTED, f"the server sends more than {MAX_FRAMES} frames in a minute")

    # --- time

    def _await(self, seconds: float, what: str) -> None:
        self._deadline = self._clock.callLater(seconds, self._too_late, seconds, what)

    def _watch(self) -> None:
        """What has begun must end."""
        if not self._begun:
            return
        if not self._messages.partial and not self._gauge.partial:
            self._cancel_deadline()
        elif self._deadline is None:
            self._await(ANSWER_TIME, "a message or a frame began and did not end")

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self, seconds: float, what: str) -> None:
        self._deadline = None
        self._end(Status.DEADLINE_EXCEEDED, f"{what} within {seconds:g} s")

    def _look_alive(self) -> None:
        silent = self._clock.seconds() - self._heard
        if silent < KEEPALIVE:
            self._keepalive = self._clock.callLater(KEEPALIVE - silent, self._look_alive)
            return
        self._pinged = True
        self._keepalive = self._clock.callLater(PONG_TIME, self._look_for_pong)
        self._h2.ping(b"tcpmesh?")
        self._flush()

    def _look_for_pong(self) -> None:
        if self._pinged:
            silent = self._clock.seconds() - self._heard
            self._end(Status.UNAVAILABLE, f"the server has been silent for {silent:.0f} s and does not answer a ping")
            return
        self._keepalive = self._clock.callLater(KEEPALIVE, self._look_alive)


def _text(value: bytes) -> str:
    return shown(value.decode("latin-1"), 60) if value else "(none)"


def _error_name(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"error {code}"
