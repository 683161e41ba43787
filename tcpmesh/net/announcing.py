"""
The PROXY headers that we send: to an application, whose peer we are and who cannot see past us, and to foreign servers.

Ring 3. An application is told the peer's address and, in version 2, whom we have verified, as HAProxy's
``send-proxy-v2-ssl-cn`` would; the SPIFFE ID stands where linkerd2-proxy puts it. Of a peer that nobody verified
(passthrough) nothing is said but its address and the name that it asked for.
"""

from __future__ import annotations

import warnings
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from tcpmesh.dataplane.proxy_header import (
    ClientTLS,
    ProxyHeader,
    Tlv,
    TlvType,
    encode_client_tls,
    encode_local,
    encode_v1,
    encode_v2,
)
from tcpmesh.dataplane.verification import PeerVerification
from tcpmesh.net.dialled_leg import Announcement
from tcpmesh.observe.records import ConnectionRecord
from tcpmesh.proxy_protocol_settings import ProxyProtocolVersion
from tcpmesh.values import Address

__all__ = ["header_for_application", "header_for_check", "header_for_server"]

_MAX_NAME = 256  # bytes; X.520 allows a common name 64 characters


def header_for_server(version: ProxyProtocolVersion, source: Address, destination: Address) -> bytes:
    """What goes before TLS: the local program's address, and the one that it connected to."""
    if version == "none":
        return b""
    return encode_v1(source, destination) if version == "v1" else encode_v2(source, destination)


def header_for_application(
    version: ProxyProtocolVersion,
    carried: ProxyHeader | None,
    transport: Any,
    record: ConnectionRecord,
    verification: PeerVerification | None,
) -> bytes:
    """
    What goes before the first byte of payload.

    :param carried: what a load balancer in between said of the addresses; else they are those of ``transport``.
    :param verification: of the peer; None when nobody verified it.
    """
    source, destination = (carried.source, carried.destination) if carried is not None else (None, None)
    source, destination = source or transport.peer, destination or transport.own
    if version != "v2":
        return header_for_server(version, source, destination)
    tlvs: list[Tlv] = []
    if record.alpn:
        tlvs.append((TlvType.ALPN, record.alpn.encode("utf-8")))
    if record.sni:
        tlvs.append((TlvType.AUTHORITY, record.sni.encode("utf-8")))
    if record.conn:
        tlvs.append((TlvType.UNIQUE_ID, record.conn.encode("ascii")))
    if verification is not None and verification.peer is not None:
        name = _common_name(verification.presented_leaf) if verification.presented_leaf is not None else ""
        client = ClientTLS(True, True, True, record.tls_version, name, record.tls_cipher)
        tlvs.append((TlvType.SSL, encode_client_tls(client)))
        if verification.peer.spiffe_id is not None:
            tlvs.append((TlvType.SPIFFE_ID, str(verification.peer.spiffe_id).encode("ascii")))
    return encode_v2(source, destination, tlvs)


def header_for_check(version: ProxyProtocolVersion) -> Announcement | None:
    """
    For a connection of our own, which is relayed for nobody.

    Version 1 has no word for that. UNKNOWN is refused by some receivers, so that section 2.1 asks for the two addresses
    of the connection itself.
    """
    return {"none": None, "v1": _own_addresses, "v2": _local}[version]


def _own_addresses(transport: Any) -> bytes:
    return encode_v1(transport.own, transport.peer)


def _local(_transport: Any) -> bytes:
    return encode_local()


def _common_name(leaf: x509.Certificate) -> str:
    """The common name, as the certificate has it; empty when there is none, or several, or it is not fit to print."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of names that are longer than X.520 allows
            names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:  # no such name can be read: then it has none to be told
        return ""
    if len(names) != 1:
        return ""
    name = names[0].value
    text = name if isinstance(name, str) else ""
    return text if text.isprintable() and len(text.encode("utf-8", "replace")) <= _MAX_NAME else ""
