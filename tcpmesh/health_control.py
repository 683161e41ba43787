"""
The health of all services: kept in step with their endpoints, and with what active checks find.

Ring 4. The data path asks each service's :class:`~tcpmesh.health.service_health.ServiceHealth` itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from tcpmesh.config.health import check_workload
from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.health.states import HealthChange
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.observe.health_lines import HealthLines
from tcpmesh.settings import Settings
from tcpmesh.values import Endpoint

if TYPE_CHECKING:
    from tcpmesh.net.health_checks import HealthChecks
    from tcpmesh.net.plane import DataPlane
    from tcpmesh.net.upstream import Upstream

__all__ = ["HealthControl"]


class HealthControl:
    """
    Makes and keeps them.

    :param cell: whose endpoints count.
    :ivar services: by name, one for each service of the configuration.
    :ivar changes: how often each kind of change came, by service and its word.
    """

    def __init__(self, settings: Settings, cell: MeshStateCell, clock: IReactorTime) -> None:
        self._settings = settings
        self._clock = clock
        self._checks: HealthChecks | None = None
        self._lines = HealthLines(clock)
        self._endpoints: Mapping[str, tuple[Endpoint, ...]] = {}
        self.changes: Counter[tuple[str, str]] = Counter()
        self.services = {
            name: ServiceHealth(name, service.health, self._tell) for name, service in settings.services.items()
        }
        cell.observe(self._follow)

    def _tell(self, change: HealthChange) -> None:
        self.changes[change.service, change.change] += 1
        self._lines.tell(change)

    def _follow(self, state: MeshState) -> None:
        before, self._endpoints = self._endpoints, state.endpoints
        if before is state.endpoints:
            return
        for name, health in self.services.items():
            endpoints = state.endpoints.get(name, ())
            if endpoints is not before.get(name, ()):
                health.retain(endpoints, self._clock.seconds())

    def start(self, plane: DataPlane, upstreams: Mapping[str, Upstream]) -> None:
        """Begin the active checks, if any service has some."""
        if not any(service.health.check for service in self._settings.services.values()):
            return
        # Memory that most proxies need not spend.
        from tcpmesh.net.health_checks import AT_ONCE, CheckedService, HealthChecks

        checked = []
        for name, service in self._settings.services.items():
            check = service.health.check
            if check is not None:
                workload = check_workload(name, check, self._settings.outbound) if check.type == "tls" else ""
                times = self._settings.timeouts.override(service.timeouts)
                checked.append(CheckedService(name, check, upstreams[name], self.services[name], workload, times))
        # A small proxy whose endpoints do not answer must have room left for applications.
        self._checks = HealthChecks(plane, checked, max(1, min(AT_ONCE, plane.gate.max_connections // 4)))
        self._checks.start()

    def stop(self) -> None:
        """End the active checks."""
        if self._checks is not None:
            self._checks.stop()
            self._checks = None

    def close(self) -> None:
        """End everything, and write what is left to say."""
        self.stop()
        self._lines.close()
