"""
What a chain of certificates says of itself, and everything about it that would have it refused: for people to read.

Ring 1. Trusts nothing and asks nobody: whether an authority is behind the chain is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tcpmesh.codes import CHAIN_INVALID, EXPIRED, NOT_YET_VALID, Code
from tcpmesh.errors import Refusal
from tcpmesh.identity.certificates import (
    authority_key_identifier,
    certificate_size,
    dns_names,
    fingerprint,
    moment,
    name_text,
    not_after,
    not_before,
    serial_text,
    shown,
    span,
    subject_key_identifier,
    uri_names,
)
from tcpmesh.identity.chain import check_sizes, issued_by
from tcpmesh.identity.key_pin import key_pin
from tcpmesh.identity.profile import check_authority, check_key, check_leaf, check_signature, readable, svid_id
from tcpmesh.identity.spiffe import SpiffeId

__all__ = ["CertificateFacts", "Finding", "Inspection", "describe", "inspect_chain"]

_UNREADABLE = "(cannot be read)"
_LISTED = 10  # names of one kind


@attrs.frozen
class Finding:
    """One reason to refuse a chain."""

    code: Code
    reason: str


@attrs.frozen
class CertificateFacts:
    """What one certificate says; every text is escaped, and times are seconds since the epoch."""

    subject: str
    issuer: str
    serial: str
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    not_before: float
    not_after: float
    key: str
    pin: str
    key_id: str
    issuer_key_id: str
    sha256: str
    self_signed: bool


@attrs.frozen
class Inspection:
    """A chain, the leaf first; ``identity`` is None when the leaf names nobody."""

    identity: SpiffeId | None
    certificates: tuple[CertificateFacts, ...]
    findings: tuple[Finding, ...]


def inspect_chain(chain: Sequence[x509.Certificate], now: float) -> Inspection:
    """
    Look at a chain.

    :param chain: at least the leaf, in the order in which a peer would present it.
    :param now: wall-clock seconds.
    """
    found: list[Refusal] = []

    def note(check: Callable[[], object]) -> None:
        try:
            with readable("the certificate"):
                check()
        except Refusal as refusal:
            found.append(refusal)

    leaf = chain[0]
    identities: list[SpiffeId] = []
    note(lambda: identities.append(svid_id(leaf)))
    note(lambda: check_sizes([certificate_size(certificate) for certificate in chain]))
    note(lambda: check_leaf(leaf))
    what = f"the certificate of {identities[0]}" if identities else "the certificate"
    note(lambda: check_key(leaf, what))
    for depth, certificate in enumerate(chain):
        note(partial(_check_validity, certificate, depth, now))
        if not _self_signed(certificate):
            note(partial(check_signature, certificate))
        if depth:
            note(partial(check_authority, certificate, anchor=_self_signed(certificate)))
    for below, above in pairwise(chain):
        note(partial(_check_link, below, above))
    findings = dict.fromkeys(Finding(refusal.code, refusal.reason) for refusal in found)
    return Inspection(identities[0] if identities else None, tuple(map(describe, chain)), tuple(findings))


def _check_validity(certificate: x509.Certificate, depth: int, now: float) -> None:
    what = "the certificate" if depth == 0 else f"the authority {name_text(certificate.subject)}"
    late, early = now - not_after(certificate), not_before(certificate) - now
    if late > 0:
        reason = f"{what} expired {span(late)} ago, at {moment(not_after(certificate))}"
        raise Refusal(EXPIRED if depth == 0 else CHAIN_INVALID, reason)
    if early > 0:
        reason = f"{what} is valid only from {moment(not_before(certificate))}, in {span(early)}: is the clock right?"
        raise Refusal(NOT_YET_VALID if depth == 0 else CHAIN_INVALID, reason)


def _check_link(below: x509.Certificate, above: x509.Certificate) -> None:
    if not issued_by(below, above):
        raise Refusal(
            CHAIN_INVALID,
            f"{name_text(above.subject)} did not sign the certificate {name_text(below.subject)} before it, which "
            f"names {name_text(below.issuer)}",
        )


def describe(certificate: x509.Certificate) -> CertificateFacts:
    """
    Say what a certificate says. Never raises for what is in it.

    :raises ValueError: when not even its dates can be read.
    """
    return CertificateFacts(
        subject=_read(lambda: name_text(certificate.subject)),
        issuer=_read(lambda: name_text(certificate.issuer)),
        serial=serial_text(certificate),
        uris=_names(lambda: uri_names(certificate)),
        dns=_names(lambda: dns_names(certificate)),
        not_before=not_before(certificate),
        not_after=not_after(certificate),
        key=_read(lambda: _key(certificate)),
        pin=_read(lambda: str(key_pin(certificate))),
        key_id=_read(lambda: subject_key_identifier(certificate)),
        issuer_key_id=_read(lambda: authority_key_identifier(certificate)),
        sha256=fingerprint(certificate),
        self_signed=_self_signed(certificate),
    )


def _self_signed(certificate: x509.Certificate) -> bool:
    try:
        with readable("the certificate"):
            return issued_by(certificate, certificate)
    except Refusal:
        return False


def _read(read: Callable[[], str]) -> str:
    try:
        with readable("the certificate"):
            return read()
    except Refusal:
        return _UNREADABLE


def _names(read: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    try:
        with readable("the certificate"):
            return tuple(_listed(read()))
    except Refusal:
        return (_UNREADABLE,)


def _listed(names: Sequence[str]) -> Iterator[str]:
    yield from (shown(name) for name in names[:_LISTED])
    if len(names) > _LISTED:
        yield f"(and {len(names) - _LISTED} more)"


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else type(key).__name__
