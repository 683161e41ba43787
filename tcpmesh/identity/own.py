"""
Whether an identity of our own is fit to be used, before a peer is shown it.

Ring 1. Verifies the whole chain with ``cryptography``, link by link: nothing has built or verified it for us.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from tcpmesh.codes import KEY_MISMATCH, OWN_CHAIN_BROKEN, OWN_EXPIRED, OWN_PROFILE
from tcpmesh.errors import Refusal
from tcpmesh.identity.bundle_document import check_origin
from tcpmesh.identity.certificates import (
    authority_key_identifier,
    certificate_size,
    moment,
    name_text,
    not_after,
    not_before,
    span,
)
from tcpmesh.identity.chain import Bundles, bundle_gap, check_sizes, issued_by, same_name_other_key
from tcpmesh.identity.delivered import find_svid
from tcpmesh.identity.life import SourceLife
from tcpmesh.identity.profile import check_authority, check_leaf, check_signature, readable
from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.values import IdentitySnapshot, Svid

__all__ = ["check_delivery", "verify_own"]

_OWN_CODES = frozenset({KEY_MISMATCH, OWN_CHAIN_BROKEN, OWN_EXPIRED, OWN_PROFILE})


def check_delivery(source: SourceLife, snapshot: IdentitySnapshot, now: float) -> None:
    """
    Check everything that a source delivered, by its own bundles.

    :param now: wall-clock seconds.
    :raises Refusal: when an identity is not fit for use.
    :raises BundleError: when an authority of another trust domain is under ours.
    """
    bundles = dict(snapshot.bundles)
    for domain, bundle in bundles.items():
        if not isinstance(domain, TrustDomain) or bundle.trust_domain != domain:
            raise TypeError(f"a bundle is filed under {domain!r}")
    # Of our own bundles nothing may be another trust domain's; of another one's that costs only its own peers.
    for domain in {workload.id.trust_domain for workload in source.workloads.values()} & bundles.keys():
        for authority in bundles[domain].authorities:
            check_origin(authority, domain)
    for workload in source.workloads.values():
        svid = find_svid(snapshot, workload)
        if svid is not None and not source.has_outlived(workload, svid, now):
            verify_own(svid, bundles, now)


def verify_own(svid: Svid, bundles: Bundles, now: float) -> None:
    """
    Check an identity of our own as strictly as a peer will.

    :param now: wall-clock seconds.
    :raises Refusal: KEY_MISMATCH, OWN_EXPIRED, OWN_CHAIN_BROKEN or OWN_PROFILE.
    """
    try:
        with readable(f"the certificate for {svid.id}"):
            _check(svid, bundles, now)
    except Refusal as refusal:
        if refusal.code in _OWN_CODES:
            raise
        raise Refusal(OWN_PROFILE, refusal.reason) from refusal


def _check(svid: Svid, bundles: Bundles, now: float) -> None:
    if not svid.chain:
        raise Refusal(OWN_CHAIN_BROKEN, f"there is no certificate for {svid.id}")
    check_sizes([certificate_size(certificate) for certificate in svid.chain])
    identity = check_leaf(svid.leaf)
    if identity != svid.id:
        raise Refusal(OWN_PROFILE, f"the certificate is for {identity}, not for {svid.id}")
    if svid.leaf.public_key() != svid.private_key.public_key():
        raise Refusal(KEY_MISMATCH, f"the private key does not belong to the certificate of {svid.id}")
    ended = now - not_after(svid.leaf)
    if ended > 0:
        reason = f"the certificate of {svid.id} expired {span(ended)} ago, at {moment(not_after(svid.leaf))}"
        raise Refusal(OWN_EXPIRED, reason)
    chain = _complete(svid, bundles)
    for depth, certificate in enumerate(chain):
        _check_validity(certificate, depth, svid, now)
    for below, authority in enumerate(chain[1:]):
        check_authority(authority, anchor=authority is chain[-1])
        _check_path_length(authority, below)


def _complete(svid: Svid, bundles: Bundles) -> Sequence[x509.Certificate]:
    """The chain up to its anchor in the bundle, every signature on the way verified."""
    gap = bundle_gap(svid.id.trust_domain, bundles)
    if gap:
        raise Refusal(OWN_CHAIN_BROKEN, f"the certificate of {svid.id} cannot be verified: {gap}")
    bundle = bundles[svid.id.trust_domain]
    chain = [svid.leaf]
    for issuer in svid.chain[1:]:
        check_signature(chain[-1])
        if not issued_by(chain[-1], issuer):
            raise Refusal(
                OWN_CHAIN_BROKEN,
                f"the chain of {svid.id} is broken: {name_text(issuer.subject)} did not sign the certificate "
                f"{name_text(chain[-1].subject)} before it, which names {name_text(chain[-1].issuer)}",
            )
        chain.append(issuer)
        if issuer in bundle.authorities:
            return chain
    last = chain[-1]
    check_signature(last)
    anchors = [authority for authority in bundle.authorities if issued_by(last, authority)]
    if not anchors:
        twins = same_name_other_key(last, {bundle.trust_domain: bundle})
        also = "; the bundle has an authority of that name with another key: was it rotated?" if twins else ""
        raise Refusal(
            OWN_CHAIN_BROKEN,
            f"no authority in the bundle of {bundle.trust_domain} signed the chain of {svid.id}: its issuer is "
            f"{name_text(last.issuer)}, key {authority_key_identifier(last) or 'not named'}{also}",
        )
    chain.append(max(anchors, key=not_after))
    return chain


def _check_validity(certificate: x509.Certificate, depth: int, svid: Svid, now: float) -> None:
    what = f"the certificate of {svid.id}" if depth == 0 else f"its authority {name_text(certificate.subject)}"
    early = not_before(certificate) - now
    if early > 0:
        reason = f"{what} is valid only from {moment(not_before(certificate))}, in {span(early)}: is the clock right?"
        raise Refusal(OWN_CHAIN_BROKEN, reason)
    late = now - not_after(certificate)
    if late > 0:
        reason = f"{what}, above {svid.id}, expired {span(late)} ago, at {moment(not_after(certificate))}"
        raise Refusal(OWN_CHAIN_BROKEN, reason)


def _check_path_length(authority: x509.Certificate, below: int) -> None:
    """RFC 5280 section 4.2.1.9: how many authorities may stand between this one and the leaf."""
    allowed = authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if allowed is not None and below > allowed:
        reason = f"{name_text(authority.subject)} allows {allowed} authorities below it, and there are {below}"
        raise Refusal(OWN_CHAIN_BROKEN, reason)
