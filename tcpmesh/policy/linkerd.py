"""
Who may use which inbound listener by Linkerd's resources: compiled to one list of authorizations for each listener.

Ring 1. Linkerd knows no denial: of all authorizations of a Server one must admit the client, by where it is and who it
is. Of a listener that the settings do not describe this policy says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import attrs
from zope.interface import implementer

from tcpmesh.addresses import shown
from tcpmesh.policy.linkerd_names import ServiceAccountNames
from tcpmesh.policy.linkerd_schema import AccessPolicy, Resource
from tcpmesh.policy.networks import Network, source_number
from tcpmesh.policy_interfaces import IExplainingPolicy, IUnauthenticatedPolicy, NearRule
from tcpmesh.values import AuthorizationRequest, Decision, Effect, TCPAddress

__all__ = ["Authorization", "Clients", "LinkerdListener", "LinkerdPolicy", "Port", "Range", "default_authorization"]

_ABSTAIN = Decision(Effect.ABSTAIN)
_MOST = 3  # identities or networks in one line


@attrs.frozen
class LinkerdListener:
    """Which pod and port an inbound listener stands for: what Servers select it by."""

    namespace: str
    port: int
    labels: Mapping[str, str]
    port_name: str = ""
    kind: Literal["pod", "external-workload"] = "pod"
    default: AccessPolicy = "deny"


@attrs.frozen
class Range:
    """A network without some parts of it."""

    network: Network
    except_: tuple[Network, ...] = ()

    def contains(self, number: int | None) -> bool:
        """Whether an address is in it."""
        return self.network.contains(number) and not any(part.contains(number) for part in self.except_)

    def __str__(self) -> str:
        parts = ", ".join(map(str, self.except_))
        return f"{self.network}{f' except {parts}' if parts else ''}"


@attrs.frozen
class Clients:
    """Whom an authorization means: whole identities, and the ends of DNS names (empty: every DNS name)."""

    identities: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()

    def contain(self, uri: str, dns: str) -> bool:
        """Whether a peer is among them; ``uri`` and ``dns`` are its names, empty for one that it has not."""
        if uri in self.identities or (dns and dns in self.identities):
            return True
        return bool(dns) and any(dns.endswith(suffix) for suffix in self.suffixes)

    def distance(self, *names: str) -> float:
        """How far the nearest identity is from a name, from 0 to 1."""
        pairs = [(identity, name) for identity in self.identities for name in names if name]
        return min((_distance(*pair) for pair in pairs), default=1.0)

    def __str__(self) -> str:
        return _listed([*sorted(self.identities), *(f"*{suffix}" for suffix in self.suffixes)])


@attrs.frozen
class Authorization:
    """
    One way to be admitted.

    :ivar networks: from where; None for anywhere, also where there is no address.
    :ivar clients: who; None for every verified peer.
    :ivar decision: what is answered then.
    :ivar strangers: whether clients without an identity are admitted, too: TLS that is passed through.
    """

    networks: tuple[Range, ...] | None
    clients: Clients | None
    decision: Decision
    strangers: bool = False

    def admits(self, number: int | None, uri: str, dns: str) -> bool:
        """Whether it admits a client; one without an identity has no name."""
        if not (uri or dns or self.strangers):
            return False
        return (self.networks is None or any(one.contains(number) for one in self.networks)) and (
            self.clients is None or self.clients.contain(uri, dns)
        )

    def misses(self, number: int | None, where: str, uri: str, dns: str) -> Iterator[str]:
        """What keeps it from admitting a client, each a predicate."""
        if self.networks is not None and not any(one.contains(number) for one in self.networks):
            yield f"is for {_listed([str(one) for one in self.networks])}, not {where}"
        if not (uri or dns or self.strangers):
            yield "is for clients with an identity, not for one without"
        elif self.clients is not None and not self.clients.contain(uri, dns):
            yield f"names {self.clients}, not {' or '.join(filter(None, (uri, dns)))}"


def _distance(one: str, other: str) -> float:
    """Which share of the longer of two names lies behind what they begin with alike."""
    alike = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return (
        0.0 if one == other else 1 - (min(len(one), len(other)) if alike is None else alike) / max(len(one), len(other))
    )


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + more if texts else "nobody"


@attrs.frozen
class Port:
    """
    What holds for one inbound listener.

    :ivar server: the Server that selects it, None where the default holds.
    :ivar authorizations: in the order in which they are asked.
    """

    server: Resource | None
    access_policy: AccessPolicy
    authorizations: tuple[Authorization, ...]
    notes: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """For the record of a denial."""
        return str(self.server.mark) if self.server is not None else "default"

    def __str__(self) -> str:
        return str(self.server) if self.server is not None else "the default policy"


EVERY_DNS_NAME = Clients(suffixes=("",))


def default_authorization(
    access: AccessPolicy, cluster: tuple[Range, ...] | None, whose: str, place: str
) -> Authorization | None:
    """
    Turn the name of a default policy into what it admits; None for nobody.

    :param cluster: the cluster's own networks.
    :param whose: of which Server or listener, for the reason.
    :param place: where it is written.
    """
    if access == "deny":
        return None
    if access == "audit":
        reason = f"nothing but the audit policy of {whose} admits this identity; without it, it would be denied"
    else:
        reason = f"the policy {access} of {whose} admits it"
    return Authorization(
        networks=cluster if access.startswith("cluster") else None,
        clients=EVERY_DNS_NAME if access.endswith("-authenticated") else None,
        decision=Decision(Effect.ALLOW, access, place, reason),
        strangers=not access.endswith("-authenticated"),
    )


class _Index:
    """Which of a port's authorizations can admit whom: those that name it, and those that have to be asked."""

    __slots__ = ("_asked", "_naming")

    def __init__(self, authorizations: Sequence[Authorization]) -> None:
        self._naming: dict[str, list[tuple[int, Authorization]]] = {}
        self._asked: list[tuple[int, Authorization]] = []
        for place, one in enumerate(authorizations):
            if one.clients is None or one.clients.suffixes:
                self._asked.append((place, one))
            else:
                for identity in one.clients.identities:
                    self._naming.setdefault(identity, []).append((place, one))

    def first(self, number: int | None, uri: str, dns: str) -> Authorization | None:
        """The first that admits a client, in the order of the files."""
        candidates = [*self._naming.get(uri, ()), *self._naming.get(dns, ()), *self._asked]
        admitting = [entry for entry in candidates if entry[1].admits(number, uri, dns)]
        return min(admitting, key=_place)[1] if admitting else None


def _place(entry: tuple[int, Authorization]) -> int:
    return entry[0]


@implementer(IExplainingPolicy, IUnauthenticatedPolicy)
class LinkerdPolicy:
    """Answers by what was compiled; never changes."""

    def __init__(self, ports: Mapping[str, Port], names: ServiceAccountNames) -> None:
        self.ports = dict(ports)
        self.names = names
        self._ports = {name: (port, _Index(port.authorizations)) for name, port in ports.items()}

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Allow by the first authorization that admits the peer, deny without one, abstain about other listeners."""
        found = self._ports.get(request.inbound)
        if found is None:
            return _ABSTAIN
        port, index = found
        number = source_number(request.source)
        uri, dns = str(request.peer.spiffe_id or ""), self.names.dns_name_of(request.peer)
        admitting = index.first(number, uri, dns)
        if admitting is not None:
            return admitting.decision
        name = port.server.id if port.server is not None else "default"
        also = f" ({dns})" if uri and dns else ""
        where = _where(request)
        reason = (
            f"{port} admits nobody"
            if not port.authorizations
            else f"none of the authorizations of {port} admits {request.peer}{also} from {where}"
        )
        return Decision(Effect.DENY, name, port.rule, reason)

    def near_rules(self, request: AuthorizationRequest, effect: Effect) -> Iterator[NearRule]:
        """Every authorization of the listener and what keeps it from admitting the peer; Linkerd denies nothing."""
        found = self._ports.get(request.inbound)
        if found is None or effect is not Effect.ALLOW:
            return
        port, _ = found
        number, where = source_number(request.source), _where(request)
        uri, dns = str(request.peer.spiffe_id or ""), self.names.dns_name_of(request.peer)
        for one in port.authorizations:
            misses = tuple(one.misses(number, where, uri, dns))
            rule, distance = one.decision.rule, one.clients.distance(uri, dns) if one.clients is not None else 0.0
            yield NearRule(one.decision.policy, rule, rule if ":" in rule else "", Effect.ALLOW, misses, distance)

    def describe(self) -> Sequence[str]:
        """One line per listener."""
        lines = []
        for name, (port, _) in self._ports.items():
            count = len(port.authorizations)
            by = f"{port}, policy {port.access_policy}, authorizations: {count}"
            lines.append(f"linkerd {name}: {'; '.join([by, *port.notes])}")
        return lines


def _where(request: AuthorizationRequest) -> str:
    source = request.source
    return shown(source.host)[1:-1] if isinstance(source, TCPAddress) else "no IP address"
