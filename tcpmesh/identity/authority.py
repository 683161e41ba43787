"""
The embedded certificate authority: a root, an issuing authority below it, and the certificates of workloads.

Ring 1: makes values from values, the wall clock among them; only randomness comes from outside. A certificate carries
the identity that the caller authorised and nothing else, and none leaves without having been verified as a peer would.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tcpmesh.errors import TcpmeshError
from tcpmesh.identity.certificates import moment, name_text, not_after, not_before, pem_of, span, uri_names
from tcpmesh.identity.chain import issued_by
from tcpmesh.identity.material import MaterialError, load_certificates, load_private_key, new_key, pem_of_key
from tcpmesh.identity.own import verify_own
from tcpmesh.identity.spiffe import SpiffeId, TrustDomain
from tcpmesh.values import DNSName, Svid, TrustBundle, format_duration

__all__ = [
    "ISSUING_LIFETIME",
    "LEAF_BACKDATE",
    "MAX_TTL",
    "MIN_TTL",
    "ROOT_LIFETIME",
    "Authority",
    "AuthorityError",
    "check_issuing",
    "check_root",
    "issue",
    "load_authority",
    "new_issuing",
    "new_root",
    "trust_domain_of",
]

ROOT_LIFETIME = 365 * 86400.0  # seconds, like all lifetimes here
ISSUING_LIFETIME = 14 * 86400.0
MIN_TTL = 10.0
MAX_TTL = 86400.0
# Peers' clocks are a little behind: what we sign is valid from before it was signed. An authority more so, since a
# clock that is set back by some minutes must not make the authority itself "not yet valid".
LEAF_BACKDATE = 60.0
_AUTHORITY_BACKDATE = 3600.0
_MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280 appendix A.1
_UNREADABLE = (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


class AuthorityError(TcpmeshError):
    """The authority cannot be used for this; the message says why and what to do."""


@attrs.frozen(eq=False)
class Authority:
    """A certificate that signs others, and its key; None for a root whose key is kept elsewhere."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey | None = attrs.field(repr=False)

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain that it signs for."""
        return trust_domain_of(self.certificate)

    @property
    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        """
        The private key.

        :raises AuthorityError: when it is kept elsewhere.
        """
        if self.private_key is None:
            raise AuthorityError(
                f"the private key of {name_text(self.certificate.subject)} is not here (taken offline)"
            )
        return self.private_key

    def without_key(self) -> Authority:
        """The certificate alone."""
        return Authority(self.certificate, None)

    def to_pem(self) -> bytes:
        """Key and certificate as one piece, so that no crash can part them."""
        return pem_of_key(self.signing_key) + pem_of([self.certificate])


def load_authority(pem: bytes, *, keyless: bool = False) -> Authority:
    """
    Read what :meth:`Authority.to_pem` wrote.

    :param keyless: take a certificate without a key, too: a root's key may be kept elsewhere.
    :raises MaterialError: when it is anything else; the message continues a file's name.
    """
    key = None if keyless and b"PRIVATE KEY" not in pem and b"-----BEGIN" in pem else load_private_key(pem)
    certificates = load_certificates(pem)
    if len(certificates) != 1:
        raise MaterialError(f"holds {len(certificates)} certificates instead of one")
    if key is not None and (
        not isinstance(key, ec.EllipticCurvePrivateKey) or certificates[0].public_key() != key.public_key()
    ):
        raise MaterialError("holds a private key that does not belong to its certificate")
    authority = Authority(certificates[0], key)
    try:
        constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except _UNREADABLE:
        raise MaterialError("holds a certificate without readable basic constraints, not an authority's") from None
    if not constraints.ca:
        raise MaterialError("holds a certificate that is not an authority's (cA is false)")
    trust_domain_of(authority.certificate)
    return authority


def trust_domain_of(certificate: x509.Certificate) -> TrustDomain:
    """
    Tell which trust domain an authority of ours names.

    :raises MaterialError: when it names none.
    """
    try:
        (uri,) = uri_names(certificate)
        identity = SpiffeId.parse(uri)
    except _UNREADABLE:  # an invalid ID is a ValueError, and so is any number of URIs but one
        raise MaterialError("holds an authority that does not name exactly one trust domain") from None
    if identity.path:
        raise MaterialError(f"holds the certificate of a workload, {identity}")
    return identity.trust_domain


def new_root(trust_domain: TrustDomain, now: float) -> Authority:
    """Make a self-signed root that is valid for a year."""
    key = new_key()
    name = _name(f"root of {trust_domain}")
    builder = _authority(name, name, key.public_key(), trust_domain, now, now + ROOT_LIFETIME, path_length=None)
    return Authority(builder.sign(key, SHA256()), key)


def new_issuing(root: Authority, now: float) -> Authority:
    """
    Make the authority that signs workloads' certificates: two weeks, no further authority below it.

    :raises AuthorityError: when the root cannot sign now.
    """
    check_root(root, now)
    key = new_key()
    trust_domain = root.trust_domain
    end = min(now + ISSUING_LIFETIME, not_after(root.certificate))
    name = _name(f"issuing authority of {trust_domain}")
    builder = _authority(name, root.certificate.subject, key.public_key(), trust_domain, now, end, path_length=0)
    builder = builder.add_extension(_authority_key_of(root), critical=False)
    return Authority(builder.sign(root.signing_key, SHA256()), key)


def check_root(root: Authority, now: float) -> None:
    """
    Say whether the root can be used.

    :raises AuthorityError: when it is not self-signed, or not valid at the time.
    """
    if not issued_by(root.certificate, root.certificate):
        raise AuthorityError("the root is not signed by itself")
    _check_time(root.certificate, "root", now)


def check_issuing(issuing: Authority, root: Authority, now: float) -> None:
    """
    Say whether the issuing authority can be used.

    :raises AuthorityError: when it is not the root's, or not valid at the time.
    """
    if not issued_by(issuing.certificate, root.certificate) or issuing.trust_domain != root.trust_domain:
        raise AuthorityError("the issuing authority was not signed by the root")
    _check_time(issuing.certificate, "issuing authority", now)


def _check_time(certificate: x509.Certificate, what: str, now: float) -> None:
    if now < not_before(certificate):
        start = moment(not_before(certificate))
        raise AuthorityError(f"the {what} is valid only from {start}, and it is {moment(now)}: is the clock right?")
    if now > not_after(certificate):
        raise AuthorityError(f"the {what} expired at {moment(not_after(certificate))}, and it is {moment(now)}")


def issue(
    issuing: Authority,
    root: x509.Certificate,
    identity: SpiffeId,
    *,
    ttl: float,
    now: float,
    dns: Sequence[DNSName] = (),
) -> Svid:
    """
    Make a key and a certificate for a workload, and verify them as a peer would.

    :param ttl: seconds from now; cut where the issuing authority ends.
    :param dns: further names, for foreign clients that know the server by DNS.
    :raises AuthorityError: when the identity is of another trust domain, or the issuing authority ends too soon.
    :raises Refusal: when what was made does not verify; it is not given away.
    """
    trust_domain = issuing.trust_domain
    if identity.trust_domain != trust_domain:
        raise AuthorityError(
            f"{identity} is not of {trust_domain}, the only trust domain that this authority signs for"
        )
    left = not_after(issuing.certificate) - now
    if left < ttl / 2:
        end = f"ends in {span(left)}" if left > 0 else f"expired at {moment(not_after(issuing.certificate))}"
        raise AuthorityError(
            f"the issuing authority {name_text(issuing.certificate.subject)} {end}, too soon for certificates of "
            f"{format_duration(ttl)}; it has to be renewed first"
        )
    key = new_key()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
    names += [x509.DNSName(name.name) for name in dns]
    builder = (
        _builder(_name(), issuing.certificate.subject, key.public_key(), now - LEAF_BACKDATE, now + min(ttl, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_authority_key_of(issuing), critical=False)
    )
    svid = Svid(identity, (builder.sign(issuing.signing_key, SHA256()), issuing.certificate), key)
    verify_own(svid, {trust_domain: TrustBundle(trust_domain, (root,))}, now)
    return svid


def _name(common_name: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tcpmesh")]
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_COMMON_NAME]))
    return x509.Name(attributes)


def _authority_key_of(authority: Authority) -> x509.AuthorityKeyIdentifier:
    extension = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(extension.value)


def _authority(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    trust_domain: TrustDomain,
    now: float,
    end: float,
    *,
    path_length: int | None,
) -> x509.CertificateBuilder:
    name = x509.UniformResourceIdentifier(str(trust_domain.id))
    return (
        _builder(subject, issuer, key, now - _AUTHORITY_BACKDATE, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(secrets.randbits(128) or 1)
        .not_valid_before(datetime.datetime.fromtimestamp(int(start), datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(int(end), datetime.UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
