"""
Where a listener's connections go: the lists ``routes``, and what is the same without any.

Ring 0, as ``tcpmesh.settings``, of which it is a part. What contradicts itself is said by ``tcpmesh.config.routes``.
"""

from __future__ import annotations

import attrs

from tcpmesh.dns_patterns import DnsPattern
from tcpmesh.errors import Mark
from tcpmesh.values import Address, ServiceName, WorkloadName

__all__ = ["DEFAULT_ROUTE", "InboundRoute", "InboundRoutes", "OutboundRoute", "OutboundRoutes"]

DEFAULT_ROUTE = "default"  # what records call the route without sni
_NOT_A_KEY = {"tcpmesh.settings.not_a_key": True}


@attrs.frozen
class OutboundRoute:
    """
    Which service takes a connection: one, one of several by weight, or the first of several that can be reached.

    :ivar sni: for which server names; None for all others.
    :ivar passthrough: whether the application's own TLS goes to the endpoint as it is, instead of the mesh's.
    """

    sni: DnsPattern | None = None
    service: ServiceName | None = None
    split: dict[ServiceName, int] | None = None
    failover: list[ServiceName] | None = None
    passthrough: bool = False
    mark: Mark | None = attrs.field(default=None, eq=False, metadata=_NOT_A_KEY)

    @property
    def services(self) -> tuple[str, ...]:
        """Everywhere that it may lead."""
        if self.service is not None:
            return (self.service,)
        return tuple(self.split or self.failover or ())

    @property
    def name(self) -> str:
        """As records call it."""
        return str(self.sni) if self.sni is not None else DEFAULT_ROUTE

    def __str__(self) -> str:
        if self.split:
            where = ", ".join(f"{service} ({weight})" for service, weight in self.split.items())
        else:
            where = ", else ".join(self.services)
        return f"{where}{', TLS passed through' if self.passthrough else ''}"


@attrs.frozen
class InboundRoute:
    """
    Which application takes a connection, and who this proxy is for those who ask for that name.

    :ivar sni: for which server names; None for all others.
    :ivar workload: instead of the listener's.
    :ivar passthrough: whether the peer's TLS goes to the application as it is, so that nobody is verified here.
    """

    target: Address
    sni: DnsPattern | None = None
    workload: WorkloadName | None = None
    passthrough: bool = False
    mark: Mark | None = attrs.field(default=None, eq=False, metadata=_NOT_A_KEY)

    @property
    def name(self) -> str:
        """As records call it."""
        return str(self.sni) if self.sni is not None else DEFAULT_ROUTE

    def __str__(self) -> str:
        return f"{self.target}{', TLS passed through' if self.passthrough else ''}"


def _listed(routes: tuple[OutboundRoute | InboundRoute, ...]) -> str:
    """For people: one line."""
    if len(routes) == 1 and routes[0].sni is None:
        return str(routes[0])
    return "; ".join(f"{route.name}: {route}" for route in routes)


class OutboundRoutes:
    """What an outbound listener's ``service`` and ``routes`` have in common."""

    __slots__ = ()
    service: ServiceName | None
    routes: list[OutboundRoute] | None

    @property
    def all_routes(self) -> tuple[OutboundRoute, ...]:
        """The routes, or the one that ``service`` stands for."""
        return tuple(self.routes or ()) or (OutboundRoute(service=self.service),)

    @property
    def services(self) -> tuple[str, ...]:
        """Every service that connections may go to, each once."""
        return tuple(dict.fromkeys(service for route in self.all_routes for service in route.services))

    @property
    def looks_at_hello(self) -> bool:
        """Whether the application must speak TLS itself: its ClientHello is waited for."""
        return any(route.sni is not None or route.passthrough for route in self.all_routes)

    @property
    def destination(self) -> str:
        """Where connections go, for people."""
        return _listed(self.all_routes)


class InboundRoutes:
    """What an inbound listener's ``target`` and ``routes`` have in common."""

    __slots__ = ()
    target: Address | None
    workload: WorkloadName | None
    passthrough: bool
    routes: list[InboundRoute] | None

    @property
    def all_routes(self) -> tuple[InboundRoute, ...]:
        """The routes, each with its workload, or the one that ``target`` stands for."""
        if not self.routes:
            assert self.target is not None, "the configuration was checked"
            return (InboundRoute(self.target, None, self.workload, self.passthrough),)
        return tuple(attrs.evolve(route, workload=route.workload or self.workload) for route in self.routes)

    @property
    def looks_at_hello(self) -> bool:
        """Whether a connection's route is known only by its ClientHello."""
        return any(route.sni is not None or route.passthrough for route in self.all_routes)

    @property
    def workloads(self) -> tuple[str, ...]:
        """Who this proxy is for whom TLS ends here, each once."""
        named = (route.workload for route in self.all_routes if not route.passthrough)
        return tuple(dict.fromkeys(workload for workload in named if workload is not None))

    @property
    def destination(self) -> str:
        """Where connections go, for people."""
        return _listed(self.all_routes)
