"""
The proxy as a service: binds, starts, drains, stops.

Ring 4. The same object runs under twistd and under ``tcpmesh run``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from tcpmesh import open_files
from tcpmesh.codes import SHUTDOWN
from tcpmesh.composition import compose
from tcpmesh.dataplane.openssl_private import GROUP_SETTER, GroupSetter
from tcpmesh.errors import StartError
from tcpmesh.net.listener import ListenerFactory
from tcpmesh.net.liveness import Liveness
from tcpmesh.net.plane import DataPlane, Gate
from tcpmesh.net.policy_judge import PolicyJudge
from tcpmesh.net.removal import Removal
from tcpmesh.net.review import Review
from tcpmesh.net.sockets import Sockets
from tcpmesh.observe.discovery_metrics import DiscoveryMetrics
from tcpmesh.observe.limit_metrics import LimitMetrics
from tcpmesh.observe.review_metrics import ReviewMetrics
from tcpmesh.observe.upstream_metrics import UpstreamMetrics
from tcpmesh.plugins import PluginRegistry
from tcpmesh.port_ranges import ports_of_ranges
from tcpmesh.reactor_choice import most_files
from tcpmesh.reporting import Reporting
from tcpmesh.settings import Settings
from tcpmesh.values import Address, UnixAddress, format_duration
from tcpmesh.wall_clock import WallClock, wall_clock

_log = Logger(namespace="tcpmesh")


class MeshService(MultiService):
    """
    One proxy. Making it starts, binds and creates nothing.

    :param group_setter: as for :func:`tcpmesh.composition.compose`.
    :raises ConfigurationError: when plugins or the TLS library refuse their settings.
    """

    def __init__(
        self,
        settings: Settings,
        plugins: PluginRegistry,
        reactor: Any,
        *,
        wall_clock: WallClock = wall_clock,
        group_setter: GroupSetter | None = GROUP_SETTER,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.composition = compose(settings, plugins, reactor, wall_clock, group_setter)
        self.cut = 0  # connections that the stop had to cut
        self.plane: DataPlane | None = None
        self._review: Review | None = None
        self._policy_judge: PolicyJudge | None = None
        self._removal: Removal | None = None
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._reporting: Reporting | None = None
        self._unix_listeners: list[tuple[Address, ListenerFactory]] = []
        self._ports: list[tuple[str, IListeningPort]] = []
        self._stopping = False
        self._deadline: Any = None

    # --- start

    def privilegedStartService(self) -> None:
        """
        Raise limits and bind TCP, which may need privileges. (IService)

        :raises StartError: naming the address that is busy; everything that was bound is released again.
        """
        most = most_files(self._reactor)
        ports = ports_of_ranges(outbound.listen for outbound in self.settings.outbound)
        fit = open_files.fit_connections(self.settings.limits.connections, most, ports)
        open_files.set_soft_limit(fit.connections, most, ports)
        self._reporting = Reporting(self, self.composition, self._reactor, self._wall_clock, fit)
        self.plane = DataPlane(
            clock=self._reactor,
            wall_clock=self._wall_clock,
            sockets=Sockets(self._reactor),
            state=self.composition.state,
            contexts=self.composition.contexts,
            sink=self._reporting.sink,
            gate=Gate(fit.connections, self.settings.limits.handshakes, fit.sockets),
            liveness=Liveness(self._reactor),
        )
        self._review = Review(self.plane)
        self._policy_judge = PolicyJudge(self.plane, self._review.examine)
        on_removed = {name: service.on_removed for name, service in self.settings.services.items()}
        self._removal = Removal(self.plane, on_removed, self._review.examine)
        self._review.judges += [self._policy_judge.judge, self._removal.judge, self.plane.limiting.recount]
        self._reporting.watch(ReviewMetrics(self._review, self.composition.denials, self.composition.state))
        self._reporting.watch(LimitMetrics(self.plane.limiting))
        self._reporting.watch(DiscoveryMetrics(self.composition.control.endpoints))
        health = self.composition.health
        self._reporting.watch(UpstreamMetrics(self.composition.upstreams, lambda: health.changes, self._reactor))
        listeners = self.composition.listeners(self.plane)
        self._unix_listeners = [entry for entry in listeners if isinstance(entry[0], UnixAddress)]
        with self._released_on_failure():
            self._listen([entry for entry in listeners if not isinstance(entry[0], UnixAddress)])
            self._reporting.bind_tcp()
        super().privilegedStartService()

    def startService(self) -> None:
        """
        Start everything else as the user that the process shall have: identities, unix sockets. (IService)

        :raises StartError: naming what is wrong; everything is released again.
        """
        assert self._reporting is not None
        with self._released_on_failure():
            self._reporting.open()
            self.composition.denials.start()
            self.composition.policies.start()
            self.composition.control.start()
            self._listen(self._unix_listeners)
            self._reporting.bind_unix()
            assert self.plane is not None
            self.composition.health.start(self.plane, self.composition.upstreams)
        self._reporting.announce()
        super().startService()

    def _listen(self, listeners: list[tuple[Address, ListenerFactory]]) -> None:
        assert self.plane is not None
        for address, factory in listeners:
            try:
                port = self.plane.sockets.listen(address, factory)
            except StartError as error:
                raise StartError(error.code, f"{factory.name}: {error.reason}") from error
            self._ports.append((factory.name, port))

    @contextmanager
    def _released_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # The reactor may never run: release at once what a stop would release in its next turn.
            for port in self._take_ports():
                port.connectionLost(Failure(ConnectionDone()))  # type: ignore[attr-defined]
            for port in self._reporting.ports() if self._reporting is not None else ():
                port.connectionLost(Failure(ConnectionDone()))  # type: ignore[attr-defined]
            self.composition.control.stop()
            self.composition.policies.stop()
            self.composition.denials.stop()
            self._release()
            raise

    # --- what others may ask

    @property
    def stopping(self) -> bool:
        """Whether no new connections are taken any longer."""
        return self._stopping

    def bound_ports(self) -> dict[str, Any]:
        """By listener name: the address that is really bound, which tells what port 0 became."""
        return {name: port.getHost() for name, port in self._ports}

    # --- stop

    @inlineCallbacks
    def stopService(self) -> Any:
        """
        Take no more connections, let those that live finish for ``timeouts.shutdown``, cut the rest. (IService)

        ``cut`` then says how many that were.
        """
        if self.plane is None or self._stopping:
            return
        self._stopping = self.plane.stopping = True
        self.composition.health.stop()
        for upstream in self.composition.upstreams.values():
            upstream.stop()
        plane, limit = self.plane, self.settings.timeouts.shutdown
        closing = self._close_ports()
        if plane.live:
            alive = sum(not connection.is_closed for connection in plane.live)
            _log.info(
                "stopping; connections that have {limit} to finish: {count}", count=alive, limit=format_duration(limit)
            )
            self._deadline = self._reactor.callLater(limit, self.stop_now)
        yield plane.when_idle()
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if self._reporting is not None:
            # Asked last: until now /ready has said "stopping" and the metrics have shown what still lives.
            closing += [maybeDeferred(port.stopListening) for port in self._reporting.ports()]
        yield DeferredList(closing, consumeErrors=True)
        yield self.composition.control.stop()
        yield self.composition.policies.stop()
        self.composition.denials.stop()
        yield maybeDeferred(super().stopService)
        _log.info("stopped; connections cut: {cut}", cut=self.cut)
        self._release()

    def stop_now(self) -> None:
        """Reset and record what is still open; the stop that is under way is over then."""
        if self.plane is None:
            return
        limit = format_duration(self.settings.timeouts.shutdown)
        for connection in list(self.plane.live):
            if not connection.is_closed:
                self.cut += 1
            try:
                connection.cut(SHUTDOWN, f"cut by the stop; timeouts.shutdown is {limit}")
            except Exception:  # noqa: BLE001  the others must go all the same
                _log.failure("cutting connection {number} failed", number=connection.record.id)

    def reopen_logs(self) -> None:
        """Close and open the access log: its file was moved away."""
        if self._reporting is not None:
            self._reporting.sink.access_log.reopen()

    def reload_identities(self) -> None:
        """Let identity sources, the deny-list and policies look for something new now."""
        if self._reporting is not None and not self._stopping:
            self._reporting.reload_identities()
            self.composition.policies.reload()

    def _close_ports(self) -> list[Deferred[Any]]:
        return [maybeDeferred(port.stopListening) for port in self._take_ports()]

    def _take_ports(self) -> list[IListeningPort]:
        ports, self._ports = self._ports, []
        return [port for _name, port in ports]

    def _release(self) -> None:
        self.composition.health.close()
        if self._reporting is not None:
            self._reporting.close()
        if self._review is not None:
            self._review.stop()
            self._review = None
        if self._policy_judge is not None:
            self._policy_judge.stop()
            self._policy_judge = None
        if self._removal is not None:
            self._removal.stop()
            self._removal = None
        if self.plane is not None:
            self.plane.sockets.close()
            self.plane = None
