"""
Where inbound listeners lead: targets that nobody can connect to, circles, plaintext that would leave the machine.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from tcpmesh.config.listeners import Listener
from tcpmesh.config.places import Place
from tcpmesh.config.structure import SettingsReader
from tcpmesh.errors import Problem
from tcpmesh.policy.language import RulesSettings
from tcpmesh.port_ranges import addresses_of
from tcpmesh.settings import InboundSettings, Settings
from tcpmesh.values import Address, TCPAddress

__all__ = ["check_targets", "target_warnings"]


def check_targets(read: SettingsReader, listeners: list[Listener]) -> Iterator[Problem]:
    """What is wrong with the targets of inbound listeners and of their routes."""
    for place, inbound in read.of(InboundSettings):
        for at, target, passthrough in _targets(place, inbound):
            complaint = _complaint(target, listeners)
            if not complaint and not (passthrough or target.is_loopback or inbound.plaintext_network == "allow"):
                complaint = (
                    f"{target} would be sent plaintext over the network; use loopback or a unix socket, or, if the "
                    "network in between is trusted, add plaintext_network: allow"
                )
            if complaint:
                yield Problem(f"{at}: {complaint}", read.marks.get(at.path))


def _targets(place: Place, inbound: InboundSettings) -> Iterator[tuple[Place, Address, bool]]:
    """Every target with its place, and whether it gets the peer's own TLS."""
    if inbound.target is not None:
        yield place.key("target"), inbound.target, inbound.passthrough
    for index, route in enumerate(inbound.routes or ()):
        yield place.key("routes").item(index).key("target"), route.target, route.passthrough


def _complaint(target: Address, listeners: list[Listener]) -> str:
    if isinstance(target, TCPAddress) and target.port == 0:
        return f"{target} has port 0, which nobody can connect to"
    if isinstance(target, TCPAddress) and target.is_wildcard:
        return f"{target} is an address to listen on; write the application's own, such as 127.0.0.1"
    own = next((listener for listener in listeners if listener.accepts(target)), None)
    if own is not None:
        return (
            f"{target} is this proxy's own listener {own}, so connections would run in a circle; write the "
            "application's address"
        )
    return ""


def _may_let_in(settings: Settings) -> bool:
    """Whether a policy lets peers without an identity in, as far as the configuration itself tells."""
    for choice in settings.authorization:
        rules = choice.settings
        if not isinstance(rules, RulesSettings) or list(rules.paths()):
            return True  # what stands elsewhere is not known here
        if any(
            entry.any == "unauthenticated"
            for policy in rules.inline
            if policy.action == "allow" and policy.decides
            for entry in policy.from_
        ):
            return True
    return False


def target_warnings(settings: Settings) -> Iterator[Problem]:
    """What is sent over the network in plaintext, may come back here, or is let in unverified, as the file says."""
    addresses: list[Address] = [inbound.listen for inbound in settings.inbound]
    for out in settings.outbound:
        addresses += addresses_of(out.listen)
    own_ports = {address.port for address in addresses if isinstance(address, TCPAddress) and address.is_wildcard}
    for index, inbound in enumerate(settings.inbound):
        whose = f"inbound[{index}] ({inbound.name})"
        for route in inbound.all_routes:
            target = route.target
            if route.passthrough:
                what = (
                    f"{whose} passes TLS through to {target}: no peer is verified there, and policies that say any: "
                    "unauthenticated let it in"
                    if _may_let_in(settings)
                    else f"{whose} passes TLS through to {target}, and no policy says any: unauthenticated, so every "
                    "connection there will be refused"
                )
                yield Problem(what, route.mark or inbound.mark)
            if target.is_loopback:
                continue
            if not route.passthrough:
                yield Problem(
                    f"{whose} sends plaintext over the network to {target} (plaintext_network: allow)",
                    route.mark or inbound.mark,
                )
            if isinstance(target, TCPAddress) and target.port in own_ports:
                yield Problem(
                    f"{whose}: if {target} is an address of this machine, the target is this proxy's own listener, and "
                    "connections run in a circle",
                    route.mark or inbound.mark,
                )
