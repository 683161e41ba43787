"""
What the checks of a whole chain share: its limits, who issued what, and which trust domain an authority belongs to.

Ring 1. Judges no single certificate: that is profile's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tcpmesh.codes import CERTIFICATE_TOO_LARGE
from tcpmesh.errors import Refusal
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import TrustBundle

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHAIN_LENGTH",
    "Bundles",
    "authorities_lost",
    "bundle_gap",
    "check_sizes",
    "issued_by",
    "joined",
    "same_name_other_key",
    "stands_behind",
    "trust_domains_that_issued",
    "trust_domains_that_list",
]

MAX_CHAIN_LENGTH = 8  # certificates, leaf and anchor included
MAX_CERTIFICATE_BYTES = 65536  # DER of one chain together

Bundles = Mapping[TrustDomain, TrustBundle]


def check_sizes(sizes: Sequence[int]) -> None:
    """
    Bound what a peer can make us parse.

    :param sizes: the DER size of each certificate in bytes.
    :raises Refusal: CERTIFICATE_TOO_LARGE.
    """
    if len(sizes) > MAX_CHAIN_LENGTH:
        reason = f"the chain has {len(sizes)} certificates, more than {MAX_CHAIN_LENGTH}"
        raise Refusal(CERTIFICATE_TOO_LARGE, reason)
    total = sum(sizes)
    if total > MAX_CERTIFICATE_BYTES:
        reason = f"the chain has {total} bytes, more than {MAX_CERTIFICATE_BYTES}"
        raise Refusal(CERTIFICATE_TOO_LARGE, reason)


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the names fit and the signature is by the issuer's key. Says nothing of validity or cA."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def bundle_gap(trust_domain: TrustDomain, bundles: Bundles) -> str:
    """Say why nothing of the trust domain can be trusted, or nothing when its bundle holds an authority."""
    bundle = bundles.get(trust_domain)
    if bundle is None:
        held = ", ".join(sorted(str(domain) for domain in bundles)[:10]) or "none"
        return f"there is no trust bundle for {trust_domain} (bundles held: {held})"
    if not bundle.authorities:
        return f"the trust bundle of {trust_domain} is empty: everything of that trust domain is revoked"
    return ""


def trust_domains_that_list(certificate: x509.Certificate, bundles: Bundles) -> list[TrustDomain]:
    """The trust domains whose bundle holds exactly this certificate."""
    return [domain for domain, bundle in bundles.items() if certificate in bundle.authorities]


def trust_domains_that_issued(certificate: x509.Certificate, bundles: Bundles) -> list[TrustDomain]:
    """The trust domains of which an authority signed this certificate."""
    return [
        domain
        for domain, bundle in bundles.items()
        if any(issued_by(certificate, authority) for authority in bundle.authorities)
    ]


def same_name_other_key(certificate: x509.Certificate, bundles: Bundles) -> list[tuple[TrustDomain, x509.Certificate]]:
    """The authorities that are called like the certificate's issuer and did not sign it: rotated, or imitated."""
    return [
        (domain, authority)
        for domain, bundle in bundles.items()
        for authority in bundle.authorities
        if authority.subject == certificate.issuer and not issued_by(certificate, authority)
    ]


def authorities_lost(before: Bundles, after: Bundles) -> bool:
    """Whether an authority that vouched for a trust domain no longer does; what has come in cuts nobody."""
    for domain, bundle in before.items():
        now = after.get(domain)
        if now is not bundle and not set(bundle.authorities) <= set(now.authorities if now is not None else ()):
            return True
    return False


def joined(one: Bundles, other: Bundles) -> Bundles:
    """The authorities of both, each once."""
    bundles = {**other, **one}
    for domain in one.keys() & other.keys():
        authorities = (*one[domain].authorities, *other[domain].authorities)
        bundles[domain] = TrustBundle(domain, tuple(dict.fromkeys(authorities)))
    return bundles


def stands_behind(
    authorities: Sequence[x509.Certificate], chain: Sequence[x509.Certificate], *, listed: bool = False
) -> bool:
    """
    Whether one of the authorities vouches for a chain that was verified before, by other authorities.

    It does when it is in the chain, when it has the name and the key of one that is (renewed, or signed by another
    authority), or when it signed the last one and may.

    :param chain: the leaf first, the former anchor last.
    :param listed: whether the leaf may be in the bundle itself.
    """
    above = chain if listed else chain[1:]
    if any(certificate in authorities for certificate in above):
        return True
    names = {(authority.subject, _key(authority)) for authority in authorities}
    if any((certificate.subject, _key(certificate)) in names for certificate in above):
        return True
    return any(_may_sign(authority, len(chain) - 1) and issued_by(chain[-1], authority) for authority in authorities)


def _key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _may_sign(authority: x509.Certificate, below: int) -> bool:
    """Whether it may have so many authorities below it, and names constrain nothing: nobody else looks at that here."""
    extensions = authority.extensions
    try:
        limit = extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except x509.ExtensionNotFound:
        return False
    constrained = any(isinstance(extension.value, x509.NameConstraints) for extension in extensions)
    return not constrained and (limit is None or limit >= below)
