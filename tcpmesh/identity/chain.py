"""
What the checks of a whole chain share: its limits, who issued what, and which trust domain an authority belongs to.

Ring 1. Judges no single certificate: that is profile's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from tcpmesh.codes import CERTIFICATE_TOO_LARGE
from tcpmesh.errors import Refusal
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import TrustBundle

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHAIN_LENGTH",
    "bundle_gap",
    "check_sizes",
    "issued_by",
    "same_name_other_key",
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
