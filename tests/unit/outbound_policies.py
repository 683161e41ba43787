"""A policy that decides about outbound connections when the test says so."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh.policy_interfaces import IOutboundPolicy
from tcpmesh.values import AuthorizationRequest, Decision


@implementer(IOutboundPolicy)
class Later:
    """
    Answers when the test fires ``answer``.

    :ivar asked: fires with the first request.
    """

    decides_outbound = True

    def __init__(self) -> None:
        self.cancelled = False
        self.asked: Deferred[AuthorizationRequest] = Deferred()
        self.answer: Deferred[Decision] = Deferred(self._cancel)

    def _cancel(self, _answer: Deferred[Decision]) -> None:
        self.cancelled = True

    def decide(self, request: AuthorizationRequest) -> Deferred[Decision]:
        self.asked.callback(request)
        return self.answer

    def describe(self) -> Sequence[str]:
        return ()
