"""
The discovery ``dns``: the addresses, or the SRV records, that name servers give for a name.

Ring 3, without a reactor: the context's clock is one when there is something to ask. What the servers say counts for
its TTL, within bounds; what they fail to say leaves the last answer in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from tcpmesh.discovery.dns_answers import (
    MAX_TARGETS,
    Found,
    RecordType,
    ServiceRecord,
    endpoints_at,
    found_besides,
    merged,
    services_in,
)
from tcpmesh.discovery.dns_settings import DnsSettings, is_askable
from tcpmesh.discovery.intake import few
from tcpmesh.interfaces import (
    IDiscoveryObserver,
    IReloadable,
    IServiceDiscovery,
    IServiceDiscoveryFactory,
    PluginContext,
)
from tcpmesh.net.local_addresses import has_route
from tcpmesh.sources.dns_exchange import ask
from tcpmesh.sources.dns_lookup import Ask, Lookup, LookupFailedError
from tcpmesh.sources.resolv_conf import ResolvConf
from tcpmesh.values import Endpoint, TCPAddress, format_duration

__all__ = ["DnsDiscovery", "DnsFactory"]

_LONGEST_PAUSE = 30.0  # seconds between two tries while no server answers, at most
_MAX_FAILURES = 3  # names of one look for which nobody answers, until the others are not asked for
_QUIET = 10.0  # seconds between two lines about what is not used
_FAMILIES: dict[str, tuple[RecordType, ...]] = {"a": ("A",), "aaaa": ("AAAA",), "both": ("A", "AAAA")}
_BOTH: tuple[RecordType, ...] = ("A", "AAAA")


@attrs.define(eq=False)
class _Look:
    """What comes of one look."""

    endpoints: list[Endpoint] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)  # what could not be looked up
    looked_up: int = 0  # names whose addresses are known, or that there are none
    remarks: list[str] = attrs.field(factory=list)  # what is not used
    used: set[tuple[str, str]] = attrs.field(factory=set)  # what had to be known


@implementer(IServiceDiscovery, IReloadable)
class DnsDiscovery:
    """
    Asks when the TTL of what it knows has run out.

    :param exchange: asks one server; by default over the context's clock, which must be a reactor then.
    :param has_route: whether this machine knows a way to an IP address.
    """

    def __init__(
        self,
        settings: DnsSettings,
        context: PluginContext,
        exchange: Ask | None = None,
        has_route: Callable[[str], bool] = has_route,
    ) -> None:
        self._settings = settings
        self._clock = context.clock
        self._log = context.log
        listed = settings.resolvers
        self._lookup = Lookup(
            settings,
            context.clock,
            exchange or (lambda server, name, kind: ask(context.clock, server, name, kind, settings.timeout)),
            ResolvConf() if listed is None else lambda: listed,
        )
        self._has_route = has_route
        self._observer: IDiscoveryObserver | None = None
        self._call: Any = None
        self._looking: Deferred[Any] | None = None
        self._again = False  # somebody asked to look while a look was under way
        self._failures = 0  # in a row
        self._answered: float | None = None  # when servers answered last
        self._delivered: tuple[Endpoint, ...] | None = None
        self._remarked = ("", -_QUIET)  # what was told last of what is not used, and when

    def start(self, observer: IDiscoveryObserver) -> None:
        """Ask for the first time. (IServiceDiscovery)"""
        self._observer = observer
        self._look()

    def stop(self) -> None:
        """Ask no more. (IServiceDiscovery)"""
        self._observer = None
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def reload(self) -> None:
        """Ask now, whatever the TTL. (IReloadable)"""
        if self._looking is not None:
            self._again = True
        elif self._observer is not None:
            if self._call is not None and self._call.active():
                self._call.cancel()
            self._lookup.forget_times()
            self._look()

    # --- looking

    def _look(self) -> None:
        self._call = None
        # A look that ends at once must not be taken for one under way.
        looking = Deferred.fromCoroutine(self._find())
        looking.addCallbacks(self._found, self._failed)
        looking.addErrback(self._broken)
        self._looking = looking
        looking.addBoth(self._looked)

    def _looked(self, _result: object) -> None:
        self._looking = None
        if self._observer is None:
            return
        if self._again:
            self._again = False
            self._lookup.forget_times()
            self._call = self._clock.callLater(0, self._look)
            return
        self._call = self._clock.callLater(self._pause(), self._look)

    def _pause(self) -> float:
        least, most = self._settings.refresh.min, self._settings.refresh.max
        wanted = self._lookup.due_in()
        if self._failures:
            wanted = min(wanted, _LONGEST_PAUSE, least * 2 ** min(self._failures - 1, 10))
        return min(most, max(least, wanted))

    def _found(self, look: _Look) -> None:
        self._failures = self._failures + 1 if look.failures else 0
        self._answered = self._clock.seconds()
        if self._observer is None:
            return
        endpoints = merged(look.endpoints)
        if look.remarks:
            self._remark("; ".join(look.remarks[:3]))
        if not endpoints and look.remarks:
            self._observer.endpoints_failed(f"nothing of the answer can be used: {'; '.join(look.remarks[:3])}")
            return
        if endpoints != self._delivered or not look.failures:  # which would end a failure that goes on
            self._deliver(endpoints, self._why_none() if not endpoints else "")
        if look.failures:
            self._observer.endpoints_failed("; ".join(look.failures[:3]))

    def _remark(self, text: str) -> None:
        told, at = self._remarked
        if text != told and self._clock.seconds() - at >= _QUIET:
            self._remarked = text, self._clock.seconds()
            self._log.warn("{name}: not used: {text}", name=self._settings.name, text=text)

    def _why_none(self) -> str:
        name, kind = self._settings.name, self._settings.type
        kinds: tuple[RecordType, ...] = ("SRV",) if kind == "srv" else _FAMILIES[kind]
        found = [(one, server) for one, server in map(self._said, kinds) if one is not None]
        for one, server in found:
            called = f"{name}, which is another name for {one.alias!a}," if one.alias else name
            if not one.exists:
                return f"{called} does not exist (NXDOMAIN){server}"
            if one.records:
                return f"{called} is a service that is decidedly not available (the SRV target is '.'){server}"
        return f"{called} has no records of type {' or '.join(kinds)}{server}" if found else ""

    def _said(self, kind: RecordType) -> tuple[Found | None, str]:
        name = self._settings.name
        server = self._lookup.server(name, kind)
        return self._lookup.last(name, kind), f", says {server}" if server is not None else ""

    def _deliver(self, endpoints: tuple[Endpoint, ...], reason: str = "") -> None:
        self._delivered = endpoints
        if self._observer is not None:
            self._observer.endpoints_changed(endpoints, reason)

    def _failed(self, failure: Failure) -> None:
        failure.trap(LookupFailedError)
        self._failures += 1
        if self._observer is None:
            return
        stale, now = self._settings.stale, self._clock.seconds()
        if stale is not None and self._delivered and self._answered is not None and now - self._answered >= stale:
            why = f"no name server has answered for {self._settings.name} for {format_duration(stale)} (stale)"
            self._deliver((), why)
        self._observer.endpoints_failed(str(failure.value))

    def _broken(self, failure: Failure) -> None:
        if failure.check(CancelledError) or self._observer is None:
            return
        self._failures += 1
        self._log.failure("looking up {name} failed", failure, name=self._settings.name)
        self._observer.endpoints_failed(f"looking up {self._settings.name} failed; see the traceback above")

    # --- finding

    async def _find(self) -> _Look:
        look = _Look()
        if self._settings.type == "srv":
            await self._find_services(look)
        else:
            hosts = await self._hosts(self._settings.name, _FAMILIES[self._settings.type], look)
            good, bad = endpoints_at(hosts, port=self._settings.port or 0)
            look.endpoints += good
            look.remarks += bad
        self._lookup.keep(look.used)
        self._leave_out_unrouted(look)
        if look.failures and not (look.endpoints and look.looked_up):
            raise LookupFailedError("; ".join(look.failures[:_MAX_FAILURES]))
        return look

    def _leave_out_unrouted(self, look: _Look) -> None:
        """Of two families, the addresses of one may be of no use on a machine that has no such network."""
        hosts = {one.address: one.address.host for one in look.endpoints if isinstance(one.address, TCPAddress)}
        if len({":" in host for host in hosts.values()}) < 2:
            return
        without = [address for address, host in hosts.items() if not self._has_route(host)]
        if without and len(without) < len(hosts):
            look.remarks.append(f"this machine has no route to {few(without)}")
            look.endpoints = [one for one in look.endpoints if one.address not in without]

    async def _find_services(self, look: _Look) -> None:
        look.used.add((self._settings.name, "SRV"))
        found = await self._lookup.find(self._settings.name, "SRV")
        services = services_in(found)
        if len(services) > MAX_TARGETS:
            look.remarks.append(f"there are {len(services)} SRV records, of which {MAX_TARGETS} are used")
        for service in services[:MAX_TARGETS]:
            if not is_askable(service.target):
                look.remarks.append(f"the target {service.target!a} is no name to ask for")
                continue
            self._learn(service, found)
            before = len(look.failures)
            hosts = await self._hosts(service.target, _BOTH, look)
            good, bad = endpoints_at(hosts, service)
            look.endpoints += good
            look.remarks += bad
            if not hosts and len(look.failures) == before:
                look.remarks.append(f"the target {service.target} has no address")

    def _learn(self, service: ServiceRecord, found: Found) -> None:
        """Take from the additional section what it says of a target."""
        for kind in _BOTH:
            told = found_besides(found, service.target, kind)
            if told is not None:
                self._lookup.learn(service.target, kind, told)

    async def _hosts(self, name: str, families: tuple[RecordType, ...], look: _Look) -> list[str]:
        """The addresses of a name; of a family that cannot be looked up now, those of before."""
        hosts: list[str] = []
        for kind in families:
            look.used.add((name, kind))
            found = self._lookup.fresh(name, kind, self._settings.stale)
            if len(look.failures) < _MAX_FAILURES:
                try:
                    found = await self._lookup.find(name, kind)
                    look.looked_up += 1
                except LookupFailedError as error:
                    look.failures.append(str(error))
            hosts += _addresses(found)
        return hosts


def _addresses(found: Found | None) -> Iterator[str]:
    return iter(()) if found is None else (record.data for record in found.records)


@implementer(IServiceDiscoveryFactory)
class DnsFactory:
    """Makes discoveries that ask name servers."""

    name = "dns"
    description = "the addresses or SRV records that name servers give for a name"
    settings = DnsSettings

    def create(self, settings: DnsSettings, context: PluginContext) -> DnsDiscovery:
        """Make the discovery of one service."""
        return DnsDiscovery(settings, context)
