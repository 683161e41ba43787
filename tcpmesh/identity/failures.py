"""
Explains why OpenSSL did not accept a chain, in the words of whoever has to repair it.

Ring 1, without OpenSSL: its error numbers are those of ``x509_vfy.h``, stable since 1.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509

from tcpmesh.codes import (
    CERTIFICATE_TOO_LARGE,
    CHAIN_INVALID,
    EXPIRED,
    MALFORMED_CERTIFICATE,
    NO_BUNDLE,
    NOT_YET_VALID,
    PROFILE,
    UNKNOWN_AUTHORITY,
    WRONG_ANCHOR,
    Code,
)
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import (
    authority_key_identifier,
    moment,
    name_text,
    not_after,
    not_before,
    presented_name,
    shown,
    span,
    subject_key_identifier,
)
from tcpmesh.identity.chain import (
    Bundles,
    bundle_gap,
    same_name_other_key,
    trust_domains_that_issued,
    trust_domains_that_list,
)
from tcpmesh.identity.profile import check_authority, check_leaf, readable, svid_id
from tcpmesh.identity.spiffe import TrustDomain

__all__ = ["explain_chain_failure"]

_SIGNATURE_FAILURE, _NOT_YET_VALID, _HAS_EXPIRED, _TOO_LONG = 7, 9, 10, 22
_PURPOSE, _NO_AUTHORITY = 26, 79  # each stands for one of several rules
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 27})

# What else can be wrong: the code, and the defect in words that fit behind the certificate's name.
_DEFECTS: Mapping[int, tuple[Code, str]] = {
    4: (CHAIN_INVALID, "has a signature that cannot be decrypted"),
    6: (CHAIN_INVALID, "has an issuer whose public key cannot be read"),
    7: (CHAIN_INVALID, "has a signature that is not by its issuer's key"),
    13: (MALFORMED_CERTIFICATE, "has an unreadable notBefore"),
    14: (MALFORMED_CERTIFICATE, "has an unreadable notAfter"),
    23: (CHAIN_INVALID, "has been revoked"),
    24: (PROFILE, "has an issuer without a usable public key"),
    25: (PROFILE, "exceeds the path length that its authority allows"),
    26: (PROFILE, "is not meant for this purpose, by its key usage or its extended key usage"),
    28: (CHAIN_INVALID, "is marked as rejected"),
    32: (PROFILE, "signs certificates without keyCertSign in its key usage"),
    34: (PROFILE, "has a critical extension that OpenSSL does not know"),
    37: (PROFILE, "is not a workload's certificate (cA)"),
    39: (PROFILE, "lacks digitalSignature in its key usage"),
    40: (PROFILE, "is a proxy certificate (RFC 3820), which is not supported"),
    41: (MALFORMED_CERTIFICATE, "has an extension that is malformed or there twice"),
    42: (MALFORMED_CERTIFICATE, "has a malformed policy extension"),
    47: (CHAIN_INVALID, "is outside the names that its authority may certify (name constraints)"),
    48: (CHAIN_INVALID, "has a name that its authority must not certify (name constraints)"),
    51: (CHAIN_INVALID, "is under a kind of name constraint that OpenSSL does not support"),
    52: (CHAIN_INVALID, "is under a name constraint that OpenSSL cannot read"),
    53: (CHAIN_INVALID, "has a name that OpenSSL cannot hold against the name constraints"),
    66: (PROFILE, "has a key that is too short; use EC P-256, or RSA of 2048 bits or more"),
    67: (PROFILE, "is signed by an authority whose key is too short"),
    68: (PROFILE, "has a signature over too weak a hash; use SHA-256 or longer"),
    79: (PROFILE, "signs certificates without being an authority (cA is not true)"),
}
_STRICT_PROFILE = range(80, 95)  # X509_V_FLAG_X509_STRICT's findings: each is a profile violation


def explain_chain_failure(
    error: int,
    error_text: str,
    depth: int,
    seen: Mapping[int, x509.Certificate],
    bundles: Bundles,
    now: float,
) -> Refusal:
    """
    Say why verification failed. Gives the refusal instead of raising it, and never raises.

    :param error: OpenSSL's verification error, an ``X509_V_ERR`` number.
    :param error_text: OpenSSL's words for it.
    :param depth: of the certificate that the error is about; 0 is the leaf.
    :param seen: the certificates by depth, as far as OpenSSL showed them.
    :param now: wall-clock seconds.
    """
    try:
        with readable("the peer's certificate"):
            return _Failure(seen, bundles, now).explain(error, error_text, depth)
    except Refusal as refusal:
        return refusal


class _Failure:
    def __init__(self, seen: Mapping[int, x509.Certificate], bundles: Bundles, now: float) -> None:
        self._seen = seen
        self._bundles = bundles
        self._now = now

    def explain(self, error: int, error_text: str, depth: int) -> Refusal:
        if error in _UNKNOWN_AUTHORITY or (error == _SIGNATURE_FAILURE and self._names_another_key(depth)):
            return self._unknown_authority(depth)
        if error == _HAS_EXPIRED:
            return self._expired(depth)
        if error == _NOT_YET_VALID:
            return self._not_yet_valid(depth)
        if error == _TOO_LONG:
            return Refusal(CERTIFICATE_TOO_LARGE, f"the chain of {self._peer()} is too long")
        broken = self._broken_rule(depth) if error in (_PURPOSE, _NO_AUTHORITY) else ""
        if broken:
            return Refusal(PROFILE, f"{broken} (OpenSSL error {error}: {shown(error_text)})")
        code, defect = _DEFECTS.get(error, (CHAIN_INVALID, "does not verify"))
        if error in _STRICT_PROFILE:
            code, defect = PROFILE, "breaks the profile of RFC 5280"
        return Refusal(code, f"{self._what(depth)} {defect} (OpenSSL error {error}: {shown(error_text)})")

    def _broken_rule(self, depth: int) -> str:
        """Which rule of the profile a certificate breaks, in our words; empty when it is none of ours."""
        certificate = self._seen.get(depth)
        if certificate is None:
            return ""
        try:
            if depth == 0:
                check_leaf(certificate)
            else:
                check_authority(certificate, anchor=bool(trust_domains_that_list(certificate, self._bundles)))
        except Refusal as refusal:
            above = f", in the chain of {self._peer()}" if depth else ""
            return refusal.reason + above if refusal.code is PROFILE else ""
        return ""

    def _peer(self) -> str:
        leaf = self._seen.get(0)
        return presented_name(leaf) if leaf is not None else "the peer"

    def _what(self, depth: int) -> str:
        """Name the certificate at that depth, and whose chain it is in when it is not the leaf."""
        if depth == 0:
            return f"the certificate of {self._peer()}"
        certificate = self._seen.get(depth)
        if certificate is None:
            return f"the certificate at depth {depth} in the chain of {self._peer()}"
        anchor = trust_domains_that_list(certificate, self._bundles)
        kind = f"the authority (in the bundle of {_listed(anchor)})" if anchor else "the intermediate"
        return f"{kind} {name_text(certificate.subject)} in the chain of {self._peer()}"

    def _expired(self, depth: int) -> Refusal:
        certificate = self._seen.get(depth)
        if certificate is None:
            return Refusal(EXPIRED if depth == 0 else CHAIN_INVALID, f"{self._what(depth)} has expired")
        ago = span(max(0.0, self._now - not_after(certificate)))
        return Refusal(
            EXPIRED if depth == 0 else CHAIN_INVALID,
            f"{self._what(depth)} expired {ago} ago, at {moment(not_after(certificate))}; "
            f"it is {moment(self._now)} by this clock",
        )

    def _not_yet_valid(self, depth: int) -> Refusal:
        certificate = self._seen.get(depth)
        if certificate is None:
            return Refusal(NOT_YET_VALID if depth == 0 else CHAIN_INVALID, f"{self._what(depth)} is not yet valid")
        skew = span(max(0.0, not_before(certificate) - self._now))
        return Refusal(
            NOT_YET_VALID if depth == 0 else CHAIN_INVALID,
            f"{self._what(depth)} is valid only from {moment(not_before(certificate))}, {skew} from now; "
            f"it is {moment(self._now)} by this clock: one of the two clocks is wrong",
        )

    def _names_another_key(self, depth: int) -> bool:
        """Whether OpenSSL tried an authority for its name alone: the certificate itself names another key."""
        certificate = self._seen.get(depth)
        if certificate is None:
            return False
        wanted = authority_key_identifier(certificate)
        twins = same_name_other_key(certificate, self._bundles)
        return bool(wanted and twins) and all(subject_key_identifier(twin) not in ("", wanted) for _, twin in twins)

    def _unknown_authority(self, depth: int) -> Refusal:
        top = self._seen.get(depth)
        trust_domain = self._trust_domain()
        gap = bundle_gap(trust_domain, self._bundles) if trust_domain is not None else ""
        origin = self._origin(top) if top is not None else "its issuer is not known"
        if gap:
            return Refusal(NO_BUNDLE, f"the peer presents {self._peer()}, but {gap}; {origin}")
        if top is not None:
            others = [domain for domain in trust_domains_that_issued(top, self._bundles) if domain != trust_domain]
            if others and trust_domain is not None:
                reason = f"the peer presents {self._peer()}, which would verify under {_listed(others)}; {origin}"
                return Refusal(WRONG_ANCHOR, reason)
        return Refusal(UNKNOWN_AUTHORITY, f"nobody in any trust bundle signed the chain of {self._peer()}; {origin}")

    def _trust_domain(self) -> TrustDomain | None:
        leaf = self._seen.get(0)
        try:
            return svid_id(leaf).trust_domain if leaf is not None else None
        except Refusal:
            return None  # the unknown authority is the defect to name first

    def _origin(self, top: x509.Certificate) -> str:
        """Name the missing issuer, and whoever in a bundle is called alike."""
        key = authority_key_identifier(top)
        by = "it is signed by itself" if top.issuer == top.subject else f"its issuer is {name_text(top.issuer)}"
        text = by + (f", key {key}" if key else "")
        twin = next(iter(same_name_other_key(top, self._bundles)), None)
        if twin is None:
            return text
        domain, authority = twin
        other = subject_key_identifier(authority) or "not named"
        return (
            f"{text}; the bundle of {domain} has an authority of that name with another key, {other}: "
            "it was rotated, made twice (two states of one trust domain?), or somebody imitates it"
        )


def _listed(domains: list[TrustDomain]) -> str:
    return ", ".join(str(domain) for domain in domains)
