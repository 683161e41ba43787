"""
Questions to policies as people ask them: who, from where, to what.

Ring 1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from difflib import get_close_matches

import attrs

from tcpmesh.addresses import TCPAddress, shown
from tcpmesh.mesh_state import MeshState
from tcpmesh.policy.linkerd import LinkerdPolicy
from tcpmesh.policy.replay import NOWHERE, Places, parse_peer
from tcpmesh.policy.rules import Rules
from tcpmesh.route_settings import InboundRoute
from tcpmesh.route_table import normal_server_name
from tcpmesh.values import Address, AuthorizationRequest, format_duration

__all__ = ["Question", "assumptions", "parse_ip", "parse_who"]

_DAY = 86400.0
_PREFIXES = ("inbound:", "service:")


def parse_who(text: str) -> str:
    """
    Check that a text is a SPIFFE ID, ``dns:NAME`` or ``unauthenticated``.

    :raises ValueError: saying what is wrong.
    """
    parse_peer(text, 0.0, 0.0)
    return text


def parse_ip(text: str) -> str:
    """
    Read an IP address, without a port.

    :raises ValueError: saying what is wrong.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is not an IP address; write 192.0.2.1 or 2001:db8::1, without a port"
        ) from None
    return str(address)


@attrs.frozen(kw_only=True)
class Question:
    """
    One question.

    :ivar who: a SPIFFE ID, ``dns:NAME``, or ``unauthenticated`` for TLS that is passed through.
    :ivar to: an inbound listener or a service; ``inbound:NAME`` or ``service:NAME`` where both have the name.
    :ivar ip: where the connection comes from; empty for not said.
    :ivar cert_age: seconds since its certificate became valid, and ``cert_left`` until it is no longer; None: not said.
    """

    who: str
    to: str
    ip: str = ""
    sni: str = ""
    alpn: str = ""
    cert_age: float | None = None
    cert_left: float | None = None

    def request(self, places: Places, now: float) -> AuthorizationRequest:
        """
        What policies are asked.

        :param now: the moment that is asked about, in seconds since the epoch.
        :raises ValueError: when there is no such place, or one that is asked about in another way.
        """
        peer = parse_peer(
            self.who,
            now - (self.cert_age if self.cert_age is not None else 0.0),
            now + (self.cert_left if self.cert_left is not None else _DAY),
        )
        source: Address = TCPAddress(self.ip, 0) if self.ip else NOWHERE
        outbound, name = _destination(self.to, places)
        if not outbound:
            route = places.route(name, self.sni)
            if route is None:
                asked = f"the server name {shown(self.sni)}" if self.sni else "connections without a server name"
                raise ValueError(f"inbound listener {name!r} has no route for {asked}; give another --sni")
            if route.passthrough is peer.is_authenticated:
                raise ValueError(_wrong_peer(name, route))
            port = places.port(name, self.sni)
            asked = normal_server_name(self.sni)
            return AuthorizationRequest(peer, source, name, route.workload or "", asked, self.alpn, port)
        if not peer.is_authenticated:
            raise ValueError("services are asked for by workloads of this proxy, which have an identity")
        if self.sni or self.alpn:
            raise ValueError("sni and alpn are of inbound connections; policies about services do not look at them")
        return AuthorizationRequest(peer, source, "", "", service=name)


def _destination(to: str, places: Places) -> tuple[bool, str]:
    for prefix, known in zip(_PREFIXES, (places.inbound, places.services), strict=True):
        if to.startswith(prefix):
            name = to.removeprefix(prefix)
            if name not in known:
                raise ValueError(f"there is no {prefix[:-1]} {shown(name)}{_hint(name, known)}")
            return prefix == "service:", name
    if to in places.inbound and to in places.services:
        raise ValueError(f"{shown(to)} is an inbound listener and a service; write inbound:{to} or service:{to}")
    if to not in places.inbound and to not in places.services:
        names = [*places.inbound, *sorted(places.services)]
        raise ValueError(f"there is no inbound listener and no service {shown(to)}{_hint(to, names)}")
    return to in places.services, to


def _wrong_peer(listener: str, route: InboundRoute) -> str:
    which = f"route {route.name} of inbound listener {listener!r}"
    if route.passthrough:
        return f"{which} passes TLS through, so that every peer is unauthenticated; ask --from unauthenticated"
    return f"{which} verifies peers; unauthenticated are those whose TLS is passed through"


def _hint(name: str, known: Iterable[str]) -> str:
    names = list(known)
    if close := get_close_matches(name, names, 1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(names[:10]) or 'none'}"


def assumptions(question: Question, state: MeshState, places: Places) -> list[str]:
    """What an answer takes for granted, each as a sentence for whoever asked: what was not said, what is not there."""
    looked_at: set[str] = set()
    deny_list = state.deny_list
    if any(entry.issued_before is not None and str(entry.id) == question.who for entry in deny_list.entries):
        looked_at.add("certificate")
    for named in state.policies:
        looked_at |= _looked_at(named.policy)
    found = []
    if "ip" in looked_at and not question.ip:
        found.append("no source address was given, so that it is in no network")
    if "certificate" in looked_at and (question.cert_age is None or question.cert_left is None):
        age = format_duration(question.cert_age or 0.0)
        left = format_duration(question.cert_left if question.cert_left is not None else _DAY)
        found.append(f"the certificate is taken to be {age} old and to have {left} left")
    outbound, name = _destination(question.to, places)
    if "sni" in looked_at and not (outbound or question.sni):
        found.append("no --sni was given, so that it asks for no server name")
    if "alpn" in looked_at and not (outbound or question.alpn):
        found.append("no --alpn was given, so that it agrees on no protocol; proxies of this kind do, on tcpmesh/1")
    if any(entry.id is None for entry in deny_list.entries):
        found.append("its key and its serial number are not on the deny-list")
    if outbound and question.who not in places.services[name]:
        found.append("there is an outbound listener that leads this identity there; the configuration has none")
    return found


def _looked_at(policy: object) -> set[str]:
    """What a policy can look at of which a question may say nothing; everything if nobody knows."""
    if isinstance(policy, LinkerdPolicy):
        return {"ip"}
    if not isinstance(policy, Rules):
        return {"ip", "certificate", "sni", "alpn"}
    found = set()
    for rule in policy.policies:
        entries = [inner for entry in rule.from_ for inner in (entry, *(entry.except_ or ()))]
        if any(entry.networks is not None for entry in entries):
            found.add("ip")
        if rule.when is not None and rule.when.certificate is not None:
            found.add("certificate")
        found |= {key for key in ("sni", "alpn") if rule.to is not None and getattr(rule.to, key) is not None}
    return found
