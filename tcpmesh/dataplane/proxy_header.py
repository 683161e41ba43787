"""
PROXY protocol headers, versions 1 and 2: what they say, and how they are written.

Ring 2, no I/O. The specification is HAProxy's doc/proxy-protocol.txt; numbers of sections are its. Reading is in
:mod:`tcpmesh.dataplane.proxy_reader`.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from enum import IntEnum

import attrs

from tcpmesh.addresses import Address, TCPAddress, UnixAddress
from tcpmesh.dataplane.crc32c import crc32c

__all__ = [
    "CRC_BYTES",
    "SIGNATURE",
    "UNIX_BYTES",
    "V1_PREFIX",
    "ClientTLS",
    "ProxyHeader",
    "Tlv",
    "TlvType",
    "encode_client_tls",
    "encode_local",
    "encode_v1",
    "encode_v2",
    "looks_like_header",
]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_PREFIX = b"PROXY "
UNIX_BYTES = 108  # of each address of family AF_UNIX
CRC_BYTES = 4

Tlv = tuple[int, bytes]

_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_MAX_NUMBER = 0xFFFF
_SSL, _CERT_CONN, _CERT_SESS = 0x01, 0x02, 0x04


class TlvType(IntEnum):
    """Types that are registered, and the one of the range for applications that means a SPIFFE ID (section 2.2)."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SPIFFE_ID = 0xE0  # as linkerd2-proxy has it


@attrs.frozen
class ClientTLS:
    """What the SSL TLV says of the client's side (section 2.2.6); ``verified`` is verify = 0."""

    over_tls: bool
    certificate: bool
    verified: bool
    version: str = ""
    common_name: str = ""
    cipher: str = ""


@attrs.frozen
class ProxyHeader:
    """
    What a header says. ``source`` and ``destination`` are None when it says nothing of them, and the connection's own
    addresses count: the command LOCAL (``local``), and the families UNKNOWN and UNSPEC.

    ``tlvs`` are those of version 2 in their order, padding and checksum among them. They are claims of whoever sent
    the header, good for showing, never for deciding who somebody is.
    """

    version: int
    source: Address | None = None
    destination: Address | None = None
    local: bool = False
    tlvs: tuple[Tlv, ...] = ()
    client_tls: ClientTLS | None = None

    def tlv(self, kind: int) -> bytes | None:
        """The value of the first TLV of this type."""
        return next((value for found, value in self.tlvs if found == kind), None)


def looks_like_header(data: bytes | memoryview) -> bool:
    """Whether these first bytes of a connection are those of a PROXY header, as far as they go (six at least)."""
    begin = bytes(data[: len(SIGNATURE)])
    return begin.startswith(V1_PREFIX) or (len(begin) >= len(V1_PREFIX) and SIGNATURE.startswith(begin))


def encode_v1(source: Address, destination: Address) -> bytes:
    """
    A line of version 1 (section 2.1): ``PROXY TCP4 192.0.2.1 192.0.2.2 56324 443``.

    UNKNOWN for unix sockets and for addresses of two families, which it has no words for.
    """
    both = _as_tcp(source), _as_tcp(destination)
    if both[0] is None or both[1] is None or both[0][0].version != both[1][0].version:
        return b"PROXY UNKNOWN\r\n"
    (from_host, from_port), (to_host, to_port) = both[0], both[1]
    return f"PROXY TCP{from_host.version} {from_host} {to_host} {from_port} {to_port}\r\n".encode("ascii")


def encode_v2(source: Address, destination: Address, tlvs: Iterable[Tlv] = ()) -> bytes:
    """
    A header of version 2 (section 2.2) with the command PROXY, these TLVs and a CRC32C.

    Of two TCP families the IPv4 address is written in IPv6 form, as HAProxy does; a unix socket together with TCP is
    UNSPEC, and one whose path is longer than 108 bytes has none.

    :raises ValueError: when it does not fit into the lengths that there are.
    """
    family, addresses = _encode_addresses(source, destination)
    return _assemble(_PROXY, family, addresses + b"".join(_encode_tlv(kind, value) for kind, value in tlvs))


def encode_local() -> bytes:
    """A header of version 2 for a connection of our own, relayed for nobody: a health check."""
    return _assemble(_LOCAL, _UNSPEC, b"")


def encode_client_tls(client: ClientTLS) -> bytes:
    """The value of the SSL TLV."""
    bits = _SSL * client.over_tls | (_CERT_CONN | _CERT_SESS) * client.certificate
    texts = (
        (TlvType.SSL_VERSION, client.version),
        (TlvType.SSL_CN, client.common_name),
        (TlvType.SSL_CIPHER, client.cipher),
    )
    value = struct.pack("!BI", bits, 0 if client.verified else 1)
    return value + b"".join(_encode_tlv(kind, text.encode("utf-8")) for kind, text in texts if text)


def _assemble(command: int, family: int, content: bytes) -> bytes:
    length = len(content) + 3 + CRC_BYTES
    if length > _MAX_NUMBER:
        raise ValueError(f"{length} bytes do not fit into a PROXY header")
    whole = struct.pack("!12sBBH", SIGNATURE, command, family, length) + content
    whole += _encode_tlv(TlvType.CRC32C, bytes(CRC_BYTES))
    return whole[:-CRC_BYTES] + crc32c(whole).to_bytes(CRC_BYTES, "big")


def _encode_tlv(kind: int, value: bytes) -> bytes:
    if len(value) > _MAX_NUMBER:
        raise ValueError(f"{len(value)} bytes do not fit into a TLV of a PROXY header")
    return struct.pack("!BH", kind, len(value)) + value


def _encode_addresses(source: Address, destination: Address) -> tuple[int, bytes]:
    if isinstance(source, UnixAddress) and isinstance(destination, UnixAddress):
        return _UNIX, _encode_unix(source) + _encode_unix(destination)
    both = _as_tcp(source), _as_tcp(destination)
    if both[0] is None or both[1] is None:
        return _UNSPEC, b""
    (from_host, from_port), (to_host, to_port) = both[0], both[1]
    ports = struct.pack("!HH", from_port, to_port)
    if from_host.version == to_host.version == 4:
        return _TCP4, from_host.packed + to_host.packed + ports
    return _TCP6, _as_ipv6(from_host) + _as_ipv6(to_host) + ports


def _as_tcp(address: Address) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int] | None:
    if not isinstance(address, TCPAddress):
        return None
    host = ipaddress.ip_address(address.host.partition("%")[0])  # a scope means something on this machine only
    return (getattr(host, "ipv4_mapped", None) or host), address.port


def _as_ipv6(host: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return host.packed if host.version == 6 else bytes(10) + b"\xff\xff" + host.packed


def _encode_unix(address: UnixAddress) -> bytes:
    path = address.path.encode("utf-8", "surrogateescape")
    return (path if len(path) <= UNIX_BYTES else b"").ljust(UNIX_BYTES, b"\0")
