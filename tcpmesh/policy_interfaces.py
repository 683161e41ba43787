"""
What an authorization policy may be able to do beside deciding about inbound connections.

Ring 0, public, stable like ``tcpmesh.interfaces``. A policy declares what it provides; nothing here is asked of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute

from tcpmesh.interfaces import IAuthorizationPolicy

if TYPE_CHECKING:
    from tcpmesh.errors import Problem

__all__ = ["IDoubtedPolicy", "IOutboundPolicy", "ITimedPolicy"]


class IOutboundPolicy(IAuthorizationPolicy):
    """A policy that decides about outbound connections too: optional; other policies are asked about inbound only."""

    decides_outbound: bool = Attribute(
        "Whether it has anything to say about them; if so, ``decide`` is asked before a service is dialled, with its "
        "name in ``request.service``."
    )


class IDoubtedPolicy(IAuthorizationPolicy):
    """A policy that knows what in it deserves a look: optional, for ``tcpmesh check`` and the start."""

    def warnings() -> Sequence[Problem]:
        """
        What cannot have been meant, although it can be used, each at its place. May read files.

        :raises tcpmesh.errors.ConfigurationError: when it cannot be used either.
        """


class ITimedPolicy(IAuthorizationPolicy):
    """A policy that decides otherwise at other times: optional, so that live connections are looked at then."""

    def next_boundary(now: float) -> float | None:
        """The first moment after ``now`` at which it may; both in seconds since the epoch. None: never by itself."""
