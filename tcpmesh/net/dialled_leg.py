"""
The leg to an endpoint that we dial: it tells its owner that TCP is connected, and may write a PROXY header before TLS.

Ring 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tcpmesh.net.tls import TLSLeg

__all__ = ["AnnouncedLeg", "Announcement", "DialledLeg", "dialled_leg"]

#: Gives the header that goes out first on a transport.
Announcement = Callable[[Any], bytes]


class DialledLeg(TLSLeg):
    """The leg to an endpoint; its owner has ``connected()``."""

    __slots__ = ()

    def connectionMade(self) -> None:
        """Tell the owner before the handshake begins: from then on it counts the socket. (IProtocol)"""
        self.owner.connected()
        self.announce()
        super().connectionMade()

    def announce(self) -> None:
        """Write what goes before TLS."""


class AnnouncedLeg(DialledLeg):
    """The leg to an endpoint that is sent a PROXY header before TLS."""

    __slots__ = ("announcement",)

    announcement: Announcement

    def announce(self) -> None:
        """Write the header; what the kernel does not take goes before TLS all the same."""
        self.transport.write(self.announcement(self.transport))


def dialled_leg(announcement: Announcement | None, *arguments: Any, **options: Any) -> DialledLeg:
    """A leg to an endpoint, which is sent a header first if there is any; the rest is as for any TLS leg."""
    if announcement is None:
        return DialledLeg(*arguments, **options)
    leg = AnnouncedLeg(*arguments, **options)
    leg.announcement = announcement
    return leg
