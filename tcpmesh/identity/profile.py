"""
The rules that one certificate must keep to be an X.509-SVID, or an authority above one.

Ring 1. X509-SVID.md sections 2 to 5, every MUST of them, applied to what a peer presents; and our own on top:
version 3, keys and signatures of present strength, bounded size. Validity and signatures are OpenSSL's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tcpmesh.codes import (
    CERTIFICATE_TOO_LARGE,
    INVALID_ID,
    MALFORMED_CERTIFICATE,
    NO_SPIFFE_ID,
    PROFILE,
    SEVERAL_IDS,
)
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import name_text, presented_name, shown, subject_names
from tcpmesh.identity.spiffe import InvalidSpiffeId, SpiffeId

__all__ = ["MAX_NAMES", "check_authority", "check_leaf", "check_names", "check_signature", "readable", "svid_id"]

MAX_NAMES = 512  # subject alternative names in one certificate
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192  # more would only let a stranger make us compute
_SIGNATURE_HASHES = frozenset({"sha256", "sha384", "sha512"})

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """
    Make a refusal of whatever goes wrong inside.

    Certificates are written by strangers and read by libraries: a defect that nobody thought of must neither let
    somebody in nor end anything but this connection.
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        reason = f"{what} cannot be read: {type(error).__name__}: {shown(str(error))}"
        raise Refusal(MALFORMED_CERTIFICATE, reason) from error


def svid_id(leaf: x509.Certificate) -> SpiffeId:
    """
    The SPIFFE ID of a leaf: its only URI name, with a path.

    :raises Refusal: NO_SPIFFE_ID, SEVERAL_IDS, INVALID_ID, PROFILE, CERTIFICATE_TOO_LARGE or MALFORMED_CERTIFICATE.
    """
    names = check_names(leaf)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if len(uris) > 1:
        raise Refusal(SEVERAL_IDS, f"the certificate has {len(uris)} URI names, not one: {presented_name(leaf)}")
    if not uris:
        raise Refusal(NO_SPIFFE_ID, f"the certificate has no URI name, only {presented_name(leaf)}")
    try:
        identity = SpiffeId.parse(uris[0])
    except InvalidSpiffeId as error:
        if uris[0].lower().startswith("spiffe:"):
            raise Refusal(INVALID_ID, str(error)) from None
        raise Refusal(NO_SPIFFE_ID, f"its only URI name {shown(uris[0])} is not a SPIFFE ID") from None
    if not identity.path:
        reason = f"{identity} has no path: it names a trust domain's authority, not a workload"
        raise Refusal(PROFILE, reason)
    return identity


def check_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """
    Read the subject alternative names, None when there are none.

    :raises Refusal: CERTIFICATE_TOO_LARGE for too many, MALFORMED_CERTIFICATE for a NUL in a DNS name.
    """
    names = subject_names(certificate)
    if names is None:
        return None
    count = sum(1 for _ in names)
    if count > MAX_NAMES:
        reason = f"the certificate has {count} subject alternative names, more than {MAX_NAMES}"
        raise Refusal(CERTIFICATE_TOO_LARGE, reason)
    for name in names.get_values_for_type(x509.DNSName):
        if "\0" in name:
            raise Refusal(MALFORMED_CERTIFICATE, f"the DNS name {shown(name)} has a NUL in it")
    return names


def check_leaf(leaf: x509.Certificate) -> SpiffeId:
    """
    Apply every rule for a leaf, and give its SPIFFE ID.

    :raises Refusal: as :func:`svid_id`, and PROFILE naming the rule that is broken.
    """
    if leaf.version is not x509.Version.v3:
        raise Refusal(PROFILE, f"the certificate is of version {leaf.version.value + 1}, not 3")
    identity = svid_id(leaf)
    if leaf.serial_number <= 0:  # RFC 5280 section 4.1.2.2
        raise Refusal(PROFILE, f"the certificate of {identity} has the serial number {leaf.serial_number}, not above 0")
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.value.ca:
        raise Refusal(PROFILE, f"the certificate of {identity} is an authority's (cA is true), not a workload's")
    _check_leaf_usage(leaf, identity)
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is not None and not names.critical and not leaf.subject.rdns:
        reason = f"the certificate of {identity} has neither a subject nor critical subject alternative names"
        raise Refusal(PROFILE, reason)
    check_key(leaf, f"the certificate of {identity}")
    return identity


def _check_leaf_usage(leaf: x509.Certificate, identity: SpiffeId) -> None:
    what = f"the certificate of {identity}"
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None:
        raise Refusal(PROFILE, f"{what} has no key usage")
    if not usage.critical:
        raise Refusal(PROFILE, f"the key usage in {what} is not critical")
    if not usage.value.digital_signature:
        raise Refusal(PROFILE, f"the key usage in {what} lacks digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        word = "keyCertSign" if usage.value.key_cert_sign else "cRLSign"
        raise Refusal(PROFILE, f"the key usage in {what} has {word}, which only an authority may have")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None:
        for oid, word in (
            (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"),
            (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth"),
        ):
            if oid not in extended.value:
                raise Refusal(PROFILE, f"the extended key usage in {what} lacks {word}; it needs both or none at all")


def check_authority(certificate: x509.Certificate, *, anchor: bool) -> None:
    """
    Apply every rule for a certificate above the leaf.

    An anchor is one that the operator put into a bundle: it may lack the key usage (``openssl req -x509`` makes such).

    :raises Refusal: PROFILE naming the certificate and the rule that is broken.
    """
    what = f"the {'authority' if anchor else 'intermediate'} {name_text(certificate.subject)}"
    constraints = _extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise Refusal(PROFILE, f"{what} is not an authority's certificate (cA is not true)")
    usage = _extension(certificate, x509.KeyUsage)
    if usage is None and not anchor:
        raise Refusal(PROFILE, f"{what} has no key usage")
    if usage is not None and not usage.value.key_cert_sign:
        raise Refusal(PROFILE, f"the key usage of {what} lacks keyCertSign")
    check_key(certificate, what)
    names = None if anchor else check_names(certificate)
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else ():
        if uri.startswith("spiffe://") and SpiffeId.parse(uri).path:
            raise Refusal(PROFILE, f"{what} carries the SPIFFE ID {shown(uri)}, whose path makes it a workload's")


def check_key(certificate: x509.Certificate, what: str) -> None:
    """
    Accept EC keys on P-256 and P-384, Ed25519, and RSA of 2048 to 8192 bits.

    :raises Refusal: PROFILE.
    """
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            raise Refusal(PROFILE, f"{what} has a key on the curve {key.curve.name}; use P-256 or P-384")
    elif isinstance(key, rsa.RSAPublicKey):
        if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            reason = (
                f"{what} has an RSA key of {key.key_size} bits; use {_MIN_RSA_BITS} to {_MAX_RSA_BITS}, or EC P-256"
            )
            raise Refusal(PROFILE, reason)
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise Refusal(PROFILE, f"{what} has a key of an unsupported kind; use EC P-256")


def check_signature(certificate: x509.Certificate) -> None:
    """
    Accept signatures over SHA-256, SHA-384 and SHA-512, and those that need no hash (Ed25519).

    :raises Refusal: PROFILE.
    """
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and algorithm.name not in _SIGNATURE_HASHES:
        reason = f"the certificate {presented_name(certificate)} is signed with {algorithm.name}; use SHA-256 or longer"
        raise Refusal(PROFILE, reason)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
