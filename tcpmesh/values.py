"""
The immutable values that rings pass to each other.

Ring 0. No I/O, no reactor, no OpenSSL; ``cryptography`` objects are carried, not interpreted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NewType

import attrs

from tcpmesh.addresses import (
    MAX_UNIX_PATH_BYTES,
    Address,
    DNSName,
    ExpectedIdentity,
    KeyPin,
    TCPAddress,
    UnixAddress,
    parse_address,
    parse_dns_name,
    parse_expected_identity,
    parse_key_pin,
    shown,
)
from tcpmesh.codes import Code
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.peers import UNAUTHENTICATED as UNAUTHENTICATED
from tcpmesh.peers import PeerIdentity as PeerIdentity

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = [
    "MAX_UNIX_PATH_BYTES",
    "UNAUTHENTICATED",
    "Address",
    "AttemptFailure",
    "AuthorizationRequest",
    "DNSName",
    "Decision",
    "Duration",
    "Effect",
    "Endpoint",
    "ExpectedIdentity",
    "IdentitySnapshot",
    "IdentityState",
    "InboundName",
    "KeyPin",
    "OutboundName",
    "PeerIdentity",
    "PolicyNote",
    "RetryContext",
    "ServiceName",
    "Size",
    "SourceName",
    "Svid",
    "TCPAddress",
    "TrustBundle",
    "UnixAddress",
    "Workload",
    "WorkloadName",
    "format_duration",
    "parse_address",
    "parse_dns_name",
    "parse_duration",
    "parse_expected_identity",
    "parse_key_pin",
    "parse_size",
]

Duration = NewType("Duration", float)  # seconds
Size = NewType("Size", int)  # bytes

# Names that must refer to something else in the configuration. A settings class that types a field with
# one of these has the reference checked, with line and column, when the file is loaded.
InboundName = NewType("InboundName", str)
OutboundName = NewType("OutboundName", str)
ServiceName = NewType("ServiceName", str)
WorkloadName = NewType("WorkloadName", str)
SourceName = NewType("SourceName", str)

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_DURATION = 3650 * 86400.0
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MAX_SIZE = 2**50


def parse_duration(text: str) -> Duration:
    """
    Read ``50ms``, ``5s``, ``1.5m``, ``1h`` or ``7d`` as seconds.

    :raises ValueError: for anything else, a bare number among it: its unit would be a guess; for more than 3650d.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a duration; write a number and a unit: 50ms, 5s, 10m, 1h or 7d")
    seconds = float(match.group(1)) * _DURATION_UNITS[match.group(2)]
    if seconds > _MAX_DURATION:
        raise ValueError(f"{shown(text)} is longer than ten years (3650d)")
    return Duration(seconds)


def format_duration(seconds: float) -> str:
    """Write a duration the way that :func:`parse_duration` reads it, in its largest whole unit."""
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= factor and seconds % factor == 0:
            return f"{int(seconds // factor)}{unit}"
    number, unit = (seconds, "s") if seconds >= 1 else (seconds * 1000, "ms")
    return f"{number:.3f}".rstrip("0").rstrip(".") + unit


def parse_size(text: str) -> Size:
    """
    Read ``512B``, ``64KiB``, ``1MiB`` or ``2GiB`` as bytes.

    :raises ValueError: for anything else, and for more than 1 PiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is not a size; write a whole number and a unit: 512B, 64KiB, 1MiB or 2GiB")
    size = int(match.group(1)) * _SIZE_UNITS[match.group(2)]
    if size > _MAX_SIZE:
        raise ValueError(f"{shown(text)} is more than 1048576GiB")
    return Size(size)


@attrs.frozen(eq=False)
class Svid:
    """
    An X.509-SVID with its key: what a workload proves itself with.

    ``chain`` is the leaf first, then intermediates, without the trust anchor.
    """

    id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    private_key: CertificateIssuerPrivateKeyTypes = attrs.field(repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate that names the workload."""
        return self.chain[0]


@attrs.frozen(eq=False)
class TrustBundle:
    """
    The authorities of one trust domain.

    Without any, everything of that domain is revoked (SPIFFE_Trust_Domain_and_Bundle.md section 4).
    """

    trust_domain: TrustDomain
    authorities: tuple[x509.Certificate, ...]


@attrs.frozen(eq=False)
class IdentitySnapshot:
    """Everything that an identity source has to say: complete each time; what is absent is withdrawn."""

    svids: tuple[Svid, ...] = ()
    bundles: Mapping[TrustDomain, TrustBundle] = attrs.field(factory=dict)


class IdentityState(Enum):
    """Where an identity source stands."""

    INIT = "init"  # nothing received yet: connections are refused
    READY = "ready"
    STALE = "stale"  # the source fails; its last snapshot still serves
    EXPIRED = "expired"  # the last certificate ran out
    REVOKED = "revoked"  # withdrawn by the source


@attrs.frozen
class Endpoint:
    """One address at which a service answers."""

    address: Address
    weight: int = 1
    zone: str = ""
    priority: int = 0
    expect: tuple[ExpectedIdentity, ...] = ()  # overrides the service's when not empty
    metadata: tuple[tuple[str, str], ...] = ()  # what else is known of it, for people and for plugins


@attrs.frozen
class AuthorizationRequest:
    """
    What a policy may look at to decide about one connection.

    Inbound, ``peer`` is who came, perhaps ``UNAUTHENTICATED``, and ``port`` that of the application (0 for a unix
    socket). Outbound, about which an
    :class:`~tcpmesh.policy_interfaces.IOutboundPolicy` alone is asked, ``peer`` is the own workload, ``service`` where
    it wants to go, and ``inbound`` empty.
    """

    peer: PeerIdentity
    source: Address
    inbound: str
    workload: str
    sni: str = ""
    alpn: str = ""
    port: int = 0
    service: str = ""


class Effect(Enum):
    """What a policy says."""

    ALLOW = "allow"
    DENY = "deny"
    ABSTAIN = "abstain"


@attrs.frozen
class PolicyNote:
    """What a policy that decides nothing said of a connection: ``audit``, ``would-allow`` or ``would-deny``."""

    policy: str
    rule: str
    says: str


@attrs.frozen
class Decision:
    """
    A policy's answer, with what the record needs to explain it.

    ``valid_for`` is how many seconds the answer may be remembered; None means until the policy changes. ``notes`` go to
    the record, whatever is decided.
    """

    effect: Effect
    policy: str = ""
    rule: str = ""
    reason: str = ""
    valid_for: float | None = None
    notes: tuple[PolicyNote, ...] = ()


@attrs.frozen
class AttemptFailure:
    """Why one attempt at one endpoint failed."""

    code: Code
    reason: str
    endpoint: Endpoint | None
    duration: float  # seconds


@attrs.define
class RetryContext:
    """
    What a retry strategy knows of one connection: it grows by one failure before each question.

    ``elapsed`` is the time in seconds since the connection was accepted, ``remaining`` what is left of
    ``timeouts.establish``: a wait that is not shorter ends the connection at once.
    """

    service: str
    failures: list[AttemptFailure] = attrs.field(factory=list, on_setattr=attrs.setters.frozen)
    elapsed: float = 0.0
    remaining: float = math.inf


@attrs.frozen
class Workload:
    """
    A workload as the configuration names it, for the identity source that is to serve it.

    ``settings`` is an instance of the source factory's ``workload_settings`` class.
    """

    name: str
    id: SpiffeId
    settings: Any = None
