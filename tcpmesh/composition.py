"""
Puts a proxy together from its settings: plugins, control side, data plane, listeners. Starts nothing.

Ring 4, with ``service``: the only place that knows all the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from twisted.logger import Logger

from tcpmesh.control import MeshControl
from tcpmesh.dataplane.contexts import TLSContexts
from tcpmesh.dataplane.negotiation import complaints
from tcpmesh.dataplane.openssl_private import GROUP_SETTER, GroupSetter
from tcpmesh.deny_control import DenyControl
from tcpmesh.discovery.circles import OwnListeners
from tcpmesh.endpoint_control import EndpointControl
from tcpmesh.errors import ConfigurationError, Problem, TcpmeshError
from tcpmesh.health_control import HealthControl
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.interfaces import AUTHORIZATION, BALANCE, DISCOVERY, IDENTITY, RETRY, PluginContext, PluginKind
from tcpmesh.mesh_state import MeshState, MeshStateCell, NamedPolicy, PolicyDefaults
from tcpmesh.net.inbound_listener import InboundListener
from tcpmesh.net.listener import ListenerFactory, listener_limit
from tcpmesh.net.local_addresses import is_local
from tcpmesh.net.outbound_listener import OutboundListener
from tcpmesh.net.plane import DataPlane
from tcpmesh.net.service_positions import ServicePositions
from tcpmesh.net.upstream import Upstream, make_upstream
from tcpmesh.plugins import PluginRegistry
from tcpmesh.policy.decision_cache import LaterAnswers
from tcpmesh.policy_control import PolicyControl
from tcpmesh.port_ranges import addresses_of
from tcpmesh.settings import InboundSettings, PluginChoice, Settings
from tcpmesh.sources.federation import Federation
from tcpmesh.values import Address, Effect, SourceName, TCPAddress, UnixAddress, Workload
from tcpmesh.wall_clock import WallClock


@attrs.frozen(eq=False)
class Composition:
    """A proxy's parts, made and not started."""

    settings: Settings
    state: MeshStateCell
    control: MeshControl
    contexts: TLSContexts
    upstreams: dict[str, Upstream]
    health: HealthControl
    policies: PolicyControl
    denials: DenyControl

    def listeners(self, plane: DataPlane) -> list[tuple[Address, ListenerFactory]]:
        """What to listen on, and who takes the connections there."""
        times = self.settings.timeouts
        found: list[tuple[Address, ListenerFactory]] = []
        for inbound in self.settings.inbound:
            limit = listener_limit(inbound.limits.connections)
            taker = InboundListener(inbound, times.override(inbound.timeouts), plane, limit)
            found.append((inbound.listen, ListenerFactory(taker, "inbound")))
        for outbound in self.settings.outbound:
            upstreams = {name: self.upstreams[name] for name in outbound.services}
            limit = listener_limit(outbound.limits.connections)
            for number, address in enumerate(addresses_of(outbound.listen)):
                position = number if outbound.per_endpoint else None
                listener = OutboundListener(outbound, upstreams, times, plane, limit, position)
                found.append((address, ListenerFactory(listener, "outbound")))
        # TCP first: a unix socket is made by the target user, after privileges have been dropped.
        return sorted(found, key=lambda entry: isinstance(entry[0], UnixAddress))


class _Maker:
    """Creates plugins and collects what is wrong with them, so that all of it is reported at once."""

    def __init__(self, settings: Settings, plugins: PluginRegistry, clock: Any, wall_clock: WallClock) -> None:
        self._settings = settings
        self._plugins = plugins
        self._clock = clock
        self._wall_clock = wall_clock
        self.problems: list[Problem] = []

    def make(
        self, kind: PluginKind, choice: PluginChoice, name: str, workloads: dict[str, Workload] | None = None
    ) -> Any:
        context = PluginContext(
            name=name,
            trust_domain=self._settings.trust_domain,
            clock=self._clock,
            log=Logger(namespace=f"tcpmesh.plugin.{choice.plugin}"),
            directory=self._settings.file.parent,
            workloads=workloads or {},
            inbound={one.name: one.all_routes[0].target for one in self._settings.inbound},
            inbound_ports={one.name: _ports_of(one) for one in self._settings.inbound},
            services=tuple(self._settings.services),
            wall_clock=self._wall_clock,
        )
        try:
            return self._plugins.create(kind, choice, context)
        except ConfigurationError as error:
            self.problems.extend(error.problems)
        except TcpmeshError as error:
            self.problems.append(Problem(str(error), choice.mark))
        return None

    def policies(self) -> tuple[NamedPolicy, ...]:
        made = []
        for number, choice in enumerate(self._settings.authorization):
            policy = self.make(AUTHORIZATION, choice, f"authorization[{number}]")
            made.append(NamedPolicy(choice.plugin, policy, LaterAnswers(self._clock)))
        return tuple(made)


def compose(
    settings: Settings,
    plugins: PluginRegistry,
    clock: Any,
    wall_clock: WallClock,
    group_setter: GroupSetter | None = GROUP_SETTER,
) -> Composition:
    """
    Make every part.

    :param group_setter: how TLS contexts set their groups; None for pyOpenSSL's public interface.
    :raises ConfigurationError: with everything that plugins, trust files and the TLS library complain of.
    """
    maker = _Maker(settings, plugins, clock, wall_clock)
    cell = MeshStateCell()
    federation = Federation(
        settings.identity.federation,
        settings.trust_domain,
        clock,
        wall_clock,
        cache=settings.identity.bundle_cache,
        deny_list=lambda: cell.current.deny_list,
    )
    endpoints = EndpointControl(cell, clock, _own_listeners(settings).objection)
    control = MeshControl(cell, clock, wall_clock, federation, settings.identity.bundles_from, endpoints)
    for source, choice in settings.identity.sources.items():
        workloads = _workloads_of(settings, source)
        control.add_source(source, maker.make(IDENTITY, choice, source, workloads), workloads)
    health = HealthControl(settings, cell, clock)
    upstreams = {}
    positions = _positions(settings, cell)
    for name, service in settings.services.items():
        discovery = maker.make(DISCOVERY, service.discovery, name)
        endpoints.add(name, discovery, service.expect, service.discovery.plugin)
        balancer = maker.make(BALANCE, service.balance, name)
        upstreams[name] = make_upstream(
            name,
            service,
            balancer,
            maker.make(RETRY, service.retry, name),
            cell,
            clock,
            health=health.services[name],
            positions=positions.get(name),
            zone=settings.zone,
        )
    policies = maker.policies()
    maker.problems += _unusable_tls(settings, group_setter)
    authorities = _foreign_authorities(settings, maker.problems)
    if maker.problems:
        raise ConfigurationError(maker.problems)
    cell.current = _first_state(settings, policies)
    contexts = TLSContexts(authorities, group_setter)
    denials = DenyControl(settings.identity.deny_list, cell, clock, wall_clock)
    return Composition(settings, cell, control, contexts, upstreams, health, PolicyControl(cell, policies), denials)


def compose_policies(
    settings: Settings, plugins: PluginRegistry, clock: Any, wall_clock: WallClock
) -> tuple[MeshStateCell, PolicyControl]:
    """
    Make the policies alone, to be asked what they would decide; what they answered before is not remembered.

    :raises ConfigurationError: with everything that their plugins complain of.
    """
    maker = _Maker(settings, plugins, clock, wall_clock)
    policies = tuple(attrs.evolve(named, answers=None) for named in maker.policies())
    if maker.problems:
        raise ConfigurationError(maker.problems)
    cell = MeshStateCell(_first_state(settings, policies))
    return cell, PolicyControl(cell, policies)


def _first_state(settings: Settings, policies: tuple[NamedPolicy, ...]) -> MeshState:
    defaults = PolicyDefaults(Effect(settings.defaults.inbound), Effect(settings.defaults.outbound))
    return MeshState(policies=policies, defaults=defaults, decision_budget=settings.timeouts.decision)


def _workloads_of(settings: Settings, source: str) -> dict[str, Workload]:
    only = len(settings.identity.sources) == 1
    return {
        name: Workload(name, workload.id, workload.extra)
        for name, workload in settings.identity.workloads.items()
        if workload.source == SourceName(source) or (workload.source is None and only)
    }


def _ports_of(inbound: InboundSettings) -> tuple[int, ...]:
    return tuple(route.target.port for route in inbound.all_routes if isinstance(route.target, TCPAddress))


def _own_listeners(settings: Settings) -> OwnListeners:
    outbound = ((one.name, address) for one in settings.outbound for address in addresses_of(one.listen))
    return OwnListeners(outbound, is_local)


def _positions(settings: Settings, cell: MeshStateCell) -> dict[str, ServicePositions]:
    """The numbers of endpoints, for services that a listener has a port for each endpoint of."""
    ports: dict[str, int] = {}
    for outbound in settings.outbound:
        if outbound.per_endpoint and outbound.service is not None:
            count = len(addresses_of(outbound.listen))
            ports[outbound.service] = max(count, ports.get(outbound.service, 0))
    return {service: ServicePositions(service, count, cell) for service, count in ports.items()}


def _unusable_tls(settings: Settings, group_setter: GroupSetter | None) -> Iterator[Problem]:
    """What the TLS library here cannot do of what is configured."""
    places = [(f"services.{name}", service.tls) for name, service in settings.services.items()]
    places += [(f"inbound[{number}]", inbound.tls) for number, inbound in enumerate(settings.inbound)]
    for place, tls in places:
        for complaint in complaints(tls, group_setter):
            yield Problem(f"{place}.tls.{complaint}", tls.mark)


def _foreign_authorities(settings: Settings, problems: list[Problem]) -> dict[Path, Sequence[x509.Certificate]]:
    """Read the PEM files that services trust instead of the mesh's own bundles."""
    found: dict[Path, Sequence[x509.Certificate]] = {}
    for name, service in settings.services.items():
        if isinstance(service.trust, Path) and service.trust not in found:
            try:
                found[service.trust] = load_certificates(service.trust.read_bytes())
            except OSError as problem:
                text = f"services.{name}.trust: {service.trust} cannot be read: {problem.strerror}"
                problems.append(Problem(text, service.discovery.mark))
            except MaterialError as problem:
                problems.append(Problem(f"services.{name}.trust: {service.trust} {problem}", service.discovery.mark))
    return found
