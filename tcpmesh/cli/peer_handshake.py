"""
One connection to a peer for the sake of a check, on a blocking socket: its handshake, and what the peer says after it.

Ring 4. No byte of payload is sent.
"""

from __future__ import annotations

import socket
import time

from tcpmesh.checking.acceptance import Acceptance, Hearing
from tcpmesh.cli.presented import Target, connect, receive
from tcpmesh.codes import HANDSHAKE_TIMEOUT, HANDSHAKE_TRUNCATED
from tcpmesh.dataplane.tls_core import TLSCore
from tcpmesh.errors import Refusal
from tcpmesh.values import Address, UnixAddress

__all__ = ["PeerHandshake"]


class PeerHandshake:
    """
    Shakes hands as the data path would.

    :param core: of a connection that has not begun.
    """

    def __init__(self, address: Address, core: TLSCore) -> None:
        self._core = core
        if isinstance(address, UnixAddress):
            self._target = Target("", path=address.path)
        else:
            self._target = Target(address.host, address.port)

    def connect(self, deadline: float) -> socket.socket:
        """
        Connect.

        :param deadline: by ``time.monotonic``.
        :raises Refusal: when nobody answers.
        """
        return connect(self._target, max(0.1, deadline - time.monotonic()))

    def shake_hands(self, stream: socket.socket, deadline: float) -> Refusal | None:
        """Give the reason why there was no handshake with whom is expected, None if there was one."""
        data = b""
        while True:
            try:
                done = self._core.handshake(data)
            except Refusal as refusal:
                self._send(stream)
                return refusal
            self._send(stream)
            if done:
                return None
            received = receive(stream, deadline)
            if received is None:
                return Refusal(HANDSHAKE_TIMEOUT, "the server did not finish the TLS handshake in time")
            if not received:
                return Refusal(HANDSHAKE_TRUNCATED, "the server closed the connection during the TLS handshake")
            data = received

    def listen(self, stream: socket.socket, hearing: Hearing, deadline: float) -> Acceptance:
        """Wait for what the peer says, or for a moment in which one that has no way to say it would refuse."""
        if hearing.seconds is not None:
            deadline = min(deadline, time.monotonic() + hearing.seconds)
        acceptance, data = None, b""
        while acceptance is None:
            plaintext = self._core.decrypt(data)
            acceptance = hearing.heard(plaintext)
            if acceptance is not None:
                break
            if self._core.broken is not None:
                return hearing.broken(self._core.broken)
            if self._core.peer_ended:
                acceptance = hearing.ended(in_order=True)
                break
            received = receive(stream, deadline)
            if received is None:
                acceptance = hearing.timed_out()
            elif not received:
                return hearing.ended(in_order=False)
            else:
                data = received
        self._end(stream)
        return acceptance

    def _end(self, stream: socket.socket) -> None:
        output = self._core.close_notify()
        try:
            stream.sendall(output)
        except OSError:  # it is over already
            return

    def _send(self, stream: socket.socket) -> None:
        """Pass on what waits. That the server is gone will show when it is read from."""
        output = self._core.take_output()
        try:
            stream.sendall(output)
        except OSError:
            return
