"""
Private keys and certificates as they are kept in PEM.

Ring 1, no I/O: takes and gives bytes. The messages say what is wrong with them; whoever read the file says which it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tcpmesh.errors import TcpmeshError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["MaterialError", "load_certificates", "load_private_key", "new_key", "pem_of_key"]

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
_DER_SEQUENCE = b"\x30"


class MaterialError(TcpmeshError):
    """Bytes that are not the certificates or the key that they should be; the message continues a file's name."""


def load_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """
    Read every certificate of a PEM file, in its order; a key beside them is left alone.

    :raises MaterialError: when there is none, or when one of them cannot be read.
    """
    if not data.strip():
        raise MaterialError("is empty")
    count = data.count(_CERTIFICATE)
    if not count:
        if data.startswith(_DER_SEQUENCE):
            raise MaterialError("is not PEM but DER; convert it: openssl x509 -inform DER -in FILE -out FILE.pem")
        what = "holds a private key and no certificate" if _KEY.search(data) else "holds no PEM certificate"
        raise MaterialError(what)
    try:
        certificates = tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise MaterialError(f"holds a certificate that cannot be read (truncated or damaged): {error}") from None
    if len(certificates) != count:
        raise MaterialError(
            f"holds {count} certificates, of which {len(certificates)} can be read (truncated or damaged)"
        )
    return certificates


def load_private_key(data: bytes) -> CertificateIssuerPrivateKeyTypes:
    """
    Read the private key of a PEM file; certificates beside it are left alone.

    :raises MaterialError: when there is not exactly one, when it is encrypted, or of a kind that is not supported.
    """
    if not data.strip():
        raise MaterialError("is empty")
    count = len(_KEY.findall(data))
    if not count:
        if data.startswith(_DER_SEQUENCE):
            raise MaterialError("is not PEM but DER; convert it: openssl pkey -inform DER -in FILE -out FILE.pem")
        what = "holds a certificate and no private key" if _CERTIFICATE in data else "holds no PEM private key"
        raise MaterialError(what)
    if count > 1:
        raise MaterialError(f"holds {count} private keys; keep one")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise MaterialError(
            "holds an encrypted private key, which is not supported; decrypt it: openssl pkey -in FILE -out FILE.plain"
        ) from None
    except (ValueError, UnsupportedAlgorithm):  # the library's words could quote the file
        raise MaterialError("holds a private key that cannot be read (truncated, damaged or of unknown kind)") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise MaterialError("holds a private key of an unsupported kind; use EC P-256, RSA or Ed25519")
    return key


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a fresh key on P-256, the fastest curve that every TLS library knows."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of_key(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """The key in PEM (PKCS #8), not encrypted: for a file that only its owner can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
