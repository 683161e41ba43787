"""
What applications do in these tests: send known streams, hash what they receive, and tell how it ended.

Blocking functions for threads; the test waits for their results, never for time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import queue
import random
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.integration.mesh import PATIENCE, reactor

MIB = 1024 * 1024
END = "end"  # an orderly end: FIN, or close_notify on TLS
RESET = "ECONNRESET"
BROKEN = ("ECONNRESET", "EPIPE")  # what a sender sees of a reset: the first call the one, each further the other

T = TypeVar("T")


class Received(NamedTuple):
    """A stream as its receiver saw it."""

    length: int
    sha256: str
    ending: str  # END, or the name of the error


def says(word: bytes) -> Callable[[socket.socket], None]:
    """An application that says a word to each byte."""

    def serve(connection: socket.socket) -> None:
        while connection.recv(1):
            connection.sendall(word)

    return serve


def stream(size: int, seed: int = 0) -> bytes:
    """Bytes that look random and are the same each time."""
    return random.Random(seed).randbytes(size)


def whole(data: bytes) -> Received:
    """What the receiver of all of this must report."""
    return Received(len(data), hashlib.sha256(data).hexdigest(), END)


def is_prefix(received: Received, data: bytes) -> bool:
    """Whether this is how the stream began, and no more than that."""
    return received.length <= len(data) and received.sha256 == hashlib.sha256(data[: received.length]).hexdigest()


def name_of(problem: OSError) -> str:
    """ECONNRESET and its like; TimeoutError is nobody's answer and goes on as an error."""
    if isinstance(problem, TimeoutError):
        raise problem
    return errno.errorcode[problem.errno or 0]


def receive(connection: Any, limit: int | None = None) -> Received:
    """Read up to the end, whichever it is, or ``limit`` bytes."""
    length, digest = 0, hashlib.sha256()
    while limit is None or length < limit:
        try:
            data = connection.recv(262144 if limit is None else min(262144, limit - length))
        except OSError as problem:
            return Received(length, digest.hexdigest(), name_of(problem))
        if not data:
            break
        length += len(data)
        digest.update(data)
    return Received(length, digest.hexdigest(), END)


def push(connection: Any, data: bytes) -> str:
    """Send all of it; empty when that went well, else the name of the error."""
    try:
        connection.sendall(data)
    except OSError as problem:
        return name_of(problem)
    return ""


def exchange(connection: socket.socket, data: bytes) -> Received:
    """Send all and end, while receiving; an error that the sending met counts as the ending, too."""
    problems = []

    def send() -> None:
        problems.append(push(connection, data))
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = receive(connection)
    sender.join(PATIENCE)
    # The kernel tells of a reset once, to whichever call comes first.
    return received._replace(ending=problems[0] or END) if received.ending == END else received


def reset(connection: socket.socket) -> None:
    """Close so that the kernel sends RST (SO_LINGER of 0 s, socket(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def broken(connection: socket.socket) -> str:
    """Wait until the connection breaks, without reading or writing; give the error, or END if both sides ended."""
    poll = select.poll()
    poll.register(connection, 0)
    if not poll.poll(PATIENCE * 1000):
        raise TimeoutError("the connection did not break")
    number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[number] if number else END


class Outbox(Generic[T]):
    """Results of threads, one after the other."""

    def __init__(self) -> None:
        self._results: queue.SimpleQueue[T] = queue.SimpleQueue()

    def put(self, result: T) -> None:
        """Called in the application's thread."""
        self._results.put(result)

    def take(self) -> Deferred[T]:
        """The next result; fails when none comes in time."""
        return deferToThread(self._results.get, True, PATIENCE)

    def __len__(self) -> int:
        return self._results.qsize()


def deaf_port(test: Any) -> int:
    """A port whose backlog is full: the kernel drops every further SYN (tcp(7), listen(2))."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    test.addCleanup(listener.close)
    port = int(listener.getsockname()[1])
    while True:
        filler = socket.socket()
        test.addCleanup(filler.close)
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        # On loopback a SYN is answered before connect returns, or never.
        if filler.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x02":  # TCP_SYN_SENT
            return port


async def until(condition: Callable[[], Any], what: str) -> None:
    """
    Look once per reactor turn, or nearly, until the condition holds.

    :raises AssertionError: saying ``what`` did not come about in time.
    """
    deadline = reactor.seconds() + PATIENCE
    while not condition():
        if reactor.seconds() > deadline:
            raise AssertionError(f"within {PATIENCE} s: {what}")
        await deferLater(reactor, 0.002)
