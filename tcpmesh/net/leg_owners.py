"""
What a leg tells, and whom.

Ring 3. While a connection is being established its legs belong to it, or to an attempt; then to the relay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from tcpmesh.codes import Code

if TYPE_CHECKING:
    from tcpmesh.dataplane.preface import Preface
    from tcpmesh.errors import Refusal
    from tcpmesh.net.legs import Leg
    from tcpmesh.net.tls import TLSLeg


@attrs.frozen
class Loss:
    """Why a leg broke; ``errno`` is the system error's name, empty when the system had none."""

    code: Code
    reason: str
    errno: str = ""


class LegOwner:
    """Who is told what happens on a leg; what is said here holds for owners that wait for a leg to be ready."""

    __slots__ = ()

    def leg_data(self, leg: Leg, data: bytes | memoryview) -> None:
        """Payload arrived; a memoryview is valid only during the call."""
        raise AssertionError(f"{leg!r} delivered {len(data)} bytes before it was asked to")

    def leg_ended(self, leg: Leg) -> None:
        """The peer sent its last byte in an orderly way."""

    def leg_lost(self, leg: Leg, loss: Loss) -> None:
        """The leg broke; nothing follows on it but ``leg_closed`` to its keeper."""

    def leg_gone(self, leg: Leg) -> None:
        """After ``finish`` or ``reset``: everything that was to be delivered is with the kernel."""


class TLSLegOwner(LegOwner):
    """What the owner of a TLS leg is told besides, while the connection is being established."""

    __slots__ = ()

    def leg_secured(self, leg: TLSLeg) -> None:
        """The handshake is complete and the peer is verified: ``leg.core.verification.peer``."""

    def leg_refused(self, leg: TLSLeg, refusal: Refusal) -> None:
        """Handshake or preface failed; the alert, if there is one, is on its way and the socket will close."""

    def leg_prefaced(self, leg: TLSLeg, preface: Preface) -> None:
        """The peer said ok, or why not."""


class LegKeeper(Protocol):
    """Who counts descriptors: told once for each connected leg that its socket is closed."""

    __slots__ = ()

    def leg_closed(self, leg: Leg) -> None:
        """The socket is closed."""
