"""
Reads what a certificate says, and writes it so that it can be shown.

Ring 1. Judges nothing. Whatever comes out as text is escaped and short: its author may be an attacker.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

__all__ = [
    "authority_key_identifier",
    "certificate_size",
    "dns_names",
    "fingerprint",
    "moment",
    "name_text",
    "not_after",
    "not_before",
    "pem_of",
    "presented_name",
    "serial_text",
    "shown",
    "span",
    "subject_key_identifier",
    "subject_names",
    "uri_names",
]

_SHOWN = 200  # characters
_LISTED = 5  # names
# RFC 4514 has no word for it (RFC 4519 section 2.31), and every authority of SPIRE's has one.
_WORDS = {NameOID.SERIAL_NUMBER: "serialNumber"}
# What needs no quotes in a line of log: no space, no quote, no control character.
_PLAIN = re.compile(r"[A-Za-z0-9._~:/@*+=,()-]+\Z")


def shown(text: str, limit: int = _SHOWN) -> str:
    """Text that a stranger wrote: as it is when nothing in it can mislead, else quoted, escaped and cut."""
    if len(text) <= limit and _PLAIN.match(text):
        return text
    escaped = ascii(text[: limit + 1])  # one escape can be ten characters, so the result is cut as well
    return escaped if len(escaped) <= limit + 2 else escaped[:limit] + "...'"


def name_text(name: x509.Name) -> str:
    """A distinguished name in the order of RFC 4514, escaped."""
    return shown(name.rfc4514_string(_WORDS)) if name.rdns else "(empty name)"


def moment(seconds: float) -> str:
    """A wall-clock time in RFC 3339, UTC, whole seconds."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """A length of time as people say it: ``1 s``, ``90 s``, ``15 min``, ``30 h``, ``12 d``."""
    for limit, factor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{round(seconds / factor)} {unit}"
    return f"{round(seconds / 86400)} d"


def not_before(certificate: x509.Certificate) -> float:
    """The first second of validity, since the epoch."""
    return certificate.not_valid_before_utc.timestamp()


def not_after(certificate: x509.Certificate) -> float:
    """The last second of validity, since the epoch."""
    return certificate.not_valid_after_utc.timestamp()


def serial_text(certificate: x509.Certificate) -> str:
    """The serial number in lower-case hex, an even number of digits, as ``openssl x509 -serial`` has them."""
    digits = f"{certificate.serial_number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def certificate_size(certificate: x509.Certificate) -> int:
    """Its size in bytes, in DER."""
    return len(certificate.public_bytes(Encoding.DER))


def pem_of(certificates: Iterable[x509.Certificate]) -> bytes:
    """The certificates in PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def fingerprint(certificate: x509.Certificate) -> str:
    """The SHA-256 of the DER, in lower-case hex."""
    return certificate.fingerprint(SHA256()).hex()


def subject_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """
    The subject alternative names, None when there is no such extension.

    :raises Exception: whatever ``cryptography`` makes of malformed extensions.
    """
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def uri_names(certificate: x509.Certificate) -> list[str]:
    """Every URI among the subject alternative names; raises like :func:`subject_names`."""
    names = subject_names(certificate)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def dns_names(certificate: x509.Certificate) -> list[str]:
    """Every DNS name among the subject alternative names; raises like :func:`subject_names`."""
    names = subject_names(certificate)
    return names.get_values_for_type(x509.DNSName) if names is not None else []


def subject_key_identifier(certificate: x509.Certificate) -> str:
    """The subject key identifier in hex, empty if there is none; raises like :func:`subject_names`."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return ""
    return extension.value.digest.hex()


def authority_key_identifier(certificate: x509.Certificate) -> str:
    """The issuer's key identifier in hex, empty if there is none; raises like :func:`subject_names`."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return ""
    return (extension.value.key_identifier or b"").hex()


def presented_name(leaf: x509.Certificate) -> str:
    """
    Whom a certificate says it is for, verified or not: its URI names, else its DNS names, else its subject.

    For log lines of refusals. Never raises; about 200 characters at most.
    """
    try:
        names = uri_names(leaf) or [f"dns:{name}" for name in dns_names(leaf)]
        if names:
            return _listed(names)
        return f"subject {name_text(leaf.subject)}"
    except Exception:  # noqa: BLE001  the certificate is being refused for it already; this only names it
        return _subject_of(leaf)


def _subject_of(leaf: x509.Certificate) -> str:
    try:
        return f"(unreadable names) subject {name_text(leaf.subject)}"
    except Exception:  # noqa: BLE001  as above
        return "(unreadable certificate)"


def _listed(names: Sequence[str]) -> str:
    each = _SHOWN // min(len(names), _LISTED)
    text = " ".join(shown(name, each) for name in names[:_LISTED])
    return text if len(names) <= _LISTED else f"{text} (and {len(names) - _LISTED} more)"
