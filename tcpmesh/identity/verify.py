"""
Who a peer is: what OpenSSL does not check once it has built a chain and verified its signatures.

Ring 1. OpenSSL trusts the pooled authorities of all trust domains; the rule that a leaf must end at an authority of its
*own* trust domain is enforced here (X509-SVID.md section 5), with every MUST of the profile. Fails closed: whatever
cannot be read is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from service_identity import CertificateError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, CertificatePattern

from tcpmesh.codes import (
    CHAIN_INVALID,
    DNS_DIFFERS,
    ID_DIFFERS,
    MALFORMED_CERTIFICATE,
    NO_BUNDLE,
    NO_CERTIFICATE,
    NO_SPIFFE_ID,
    TRUST_DOMAIN_DIFFERS,
    UNKNOWN_AUTHORITY,
    WRONG_ANCHOR,
)
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import (
    certificate_size,
    dns_names,
    name_text,
    not_after,
    not_before,
    presented_name,
    serial_text,
    shown,
)
from tcpmesh.identity.chain import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN_LENGTH,
    bundle_gap,
    check_sizes,
    trust_domains_that_list,
)
from tcpmesh.identity.failures import explain_chain_failure
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.profile import check_authority, check_leaf, check_names, check_signature, readable
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.values import DNSName, ExpectedIdentity, PeerIdentity, TrustBundle

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_CHAIN_LENGTH",
    "check_anchor",
    "check_profiles",
    "check_sizes",
    "check_voucher",
    "explain_chain_failure",
    "match_expected",
    "presented_name",
    "verify_dns_name",
    "verify_own",
    "verify_svid_chain",
]

_LISTED = 5  # expected identities shown in a reason


def verify_svid_chain(chain: Sequence[x509.Certificate], bundles: Mapping[TrustDomain, TrustBundle]) -> PeerIdentity:
    """
    Accept a peer's chain as an X.509-SVID and say who the peer is.

    :param chain: the leaf first, the anchor last, as OpenSSL built it and verified its signatures and validity.
    :raises Refusal: with the rule that is broken; WRONG_ANCHOR when another trust domain's authority signed the leaf.
    """
    with readable("the peer's certificate"):
        check_sizes([certificate_size(certificate) for certificate in chain])
        peer = check_profiles(chain)
        check_anchor(peer, chain, bundles)
        return peer


def check_profiles(chain: Sequence[x509.Certificate]) -> PeerIdentity:
    """
    Apply every rule that a chain's certificates keep or break by themselves, and say whom it names.

    Their number and size were checked before, and who vouches for them is checked afterwards.

    :raises Refusal: with the rule that is broken.
    """
    if not chain:
        raise Refusal(NO_CERTIFICATE, "the peer presented no certificate")
    with readable("the peer's certificate"):
        leaf = chain[0]
        identity = check_leaf(leaf)
        for certificate in chain[:-1]:  # nobody relies on the signature of an anchor
            check_signature(certificate)
        for certificate in chain[1:]:
            check_authority(certificate, anchor=certificate is chain[-1])
        return PeerIdentity(identity, serial_text(leaf), not_before(leaf), not_after(leaf))


def check_anchor(
    peer: PeerIdentity, chain: Sequence[x509.Certificate], bundles: Mapping[TrustDomain, TrustBundle]
) -> None:
    """
    Make sure that a chain ends at an authority of the leaf's own trust domain (X509-SVID.md section 5).

    :param peer: whom the leaf names.
    :raises Refusal: NO_BUNDLE, CHAIN_INVALID, WRONG_ANCHOR.
    """
    identity = peer.spiffe_id
    if identity is None:
        raise Refusal(NO_SPIFFE_ID, f"{peer} has no SPIFFE ID, and so no trust domain that could vouch for it")
    own = identity.trust_domain
    anchor = chain[-1]
    others = [str(domain) for domain in trust_domains_that_list(anchor, bundles) if domain != own]
    gap = bundle_gap(own, bundles)
    if gap:
        also = f"; its authority {name_text(anchor.subject)} belongs to {', '.join(others)}" if others else ""
        raise Refusal(NO_BUNDLE, f"the peer presents {identity}, but {gap}{also}")
    if len(chain) == 1:
        reason = f"the certificate of {identity} is itself listed as an authority; a bundle holds authorities only"
        raise Refusal(CHAIN_INVALID, reason)
    # With PARTIAL_CHAIN OpenSSL stops at the first certificate that any bundle lists; if it went further, a listed
    # one on the way proves as much as one at the end.
    authorities = bundles[own].authorities
    if not any(certificate in authorities for certificate in chain[1:]):
        where = f"would verify under trust domain {', '.join(others)}" if others else "is in no trust bundle"
        raise Refusal(
            WRONG_ANCHOR,
            f"the peer presents {identity}, but its authority {name_text(anchor.subject)} is not one of {own}: "
            f"it {where}",
        )


def match_expected(peer: PeerIdentity, expected: Sequence[ExpectedIdentity]) -> None:
    """
    Accept the peer when its SPIFFE ID is one of those expected; an empty sequence matches nobody.

    Typed: a ``dns:`` entry never matches a SPIFFE ID.

    :raises Refusal: TRUST_DOMAIN_DIFFERS or ID_DIFFERS, with both sides spelled out.
    """
    presented = peer.spiffe_id
    if presented is not None and any(presented == entry for entry in expected if isinstance(entry, SpiffeId)):
        return
    wanted = ", ".join(str(entry) for entry in expected[:_LISTED]) or "nobody"
    if len(expected) > _LISTED:
        wanted += f" and {len(expected) - _LISTED} more"
    reason = f"expected {wanted}; the peer is {peer}"
    ids = [entry for entry in expected if isinstance(entry, SpiffeId)]
    if presented is None or not ids:
        raise Refusal(ID_DIFFERS, reason)
    if all(entry.trust_domain != presented.trust_domain for entry in ids):
        raise Refusal(TRUST_DOMAIN_DIFFERS, reason)
    raise Refusal(ID_DIFFERS, reason + (_difference(ids[0], presented) if len(ids) == 1 else ""))


def _difference(expected: SpiffeId, presented: SpiffeId) -> str:
    wanted, got = expected.segments, presented.segments
    for position, (left, right) in enumerate(zip(wanted, got, strict=False), 1):
        if left != right:
            case = " (only upper and lower case differ)" if left.lower() == right.lower() else ""
            return f"; segment {position} is {right!r} instead of {left!r}{case}"
    return f"; it has {len(got)} path segments instead of {len(wanted)}"


def verify_dns_name(chain: Sequence[x509.Certificate], names: Sequence[DNSName]) -> PeerIdentity:
    """
    Accept a server that is known by a DNS name (RFC 9525): one of ``names`` is among its DNS names.

    A common name never counts.

    :param chain: as for :func:`verify_svid_chain`.
    :raises Refusal: DNS_DIFFERS, or MALFORMED_CERTIFICATE, CERTIFICATE_TOO_LARGE, PROFILE (a broken signature hash).
    """
    if not chain:
        raise Refusal(NO_CERTIFICATE, "the server presented no certificate")
    with readable("the server's certificate"):
        check_sizes([certificate_size(certificate) for certificate in chain])
        leaf = chain[0]
        check_names(leaf)
        for certificate in chain[:-1]:
            check_signature(certificate)
        patterns = _patterns(leaf)
        for name in names:
            if _matches(patterns, name):
                return PeerIdentity(None, serial_text(leaf), not_before(leaf), not_after(leaf), name.name)
        wanted = ", ".join(shown(str(name)) for name in names[:_LISTED]) or "nobody"
        hint = "" if dns_names(leaf) else "; it has no DNS name, and a common name does not count"
        raise Refusal(DNS_DIFFERS, f"expected {wanted}; the certificate is for {presented_name(leaf)}{hint}")


def check_voucher(
    chain: Sequence[x509.Certificate], voucher: TrustDomain, bundles: Mapping[TrustDomain, TrustBundle]
) -> None:
    """
    Make sure that a trust domain vouches for a server that is known by a DNS name, by the bundles of this moment.

    :raises Refusal: NO_BUNDLE, UNKNOWN_AUTHORITY.
    """
    gap = bundle_gap(voucher, bundles)
    if gap:
        raise Refusal(NO_BUNDLE, f"nobody vouches for {presented_name(chain[0])}: {gap}")
    if not any(certificate in bundles[voucher].authorities for certificate in chain):
        anchor = name_text(chain[-1].subject)
        raise Refusal(UNKNOWN_AUTHORITY, f"{anchor}, which signed {presented_name(chain[0])}, is not of {voucher}")


def _patterns(leaf: x509.Certificate) -> Sequence[CertificatePattern]:
    """What the server may be called, none without a DNS name: service-identity would complain of that itself."""
    if not dns_names(leaf):
        return ()
    try:
        return extract_patterns(leaf)
    except CertificateError as error:
        raise Refusal(
            MALFORMED_CERTIFICATE, f"the server's certificate cannot be matched: {shown(str(error))}"
        ) from None


def _matches(patterns: Sequence[CertificatePattern], name: DNSName) -> bool:
    try:
        wanted = DNS_ID(name.name)
    except ValueError:
        raise Refusal(DNS_DIFFERS, f"{shown(str(name))} is expected, which no certificate can be for") from None
    return any(wanted.verify(pattern) for pattern in patterns)
