"""
Ends connections whose peer no longer answers what was sent to it.

Ring 3, Linux. TCP by itself goes on retransmitting for a quarter of an hour (tcp_retries2). TCP_USER_TIMEOUT (RFC 5482)
bounds that, but Linux applies it to a closed window too: it ends a connection to a healthy peer that simply does not
read, which in a proxy is backpressure and nothing else. So the kernel is asked now and then (TCP_INFO, tcp(7)): data
unacknowledged, or window probes unanswered, and not one acknowledgement of any kind for ``user_timeout``.
"""

from __future__ import annotations

import socket
import struct
from errno import ETIMEDOUT
from itertools import islice
from typing import Any

import attrs

# struct tcp_info: tcpi_probes is the byte at 3, tcpi_unacked the word at 24, tcpi_last_ack_recv (ms) the one at 56.
_INFO = struct.Struct("=3xB20xI28xI")
_LOOKS = 4  # within user_timeout: a dead peer is noticed at most a quarter late
_SLICE = 500  # sockets per turn of the reactor
_SAME_ACK = 0.1  # seconds by which two readings of the same acknowledgement's time may differ


@attrs.define(eq=False)
class _Wire:
    user_timeout: float
    last_ack: float = 0.0
    waiting_since: float | None = None


class Liveness:
    """
    Watches wires.

    :param read_info: gives a socket's ``struct tcp_info``; a parameter so that tests can tell what the kernel says.
    """

    def __init__(self, clock: Any, read_info: Any = None) -> None:
        self._clock = clock
        self._read_info = read_info or _read_info
        self._wires: dict[Any, _Wire] = {}
        self._interval = 0.0
        self._call: Any = None

    def add(self, transport: Any, user_timeout: float) -> None:
        """Watch a transport with a TCP socket; ``user_timeout`` in seconds."""
        self._wires[transport] = _Wire(user_timeout)
        interval = user_timeout / _LOOKS
        if self._call is None or interval < self._interval:
            self._interval = interval
            if self._call is not None:
                self._call.cancel()
            self._call = self._clock.callLater(interval, self._sweep)

    def discard(self, transport: Any) -> None:
        """Watch it no longer."""
        self._wires.pop(transport, None)
        if not self._wires and self._call is not None:
            self._call.cancel()
            self._call = None

    def _sweep(self) -> None:
        self._call = self._clock.callLater(self._interval, self._sweep)
        self._look_at(iter(list(self._wires)))

    def _look_at(self, transports: Any) -> None:
        """Look at a slice, and at the next one in another turn, so that no stream waits for all of them."""
        now = self._clock.seconds()
        count = 0
        for transport in islice(transports, _SLICE):
            count += 1
            wire = self._wires.get(transport)
            if wire is not None and self._is_dead(transport, wire, now):
                transport.give_up(ETIMEDOUT)
        if count == _SLICE:
            self._clock.callLater(0, self._look_at, transports)

    def _is_dead(self, transport: Any, wire: _Wire, now: float) -> bool:
        probes, unacknowledged, since_ack = _INFO.unpack_from(self._read_info(transport.socket))
        last_ack = now - since_ack / 1000
        answered = abs(last_ack - wire.last_ack) > _SAME_ACK
        wire.last_ack = last_ack
        if not (probes or unacknowledged):
            wire.waiting_since = None
        elif wire.waiting_since is None or answered:
            wire.waiting_since = now
        return wire.waiting_since is not None and now - wire.waiting_since >= wire.user_timeout


def _read_info(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
