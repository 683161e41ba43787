"""
The health of all services, kept in step with their endpoints.

Ring 4. The data path asks each service's :class:`~tcpmesh.health.service_health.ServiceHealth` itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from twisted.internet.interfaces import IReactorTime

from tcpmesh.health.service_health import ServiceHealth
from tcpmesh.health.states import HealthChange
from tcpmesh.mesh_state import MeshState, MeshStateCell
from tcpmesh.observe.health_lines import HealthLines
from tcpmesh.settings import Settings
from tcpmesh.values import Endpoint

__all__ = ["HealthControl"]


class HealthControl:
    """
    Makes and keeps them.

    :param cell: whose endpoints count.
    :ivar services: by name, one for each service of the configuration.
    :ivar changes: how often each kind of change came, by service and its word.
    """

    def __init__(self, settings: Settings, cell: MeshStateCell, clock: IReactorTime) -> None:
        self._clock = clock
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

    def close(self) -> None:
        """Write what is left to say."""
        self._lines.close()
