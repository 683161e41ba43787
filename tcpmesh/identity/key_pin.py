"""
Peers without a usable name: servers that are known by their key (RFC 7469 has the form of the hash).

Ring 1. A pin replaces the chain, the names and the profile of a certificate, for it says itself whose key this is. It
replaces neither the validity, by which a key is given up, nor the strength of the key; that the peer holds the key is
proved by the handshake.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tcpmesh.codes import EXPIRED, KEY_DIFFERS, NOT_YET_VALID
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import (
    certificate_size,
    moment,
    not_after,
    not_before,
    presented_name,
    serial_text,
    span,
)
from tcpmesh.identity.chain import check_sizes
from tcpmesh.identity.profile import check_key, readable
from tcpmesh.values import KeyPin, PeerIdentity

__all__ = ["key_pin", "verify_key_pin"]

_LISTED = 5  # pins shown in a reason


def key_pin(certificate: x509.Certificate) -> KeyPin:
    """
    The pin of a certificate's key: any other certificate for the same key has the same one.

    :raises Exception: whatever ``cryptography`` makes of a key that it cannot read.
    """
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyPin(hashlib.sha256(key).digest())


def verify_key_pin(leaf: x509.Certificate, pins: Sequence[KeyPin], now: float) -> PeerIdentity:
    """
    Accept a server that shows one of these keys in a certificate that is valid now; no pin matches nobody.

    :param now: wall-clock seconds.
    :raises Refusal: KEY_DIFFERS, EXPIRED, NOT_YET_VALID, PROFILE (the kind or strength of the key),
        CERTIFICATE_TOO_LARGE or MALFORMED_CERTIFICATE.
    """
    with readable("the server's certificate"):
        check_sizes([certificate_size(leaf)])
        found = key_pin(leaf)
        if not any(hmac.compare_digest(found.sha256, pin.sha256) for pin in pins):
            wanted = ", ".join(map(str, pins[:_LISTED])) or "nobody"
            more = f" and {len(pins) - _LISTED} more" if len(pins) > _LISTED else ""
            reason = f"expected {wanted}{more}; the key of {presented_name(leaf)} is {found}"
            raise Refusal(KEY_DIFFERS, reason)
        what = f"the certificate of the pinned key {found}"
        check_key(leaf, what)
        start, end = not_before(leaf), not_after(leaf)
        here = f"it is {moment(now)} by this clock"
        if now > end:
            raise Refusal(EXPIRED, f"{what} expired {span(now - end)} ago, at {moment(end)}; {here}")
        if now < start:
            ahead = f"{span(start - now)} from now; {here}: one of the two clocks is wrong"
            raise Refusal(NOT_YET_VALID, f"{what} is valid only from {moment(start)}, {ahead}")
        return PeerIdentity(None, serial_text(leaf), start, end, key_pin=found)
