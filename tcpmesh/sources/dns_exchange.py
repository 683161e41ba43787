"""
One question to one name server: over UDP from a port and with a number of its own, over TCP when that is cut short.

Ring 3. The resolver of ``twisted.names`` is not used, only its messages: that one reads resolv.conf again every minute
for ever, keeps TCP connections, and takes an answer to another question for its own.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.names import dns
from twisted.python.failure import Failure

from tcpmesh.discovery.dns_answers import Answer, Record
from tcpmesh.discovery.dns_guard import TYPES, check_message
from tcpmesh.sources.dns_datagrams import Datagrams, words
from tcpmesh.values import TCPAddress, format_duration

__all__ = ["ExchangeError", "ask", "read_answer"]

_NUMBERS = {name: number for number, name in TYPES.items()}
_MAX_STRAY = 100  # datagrams that answer something else, until the question is given up


class ExchangeError(Exception):
    """The server gave no answer that can be used; the message says what came instead."""


def ask(reactor: Any, server: TCPAddress, name: str, kind: str, timeout: float) -> Deferred[Answer]:
    """
    Ask a server for the records of one type at a name.

    :param timeout: seconds for UDP, and again for TCP where that is needed.
    :return: fires with an answer to this very question, whatever it says; may be cancelled.
    :raises ExchangeError: (through the Deferred) when there is none.
    """
    return _Question(reactor, server, name, kind, timeout).begin()


class _Message(dns.Message):  # type: ignore[misc]
    """Decodes the records that are read and no others."""

    maxCompressionPointers = 40_000  # noqa: N815  check_message has seen to it that they are short

    def lookupRecordType(self, type: int) -> Any:  # noqa: A002, N802
        return super().lookupRecordType(type) if type in TYPES else dns.UnknownRecord


class _Question:
    def __init__(self, reactor: Any, server: TCPAddress, name: str, kind: str, timeout: float) -> None:
        self._reactor = reactor
        self._server = server
        self._name = name
        self._kind = kind
        self._timeout = timeout
        self._number = dns.randomSource()  # from the system's generator
        self._strays = 0
        self._call: Any = None
        self._leave: Any = lambda: None  # ends what is under way
        self._done: Deferred[Answer] | None = None

    def begin(self) -> Deferred[Answer]:
        done: Deferred[Answer] = Deferred(self._cancelled)
        self._done = done
        self._call = self._reactor.callLater(self._timeout, self._late)
        try:
            datagrams = Datagrams(self._reactor, self._server, self)
            self._leave = datagrams.leave
            datagrams.send(self.text())
        except Exception as error:  # noqa: BLE001  no network at all is an answer too
            self.failed(words(error))
        return done

    def text(self) -> bytes:
        """The question as it is sent."""
        message = dns.Message(self._number, recDes=1)
        message.queries = [dns.Query(self._name.encode("ascii"), _NUMBERS[self._kind], dns.IN)]
        encoded: bytes = message.toStr()
        return encoded

    # --- what comes

    def datagram(self, data: bytes) -> None:
        """A datagram from the server's address; whoever forges one must guess number and port."""
        if self._done is None:
            return
        if not self._is_ours(data):
            self._strays += 1
            if self._strays > _MAX_STRAY:
                self.failed(f"sent more than {_MAX_STRAY} answers to other questions")
            return
        if data[2] & 0x02:  # TC: the rest did not fit
            self._ask_again()
        else:
            self.answered(data)

    def answered(self, data: bytes) -> None:
        """The whole answer."""
        try:
            answer = read_answer(data, self._name, self._kind)
        except ExchangeError as error:
            self.failed(str(error))
            return
        done = self._end()
        if done is not None:
            done.callback(answer)

    def failed(self, why: str) -> None:
        """There will be no answer."""
        done = self._end()
        if done is not None:
            done.errback(Failure(ExchangeError(why)))

    def text_frame(self) -> bytes:
        """The same with its length, for TCP."""
        text = self.text()
        return struct.pack("!H", len(text)) + text

    def stream_answered(self, data: bytes) -> None:
        """A whole message over TCP."""
        if self._is_ours(data):
            self.answered(data)
        else:
            self.failed("answered another question over TCP")

    # --- own business

    def _is_ours(self, data: bytes) -> bool:
        return len(data) >= 12 and data[:2] == struct.pack("!H", self._number) and bool(data[2] & 0x80)

    def _ask_again(self) -> None:
        self._leave()
        self._call.reset(self._timeout)
        connector = self._reactor.connectTCP(
            self._server.host, self._server.port, _Streams(self), timeout=self._timeout + 1
        )
        self._leave = connector.disconnect

    def _late(self) -> None:
        self.failed(f"gave no answer within {format_duration(self._timeout)}")

    def _cancelled(self, _done: Deferred[Answer]) -> None:
        self._end()

    def _end(self) -> Deferred[Answer] | None:
        done, self._done = self._done, None
        if self._call is not None and self._call.active():
            self._call.cancel()
        leave, self._leave = self._leave, lambda: None
        leave()
        return done


def read_answer(data: bytes, name: str, kind: str) -> Answer:
    """
    Read a message as the answer to the question for the records of a type at a name.

    :raises ExchangeError: when it cannot be read, or answers another question.
    """
    try:
        check_message(data)
        message: Any = _Message()
        message.fromStr(data)
        [query] = message.queries
        asked = (_name(query.name), query.type, query.cls)
        if asked != (name, _NUMBERS[kind], dns.IN) or message.opCode != 0:
            raise ValueError("it repeats another question")
        return Answer(
            message.rCode,
            _records(message.answers),
            _records(message.authority),
            _records(message.additional),
            final=bool(message.auth or message.recAv),
        )
    except Exception as error:  # whatever the decoder raises for what a server sends
        raise ExchangeError(f"its answer cannot be read: {error or type(error).__name__}") from error


def _records(section: Any) -> tuple[Record, ...]:
    return tuple(_record(header) for header in section if header.cls == dns.IN and header.type in TYPES)


def _record(header: Any) -> Record:
    payload, kind = header.payload, TYPES[header.type]
    common = (_name(header.name), kind, header.ttl)
    if kind in ("A", "AAAA"):
        return Record(*common, data=str(ipaddress.ip_address(payload.address)))
    if kind == "CNAME":
        return Record(*common, data=_name(payload.name))
    if kind == "SRV":
        return Record(*common, _name(payload.target), payload.priority, payload.weight, payload.port)
    return Record(*common, minimum=payload.minimum)


def _name(name: Any) -> str:
    text: str = name.name.decode("ascii", "backslashreplace")
    return text.lower()


class _Streams(ClientFactory):
    """Asks over TCP (RFC 1035 section 4.2.2)."""

    noisy = False

    def __init__(self, question: _Question) -> None:
        self.question = question

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Stream(self.question)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.question.failed(f"cannot be asked over TCP: {reason.getErrorMessage()}")


class _Stream(Protocol):
    transport: Any

    def __init__(self, question: _Question) -> None:
        self._question = question
        self._received = bytearray()

    def connectionMade(self) -> None:
        self.transport.write(self._question.text_frame())

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= 2:
            (length,) = struct.unpack_from("!H", self._received)
            if len(self._received) >= length + 2:
                self._question.stream_answered(bytes(self._received[2 : length + 2]))

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self._question.failed("closed the TCP connection before its answer was complete")
