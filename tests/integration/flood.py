"""More bytes than anybody takes: a sender without end, and the moment when every buffer on its way is full."""

from __future__ import annotations

import hashlib
import select
import socket
from typing import Literal

from tests.integration.applications import END, Received, name_of, stream, until
from tests.integration.mesh import PATIENCE, Proxy, reactor

CHUNK = stream(65536)
_LOOKS = 25  # in which nothing moves: a pause of one moment is how every stream flows


class Flood:
    """A sender of CHUNK after CHUNK that ends only when it is told to, or when the connection breaks."""

    def __init__(self) -> None:
        self.sent = 0  # bytes
        self._told, self._tell = socket.socketpair()

    def stop(self) -> None:
        """From another thread: leave the connection as it is."""
        self._tell.close()

    def as_received(self) -> Received:
        """What the receiver of everything that was sent must report."""
        chunks, rest = divmod(self.sent, len(CHUNK))
        digest = hashlib.sha256(CHUNK * chunks + CHUNK[:rest])
        return Received(self.sent, digest.hexdigest(), END)

    def __call__(self, connection: socket.socket) -> str:
        """Send; empty when told to stop, else the name of the error."""
        connection.setblocking(False)
        try:
            while True:
                told, can_send, _ = select.select([self._told], [connection], [], PATIENCE)
                if told:
                    return ""
                if not can_send:
                    raise TimeoutError("the flood stood still for too long")
                self.sent += connection.send(memoryview(CHUNK)[self.sent % len(CHUNK) :])
        except TimeoutError:
            raise
        except OSError as problem:
            return name_of(problem)
        finally:
            self._tell.close()
            self._told.close()
            connection.settimeout(PATIENCE)


async def jammed(outer: Proxy, inner: Proxy, side: Literal["src", "dst"]) -> None:
    """Wait until neither proxy reads from this side, because the other one takes no more, and stays so for a while."""
    seen: list[object] = []

    def stands_still() -> bool:
        reading = reactor.getReaders()
        connections = [proxy.live[0] for proxy in (outer, inner) if proxy.live and proxy.live[0].relay is not None]
        paused = [c for c in connections if getattr(c, side).transport not in reading]
        if len(paused) < 2:
            seen.clear()
            return False
        progress = [(c.record.bytes_sent, c.record.bytes_recv, c.src.unsent, c.dst.unsent) for c in paused]
        if seen and seen[-1] != progress:
            seen.clear()
        seen.append(progress)
        return len(seen) >= _LOOKS

    await until(stands_still, "the flood stands still")
