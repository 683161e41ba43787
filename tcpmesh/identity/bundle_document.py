"""
Trust bundles as they are passed on: SPIFFE bundle documents (JSON), and PEM files.

Ring 1, no I/O. A document replaces the bundle before it, so a defect in it must not pass for a withdrawal: what a
strict reading does not understand makes the whole document unusable, except for what the standard wants skipped.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tcpmesh.errors import Refusal, TcpmeshError
from tcpmesh.identity.certificates import name_text, shown, uri_names
from tcpmesh.identity.material import MaterialError, load_certificates
from tcpmesh.identity.profile import check_authority, readable
from tcpmesh.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain

__all__ = [
    "MAX_BUNDLE_BYTES",
    "BundleDocument",
    "BundleError",
    "check_origin",
    "is_document",
    "parse_bundle",
    "read_bundle",
]

MAX_BUNDLE_BYTES = 1 << 20
_MAX_ENTRIES = 1024  # keys of all uses
_MAX_AUTHORITIES = 128
_MAX_SEQUENCE = 2**64 - 1
_MAX_REFRESH_HINT = 2**31 - 1  # seconds
_LISTED = 5  # skipped entries that are named
_KEY_TYPES: dict[str, type] = {
    "EC": ec.EllipticCurvePublicKey,
    "RSA": rsa.RSAPublicKey,
    "OKP": ed25519.Ed25519PublicKey,
}


class BundleError(TcpmeshError):
    """Bytes that are no trust bundle; the message continues the name of the file or endpoint."""


@attrs.frozen(eq=False)
class BundleDocument:
    """
    What a document says of one trust domain. Without authorities everything of that domain is revoked.

    :param refresh_hint: seconds after which to ask again; None when the document does not say.
    :param notes: what was skipped, for the log.
    """

    authorities: tuple[x509.Certificate, ...]
    sequence: int | None = None
    refresh_hint: int | None = None
    notes: tuple[str, ...] = ()


def is_document(data: bytes) -> bool:
    """Whether a file that is a bundle is a document, and not PEM."""
    return data.lstrip().startswith(b"{")


def read_bundle(data: bytes, trust_domain: TrustDomain) -> BundleDocument:
    """
    Read a file that holds either a bundle document or certificates in PEM.

    :raises BundleError: saying what is wrong with it.
    """
    if is_document(data):
        return parse_bundle(data, trust_domain)
    _check_size(data)
    try:
        certificates = load_certificates(data)
    except MaterialError as error:
        hint = "" if "PEM" not in str(error) else ", and is no SPIFFE bundle document, which begins with '{'"
        raise BundleError(f"{error}{hint}") from None
    authorities = tuple(dict.fromkeys(certificates))
    _check_authorities(authorities, trust_domain)
    return BundleDocument(authorities)


def parse_bundle(data: bytes, trust_domain: TrustDomain) -> BundleDocument:
    """
    Read a bundle document (SPIFFE_Trust_Domain_and_Bundle.md section 4; RFC 7517).

    Keys of an unknown ``use`` or ``kty`` are skipped, as are those of JWT-SVIDs. A key for X.509-SVIDs that cannot be
    read is an error, also when others can: the document would seem to withdraw an authority.

    :param trust_domain: whose bundle it should be; the document does not say it itself.
    :raises BundleError: saying what is wrong with it.
    """
    document = _decode(data)
    sequence = _whole_number(document, "spiffe_sequence", _MAX_SEQUENCE)
    hint = _whole_number(document, "spiffe_refresh_hint", _MAX_REFRESH_HINT)
    if "keys" not in document:
        raise BundleError("has no member 'keys', so it is no SPIFFE bundle document")
    entries = document["keys"]
    if not isinstance(entries, list):
        raise BundleError(f"has {_kind(entries)} as its 'keys', not a list")
    if len(entries) > _MAX_ENTRIES:
        raise BundleError(f"has {len(entries)} keys, more than {_MAX_ENTRIES}")
    notes: list[str] = []
    found: dict[x509.Certificate, None] = {}
    for number, entry in enumerate(entries):
        certificate = _authority(entry, f"keys[{number}]", notes)
        if certificate is not None and certificate in found:
            notes.append(f"keys[{number}] repeats {name_text(certificate.subject)}")
        elif certificate is not None:
            found[certificate] = None
    _check_authorities(tuple(found), trust_domain)
    if len(notes) > _LISTED:
        notes[_LISTED:] = [f"and {len(notes) - _LISTED} more"]
    return BundleDocument(tuple(found), sequence, hint or None, tuple(notes))


def _check_authorities(authorities: Sequence[x509.Certificate], trust_domain: TrustDomain) -> None:
    """
    Accept authorities as those of a trust domain: each fit to sign, and none that names another trust domain.

    :raises BundleError: naming the authority that is not.
    """
    if len(authorities) > _MAX_AUTHORITIES:
        raise BundleError(f"has {len(authorities)} authorities, more than {_MAX_AUTHORITIES}")
    for authority in authorities:
        try:
            with readable("an authority"):
                check_authority(authority, anchor=True)
        except Refusal as refusal:
            raise BundleError(f"cannot be used: {refusal.reason}") from None
        check_origin(authority, trust_domain)


def check_origin(authority: x509.Certificate, trust_domain: TrustDomain) -> None:
    """
    Make sure that an authority names no other trust domain; it need not name any (X509-SVID.md section 3).

    :raises BundleError: saying which it names.
    """
    try:
        with readable("an authority"):
            uris = uri_names(authority)
    except Refusal as refusal:
        raise BundleError(f"cannot be used: {refusal.reason}") from None
    for uri in uris:
        _check_uri(uri, authority, trust_domain)


def _check_uri(uri: str, authority: x509.Certificate, trust_domain: TrustDomain) -> None:
    if not uri.lower().startswith("spiffe:"):
        return
    try:
        named = SpiffeId.parse(uri)
    except InvalidSpiffeId as error:
        raise BundleError(
            f"has the authority {name_text(authority.subject)}, whose SPIFFE ID is none: {error}"
        ) from None
    if named.trust_domain != trust_domain:
        raise BundleError(
            f"has an authority of another trust domain: {name_text(authority.subject)} is of {named.trust_domain}, "
            f"not of {trust_domain}"
        )
    if named.path:
        raise BundleError(f"has the certificate of a workload, {named}, among its authorities")


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError(f"is larger than {MAX_BUNDLE_BYTES} bytes")


def _decode(data: bytes) -> dict[str, Any]:
    _check_size(data)
    if not data.strip():
        raise BundleError("is empty")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BundleError(f"is not UTF-8 (at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BundleError(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        what = "it is nested too deeply" if isinstance(error, RecursionError) else shown(str(error))
        raise BundleError(f"is not usable JSON: {what}") from None
    if not isinstance(document, dict):
        raise BundleError(f"is {_kind(document)}, not a JSON object")
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers could take different ones of two equal members (RFC 8259 section 4)."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise BundleError(f"has the member {shown(name)} twice in one object")
        members[name] = value
    return members


def _no_constant(text: str) -> Any:
    raise BundleError(f"is not JSON: it has {text}")


def _whole_number(document: dict[str, Any], name: str, most: int) -> int | None:
    if name not in document:
        return None
    value = document[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise BundleError(f"has {_kind(value)} as its '{name}', not a whole number")
    if not 0 <= value <= most:
        raise BundleError(f"has a '{name}' that is not between 0 and {most}")
    return value


def _authority(entry: Any, where: str, notes: list[str]) -> x509.Certificate | None:
    """The certificate of an entry for X.509-SVIDs, None for an entry to be skipped."""
    if not isinstance(entry, dict):
        raise BundleError(f"has {_kind(entry)} at {where}, not an object")
    use, key_type = entry.get("use"), entry.get("kty")
    if use != "x509-svid":
        if use != "jwt-svid":
            notes.append(f"{where} is for {shown(str(use), 40)}" if "use" in entry else f"{where} says no use")
        return None
    if not isinstance(key_type, str) or key_type not in _KEY_TYPES:
        notes.append(f"{where} is of type {shown(str(key_type), 40)}" if "kty" in entry else f"{where} says no type")
        return None
    chain = entry.get("x5c")
    if not isinstance(chain, list) or not chain:
        raise BundleError(f"has no certificate at {where} (x5c is {_kind(chain)})")
    if len(chain) > 1:
        # The standard: the first counts, and the others are ignored.
        notes.append(f"{where} has {len(chain)} certificates, of which the first counts")
    certificate, key = _certificate(chain[0], where)
    if not isinstance(key, _KEY_TYPES[key_type]):
        raise BundleError(f"says {key_type} at {where}, but the certificate has another kind of key")
    return certificate


def _certificate(text: Any, where: str) -> tuple[x509.Certificate, Any]:
    """A certificate and its public key."""
    if not isinstance(text, str):
        raise BundleError(f"has {_kind(text)} as the certificate at {where}, not text")
    try:
        der = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise BundleError(f"has a certificate at {where} that is not base64 (RFC 7517 section 4.7)") from None
    try:
        with readable(f"the certificate at {where}"):
            certificate = x509.load_der_x509_certificate(der)
            return certificate, certificate.public_key()
    except Refusal as refusal:
        raise BundleError(f"cannot be used: {refusal.reason}") from None


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    for kind, words in ((str, "text"), (int, "a whole number"), (float, "a fraction"), (list, "a list")):
        if isinstance(value, kind):
            return words if value or kind is not list else "an empty list"
    return "an object"
