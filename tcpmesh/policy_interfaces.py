"""
What an authorization policy may be able to do beside deciding about inbound connections.

Ring 0, public, stable like ``tcpmesh.interfaces``. A policy declares what it provides; nothing here is asked of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
from zope.interface import Attribute

from tcpmesh.interfaces import IAuthorizationPolicy
from tcpmesh.values import AuthorizationRequest, Effect

if TYPE_CHECKING:
    from tcpmesh.errors import Problem

__all__ = ["IDoubtedPolicy", "IExplainingPolicy", "IOutboundPolicy", "IUnauthenticatedPolicy", "NearRule"]


class IOutboundPolicy(IAuthorizationPolicy):
    """A policy that decides about outbound connections too: optional; other policies are asked about inbound only."""

    decides_outbound: bool = Attribute(
        "Whether it has anything to say about them; if so, ``decide`` is asked before a service is dialled, with its "
        "name in ``request.service``."
    )


class IUnauthenticatedPolicy(IAuthorizationPolicy):
    """
    A policy that knows of peers without an identity, as they come with TLS that is passed through: optional.

    Nothing is to be implemented. Other policies are asked about ``tcpmesh.values.UNAUTHENTICATED`` too and may deny,
    but what they allow counts as if they had abstained: it was meant for peers that were verified.
    """


class IDoubtedPolicy(IAuthorizationPolicy):
    """A policy that knows what in it deserves a look: optional, for ``tcpmesh check`` and the start."""

    def warnings() -> Sequence[Problem]:
        """
        What cannot have been meant, although it can be used, each at its place. May read files.

        :raises tcpmesh.errors.ConfigurationError: when it cannot be used either.
        """


@attrs.frozen
class NearRule:
    """
    A rule and what keeps it from deciding about one connection.

    :ivar policy: the policy's name and the rule's, as a decision has them.
    :ivar place: file, line and column, if it is written somewhere.
    :ivar effect: what it would have decided.
    :ivar misses: what does not fit, each a predicate: "names inbound orders2-in, not orders-in"; none if all fits.
    :ivar distance: tells rules with as many misses apart: the lower, the nearer.
    """

    policy: str
    rule: str
    place: str
    effect: Effect
    misses: tuple[str, ...]
    distance: float = 0.0


class IExplainingPolicy(IAuthorizationPolicy):
    """A policy that can say what would have decided otherwise: optional, for ``tcpmesh explain``."""

    def near_rules(request: AuthorizationRequest, effect: Effect) -> Iterator[NearRule]:
        """
        Every rule of that effect, and what keeps it from deciding about this connection.

        Lazily, one at a time: a proxy that carries connections asks for them in small slices.
        """
