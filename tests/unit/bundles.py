"""Bundle documents for tests, good ones and others."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

_TYPES = ((ec.EllipticCurvePublicKey, "EC"), (rsa.RSAPublicKey, "RSA"), (ed25519.Ed25519PublicKey, "OKP"))


def entry(certificate: x509.Certificate, **changes: Any) -> dict[str, Any]:
    """The JWK of an authority; a change to None leaves the member out."""
    kind = next(name for kind, name in _TYPES if isinstance(certificate.public_key(), kind))
    text = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    members = {"kty": kind, "use": "x509-svid", "x5c": [text], **changes}
    return {name: value for name, value in members.items() if value is not None}


def document(*authorities: x509.Certificate, **members: Any) -> bytes:
    """A bundle document with these authorities, and whatever members are given."""
    return json.dumps({"keys": [entry(authority) for authority in authorities], **members}).encode()
