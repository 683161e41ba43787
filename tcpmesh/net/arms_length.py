"""
The plugins of a service, kept at arm's length.

Ring 3. A plugin that raises or answers nonsense means *no endpoint* or *no retry*; it is logged with its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from twisted.logger import Logger

from tcpmesh.balance.recent import Recent
from tcpmesh.balance_interfaces import IEstimatingBalancer, ILossBalancer, ISourceBalancer
from tcpmesh.codes import BALANCER_FAILED
from tcpmesh.errors import Refusal
from tcpmesh.interfaces import ILoadBalancer, IRetryStrategy
from tcpmesh.values import Address, AttemptFailure, Endpoint, RetryContext

__all__ = ["GuardedBalancer", "GuardedRetry"]

_log = Logger()
_LONGEST_WAIT = 3600.0  # seconds
_KINDS = 16  # of mistakes that are counted apart
_NOBODY: frozenset[Endpoint] = frozenset()


class _Complaints:
    """
    Says what a plugin does wrong, and not for every connection: the first time, the second, the fourth, the eighth, …

    Each kind of mistake is counted for itself, so that a new one is said at once.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def due(self, kind: str) -> int:
        """How often it has happened, 0 when that is not to be said."""
        if kind not in self._counts and len(self._counts) >= _KINDS:
            kind = ""  # a plugin makes up its exceptions
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        return 0 if count & (count - 1) else count


def _identities(endpoints: Sequence[Endpoint]) -> frozenset[int]:
    return frozenset(map(id, endpoints))


@attrs.frozen(eq=False)
class GuardedBalancer:
    """
    The balancer of one service; ``plugin`` is its name in the configuration.

    :ivar wants_source: whether it chooses by where a connection comes from.
    """

    service: str
    plugin: str
    balancer: ILoadBalancer
    wants_source: bool = attrs.field(
        init=False, default=attrs.Factory(lambda self: bool(ISourceBalancer.providedBy(self.balancer)), takes_self=True)
    )
    _complaints: _Complaints = attrs.field(init=False, factory=_Complaints)
    _identities: Recent[frozenset[int]] = attrs.field(init=False, factory=lambda: Recent(_identities))

    def pick(
        self, endpoints: tuple[Endpoint, ...], exclude: frozenset[Endpoint], source: Address | None
    ) -> Endpoint | None:
        """
        Choose one of the endpoints that is not excluded, or None.

        :param source: where the connection comes from; None unless the balancer wants to know.
        :raises Refusal: BALANCER_FAILED.
        """
        try:
            if source is None:
                endpoint = self.balancer.pick(endpoints, exclude)
            else:
                endpoint = self.balancer.pick_for(endpoints, exclude, source)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001  a plugin's failure is an answer
            self._failed(error)
            raise Refusal(BALANCER_FAILED, f"the balancer {self.plugin!r} raised an exception") from None
        if endpoint is None:
            return None
        # By identity first: to compare with thousands of others takes longer than the rest of a pick.
        is_one = id(endpoint) in self._identities.of(endpoints)
        known = is_one or (isinstance(endpoint, Endpoint) and endpoint in endpoints)
        if not known:
            raise Refusal(BALANCER_FAILED, f"the balancer {self.plugin!r} chose something that is not an endpoint")
        if exclude and endpoint in exclude:  # what has failed for a connection is not tried again, whoever forgets it
            left = tuple(one for one in endpoints if one not in exclude)
            return self.pick(left, _NOBODY, source) if left else None
        return endpoint

    def expected(self, endpoint: Endpoint) -> float | None:
        """How long the balancer expects an attempt to take, in seconds; None where it does not say."""
        if not IEstimatingBalancer.providedBy(self.balancer):
            return None
        try:
            seconds = self.balancer.expected(endpoint)  # type: ignore[attr-defined]
            return None if seconds is None else float(seconds)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
            return None

    def opened(self, endpoint: Endpoint) -> None:
        """Tell that dialling begins."""
        try:
            self.balancer.opened(endpoint)
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Tell that the endpoint accepted."""
        try:
            self.balancer.established(endpoint, duration)
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Tell that an attempt failed."""
        try:
            self.balancer.failed(endpoint, failure)
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def lost(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Tell, who wants to know, that an established connection broke before any payload byte had moved."""
        if not ILossBalancer.providedBy(self.balancer):
            return
        try:
            self.balancer.lost(endpoint, failure)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def closed(self, endpoint: Endpoint) -> None:
        """Tell that an established connection ended."""
        try:
            self.balancer.closed(endpoint)
        except Exception as error:  # noqa: BLE001
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if count := self._complaints.due(type(error).__name__):
            text = "balancer {name!r} of service {service!r} failed, times: {count}"
            _log.failure(text, name=self.plugin, service=self.service, count=count)


@attrs.frozen(eq=False)
class GuardedRetry:
    """The retry strategy of one service; ``plugin`` is its name in the configuration."""

    service: str
    plugin: str
    strategy: IRetryStrategy
    _complaints: _Complaints = attrs.field(init=False, factory=_Complaints)

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """The waits for one connection."""
        try:
            return iter(self.strategy.attempts(context))
        except Exception as error:  # noqa: BLE001
            self._failed(error)
            return iter(())

    def next_wait(self, waits: Iterator[float]) -> float | None:
        """How long to wait before the next attempt, in seconds; None for no more."""
        try:
            wait = next(waits, None)
            if wait is None:
                return None
            wait = float(wait)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
            return None
        if not 0 <= wait <= _LONGEST_WAIT:
            if count := self._complaints.due("wait"):
                text = "retry strategy {name!r} of service {service!r} gave the wait {wait!r}, times: {count}; no retry"
                _log.error(text, name=self.plugin, service=self.service, wait=wait, count=count)
            return None
        return wait

    def _failed(self, error: Exception) -> None:
        if count := self._complaints.due(type(error).__name__):
            text = "retry strategy {name!r} of service {service!r} failed, times: {count}; not retrying"
            _log.failure(text, name=self.plugin, service=self.service, count=count)
