"""
Writes the messages of the SPIFFE Workload API.

Public. What :mod:`tcpmesh.identity.workload_messages` reads; nothing is judged here, so that bad ones can be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tcpmesh.values import IdentitySnapshot, Svid, TrustBundle

__all__ = ["der_of", "protobuf_field", "x509_bundles_response", "x509_svid", "x509_svid_response"]

_LENGTH_DELIMITED = 2


def protobuf_field(number: int, value: bytes | str) -> bytes:
    """One field with bytes, a string or a message in it."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def der_of(certificates: Iterable[x509.Certificate]) -> bytes:
    """The certificates in DER, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def x509_svid(svid: Svid, bundle: TrustBundle, hint: str = "") -> bytes:
    """An ``X509SVID``, the message for one identity."""
    key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return (
        protobuf_field(1, str(svid.id))
        + protobuf_field(2, der_of(svid.chain))
        + protobuf_field(3, key)
        + protobuf_field(4, der_of(bundle.authorities))
        + (protobuf_field(5, hint) if hint else b"")
    )


def x509_svid_response(snapshot: IdentitySnapshot, hints: Sequence[str] = ()) -> bytes:
    """
    An ``X509SVIDResponse`` with all SVIDs; bundles of domains that no SVID is of are federated ones.

    :param hints: for the SVIDs in their order, empty for none.
    """
    own = {svid.id.trust_domain for svid in snapshot.svids}
    padded = [*hints, *[""] * len(snapshot.svids)]
    svids = [
        protobuf_field(1, x509_svid(svid, snapshot.bundles[svid.id.trust_domain], hint))
        for svid, hint in zip(snapshot.svids, padded, strict=False)
    ]
    federated = [_entry(3, bundle) for domain, bundle in snapshot.bundles.items() if domain not in own]
    return b"".join([*svids, *federated])


def x509_bundles_response(bundles: Iterable[TrustBundle]) -> bytes:
    """An ``X509BundlesResponse``."""
    return b"".join(_entry(2, bundle) for bundle in bundles)


def _entry(number: int, bundle: TrustBundle) -> bytes:
    """An entry of a map from trust domain to bundle."""
    key = protobuf_field(1, str(bundle.trust_domain.id))
    return protobuf_field(number, key + protobuf_field(2, der_of(bundle.authorities)))
