"""
Everything the proxy reports, put together: records, failures, metrics, admin interface, start-up block.

Ring 4. The service starts and stops it at the right moments; nothing here decides anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from tcpmesh.observe.access_log import AccessLog, open_access_log
from tcpmesh.observe.failures import FailureLog
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.reporter import Reporter
from tcpmesh.open_files import Fit
from tcpmesh.versions import versions
from tcpmesh.wall_clock import WallClock

if TYPE_CHECKING:
    from tcpmesh.service import MeshService

_log = Logger(namespace="tcpmesh")


class Reporting:
    """
    The reporting side of one service.

    :param fit: how many connections the machine allows.
    """

    def __init__(self, service: MeshService, reactor: Any, wall_clock: WallClock, fit: Fit) -> None:
        self._service = service
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._fit = fit
        self._started = wall_clock()
        self.metrics = Metrics(service.composition.state, wall_clock, versions(), lambda: self.sink.access_log.dropped)
        # Opened later, by the user that the process shall have; until then nothing is recorded.
        self.sink = Reporter(AccessLog(None, reactor), FailureLog(reactor), self.metrics, wall_clock)

    def bind_tcp(self) -> None:
        """Bind the metrics address. :raises StartError: when it is busy."""

    def open(self) -> None:
        """Open the access log. :raises StartError: when it cannot be written."""
        self.sink.access_log = open_access_log(self._service.settings.log, self._reactor)

    def bind_unix(self) -> None:
        """Bind the admin socket. :raises StartError: when it cannot be made."""

    def announce(self) -> None:
        """Write the start-up block."""

    def close(self) -> None:
        """Write what is left."""
        self.sink.close()
