"""
Reads the PROXY header, version 1 or 2, that a load balancer puts before a connection.

Ring 2, no I/O: a reader for :mod:`tcpmesh.net.prelude`. Whoever may send one must: what begins with anything else is
refused, as the specification (HAProxy's doc/proxy-protocol.txt) asks in section 5, since a receiver that guesses can be
told addresses by anybody.
"""

from __future__ import annotations

import ipaddress
import re
import struct

from tcpmesh.addresses import Address, TCPAddress, UnixAddress
from tcpmesh.codes import NO_BYTE, PROXY_HEADER_MALFORMED, PROXY_HEADER_MISSING, PROXY_HEADER_TIMEOUT
from tcpmesh.dataplane.crc32c import crc32c
from tcpmesh.dataplane.proxy_header import (
    CRC_BYTES,
    SIGNATURE,
    UNIX_BYTES,
    V1_PREFIX,
    ClientTLS,
    ProxyHeader,
    Tlv,
    TlvType,
)
from tcpmesh.errors import Refusal

__all__ = ["MAX_HEADER_BYTES", "ProxyHeaderReader"]

# The length field allows 65,551. The specification wants a header to be smaller than a TCP segment (section 2.2); what
# makes longer ones is a client's whole certificate in a TLV (ghostunnel, hitch). nginx draws the same line.
MAX_HEADER_BYTES = 4096
_V1_BYTES = 107  # with CRLF (section 2.1)
_FIXED = struct.Struct("!12sBBH")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_UNIQUE_ID_BYTES = 128
_SHOWN = 24
_STRANGE = 5  # no more is shown of what is no header: it may be a password in plaintext

_UNSPEC, _INET, _INET6, _UNIX = range(4)  # families, the upper half of a byte
_STREAM, _DGRAM = 1, 2  # protocols, its lower half
_ADDRESS_BYTES = {_INET: 12, _INET6: 36, _UNIX: 2 * UNIX_BYTES}
_FAMILY_NAMES = {_INET: "IPv4", _INET6: "IPv6", _UNIX: "unix sockets"}


class ProxyHeaderReader:
    """Takes bytes until a header is complete, and tells what it says; what follows it is ``rest``."""

    __slots__ = ("_data", "rest")

    def __init__(self) -> None:
        self._data = b""
        self.rest = b""

    def feed(self, data: bytes | memoryview) -> ProxyHeader | None:
        """
        Take more bytes; the header once it is complete.

        :raises Refusal: PROXY_HEADER_MISSING for what can be no header, PROXY_HEADER_MALFORMED for what is a bad one.
        """
        self._data += bytes(data)
        whole = self._data
        if whole.startswith(V1_PREFIX):
            end = whole.find(b"\r\n", 0, _V1_BYTES)
            if end >= 0:
                return self._complete(_parse_v1(whole[:end]), end + 2)
            if len(whole) >= _V1_BYTES:
                raise _malformed(f"no CRLF within the first {_V1_BYTES} bytes of {_show(whole)}")
        elif whole.startswith(SIGNATURE):
            length = _v2_length(whole)
            if length is not None and len(whole) >= length:
                return self._complete(_parse_v2(whole[:length]), length)
        elif not (V1_PREFIX.startswith(whole) or SIGNATURE.startswith(whole)):
            found = "the TLS handshake" if whole[0] == 0x16 else _show(whole[:_STRANGE])
            raise Refusal(PROXY_HEADER_MISSING, f"expected a PROXY header, got {found}")
        return None

    def _complete(self, header: ProxyHeader, length: int) -> ProxyHeader:
        self.rest, self._data = self._data[length:], b""
        return header

    def ended(self) -> Refusal:
        """A FIN came before the header was complete: without a byte, a check of the port; else, half a header."""
        if not self._data:
            return Refusal(NO_BYTE, "the peer connected and closed without a byte")
        return _malformed(f"the peer closed the connection after {len(self._data)} bytes of it")

    def late(self, seconds: float) -> Refusal:
        """The header is withheld."""
        return Refusal(PROXY_HEADER_TIMEOUT, f"{len(self._data)} bytes and no complete header within {seconds:g} s")


def _malformed(why: str) -> Refusal:
    return Refusal(PROXY_HEADER_MALFORMED, f"a malformed PROXY header: {why}")


def _show(data: bytes) -> str:
    return ascii(data[:_SHOWN].decode("latin-1"))


# --- version 1


def _parse_v1(line: bytes) -> ProxyHeader:
    """The line without its CRLF."""
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(1)  # what follows is to be ignored
    fields = line.decode("latin-1").split(" ")
    if len(fields) != 6:
        raise _malformed(f"expected PROXY, TCP4 or TCP6, two addresses and two ports, got {line.decode('latin-1')!a}")
    _, family, source, destination, source_port, destination_port = fields
    if family not in ("TCP4", "TCP6"):
        raise _malformed(f"expected TCP4, TCP6 or UNKNOWN, got {family!a}")
    return ProxyHeader(
        1,
        TCPAddress(_parse_host(source, family), _parse_port(source_port)),
        TCPAddress(_parse_host(destination, family), _parse_port(destination_port)),
    )


def _parse_host(text: str, family: str) -> str:
    try:
        if family == "TCP4":
            return str(ipaddress.IPv4Address(text))
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise _malformed(f"{text!a} is not an address of {family}") from None
    if address.scope_id is not None:
        raise _malformed(f"{text!a} names an interface")
    return _host(address)


def _parse_port(text: str) -> int:
    if _PORT.fullmatch(text) is None or int(text) > 65535:
        raise _malformed(f"{text!a} is not a port")
    return int(text)


# --- version 2


def _v2_length(whole: bytes) -> int | None:
    """How long the header is; None as long as it does not say."""
    if len(whole) > len(SIGNATURE) and whole[len(SIGNATURE)] not in (0x20, 0x21):
        raise _malformed(f"expected version 2 and LOCAL or PROXY (0x20, 0x21), got {whole[len(SIGNATURE)]:#04x}")
    if len(whole) < _FIXED.size:
        return None
    length = _FIXED.size + int.from_bytes(whole[14:16], "big")
    if length > MAX_HEADER_BYTES:
        raise _malformed(f"it is {length} bytes long; {MAX_HEADER_BYTES} are accepted")
    return length


def _parse_v2(whole: bytes) -> ProxyHeader:
    _, command, kind, _ = _FIXED.unpack_from(whole)
    family, protocol = kind >> 4, kind & 0x0F
    if command == 0x20:  # the rest is to be discarded, the family among it
        _check_discarded(whole, family)
        return ProxyHeader(2, local=True)
    if family > _UNIX or protocol > _DGRAM:
        raise _malformed(f"there is no family and protocol {kind:#04x}")
    if _UNSPEC in (family, protocol):
        _check_discarded(whole, family)
        return ProxyHeader(2)  # how long its addresses are is not known, so neither is where TLVs begin
    if protocol == _DGRAM:
        raise _malformed(f"it is for datagrams ({kind:#04x}), and this is a stream")
    begin = _FIXED.size + _ADDRESS_BYTES[family]
    if len(whole) < begin:
        took, there = _ADDRESS_BYTES[family], len(whole) - _FIXED.size
        raise _malformed(f"addresses of {_FAMILY_NAMES[family]} take {took} bytes, {there} are there")
    source, destination = _parse_addresses(family, whole[_FIXED.size : begin])
    tlvs, places = _parse_tlvs(whole, begin)
    _check_sum(whole, tlvs, places)
    client_tls = None
    for found, value in tlvs:
        if found == TlvType.UNIQUE_ID and len(value) > _UNIQUE_ID_BYTES:
            raise _malformed(f"a unique ID of {len(value)} bytes; {_UNIQUE_ID_BYTES} are the most")
        if found == TlvType.SSL:
            client_tls = _parse_client_tls(value)
    return ProxyHeader(2, source, destination, tlvs=tlvs, client_tls=client_tls)


def _parse_addresses(family: int, block: bytes) -> tuple[Address, Address]:
    if family == _UNIX:
        return _parse_unix(block[:UNIX_BYTES]), _parse_unix(block[UNIX_BYTES:])
    size = 4 if family == _INET else 16
    ports = struct.unpack_from("!HH", block, 2 * size)
    hosts = (_host(ipaddress.ip_address(block[:size])), _host(ipaddress.ip_address(block[size : 2 * size])))
    return TCPAddress(hosts[0], ports[0]), TCPAddress(hosts[1], ports[1])


def _host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    # One address, one form: a rule for an IPv4 network must not be passed by in IPv6 form.
    return str(getattr(address, "ipv4_mapped", None) or address)


def _parse_unix(padded: bytes) -> UnixAddress:
    """A path, or the name of an abstract socket with @ for its NUL; what is not printable ASCII is escaped."""
    if padded[0] == 0 and padded.strip(b"\0"):
        padded = b"@" + padded[1:]
    path = padded.partition(b"\0")[0]
    return UnixAddress("".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in path))


def _parse_tlvs(data: bytes, begin: int) -> tuple[tuple[Tlv, ...], tuple[int, ...]]:
    """The TLVs from ``begin`` to the end, which they must fill exactly, and where the value of each begins."""
    found, places = [], []
    while begin < len(data):
        if begin + 3 > len(data):
            raise _malformed(f"{len(data) - begin} bytes are left, too few for a TLV")
        kind, length = struct.unpack_from("!BH", data, begin)
        begin += 3
        if begin + length > len(data):
            raise _malformed(f"TLV {kind:#04x} announces {length} bytes, {len(data) - begin} are there")
        found.append((kind, data[begin : begin + length]))
        places.append(begin)
        begin += length
    return tuple(found), tuple(places)


def _check_discarded(whole: bytes, family: int) -> None:
    """What is discarded may be anything; but a checksum that can be found there was damaged, or is right."""
    try:
        tlvs, places = _parse_tlvs(whole, _FIXED.size + _ADDRESS_BYTES.get(family, 0))
    except Refusal:
        return
    _check_sum(whole, tlvs, places)


def _check_sum(whole: bytes, tlvs: tuple[Tlv, ...], places: tuple[int, ...]) -> None:
    """Section 2.2.3: over the whole header with zeros in the checksum's place."""
    sums = [(value, place) for (found, value), place in zip(tlvs, places, strict=True) if found == TlvType.CRC32C]
    if not sums:
        return
    if len(sums) > 1:  # each would cost as much time as the first
        raise _malformed(f"it has {len(sums)} checksums")
    value, place = sums[0]
    if len(value) != CRC_BYTES:
        raise _malformed(f"a checksum of {len(value)} bytes instead of {CRC_BYTES}")
    computed = crc32c(whole[:place] + bytes(CRC_BYTES) + whole[place + CRC_BYTES :])
    if computed != int.from_bytes(value, "big"):
        raise _malformed(f"its checksum is {value.hex()}, computed {computed:08x}: it was damaged on the way")


def _parse_client_tls(value: bytes) -> ClientTLS:
    if len(value) < 5:
        raise _malformed(f"an SSL TLV of {len(value)} bytes; 5 are the least")
    bits, verify = struct.unpack_from("!BI", value)
    tlvs = dict(_parse_tlvs(value, 5)[0])
    version, name, cipher = (
        tlvs.get(kind, b"").decode("utf-8", "backslashreplace")
        for kind in (TlvType.SSL_VERSION, TlvType.SSL_CN, TlvType.SSL_CIPHER)
    )
    return ClientTLS(bool(bits & 1), bool(bits & 2), verify == 0, version, name, cipher)
