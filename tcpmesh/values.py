"""
The immutable values that rings pass to each other.

Ring 0. No I/O, no reactor, no OpenSSL; ``cryptography`` objects are carried, not interpreted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NewType

import attrs

from tcpmesh.codes import Code
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

Duration = NewType("Duration", float)  # seconds
Size = NewType("Size", int)  # bytes

# Names that must refer to something else in the configuration. A settings class that types a field with
# one of these has the reference checked, with line and column, when the file is loaded.
InboundName = NewType("InboundName", str)
OutboundName = NewType("OutboundName", str)
ServiceName = NewType("ServiceName", str)
WorkloadName = NewType("WorkloadName", str)
SourceName = NewType("SourceName", str)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)\Z")
_SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# sockaddr_un.sun_path holds 108 bytes with its terminating NUL (unix(7)).
MAX_UNIX_PATH_BYTES = 107


def parse_duration(text: str) -> Duration:
    """
    Read ``50ms``, ``5s``, ``1.5m``, ``1h`` or ``7d`` as seconds.

    :raises ValueError: for anything else, a bare number among it: its unit would be a guess.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and a unit: 50ms, 5s, 10m, 1h or 7d")
    return Duration(float(match.group(1)) * _DURATION_UNITS[match.group(2)])


def format_duration(seconds: float) -> str:
    """Write a duration the way that :func:`parse_duration` reads it, in its largest whole unit."""
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= factor and seconds % factor == 0:
            return f"{int(seconds // factor)}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{round(seconds * 1000, 3):g}ms"


def parse_size(text: str) -> Size:
    """
    Read ``512B``, ``64KiB``, ``1MiB`` or ``2GiB`` as bytes.

    :raises ValueError: for anything else.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a whole number and a unit: 512B, 64KiB, 1MiB or 2GiB")
    return Size(int(match.group(1)) * _SIZE_UNITS[match.group(2)])


@attrs.frozen
class TCPAddress:
    """A literal IP address and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it or be reached through it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class UnixAddress:
    """The path of a unix stream socket."""

    path: str

    @property
    def is_loopback(self) -> bool:
        """Always: a unix socket never leaves the machine."""
        return True

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TCPAddress | UnixAddress


def parse_address(text: str) -> Address:
    """
    Read ``127.0.0.1:5432``, ``[::1]:5432`` or ``unix:/run/app.sock``.

    Port 0 is read (a listener may ask the kernel for a port); whoever dials must refuse it.

    :raises ValueError: saying what is wrong; host names are refused, since resolving is a discovery plugin's work.
    """
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        if not path:
            raise ValueError(f"{text!r} names no path; write unix:/run/app.sock")
        if len(path.encode()) > MAX_UNIX_PATH_BYTES:
            raise ValueError(
                f"the path in {text!r} is longer than the {MAX_UNIX_PATH_BYTES} bytes that a unix socket can have"
            )
        if "\0" in path:
            raise ValueError(f"{text!r} has a NUL byte in its path")
        return UnixAddress(path)
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port; write 127.0.0.1:5432, [::1]:5432 or unix:/run/app.sock")
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535):
        raise ValueError(f"{port_text!r} in {text!r} is not a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        version = 6
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets: [{host}]:{port_text}")
    else:
        version = 4
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        hint = (
            "write 127.0.0.1"
            if host == "localhost"
            else "names are resolved by a discovery plugin; write an IP address"
        )
        raise ValueError(f"{host!r} in {text!r} is not an IP address: {hint}") from None
    if address.version != version:
        raise ValueError(f"{text!r} puts brackets around an IPv4 address")
    return TCPAddress(str(address), int(port_text))


@attrs.frozen
class DNSName:
    """An expected peer that is known by a DNS name instead of a SPIFFE ID (written ``dns:db.example.com``)."""

    name: str

    def __str__(self) -> str:
        return f"dns:{self.name}"


ExpectedIdentity = SpiffeId | DNSName


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


@attrs.frozen
class PeerIdentity:
    """
    What a verified certificate says of its holder.

    ``spiffe_id`` is None only for a server that was verified by DNS name, whose name then is ``dns_name``.
    """

    spiffe_id: SpiffeId | None
    serial: str  # lower-case hex
    not_before: float  # seconds since the epoch
    not_after: float
    dns_name: str = ""

    def __str__(self) -> str:
        return str(self.spiffe_id) if self.spiffe_id else f"dns:{self.dns_name}"


@attrs.frozen
class AuthorizationRequest:
    """What a policy may look at to decide about one connection."""

    peer: PeerIdentity
    source: Address
    inbound: str
    workload: str
    sni: str = ""
    alpn: str = ""


class Effect(Enum):
    """What a policy says."""

    ALLOW = "allow"
    DENY = "deny"
    ABSTAIN = "abstain"


@attrs.frozen
class Decision:
    """
    A policy's answer, with what the record needs to explain it.

    ``valid_for`` is how many seconds the answer may be remembered; None means until the policy changes.
    """

    effect: Effect
    policy: str = ""
    rule: str = ""
    reason: str = ""
    valid_for: float | None = None


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

    ``elapsed`` is the time in seconds since the connection was accepted.
    """

    service: str
    failures: list[AttemptFailure] = attrs.field(factory=list)
    elapsed: float = 0.0


@attrs.frozen
class Workload:
    """
    A workload as the configuration names it, for the identity source that is to serve it.

    ``settings`` is an instance of the source factory's ``workload_settings`` class.
    """

    name: str
    id: SpiffeId
    settings: Any = None
