"""
Addresses, DNS names and expected identities: how they are written and what is refused.

Ring 0. Imports only SPIFFE IDs. Nothing here resolves a name.
"""

from __future__ import annotations

import base64
import ipaddress
import re

import attrs

from tcpmesh.identity.spiffe import SpiffeId

__all__ = [
    "MAX_UNIX_PATH_BYTES",
    "Address",
    "DNSName",
    "ExpectedIdentity",
    "KeyPin",
    "TCPAddress",
    "UnixAddress",
    "is_host_name",
    "parse_address",
    "parse_dns_name",
    "parse_expected_identity",
    "parse_key_pin",
    "shown",
]

# sockaddr_un.sun_path holds 108 bytes with its terminating NUL (unix(7)).
MAX_UNIX_PATH_BYTES = 107

_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,15}")  # an interface's name or number; IFNAMSIZ holds 16 bytes with its NUL
_MAX_DNS_NAME = 253  # RFC 1035 section 2.3.4, in the text form without the final dot
_MAX_DNS_LABEL = 63
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PIN = "spki:sha256:"
_SHOWN = 100


@attrs.frozen
class TCPAddress:
    """A literal IP address and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it or be reached through it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of this machine: good to listen on, not to dial."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_unspecified

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


def is_host_name(host: str) -> bool:
    """Whether a host, without brackets, is a name and not an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def parse_address(text: str) -> Address:
    """
    Read ``127.0.0.1:5432``, ``[::1]:5432`` or ``unix:/run/app.sock``.

    Port 0 is read (a listener may ask the kernel for a port); whoever dials must refuse it. A relative path of a
    unix socket is kept as it is.

    :raises ValueError: saying what is wrong; host names are refused, since resolving is a discovery plugin's work.
    """
    if text.startswith("unix:"):
        return _parse_unix(text)
    host, colon, port_text = text.rpartition(":")
    if text.isascii() and text.isdigit():
        raise ValueError(f"{shown(text)} is only a port; write 127.0.0.1:{_cut(text)}")
    if not colon and "/" in text:
        raise ValueError(f"{shown(text)} is a path; for a socket, write unix:{_cut(text)}")
    if not colon or (host.startswith("[") and not host.endswith("]")):
        raise ValueError(f"{shown(text)} has no port; write 127.0.0.1:5432, [::1]:5432 or unix:/run/app.sock")
    if _PORT.fullmatch(port_text) is None or int(port_text) > 65535:
        if "/" in text:
            raise ValueError(
                f"{shown(text)} is not an address; write 127.0.0.1:5432 or, for a socket, unix:/run/app.sock"
            )
        only = "; only an outbound listener with per_endpoint has a range" if "-" in port_text[1:] else ""
        raise ValueError(f"{shown(port_text)} in {shown(text)} is not a port from 0 to 65535{only}")
    if host.startswith("[") and host.endswith("]"):
        return TCPAddress(_parse_ipv6(host[1:-1], text), int(port_text))
    try:
        return TCPAddress(str(ipaddress.IPv4Address(host)), int(port_text))
    except ValueError:
        if _is_ipv6(host):
            raise ValueError(f"the IPv6 address in {shown(text)} needs brackets: [{host}]:{port_text}") from None
        raise ValueError(f"{shown(host)} in {shown(text)} is not an IP address: {_host_hint(host)}") from None


def _parse_unix(text: str) -> UnixAddress:
    path = text[len("unix:") :]
    if not path:
        raise ValueError(f"{shown(text)} names no path; write unix:/run/app.sock")
    if "\0" in path:
        raise ValueError(f"{shown(text)} has a NUL byte in its path")
    if path.startswith("//"):
        raise ValueError(f"{shown(text)} starts its path with two slashes; write unix:/{_cut(path.lstrip('/'))}")
    if path.endswith("/"):
        raise ValueError(f"{shown(text)} names a directory; write the path of the socket itself")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH_BYTES:
        raise ValueError(
            f"the path in {shown(text)} is longer than the {MAX_UNIX_PATH_BYTES} bytes a unix socket can have"
        )
    return UnixAddress(path)


def _parse_ipv6(host: str, text: str) -> str:
    scope_free, percent, scope = host.partition("%")
    try:
        address = ipaddress.IPv6Address(scope_free)
    except ValueError:
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{shown(host)} in {shown(text)} is not an IPv6 address") from None
        raise ValueError(f"{shown(text)} puts brackets around an IPv4 address") from None
    if percent and _SCOPE.fullmatch(scope) is None:
        raise ValueError(f"{shown(scope)} in {shown(text)} is not the name of a network interface")
    if address.ipv4_mapped is not None:
        # One address, one form: else a comparison of two addresses, or a check for loopback, could be passed by.
        raise ValueError(f"{shown(text)} is an IPv4 address in IPv6 form; write {address.ipv4_mapped}")
    return f"{address}{percent}{scope}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _host_hint(host: str) -> str:
    if host == "localhost":
        return "write 127.0.0.1"
    if host in ("", "*"):
        return "write 0.0.0.0 for every IPv4 address of this machine, [::] for every address"
    if re.fullmatch(r"[0-9.]+", host):
        return "four numbers from 0 to 255, without leading zeros"
    return "names are resolved by the discovery plugin dns; write an IP address"


@attrs.frozen
class DNSName:
    """An expected peer that is known by a DNS name instead of a SPIFFE ID (written ``dns:db.example.com``)."""

    name: str

    def __str__(self) -> str:
        return f"dns:{self.name}"


@attrs.frozen
class KeyPin:
    """
    An expected peer that is known by its key alone (written ``spki:sha256:BASE64``).

    ``sha256`` is the hash of the SubjectPublicKeyInfo in DER, 32 bytes (RFC 7469 section 2.4).
    """

    sha256: bytes

    def __str__(self) -> str:
        return f"{_PIN}{base64.b64encode(self.sha256).decode('ascii')}"


ExpectedIdentity = SpiffeId | DNSName | KeyPin


def parse_dns_name(text: str) -> DNSName:
    """
    Read a DNS name as a certificate's dNSName writes it (RFC 5280 section 4.2.1.6), in lower case.

    Labels are letters, digits and hyphens (RFC 1123 section 2.1); other scripts are written as A-labels
    (RFC 5890 section 2.3.2.1).

    :raises ValueError: for anything else, wildcards, a final dot and what could be taken for an IP address among it.
    """
    if not text:
        raise ValueError("a DNS name is missing")
    if not text.isascii():
        raise ValueError(f"{shown(text)} is not a DNS name in ASCII form; write its labels as xn--…")
    name = text.lower()
    if name.endswith("."):
        raise ValueError(f"{shown(text)} ends with a dot; write {shown(text.rstrip('.'))}")
    if len(name) > _MAX_DNS_NAME:
        raise ValueError(f"{shown(text)} has {len(name)} characters; a DNS name has at most {_MAX_DNS_NAME}")
    if "*" in name:
        raise ValueError(f"{shown(text)} has a wildcard; a wildcard names nobody, write each name")
    labels = name.split(".")
    for label in labels:
        _check_label(label, text)
    # Resolvers read 127.1 and 0x7f.0.0.1 as addresses, so a last label that is a number is never a name.
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        raise ValueError(f"{shown(text)} looks like an IP address; a certificate is matched by DNS name or SPIFFE ID")
    return DNSName(name)


def _check_label(label: str, text: str) -> None:
    if not label:
        raise ValueError(f"{shown(text)} has an empty label (a leading or a double dot)")
    if len(label) > _MAX_DNS_LABEL:
        raise ValueError(f"label {shown(label)} has {len(label)} characters, more than {_MAX_DNS_LABEL}")
    if _LABEL.fullmatch(label) is None:
        raise ValueError(f"label {shown(label)} in {shown(text)} may only hold letters, digits and, inside, hyphens")
    if label.startswith("xn--"):
        try:
            decoded = label[4:].encode("ascii").decode("punycode")
        except (UnicodeError, ValueError, OverflowError):
            decoded = ""
        if not decoded or decoded.isascii() or not decoded.isprintable():
            raise ValueError(f"label {shown(label)} in {shown(text)} is not a valid A-label (xn-- and Punycode)")


def parse_key_pin(text: str) -> KeyPin:
    """
    Read ``spki:sha256:BASE64``: one spelling for each key, so that equal texts and equal pins are the same.

    :raises ValueError: for anything else, other hashes and other forms of base64 among it.
    """
    _, _, rest = text.partition(":")
    algorithm, colon, encoded = rest.partition(":")
    if not colon or algorithm != "sha256":
        raise ValueError(f"{shown(text)} is not a pin; write spki:sha256: and the key's hash in base64")
    try:
        pin = KeyPin(base64.b64decode(encoded, validate=True))
    except ValueError:
        pin = KeyPin(b"")
    if len(pin.sha256) != 32 or str(pin) != text:
        raise ValueError(
            f"{shown(text)} is not a pin: a SHA-256 in base64 has 43 characters of A-Z, a-z, 0-9, '+' and '/', and "
            "one '='; tcpmesh svid inspect shows it"
        )
    return pin


def parse_expected_identity(text: str) -> ExpectedIdentity:
    """
    Read ``spiffe://example.org/orders``, ``dns:db.example.com`` or ``spki:sha256:BASE64``.

    :raises ValueError: for anything else.
    """
    if text.startswith("dns:"):
        return parse_dns_name(text[len("dns:") :])
    if text.startswith("spki:"):
        return parse_key_pin(text)
    if text[: len("spiffe:")].lower() == "spiffe:":
        return SpiffeId.parse(text)
    raise ValueError(
        f"{shown(text)} is neither a SPIFFE ID, as spiffe://example.org/orders, nor a DNS name, as dns:db.example.com, "
        "nor a pinned key, as spki:sha256:…"
    )


def shown(text: str) -> str:
    """Quote a text for a message: escaped, and cut when it is long."""
    return ascii(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
