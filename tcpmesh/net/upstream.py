"""
A service as the data path sees it: its settings, its balancer, its retry strategy, and plugins kept at arm's length.

Ring 3. A plugin that raises or answers nonsense means *no endpoint* or *no retry*; it is logged with its name.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from twisted.logger import Logger

from tcpmesh.codes import BALANCER_FAILED, NO_ENDPOINT
from tcpmesh.errors import Refusal
from tcpmesh.interfaces import ILoadBalancer, IRetryStrategy
from tcpmesh.mesh_state import MeshState
from tcpmesh.net.service_positions import ServicePositions
from tcpmesh.settings import ServiceSettings
from tcpmesh.values import AttemptFailure, DNSName, Endpoint, ExpectedIdentity, RetryContext

_log = Logger()


@attrs.frozen(eq=False)
class Upstream:
    """One service; ``positions`` where a listener of it has a port for each endpoint."""

    name: str
    settings: ServiceSettings
    balancer: ILoadBalancer
    retry: IRetryStrategy
    positions: ServicePositions | None = None

    def pick(self, state: MeshState, exclude: frozenset[Endpoint], position: int | None = None) -> Endpoint:
        """
        Choose the endpoint of the next attempt; when all have failed for this connection, all are open again.

        :param position: the number of the endpoint that it must be.
        :raises Refusal: NO_ENDPOINT or BALANCER_FAILED.
        """
        if position is not None and self.positions is not None:
            return self.positions.endpoint(position)
        endpoints = state.endpoints.get(self.name, ())
        if not endpoints:
            raise Refusal(NO_ENDPOINT, f"service {self.name!r} has no endpoints")
        try:
            endpoint = self.balancer.pick(endpoints, exclude)
            if endpoint is None and exclude:
                endpoint = self.balancer.pick(endpoints, frozenset())
        except Exception:  # noqa: BLE001  a plugin's failure is an answer
            _log.failure("balancer {name!r} of service {service!r} failed", name=self._plugin, service=self.name)
            raise Refusal(BALANCER_FAILED, f"the balancer {self._plugin!r} raised an exception") from None
        if endpoint is None:
            raise Refusal(NO_ENDPOINT, f"the balancer {self._plugin!r} offers none of {len(endpoints)} endpoints")
        if endpoint not in endpoints:
            raise Refusal(BALANCER_FAILED, f"the balancer {self._plugin!r} chose something that is not an endpoint")
        return endpoint

    def opened(self, endpoint: Endpoint) -> None:
        """Tell the balancer that dialling begins."""
        try:
            self.balancer.opened(endpoint)
        except Exception:  # noqa: BLE001
            self._balancer_failed()

    def established(self, endpoint: Endpoint, duration: float) -> None:
        """Tell the balancer that the endpoint accepted."""
        try:
            self.balancer.established(endpoint, duration)
        except Exception:  # noqa: BLE001
            self._balancer_failed()

    def failed(self, endpoint: Endpoint, failure: AttemptFailure) -> None:
        """Tell the balancer that an attempt failed."""
        try:
            self.balancer.failed(endpoint, failure)
        except Exception:  # noqa: BLE001
            self._balancer_failed()

    def closed(self, endpoint: Endpoint) -> None:
        """Tell the balancer that an established connection ended."""
        try:
            self.balancer.closed(endpoint)
        except Exception:  # noqa: BLE001
            self._balancer_failed()

    def _balancer_failed(self) -> None:
        _log.failure("balancer {name!r} of service {service!r} failed", name=self._plugin, service=self.name)

    @property
    def _plugin(self) -> str:
        return self.settings.balance.plugin

    def attempts(self, context: RetryContext) -> Iterator[float]:
        """The retry strategy's waits for one connection."""
        try:
            return iter(self.retry.attempts(context))
        except Exception:  # noqa: BLE001
            self._retry_failed()
            return iter(())

    def next_wait(self, waits: Iterator[float]) -> float | None:
        """How long to wait before the next attempt, in seconds; None for no more."""
        try:
            wait = next(waits, None)
            if wait is None:
                return None
            wait = float(wait)
        except Exception:  # noqa: BLE001
            self._retry_failed()
            return None
        if not 0 <= wait < 3600:
            _log.error(
                "retry strategy {name!r} of service {service!r} gave the wait {wait!r}; not retrying",
                name=self.settings.retry.plugin,
                service=self.name,
                wait=wait,
            )
            return None
        return wait

    def _retry_failed(self) -> None:
        _log.failure(
            "retry strategy {name!r} of service {service!r} failed; not retrying",
            name=self.settings.retry.plugin,
            service=self.name,
        )

    def expected(self, endpoint: Endpoint) -> tuple[ExpectedIdentity, ...]:
        """Who must answer at the endpoint."""
        return endpoint.expect or tuple(self.settings.expect)

    def sni(self, endpoint: Endpoint) -> str:
        """The server name to ask for: as configured, else the DNS name that is expected; none for SPIFFE peers."""
        if self.settings.sni is not None:
            return self.settings.sni
        first = next(iter(self.expected(endpoint)), None)
        return first.name if isinstance(first, DNSName) else ""
