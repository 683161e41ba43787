"""
What an inbound listener reads before TLS: the PROXY header, from those who must send one.

Ring 3. Who they are is the configuration's to say (``proxy_protocol.accept_from``). They must, and all others' first
bytes are TLS: a receiver that guesses can be told addresses by anybody (proxy-protocol.txt section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tcpmesh.dataplane.proxy_header import ProxyHeader
from tcpmesh.dataplane.proxy_reader import ProxyHeaderReader
from tcpmesh.errors import Refusal
from tcpmesh.net.prelude import Prelude

__all__ = ["ArrivingConnection", "read_proxy_header"]


class ArrivingConnection(Protocol):
    """Who is told of the header."""

    def came_through(self, header: ProxyHeader) -> None:
        """Whoever is connected relays for somebody else, or says that it does not."""

    def refuse_arrival(self, refusal: Refusal) -> None:
        """What came is not what must come: end it."""


def read_proxy_header(
    connection: ArrivingConnection, prelude: Prelude, seconds: float, then: Callable[[Prelude, bytes], Any]
) -> None:
    """Read the header, within so many seconds; ``then`` gets the prelude, which is paused, and what follows it."""
    reader = ProxyHeaderReader()

    def on_read(header: ProxyHeader) -> None:
        connection.came_through(header)
        then(prelude, reader.rest)

    prelude.read(reader, seconds, on_read, connection.refuse_arrival)
