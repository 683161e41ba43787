"""A network between two proxies that does to the bytes what a test wants."""

from __future__ import annotations

import select
import socket
import threading
from typing import Literal

from tests.integration.applications import reset
from tests.integration.mesh import PATIENCE, MeshTestCase


class Wire:
    """
    Forwards connections to a port, both ways.

    :param cut: how it is cut: ``fin`` and ``rst`` towards both ends at once.
    :param after: how many bytes of both directions together pass before the cut.
    :param piece: the most bytes that one write carries.
    :param flip: the number of the byte of which one bit is turned, among those towards ``flip_towards``.
    """

    def __init__(
        self,
        test: MeshTestCase,
        port: int,
        *,
        cut: Literal["fin", "rst", ""] = "",
        after: int = 0,
        piece: int = 65536,
        flip: int | None = None,
        flip_towards: Literal["server", "client"] = "server",
    ) -> None:
        self._target = port
        self._cut = cut
        self._after = after
        self._piece = piece
        self._flip = flip
        self._flip_towards = flip_towards
        self.open = threading.Event()  # nothing is forwarded before it is set
        self.open.set()
        self.port = test.application(self._carry)

    def _carry(self, near: socket.socket) -> None:
        self.open.wait(PATIENCE)
        with socket.create_connection(("127.0.0.1", self._target), timeout=PATIENCE) as far:
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                is_cut = self._forward(near, far)
            except OSError:
                # Whoever was reset is so at the other end, too; closed with nothing unread, that one would see a FIN.
                reset(near)
                reset(far)
            else:
                if is_cut:
                    self._end(near, far)

    def _forward(self, near: socket.socket, far: socket.socket) -> bool:
        """Until both have ended; true if it is to be cut before."""
        passed = {near: 0, far: 0}
        reading = [near, far]
        while reading:
            for source in select.select(reading, [], [], PATIENCE)[0]:
                sink = far if source is near else near
                data = bytearray(source.recv(65536))
                if not data:
                    reading.remove(source)
                    sink.shutdown(socket.SHUT_WR)
                    continue
                if (source is near) == (self._flip_towards == "server"):
                    self._damage(data, passed[source])
                passed[source] += len(data)
                if self._cut and sum(passed.values()) > self._after:
                    return True
                for start in range(0, len(data), self._piece):
                    sink.sendall(data[start : start + self._piece])
        return False

    def _damage(self, data: bytearray, offset: int) -> None:
        if self._flip is not None and 0 <= self._flip - offset < len(data):
            data[self._flip - offset] ^= 1

    def _end(self, near: socket.socket, far: socket.socket) -> None:
        if self._cut == "rst":
            reset(near)
            reset(far)
            return
        reading = [near, far]
        for each in reading:
            each.shutdown(socket.SHUT_WR)
        # Closing with unread data would be a reset.
        while reading:
            for source in select.select(reading, [], [], PATIENCE)[0]:
                if not source.recv(65536):
                    reading.remove(source)
