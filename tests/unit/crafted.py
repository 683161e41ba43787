"""Certificates as no decent authority makes them: DER built by hand, so that every field can be wrong."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.values import Svid, TrustBundle

NOW = 1_800_000_000.0
DAY = 86400.0

_EC_SIGNATURES = {"sha256": "1.2.840.10045.4.3.2", "sha1": "1.2.840.10045.4.1"}
_RSA_SIGNATURES = {"sha256": "1.2.840.113549.1.1.11", "sha1": "1.2.840.113549.1.1.5", "md5": "1.2.840.113549.1.1.4"}


def tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    content = b"".join(parts)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytes([first * 40 + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | number & 0x7F)
        content += bytes(reversed(digits))
    return tlv(0x06, content)


def time(seconds: float) -> bytes:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def uri(text: str | bytes) -> bytes:
    """A uniformResourceIdentifier of a SAN."""
    return tlv(0x86, text.encode() if isinstance(text, str) else text)


def dns(text: str | bytes) -> bytes:
    """A dNSName of a SAN."""
    return tlv(0x82, text.encode() if isinstance(text, str) else text)


def san(*names: bytes) -> bytes:
    return sequence(*names)


@attrs.frozen
class Extension:
    oid: str
    critical: bool
    value: bytes

    def der(self) -> bytes:
        flag = tlv(0x01, b"\xff") if self.critical else b""
        return sequence(oid(self.oid), flag, tlv(0x04, self.value))


def extension(value: Any, *, critical: bool = False) -> Extension:
    """One of ``cryptography``'s extension values."""
    return Extension(value.oid.dotted_string, critical, value.public_bytes())


def key_usage(*bits: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in bits for name in names})


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def _signed(tbs: bytes, key: Any, algorithm: bytes, hash_algorithm: HashAlgorithm) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(tbs, ec.ECDSA(hash_algorithm))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(tbs)
    else:
        signature = key.sign(tbs, padding.PKCS1v15(), hash_algorithm)
    return sequence(tbs, algorithm, tlv(0x03, b"\0" + signature))


def _algorithm(key: Any, hash_algorithm: HashAlgorithm) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return sequence(oid(_EC_SIGNATURES[hash_algorithm.name]))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return sequence(oid("1.3.101.112"))
    return sequence(oid(_RSA_SIGNATURES[hash_algorithm.name]), tlv(0x05))


def craft_der(
    *,
    public_key: Any,
    signing_key: Any,
    subject: x509.Name,
    issuer: x509.Name,
    extensions: Sequence[Extension],
    not_before: float = NOW - 60,
    not_after: float = NOW + 3600,
    version: int = 3,
    serial: int = 0x1234,
    hash_algorithm: HashAlgorithm | None = None,
) -> bytes:
    """A signed certificate of exactly these fields."""
    digest = hash_algorithm or SHA256()
    algorithm = _algorithm(signing_key, digest)
    tbs = sequence(
        tlv(0xA0, integer(version - 1)) if version > 1 else b"",
        integer(serial),
        algorithm,
        issuer.public_bytes(),
        sequence(time(not_before), time(not_after)),
        subject.public_bytes(),
        public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        tlv(0xA3, sequence(*(entry.der() for entry in extensions))) if extensions else b"",
    )
    return _signed(tbs, signing_key, algorithm, digest)


@attrs.frozen(eq=False)
class Issuer:
    """A certificate that signs, its key, and what hangs between it and the root."""

    certificate: x509.Certificate
    key: Any = attrs.field(repr=False)
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """This certificate, then whatever is above it: the root comes last."""
        return (self.certificate, *self.above)


def authority(
    common_name: str,
    parent: Issuer | None = None,
    *,
    key: Any = None,
    path_length: int | None = None,
    ca: bool = True,
    usage: x509.KeyUsage | None = None,
    drop: Sequence[str] = (),
    more: Sequence[Extension] = (),
    **fields: Any,
) -> Issuer:
    """An authority, self-signed without a parent. ``drop`` names extensions by their OID, ``more`` are added."""
    own = key or ec.generate_private_key(ec.SECP256R1())
    subject = name(common_name)
    constraints = x509.BasicConstraints(ca=ca, path_length=path_length if ca else None)
    extensions = [
        extension(constraints, critical=True),
        extension(usage or key_usage("key_cert_sign", "crl_sign"), critical=True),
        extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key())),
    ]
    if parent is not None:
        extensions.append(_authority_key(parent))
    fields.setdefault("not_before", NOW - DAY)
    fields.setdefault("not_after", NOW + 30 * DAY)
    der = craft_der(
        public_key=own.public_key(),
        signing_key=parent.key if parent else own,
        subject=subject,
        issuer=parent.certificate.subject if parent else subject,
        extensions=[*(entry for entry in extensions if entry.oid not in drop), *more],
        **fields,
    )
    return Issuer(x509.load_der_x509_certificate(der), own, parent.chain if parent else ())


def _authority_key(parent: Issuer) -> Extension:
    return extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key()))


def leaf_extensions(names: bytes, issuer: Issuer, key: Any, /, **changes: Extension | None) -> list[Extension]:
    """
    Those of a good leaf, in order, with some replaced (None leaves one out).

    Keys: ``constraints``, ``usage``, ``extended``, ``names``, ``subject_key``, ``authority_key``.
    """
    extensions: dict[str, Extension | None] = {
        "constraints": extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        "usage": extension(key_usage("digital_signature"), critical=True),
        "extended": extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        ),
        "names": Extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, False, names),
        "subject_key": extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key())),
        "authority_key": _authority_key(issuer),
    }
    extensions.update(changes)
    return [entry for entry in extensions.values() if entry is not None]


@attrs.frozen(eq=False)
class Leaf:
    """A crafted leaf, its key, and its chain up to the root."""

    certificate: x509.Certificate
    key: Any = attrs.field(repr=False)
    chain: tuple[x509.Certificate, ...]


def leaf(
    issuer: Issuer,
    *names: bytes,
    key: Any = None,
    subject: str = "leaf",
    changes: dict[str, Extension | None] | None = None,
    more: Sequence[Extension] = (),
    **fields: Any,
) -> Leaf:
    """
    A leaf that is good unless told otherwise.

    :param names: general names; ``uri("spiffe://a.test/web")`` when there are none.
    """
    own = key or ec.generate_private_key(ec.SECP256R1())
    extensions = leaf_extensions(san(*(names or (uri("spiffe://a.test/web"),))), issuer, own, **(changes or {}))
    der = craft_der(
        public_key=own.public_key(),
        signing_key=issuer.key,
        subject=name(subject),
        issuer=issuer.certificate.subject,
        extensions=[*extensions, *more] if fields.get("version", 3) == 3 else (),
        **fields,
    )
    certificate = x509.load_der_x509_certificate(der)
    return Leaf(certificate, own, (certificate, *issuer.chain))


def bundles(**authorities: Issuer) -> dict[TrustDomain, TrustBundle]:
    """``bundles(a=root)`` is the bundle of a.test."""
    return {
        TrustDomain(f"{short}.test"): TrustBundle(TrustDomain(f"{short}.test"), (issuer.certificate,))
        for short, issuer in authorities.items()
    }


def svid(made: Leaf, identity: str = "spiffe://a.test/web", key: Any = None) -> Svid:
    """As an identity source would deliver it: without the root."""
    return Svid(SpiffeId.parse(identity), made.chain[:-1], key or made.key)


MD5_HASH, SHA1_HASH = MD5(), SHA1()
