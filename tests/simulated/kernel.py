"""
Sockets as the kernel has them, without a kernel: what is sent to somebody who has closed is answered with a reset.

``world.py`` has connections that live until both ends are done. Here either end may close, vanish or reset at any
moment, with unread bytes or without (RFC 9293 section 3.10.7, tcp(7)).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ETIMEDOUT
from typing import Any

from twisted.internet import error

from tcpmesh.errors import Refusal
from tcpmesh.net.dialling import explain_dial_failure
from tcpmesh.values import Address, TCPAddress
from tests.simulated.world import SimulatedSocket, SimulatedTransport

FAILED_DIALS = {"refused": ECONNREFUSED, "unreachable": EHOSTUNREACH, "reset": ECONNRESET}
OWN = TCPAddress("127.0.0.1", 15000)


class SimulatedEnd(SimulatedSocket):
    """
    One end of a connection.

    :param capacity: bytes that its receive buffer holds.
    """

    peer: SimulatedEnd

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.closed = False
        self.client: object = None  # the application that it is for, as the test knows
        self.written = bytearray()  # everything that was ever sent from this end

    def send(self, data: bytes) -> int:
        """Take what fits; what is sent to a closed end is taken, too, and answered with a reset."""
        peer = self.peer
        if peer.closed:
            self.reset = self.reset or bool(data)
            taken = len(data)
        else:
            taken = min(len(data), peer.capacity - len(peer.incoming))
            peer.incoming += data[:taken]
        self.written += data[:taken]
        return taken

    def abort(self) -> None:
        """Close with a reset."""
        self.closed = True
        self.peer.reset = True

    def close(self) -> None:
        """Close as close(2) does: with a reset, if anything was left unread."""
        if not self.closed:
            self.closed = True
            if self.incoming:
                self.peer.reset = True
            else:
                self.shut_down()


def connected_ends(capacity: int) -> tuple[SimulatedEnd, SimulatedEnd]:
    """Both ends of one connection."""
    one, other = SimulatedEnd(capacity), SimulatedEnd(capacity)
    one.peer, other.peer = other, one
    return one, other


class _Options:
    """A socket that takes every option."""

    def setsockopt(self, *_option: Any) -> None:
        """(socket.socket)."""


class SimulatedStream(SimulatedTransport):
    """
    What MeshStream is, on a simulated end of TCP.

    :param gentle: whether what arrived before a reset is read before the reset is heard; the kernel lets it be, a
        reactor may hear of the reset first.
    """

    peer: Address  # type: ignore[assignment]
    socket = _Options()
    own = OWN

    def __init__(self, end: SimulatedEnd, protocol: Any, peer: Address, *, gentle: bool) -> None:
        super().__init__(end, protocol)
        self.end = end
        self.peer = peer
        self._gentle = gentle
        self._given_up = ""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """(ITCPTransport)."""

    def give_up(self, number: int) -> None:
        """End the connection as if the kernel had reported this error."""
        assert number == ETIMEDOUT
        self._given_up = "ETIMEDOUT"

    def step(self, amount: int) -> bool:
        """Let one thing happen; says whether anything did."""
        if self.connected and self._given_up:
            self.errno_name = self._given_up
            return self._lose(error.ConnectionLost())
        readable = bool(self.end.incoming) and not self.paused and not self.read_ended
        if self.connected and self.end.reset and not self.aborted and self._gentle and readable:
            return self._read_some(amount)
        return super().step(amount)

    def _lose(self, why: Exception) -> bool:
        ended = isinstance(why, error.ConnectionDone)
        if ended:
            self.end.close()
        elif not self.end.closed:
            self.end.abort()
        return super()._lose(why)


class SimulatedDial:
    """
    One connect(2).

    :param outcome: ``connected``, ``silent``, or one of FAILED_DIALS.
    :param after: seconds until then.
    :param accept: gives the dialling end of a connection that the other side has accepted.
    """

    def __init__(
        self,
        clock: Any,
        address: Address,
        protocol: Any,
        timeout: float,
        on_failed: Callable[[Refusal], None],
        *,
        outcome: str,
        after: float,
        accept: Callable[[Any], SimulatedStream],
    ) -> None:
        self._protocol = protocol
        self._accept = accept

        def fail(number: int) -> None:
            on_failed(explain_dial_failure(address, number))

        if outcome == "silent" or after >= timeout:
            self._call = clock.callLater(timeout, fail, ETIMEDOUT)
        elif outcome == "connected":
            self._call = clock.callLater(after, self._connect)
        else:
            self._call = clock.callLater(after, fail, FAILED_DIALS[outcome])

    def _connect(self) -> None:
        self._protocol.makeConnection(self._accept(self._protocol))

    def cancel(self) -> None:
        """Stop, if the connection is not made yet."""
        if self._call.active():
            self._call.cancel()
