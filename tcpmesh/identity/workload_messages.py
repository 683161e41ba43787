"""
The messages of the SPIFFE Workload API that carry X.509-SVIDs and bundles.

Ring 1, no I/O. Reads them strictly (SPIFFE_Workload_API.md section 5): a message with a defect is refused as a whole,
but for one in the certificates of another trust domain's bundle, which only concerns that domain. Revocation lists in
it are not used: certificates live for hours, and deny-lists are the proxy's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from tcpmesh.errors import Refusal, TcpmeshError
from tcpmesh.identity.bundle_document import BundleError, check_origin
from tcpmesh.identity.certificates import shown
from tcpmesh.identity.profile import check_authority, readable
from tcpmesh.identity.protobuf import ProtobufError, read_fields
from tcpmesh.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain
from tcpmesh.values import Svid, TrustBundle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = [
    "MAX_BUNDLES",
    "MAX_CERTIFICATES",
    "MAX_SVIDS",
    "MessageError",
    "OfferedSvid",
    "X509Answer",
    "read_bundles",
    "read_svids",
    "split_certificates",
]

MAX_SVIDS = 256
MAX_BUNDLES = 1024
MAX_CERTIFICATES = 1024  # in one bundle or chain
_MAX_KEY = 8192  # bytes; RSA of 8192 bits takes 4700
_MAX_HINT = 1024  # bytes (SPIFFE_Workload_API.md section 5.2.1)
_SEQUENCE = 0x30

Bundles = Mapping[TrustDomain, TrustBundle]


class MessageError(TcpmeshError):
    """A message that must not be used; the text says what is wrong with it."""


@attrs.frozen(eq=False)
class OfferedSvid:
    """One SVID as it came: its certificates and key are read when somebody wants it."""

    id: SpiffeId
    hint: str
    certificates: bytes  # DER, the leaf first, one after the other
    key: bytes = attrs.field(repr=False)  # PKCS #8, DER

    def read(self) -> Svid:
        """
        Read certificates and key; whether they fit each other is not judged here.

        :raises MessageError: if one of them cannot be read.
        """
        chain = split_certificates(self.certificates, f"the certificates of {self.id}")
        return Svid(self.id, chain, _read_key(self.key, self.id))


@attrs.frozen(eq=False)
class X509Answer:
    """
    One message: the first SVID is the default one; the bundles are by trust domain.

    ``defects`` says for which other trust domains there is a bundle that cannot be used, and why.
    """

    svids: tuple[OfferedSvid, ...]
    bundles: Bundles
    defects: Mapping[TrustDomain, str]


def read_svids(data: bytes) -> X509Answer:
    """
    Read an X509SVIDResponse: ``1 svids[], 2 crl[], 3 federated_bundles``.

    The bundle beside an SVID is the one of its trust domain, whatever ``federated_bundles`` says of that domain. A
    bundle of another domain whose certificates cannot be used is a defect that does not hold up our own identities.

    :raises MessageError: for a malformed message, and for one that lacks what it must have.
    """
    svids: list[OfferedSvid] = []
    own: dict[TrustDomain, TrustBundle] = {}
    federated: list[bytes] = []
    for number, value in _fields(data, "the message"):
        if number == 1:
            if len(svids) == MAX_SVIDS:
                raise MessageError(f"there are more than {MAX_SVIDS} SVIDs")
            svid, bundle = _read_svid(_bytes(value, "svids"), f"svids[{len(svids)}]")
            svids.append(svid)
            first = own.setdefault(bundle.trust_domain, bundle)
            if set(first.authorities) != set(bundle.authorities):
                raise MessageError(f"there are two different bundles for {bundle.trust_domain}")
        elif number == 3:
            federated.append(_bytes(value, "federated_bundles"))
    if not svids:
        raise MessageError("there is no SVID in it")
    others, defects = _read_bundle_map(federated, "federated_bundles")
    for domain in own:
        defects.pop(domain, None)
    return X509Answer(tuple(svids), {**others, **own}, defects)


def read_bundles(data: bytes) -> X509Answer:
    """
    Read an X509BundlesResponse: ``1 crl[], 2 bundles``.

    A bundle without a certificate stays: everything of that trust domain is revoked. One whose certificates cannot be
    used is a defect that does not hold up the others.

    :raises MessageError: for a malformed message, and for one without a bundle.
    """
    entries = [_bytes(value, "bundles") for number, value in _fields(data, "the message") if number == 2]
    if not entries:
        raise MessageError("there is no bundle in it")
    return X509Answer((), *_read_bundle_map(entries, "bundles"))


def split_certificates(data: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """
    Read certificates in DER that follow each other without anything in between.

    :param what: for messages.
    :raises MessageError: if there is anything else, or too much.
    """
    certificates: list[x509.Certificate] = []
    position = 0
    while position < len(data):
        if len(certificates) == MAX_CERTIFICATES:
            raise MessageError(f"{what}: more than {MAX_CERTIFICATES} certificates")
        end = _end_of_sequence(data, position, what)
        try:
            certificates.append(x509.load_der_x509_certificate(data[position:end]))
        except ValueError as error:
            reason = f"{what}: certificate {len(certificates) + 1} cannot be read: {shown(str(error))}"
            raise MessageError(reason) from None
        position = end
    return tuple(certificates)


def _end_of_sequence(data: bytes, start: int, what: str) -> int:
    """Where the DER SEQUENCE that begins at ``start`` ends (X.690 section 8.1.3; lengths of up to four bytes)."""
    if data[start] != _SEQUENCE:
        pem = ", it is PEM" if data[start : start + 5] == b"-----" else ""
        raise MessageError(f"{what}: byte {start} does not begin a certificate in DER{pem}")
    header, length = 2, data[start + 1] if start + 1 < len(data) else 0
    if length > 0x80:
        count = length & 0x7F
        header += count
        length = int.from_bytes(data[start + 2 : start + header], "big") if count <= 4 else len(data)
    elif length == 0x80:
        raise MessageError(f"{what}: the certificate at byte {start} has no definite length, so it is not DER")
    end = start + header + length
    if end > len(data):
        raise MessageError(f"{what}: the certificate at byte {start} is cut off")
    return end


def _read_svid(data: bytes, what: str) -> tuple[OfferedSvid, TrustBundle]:
    """An X509SVID: ``1 spiffe_id, 2 x509_svid, 3 x509_svid_key, 4 bundle, 5 hint``."""
    names = {1: "spiffe_id", 2: "x509_svid", 3: "x509_svid_key", 4: "bundle", 5: "hint"}
    values: dict[str, bytes] = {}
    for number, value in _fields(data, what):
        name = names.get(number)
        if name is None:
            continue
        if name in values:
            raise MessageError(f"{what} has {name} twice")
        values[name] = _bytes(value, f"{what}.{name}")
    for name in list(names.values())[:4]:
        if not values.get(name):
            raise MessageError(f"{what} has no {name}")
    if len(values["x509_svid_key"]) > _MAX_KEY:
        raise MessageError(f"the key in {what} has {len(values['x509_svid_key'])} bytes, more than {_MAX_KEY}")
    hint = values.get("hint", b"")
    if len(hint) > _MAX_HINT:
        raise MessageError(f"the hint in {what} has {len(hint)} bytes, more than {_MAX_HINT}")
    identity = _spiffe_id(values["spiffe_id"], f"{what}.spiffe_id")
    if not identity.path:
        raise MessageError(f"{what} is {identity}, which is a trust domain, not a workload")
    svid = OfferedSvid(identity, _text(hint, f"{what}.hint"), values["x509_svid"], values["x509_svid_key"])
    return svid, _read_bundle(identity.trust_domain, values["bundle"])


def _read_bundle(domain: TrustDomain, data: bytes) -> TrustBundle:
    """Certificates in DER that are fit to be a trust domain's authorities, none of which names another one."""
    authorities = tuple(dict.fromkeys(split_certificates(data, f"the bundle of {domain}")))
    for authority in authorities:
        try:
            with readable("an authority"):
                check_authority(authority, anchor=True)
            check_origin(authority, domain)
        except Refusal as refusal:
            raise MessageError(f"the bundle of {domain} cannot be used: {refusal.reason}") from None
        except BundleError as error:
            raise MessageError(f"the bundle of {domain} {error}") from None
    return TrustBundle(domain, authorities)


def _read_bundle_map(entries: list[bytes], what: str) -> tuple[dict[TrustDomain, TrustBundle], dict[TrustDomain, str]]:
    """
    A map from the SPIFFE ID of a trust domain to certificates: on the wire, messages ``1 key, 2 value``.

    :return: the bundles, and what is wrong with those that cannot be used.
    """
    defects: dict[TrustDomain, str] = {}
    if len(entries) > MAX_BUNDLES:
        raise MessageError(f"{what} has {len(entries)} entries, more than {MAX_BUNDLES}")
    bundles: dict[TrustDomain, TrustBundle] = {}
    for entry in entries:
        key, value = b"", b""
        for number, content in _fields(entry, what):
            if number == 1:
                key = _bytes(content, f"a key of {what}")
            elif number == 2:
                value = _bytes(content, f"a value of {what}")
        identity = _spiffe_id(key, f"a key of {what}")
        if identity.path:
            raise MessageError(f"{what} has a bundle for {identity}, which is a workload, not a trust domain")
        domain = identity.trust_domain
        if domain in bundles or domain in defects:
            raise MessageError(f"{what} has two bundles for {domain}")
        try:
            bundles[domain] = _read_bundle(domain, value)
        except MessageError as error:
            defects[domain] = str(error)
    return bundles, defects


def _read_key(data: bytes, identity: SpiffeId) -> CertificateIssuerPrivateKeyTypes:
    try:
        key = load_der_private_key(data, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):  # the library's words could quote the key
        raise MessageError(f"the private key of {identity} cannot be read; it must be PKCS #8 in DER") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise MessageError(f"the private key of {identity} is of an unsupported kind; use EC P-256, RSA or Ed25519")
    return key


def _fields(data: bytes, what: str) -> Iterator[tuple[int, bytes | None]]:
    try:
        yield from read_fields(data)
    except ProtobufError as error:
        raise MessageError(f"{what} is malformed: {error}") from None


def _bytes(value: bytes | None, what: str) -> bytes:
    if value is None:
        raise MessageError(f"{what} is a number")
    return value


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MessageError(f"{what} is not UTF-8") from None


def _spiffe_id(value: bytes, what: str) -> SpiffeId:
    try:
        return SpiffeId.parse(_text(value, what))
    except InvalidSpiffeId as error:
        raise MessageError(f"{what}: {error}") from None
