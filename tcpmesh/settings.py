"""
The configuration as values: one attrs class per mapping of the file, one field per key.

Ring 0. The classes are the contract: the loader (``tcpmesh.config``) reads whatever is declared here, and
``etc/reference.yaml`` is held against it by a test. A field's type is its rule, its default what an absent key means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import attrs

from tcpmesh.errors import Mark
from tcpmesh.identity.deny_list import DenyListSettings
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.interfaces import AUTHORIZATION, BALANCE, DISCOVERY, IDENTITY, RETRY
from tcpmesh.listener_settings import ListenerLimits
from tcpmesh.port_ranges import ListenAddress
from tcpmesh.probe_settings import ProbeSettings
from tcpmesh.proxy_protocol_settings import ProxyProtocolSettings, ProxyProtocolVersion
from tcpmesh.route_settings import InboundRoute, InboundRoutes, OutboundRoute, OutboundRoutes
from tcpmesh.timeouts import TimeoutOverrides as TimeoutOverrides
from tcpmesh.timeouts import Timeouts as Timeouts
from tcpmesh.tls_names import CipherSuite, TLSGroup
from tcpmesh.upstream_settings import HealthSettings, QueueSettings, RetryBudgetSettings, ServiceLimits
from tcpmesh.values import (
    Address,
    Duration,
    ExpectedIdentity,
    ServiceName,
    SourceName,
    TCPAddress,
    WorkloadName,
)

TLSVersion = Literal["1.2", "1.3"]
OnChange = Literal["close", "drain", "log"]  # of policies, for a connection that they no longer allow
OnRemoved = Literal["keep", "drain", "close"]  # an endpoint by discovery, for the connections that it has
OnExpiry = Literal["keep", "close"]  # of the peer's certificate, while the connection lives
SameZone = Literal["prefer", "ignore"]  # of endpoints, while at least half of them are admitted
MappingKind = Literal["kubernetes", "claims", "aws", "dns", "certificate"]

NOT_A_KEY = "tcpmesh.settings.not_a_key"
OTHER_KEYS = "tcpmesh.settings.other_keys"  # marks the field for what is read from keys that the class does not name


def not_a_key(default: Any = None) -> Any:
    """Declare a field of a settings class that no key of the file fills and that does not count in comparisons."""
    return attrs.field(default=default, eq=False, metadata={NOT_A_KEY: True})


def is_place(hint: Any) -> bool:
    """Whether a field of this type receives the place where its mapping begins, instead of being a key."""
    return hint in (Mark, Mark | None)


@lru_cache(maxsize=256)
def keys(settings: type) -> Mapping[str, attrs.Attribute[Any]]:
    """
    The configuration keys that a settings class declares, with their fields.

    A key is the field's name without the underscore at its end that Python's own words need: ``from_`` is ``from``.
    A field of type ``Mark | None`` is not a key, nor is one that :func:`not_a_key` declares.

    :raises Exception: whatever ``typing.get_type_hints`` raises for types that cannot be resolved.
    """
    hints = get_type_hints(settings)
    return {
        (field.alias or field.name).removesuffix("_"): field
        for field in attrs.fields(settings)
        if field.init and NOT_A_KEY not in field.metadata and not is_place(hints.get(field.name))
    }


@attrs.frozen
class PluginChoice:
    """A mapping with ``plugin: NAME``: the plugin, and its siblings read into the plugin's settings class."""

    plugin: str
    settings: Any
    mark: Mark | None = attrs.field(default=None, eq=False)


# The annotation tells the loader which kind of plugin the name selects.
IdentityChoice = Annotated[PluginChoice, IDENTITY]
DiscoveryChoice = Annotated[PluginChoice, DISCOVERY]
AuthorizationChoice = Annotated[PluginChoice, AUTHORIZATION]
RetryChoice = Annotated[PluginChoice, RETRY]
BalanceChoice = Annotated[PluginChoice, BALANCE]


@attrs.frozen
class NoSettings:
    """The settings class of a plugin that has none."""


@attrs.frozen
class WorkloadSettings:
    """Whom this proxy may act as. Further keys belong to the identity source (``extra``)."""

    id: SpiffeId
    source: SourceName | None = None  # may be absent when there is only one source
    # of the source factory's workload_settings class, read from all further keys
    extra: Any = attrs.field(default=None, metadata={NOT_A_KEY: True, OTHER_KEYS: True})
    mark: Mark | None = not_a_key()


@attrs.frozen
class MappingSettings:
    """How foreign names of one origin become SPIFFE IDs below ``prefix``; see ``tcpmesh.identity.mapping``."""

    from_: MappingKind
    prefix: str
    template: str
    issuer: str | None = None  # who gives these names: of claims the "iss", of certificates the issuer's name
    subject: tuple[str, ...] = ()  # which claims together say who it is; none: "sub"
    where: dict[str, tuple[str, ...]] = attrs.field(factory=dict)  # only names whose variable has one of these texts
    characters: Literal["reject", "escape"] = "reject"  # that a SPIFFE path may not hold
    mark: Mark | None = not_a_key()


@attrs.frozen
class FederationSettings:
    """
    Where the bundle of another trust domain comes from: the file ``bundle``, or the SPIFFE bundle endpoint ``url``.

    For an endpoint that serves its own trust domain's bundle, ``bundle`` is what it is verified with at first.
    """

    bundle: Path | None = None  # PEM, or a SPIFFE bundle document
    url: str | None = None
    profile: Literal["https_web", "https_spiffe"] | None = None  # how the endpoint is verified
    endpoint_id: SpiffeId | None = None  # https_spiffe: who must answer
    trust: Literal["system"] | Path = "system"  # https_web: by whose authorities
    refresh: Duration | None = None  # instead of the document's own hint


@attrs.frozen
class IdentitySettings:
    """
    Where identities come from and whom they are for; ``bundles_from`` says whose bundle of a trust domain counts,
    ``bundle_cache`` where those that endpoints served are kept over a restart.
    """

    sources: dict[str, IdentityChoice]
    workloads: dict[str, WorkloadSettings]
    bundles_from: dict[TrustDomain, list[SourceName]] = attrs.field(factory=dict)
    federation: dict[TrustDomain, FederationSettings] = attrs.field(factory=dict)
    bundle_cache: Path | None = None
    mapping: dict[str, MappingSettings] = attrs.field(factory=dict)
    deny_list: DenyListSettings = attrs.field(factory=DenyListSettings)


@attrs.frozen
class TLSSettings:
    """TLS limits of one listener or service; ``groups`` and ``ciphers`` in order of preference."""

    min_version: TLSVersion = "1.3"
    max_version: TLSVersion = "1.3"
    groups: tuple[TLSGroup, ...] = ()  # none: the library's own, with X25519MLKEM768 first where it knows that
    ciphers: tuple[CipherSuite, ...] = ()  # of every version between the two; none: AEAD suites in the library's order
    mark: Mark | None = not_a_key()


@attrs.frozen
class ServiceSettings:
    """What can be reached, and who must answer."""

    discovery: DiscoveryChoice
    expect: list[ExpectedIdentity] = attrs.field(factory=list)  # needed unless all TLS to it is passed through
    balance: BalanceChoice = attrs.field(factory=lambda: PluginChoice("round-robin", None))
    retry: RetryChoice = attrs.field(factory=lambda: PluginChoice("none", None))
    retry_budget: RetryBudgetSettings = attrs.field(factory=RetryBudgetSettings)
    trust: Literal["mesh", "system"] | Path = (
        "mesh"  # for dns: names only: the own bundle, the system's store, or a PEM file
    )
    sni: str | None = None
    same_zone: SameZone = "prefer"  # no effect while the proxy's own zone is not known
    on_change: OnChange = "close"
    on_expiry: OnExpiry = "keep"
    on_removed: OnRemoved = "drain"
    proxy_protocol: ProxyProtocolVersion = "none"  # sent before TLS to a server that wants it
    preface: Literal["auto", "never"] = "auto"  # never: do not offer tcpmesh/1 to a server that dislikes unknown ALPN
    truncation: Literal["reset", "eof"] = "reset"
    health: HealthSettings = attrs.field(factory=HealthSettings)
    limits: ServiceLimits = attrs.field(factory=ServiceLimits)
    queue: QueueSettings = attrs.field(factory=QueueSettings)
    tls: TLSSettings = attrs.field(factory=TLSSettings)
    timeouts: TimeoutOverrides = attrs.field(factory=TimeoutOverrides)


@attrs.frozen
class ClientSettings:
    """Which local users may use an outbound listener; empty means everybody on this machine who can connect."""

    uids: list[int] = attrs.field(factory=list)
    gids: list[int] = attrs.field(factory=list)


@attrs.frozen
class OutboundSettings(OutboundRoutes):
    """A plain listener for applications, and the service or routes, and the identity, that it stands for."""

    name: str
    listen: ListenAddress
    workload: WorkloadName
    service: ServiceName | None = None
    routes: list[OutboundRoute] | None = None
    per_endpoint: bool = False  # listen is a range: a port for each endpoint of the service
    clients: ClientSettings = attrs.field(factory=ClientSettings)
    plaintext_network: Literal["refuse", "allow"] = "refuse"
    limits: ListenerLimits = attrs.field(factory=ListenerLimits)
    timeouts: TimeoutOverrides = attrs.field(factory=TimeoutOverrides)
    mark: Mark | None = not_a_key()


@attrs.frozen
class InboundSettings(InboundRoutes):
    """A TLS listener for peers, and the application, or the routes to several, that it guards."""

    name: str
    listen: Address
    target: Address | None = None
    workload: WorkloadName | None = None  # needed unless all TLS is passed through
    passthrough: bool = False  # of target; routes say it each
    routes: list[InboundRoute] | None = None
    plaintext_network: Literal["refuse", "allow"] = "refuse"
    truncation: Literal["reset", "eof"] = "reset"
    on_change: OnChange = "close"
    on_expiry: OnExpiry = "keep"
    probe: ProbeSettings | None = None
    proxy_protocol: ProxyProtocolSettings = attrs.field(factory=ProxyProtocolSettings)
    limits: ListenerLimits = attrs.field(factory=ListenerLimits)
    tls: TLSSettings = attrs.field(factory=TLSSettings)
    timeouts: TimeoutOverrides = attrs.field(factory=TimeoutOverrides)
    mark: Mark | None = not_a_key()


@attrs.frozen
class Defaults:
    """What becomes of connections that no policy allows or denies; outbound, only a listener's own pairs come up."""

    inbound: Literal["allow", "deny"] = "deny"
    outbound: Literal["allow", "deny"] = "allow"
    mark: Mark | None = not_a_key()


@attrs.frozen
class Limits:
    """How much the proxy lets itself be asked for; over the limit a connection is accepted, reset and counted."""

    connections: int = 9000
    handshakes: int = 1000


@attrs.frozen
class AdminSettings:
    """``listen``: a unix socket for commands; ``metrics``: a TCP address for /live, /ready and /metrics."""

    listen: Address | None = None
    metrics: TCPAddress | None = None


@attrs.frozen
class LogSettings:
    """Where and how the proxy reports."""

    format: Literal["auto", "text", "json"] = "auto"
    level: Literal["debug", "info", "warn", "error"] = "info"
    access: Literal["-", "none"] | Path = "-"  # records: "-" is standard output, "none" is nowhere, else a file


@attrs.frozen
class Settings:
    """One configuration file."""

    version: Literal[1]
    trust_domain: TrustDomain
    identity: IdentitySettings
    zone: str | None = None  # where this proxy is, as endpoints say it
    services: dict[str, ServiceSettings] = attrs.field(factory=dict)
    outbound: list[OutboundSettings] = attrs.field(factory=list)
    inbound: list[InboundSettings] = attrs.field(factory=list)
    authorization: list[AuthorizationChoice] = attrs.field(factory=list)
    defaults: Defaults = attrs.field(factory=Defaults)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    limits: Limits = attrs.field(factory=Limits)
    admin: AdminSettings = attrs.field(factory=AdminSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    file: Path = not_a_key(Path())  # where it was read from, absolute
    digest: str = not_a_key("")  # the SHA-256 of its bytes in hex
