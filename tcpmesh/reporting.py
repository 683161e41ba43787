"""
Everything the proxy reports, put together: records, failures, metrics, admin interface, start-up block.

Ring 4. The service opens and closes it at the right moments; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from tcpmesh import config
from tcpmesh.authority_steps import change_authority
from tcpmesh.composition import Composition
from tcpmesh.dataplane.negotiation import effective_groups
from tcpmesh.identity_report import identity_report
from tcpmesh.observe.access_log import AccessLog, open_access_log
from tcpmesh.observe.failures import FailureLog
from tcpmesh.observe.identity_metrics import IdentityMetrics
from tcpmesh.observe.limit_facts import limit_facts
from tcpmesh.observe.metrics import Metrics
from tcpmesh.observe.policy_metrics import PolicyMetrics
from tcpmesh.observe.reporter import Reporter
from tcpmesh.observe.start_block import (
    StartFacts,
    default_lines,
    federation_lines,
    proxy_lines,
    start_block,
    tls_lines,
)
from tcpmesh.open_files import Fit
from tcpmesh.settings import TLSSettings
from tcpmesh.start_facts import bundle_facts, listener_facts, workload_facts
from tcpmesh.versions import versions
from tcpmesh.wall_clock import WallClock

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tcpmesh.identity_checks import IdentityChecks
    from tcpmesh.net.plane import DataPlane
    from tcpmesh.policy_replay import PolicyReplay

_log = Logger(namespace="tcpmesh")


class Reported(Protocol):
    """The proxy that is reported on, as far as its parts do not tell by themselves."""

    @property
    def stopping(self) -> bool:
        """Whether no new connections are taken any longer."""

    def bound_ports(self) -> dict[str, Any]:
        """By listener name: the address that is really bound."""

    @property
    def plane(self) -> DataPlane | None:
        """What its connections share, while it runs."""


class Reporting:
    """
    The reporting side of one proxy; provides IProxyStatus to the admin interface.

    :param fit: how many connections the machine allows.
    """

    def __init__(
        self, proxy: Reported, composition: Composition, reactor: Any, wall_clock: WallClock, fit: Fit
    ) -> None:
        self._proxy = proxy
        self._policies = composition.policies
        self._settings = composition.settings
        self._state = composition.state
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._fit = fit
        self._started = wall_clock()
        self._ports: list[IListeningPort] = []
        self._versions = versions()
        self._federation = composition.control.federation
        self._metrics = Metrics(
            self._state,
            wall_clock,
            self._versions,
            lambda: self.sink.access_log.dropped,
            federated=lambda: self._federation.held,
        )
        self._control = composition.control
        self._composition = composition
        self._checks: IdentityChecks | None = None
        self._replay: PolicyReplay | None = None
        self._denials = composition.denials
        self._metrics.register(IdentityMetrics(self._control))
        self._metrics.register(PolicyMetrics(self._policies))
        # The file is opened later, by the user that the process shall have; nothing is accepted before that.
        self.sink = Reporter(AccessLog(None, reactor), FailureLog(reactor), self._metrics, wall_clock)

    def watch(self, collector: Collector) -> None:
        """Let somebody else answer scrapes, too."""
        self._metrics.register(collector)

    # --- opening and closing

    def bind_tcp(self) -> None:
        """
        Bind the metrics address.

        :raises StartError: when it is busy.
        """
        if self._settings.admin.metrics is not None:
            from tcpmesh.observe import admin

            site = admin.tcp_site(self._metrics, self, self._reactor)
            self._ports.append(admin.listen(self._reactor, self._settings.admin.metrics, site))

    def open(self) -> None:
        """
        Open the access log.

        :raises StartError: when it cannot be written.
        """
        self.sink.access_log = open_access_log(self._settings.log, self._reactor)

    def bind_unix(self) -> None:
        """
        Make the admin socket.

        :raises StartError: when it cannot be made, or another process answers there.
        """
        if self._settings.admin.listen is not None:
            from tcpmesh.observe import admin

            site = admin.unix_site(self._metrics, self, self.sink.live, self._reactor, self._wall_clock)
            self._ports.append(admin.listen(self._reactor, self._settings.admin.listen, site))

    def ports(self) -> list[IListeningPort]:
        """Hand over the admin interface's ports, to be closed; what is under way for who asked there ends."""
        if self._checks is not None:
            self._checks.stop()
        ports, self._ports = self._ports, []
        return ports

    def close(self) -> None:
        """Write what is left."""
        self.sink.close()

    # --- IProxyStatus

    def ready(self) -> tuple[bool, str]:
        """Whether connections are taken and every workload has an identity to show."""
        if self._proxy.stopping:
            return False, "stopping"
        states = self._state.current.identity_states
        waiting = [f"{name}: {state.value}" for name, state in states.items() if name not in self._state.current.svids]
        waiting += [f"{name}: denied" for name in self._state.current.denied_workloads]
        return not waiting, f"workloads without an identity: {', '.join(waiting)}" if waiting else ""

    def status(self) -> dict[str, Any]:
        """Everything of the start-up block as it is now, as plain JSON values."""
        facts = self._facts()
        return {
            "versions": self._versions,
            "config": {"file": facts.file, "sha256": facts.digest},
            "trust_domain": facts.trust_domain,
            "listeners": [attrs.asdict(listener) for listener in facts.listeners],
            "workloads": [attrs.asdict(workload) for workload in facts.workloads],
            "sources": self.sources(),
            "federation": [bundle_facts(entry, self._wall_clock()) for entry in self._federation.held],
            "deny_list": self._denials.report(),
            "policies": self._policies.report(),
            "tls": list(facts.tls),
            "rules": list(facts.rules),
            "limits": dict(facts.limits),
            "warnings": list(facts.warnings),
            "generation": self._state.current.generation,
            "connections": len(self.sink.live),
            "stopping": self._proxy.stopping,
            "uptime_s": round(self._wall_clock() - self._started, 3),
        }

    def sources(self) -> list[dict[str, Any]]:
        """Where each identity source stands, as plain JSON values."""
        at = self._control.seconds()
        return [
            {
                "name": source.name,
                "state": source.state.value,
                "reason": source.reason,
                "failing_s": round(source.failing_for(at), 3),
                "failures": source.failures,
                "workloads": {name: {"age_s": round(age, 3)} for name, age in source.ages(at).items()},
            }
            for source in self._control.sources
        ]

    def endpoints(self, arguments: Mapping[str, Sequence[str]]) -> Iterator[bytes]:
        """Describe every service's endpoints as they are now, or those of the services that are named."""
        from tcpmesh.endpoint_report import EndpointReport  # what few ask for is read when somebody does

        discoveries = self._control.endpoints.statuses
        report = EndpointReport(self._composition.upstreams, discoveries, self._reactor, self._wall_clock)
        return report.pieces(arguments.get("service", ()))

    def identities(self) -> dict[str, Any]:
        """Every workload's identity and every trust domain's bundle, and where they stand; and who is denied."""
        report = identity_report(
            self._settings, self._state.current, self._control, self._wall_clock(), self._denials.entered
        )
        return {**report, "deny_list": self._denials.report()}

    def reload_identities(self) -> dict[str, Any]:
        """Let the identity sources and the deny-list look for something new now; say where they stand after that."""
        _log.info("identity sources, the deny-list and discoveries were told to look for something new")
        self._denials.reload()
        self._control.reload()
        return {"sources": self.sources(), "deny_list": self._denials.report()}

    def check_identities(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """Look for what keeps services from being reached, with the identities and bundles that are held here."""
        plane = self._proxy.plane
        if plane is None or self._proxy.stopping:
            return succeed({"busy": "it is stopping"})
        if self._checks is None:
            from tcpmesh.identity_checks import IdentityChecks  # what few ask for is read when somebody does

            self._checks = IdentityChecks(self._composition)
        _log.info("somebody asked what keeps services from being reached (tcpmesh identity check)")
        return self._checks.ask(plane, arguments)

    def explain_decisions(self, arguments: Mapping[str, Sequence[str]]) -> Deferred[dict[str, Any]]:
        """Say what was decided, and put it once more to the policies that are in force now."""
        if self._replay is None:
            from tcpmesh.policy_replay import PolicyReplay  # what few ask for is read when somebody does

            self._replay = PolicyReplay(
                self._settings, self._state, self.sink.decisions, self._reactor, self._wall_clock
            )
        return self._replay.ask(arguments)

    def reload_policies(self) -> Deferred[dict[str, Any]]:
        """Let the policies look for something new now; say where they stand after that."""
        _log.info("policies were told to look for something new")
        return self._policies.reload().addCallback(lambda _: {"policies": self._policies.report()})

    def policy_notes(self) -> dict[str, Any]:
        """Say what policies that decide nothing would have done."""
        return self.sink.noted.report()

    def change_authority(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Do one step of the rotation of an identity source's authority, and say what came of it."""
        return change_authority([entry.source for entry in self._control.sources if entry.started], arguments)

    # --- start-up block

    def announce(self) -> None:
        """Write the start-up block into the log, its warnings as such."""
        facts = self._facts()
        for line in start_block(facts, self._wall_clock()):
            (_log.warn if line.startswith("warning") else _log.info)("{line}", line=line)

    def _facts(self) -> StartFacts:
        settings = self._settings
        warnings = [str(warning) for warning in [*config.warnings(settings), *self._policies.warnings()]]
        if self._fit.warning:
            warnings.append(self._fit.warning)
        return StartFacts(
            version=self._versions["tcpmesh"],
            reactor=type(self._reactor).__name__,
            tls_library=self._versions["OpenSSL"],
            file=str(settings.file),
            digest=settings.digest,
            trust_domain=str(settings.trust_domain),
            listeners=listener_facts(settings, self._proxy.bound_ports()),
            workloads=workload_facts(settings, self._state.current),
            federated=list(federation_lines(settings.identity.federation, self._federation.held, self._wall_clock())),
            tls=list(tls_lines(settings, effective_groups(TLSSettings()))),
            proxy=list(proxy_lines(settings)),
            rules=[
                *(line for named in self._policies.policies for line in named.policy.describe()),
                *default_lines(settings.defaults),
            ],
            limits=limit_facts(settings, self._fit.connections),
            admin=[str(place) for place in (settings.admin.listen, settings.admin.metrics) if place is not None],
            warnings=warnings,
        )
