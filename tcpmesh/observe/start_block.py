"""
The start-up block: what this proxy is, where it listens, as whom, under which rules and limits.

Ring 3, pure: plain values in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from tcpmesh.identity.certificates import span
from tcpmesh.identity.endpoint_url import parse_endpoint_url
from tcpmesh.identity.federated import FederatedBundle
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.observe.records import rfc3339
from tcpmesh.observe.text import printable
from tcpmesh.settings import Defaults, FederationSettings, Settings
from tcpmesh.tls_names import GROUPS, TLSGroup
from tcpmesh.values import format_duration

__all__ = [
    "ListenerFacts",
    "StartFacts",
    "WorkloadFacts",
    "default_lines",
    "federation_lines",
    "proxy_lines",
    "start_block",
    "tls_lines",
]

_DIGEST = 12  # of the hash's characters: enough to tell two files apart


@attrs.frozen
class ListenerFacts:
    """A listener, with the address that is really bound."""

    direction: str
    name: str
    address: str
    to: str  # a target's address or a service's name; or the routes
    workload: str  # or several, or none


@attrs.frozen
class WorkloadFacts:
    """Whom the proxy acts as; ``expires`` in seconds since the epoch, None while there is no certificate."""

    name: str
    id: str
    state: str
    expires: float | None = None


@attrs.frozen
class StartFacts:
    """Everything that the block shows."""

    version: str
    reactor: str
    tls_library: str
    file: str
    digest: str  # SHA-256 of the file, in hex
    trust_domain: str
    listeners: Sequence[ListenerFacts] = ()
    workloads: Sequence[WorkloadFacts] = ()
    federated: Sequence[str] = ()  # one line per other trust domain
    tls: Sequence[str] = ()  # what is not as it is everywhere, one line each
    proxy: Sequence[str] = ()  # where PROXY headers are read and sent, one line each
    rules: Sequence[str] = ()  # one line each, as IAuthorizationPolicy.describe gives them
    limits: Mapping[str, str] = attrs.field(factory=dict)
    admin: Sequence[str] = ()
    warnings: Sequence[str] = ()


def start_block(facts: StartFacts, now: float) -> list[str]:
    """
    Write the block, one line per fact, the first word saying what it is about.

    :param now: wall-clock seconds since the epoch.
    """
    rows: list[tuple[str, str]] = [
        ("tcpmesh", f"{facts.version}, reactor {facts.reactor}, {facts.tls_library}"),
        ("config", f"{facts.file}, SHA-256 {facts.digest[:_DIGEST]}, trust domain {facts.trust_domain}"),
    ]
    for direction in ("outbound", "inbound"):
        chosen = [listener for listener in facts.listeners if listener.direction == direction]
        rows += [
            (
                direction,
                f"{name}  {listener.address} -> {listener.to}{f' as {listener.workload}' if listener.workload else ''}",
            )
            for name, listener in zip(_aligned(listener.name for listener in chosen), chosen, strict=True)
        ]
    rows += [
        ("workload", f"{name}  {workload.id}  {workload.state}{_validity(workload.expires, now)}")
        for name, workload in zip(_aligned(each.name for each in facts.workloads), facts.workloads, strict=True)
    ]
    rows += [("federated", line) for line in facts.federated]
    rows += [("tls", line) for line in facts.tls]
    rows += [("proxy", line) for line in facts.proxy]
    rows += [("rule", rule) for rule in facts.rules]
    if not facts.rules and any(listener.direction == "inbound" for listener in facts.listeners):
        rows.append(("rule", "none: every inbound connection is denied"))
    if facts.limits:
        rows.append(("limits", ", ".join(f"{name} {value}" for name, value in facts.limits.items())))
    rows += [("admin", place) for place in facts.admin]
    rows += [("warning", warning) for warning in facts.warnings]
    return [printable(f"{word:<9} {text}") for word, text in rows]


def tls_lines(settings: Settings, default: Sequence[str]) -> Iterator[str]:
    """
    Key exchange groups and cipher suites where they are configured, and the default groups where they disappoint.

    :param default: the groups that hold where none are configured.
    """
    places = [(f"inbound {inbound.name}", inbound.tls) for inbound in settings.inbound]
    places += [(f"service {name}", service.tls) for name, service in settings.services.items()]
    first = GROUPS.get(TLSGroup(default[0])) if default else None
    if any(not tls.groups for _, tls in places) and (first is None or not first.post_quantum):
        yield f"no post-quantum group comes first with this TLS library, whose groups are {', '.join(default)}"
    for name, tls in places:
        lists = (("groups", tls.groups), ("ciphers", tls.ciphers))
        configured = [f"{key} {', '.join(names)}" for key, names in lists if names]
        if configured:
            yield f"{name}: {'; '.join(configured)}"


def proxy_lines(settings: Settings) -> Iterator[str]:
    """Whose word is taken for where a peer is, and who is told it: PROXY headers, where they are read and sent."""
    for inbound in settings.inbound:
        proxy = inbound.proxy_protocol
        said = []
        if proxy.accept_from:
            sources = ", ".join(str(source) for source in proxy.accept_from)
            said.append(f"header from {sources} within {format_duration(proxy.timeout)}")
        if proxy.send != "none":
            said.append(f"{proxy.send} to the application")
        if said:
            yield f"inbound {inbound.name}: {', '.join(said)}"
    for name, service in settings.services.items():
        if service.proxy_protocol != "none":
            yield f"service {name}: {service.proxy_protocol} before TLS"


def federation_lines(
    relations: Mapping[TrustDomain, FederationSettings], held: Iterable[FederatedBundle], now: float
) -> Iterator[str]:
    """
    Each other trust domain: where its bundle comes from, how that is verified, and what of it is there yet.

    :param now: wall-clock seconds.
    """
    found = {bundle.trust_domain: bundle for bundle in held}
    names = _aligned(str(domain) for domain in relations)
    for name, (domain, relation) in zip(names, relations.items(), strict=True):
        yield f"{name}  {_origin(relation)}, {_standing(found.get(domain), now)}"


def _origin(relation: FederationSettings) -> str:
    if relation.url is None:
        return f"file {relation.bundle}"
    server = f" as {relation.endpoint_id}" if relation.endpoint_id is not None else f", trust {relation.trust}"
    return f"{relation.profile} {parse_endpoint_url(relation.url)}{server}"


def _standing(held: FederatedBundle | None, now: float) -> str:
    if held is None or held.bundle is None or held.received is None:
        return "no bundle yet: its peers are refused" + (
            f" ({held.failure})" if held is not None and held.failure else ""
        )
    count = len(held.bundle.authorities)
    sequence = "" if held.sequence is None else f", sequence {held.sequence}"
    return f"authorities: {count}{sequence}, received {span(max(0.0, now - held.received))} ago"


def default_lines(defaults: Defaults) -> Iterator[str]:
    """What holds where no policy says anything, if that is not what holds unless it is written."""
    if defaults.inbound == "allow":
        yield "by default: every authenticated peer to every inbound listener"
    if defaults.outbound == "deny":
        yield "by default: no workload to any service"


def _aligned(names: Iterable[str]) -> list[str]:
    found = list(names)
    width = max(map(len, found), default=0)
    return [f"{name:<{width}}" for name in found]


def _validity(expires: float | None, now: float) -> str:
    if expires is None:
        return ", no certificate yet"
    moment = rfc3339(expires)
    if expires <= now:
        return f", expired at {moment}"
    return f", expires at {moment} (in {_rough(expires - now)})"


def _rough(seconds: float) -> str:
    """A time to the minute, or below one to the second."""
    whole = int(seconds)
    if whole < 60:
        return format_duration(whole) if whole else "less than 1s"
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    return " ".join(f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if count)
