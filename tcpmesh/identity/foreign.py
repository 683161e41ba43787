"""
Foreign names: who somebody is to Kubernetes, to an OIDC issuer, to AWS, to DNS or to another authority.

Ring 1. Reads a name into the variables that a template may use. Verifies nothing: who showed the name, and whether it
was theirs, is the caller's to know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

from tcpmesh.addresses import parse_dns_name, shown
from tcpmesh.identity import claims as json_claims
from tcpmesh.settings import MappingKind

__all__ = [
    "ATTRIBUTES",
    "KINDS",
    "VARIABLES",
    "ForeignName",
    "aws_role",
    "certificate_subject",
    "dns_name",
    "oidc_claims",
    "service_account",
    "service_account_of",
]

# The attributes of a subject that have a variable, in the only order in which they identify without the whole subject.
ATTRIBUTES: Mapping[str, x509.ObjectIdentifier] = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}

# What each kind of name consists of; claims have the names that their issuer gives them.
VARIABLES: Mapping[MappingKind, Sequence[str]] = {
    "kubernetes": ("namespace", "service_account"),
    "aws": ("partition", "account", "role"),
    "dns": ("name",),
    "certificate": ("subject", *ATTRIBUTES),
}

# In words, to follow "a" or stand before the name.
KINDS: Mapping[MappingKind, str] = {
    "kubernetes": "Kubernetes service account",
    "claims": "OIDC claims",
    "aws": "AWS role",
    "dns": "DNS name",
    "certificate": "certificate subject",
}

# RFC 1123 as Kubernetes applies it to names: a label for namespaces, a subdomain for service accounts.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(rf"{_LABEL}\Z")
_ACCOUNT = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")
_SUBJECT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)\Z")

_PARTITION = re.compile(r"aws(?:-[a-z]+)*\Z")
_AWS_ACCOUNT = re.compile(r"[0-9]{12}\Z")
_ROLE = re.compile(r"[A-Za-z0-9_+=,.@-]{1,64}\Z")  # RoleName of the IAM API
_ROLE_PATH = re.compile(r"(?:[\x21-\x2e\x30-\x7e]+/){0,64}\Z")


@attrs.frozen
class ForeignName:
    """
    One name: ``text`` is how it is shown (escaped), ``issuer`` who gave it where names say so.

    ``attributes`` are those of a certificate's subject in their order.
    """

    kind: MappingKind
    text: str
    values: Mapping[str, Any]
    issuer: str | None = None
    attributes: tuple[str, ...] = ()

    def value(self, variable: str) -> str:
        """
        The text of a variable.

        :raises LookupError: when there is none; the message follows the variable's name.
        """
        if self.kind == "claims":
            return json_claims.find(self.values, variable)
        value = self.values.get(variable)
        if not isinstance(value, str):
            # Only attributes can be missing: whatever else a name has, it has always.
            raise LookupError("is not in the subject exactly once")  # noqa: TRY004 - it is not there
        return value

    def __str__(self) -> str:
        return f"{KINDS[self.kind]} {self.text}"


def service_account(text: str) -> ForeignName:
    """
    Read ``NAMESPACE/NAME``.

    :raises ValueError: when one of them is no name that Kubernetes gives.
    """
    namespace, slash, name = text.partition("/")
    if not slash:
        raise ValueError(f"{shown(text)} is not a service account; write NAMESPACE/NAME, such as shop/web")
    return _service_account(namespace, name)


def _service_account(namespace: str, name: str) -> ForeignName:
    if not _NAMESPACE.match(namespace):
        raise ValueError(
            f"{shown(namespace)} is not the name of a namespace: a-z, 0-9 and, inside, '-', up to 63 characters"
        )
    if not _ACCOUNT.match(name) or ".." in name:
        raise ValueError(
            f"{shown(name)} is not the name of a service account: a-z, 0-9 and, inside, '-' and '.', up to 253 "
            "characters"
        )
    return ForeignName("kubernetes", f"{namespace}/{name}", {"namespace": namespace, "service_account": name})


def service_account_of(name: ForeignName) -> ForeignName:
    """
    The service account that a cluster's token is about: its ``sub``, with which ``kubernetes.io`` must agree.

    :raises ValueError: when it is about something else.
    """
    try:
        subject = name.value("sub")
    except LookupError as error:
        raise ValueError(f"claim 'sub' {error}") from None
    match = _SUBJECT.match(subject)
    if match is None:
        raise ValueError(f"claim 'sub' is {shown(subject)}, not system:serviceaccount:NAMESPACE:NAME")
    account = _service_account(match[1], match[2])
    if "kubernetes.io" in name.values:
        for pointer, said in (("namespace", match[1]), ("serviceaccount/name", match[2])):
            try:
                other = name.value(f"/kubernetes.io/{pointer}")
            except LookupError as error:
                raise ValueError(f"claim /kubernetes.io/{pointer} {error}") from None
            if other != said:
                raise ValueError(f"claim /kubernetes.io/{pointer} is {shown(other)}, and 'sub' says {shown(said)}")
    return account


def aws_role(arn: str) -> ForeignName:
    """
    Read the ARN of a role, or of a session of one, whose name is the caller's choice and is dropped.

    ``role`` holds the role's path and name; a session's ARN does not show the path.

    :raises ValueError: for the ARN of anything else, users and the account's root among it.
    """
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn":
        raise ValueError(f"{shown(arn)} is not an ARN; write arn:aws:iam::123456789012:role/NAME")
    _, partition, service, region, account, resource = parts
    if not _PARTITION.match(partition):
        raise ValueError(f"{shown(partition)} in {shown(arn)} is not a partition such as aws, aws-cn or aws-us-gov")
    if not _AWS_ACCOUNT.match(account):
        raise ValueError(f"{shown(account)} in {shown(arn)} is not an account: 12 digits")
    kind, _, rest = resource.partition("/")
    role = _role(service, kind, rest) if not region else None
    if role is None:
        raise ValueError(
            f"{shown(arn)} is not a role's: write arn:aws:iam::ACCOUNT:role/NAME, or the ARN of a session, "
            "arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION"
        )
    values = {"partition": partition, "account": account, "role": role}
    return ForeignName("aws", f"arn:{partition}:iam::{account}:role/{role}", values)


def _role(service: str, kind: str, rest: str) -> str | None:
    if (service, kind) == ("sts", "assumed-role"):
        name, _, session = rest.partition("/")
        return name if _ROLE.match(name) and _ROLE.match(session) else None
    if (service, kind) == ("iam", "role") and len(rest) <= 600:
        name = rest.rpartition("/")[2]
        return rest if _ROLE.match(name) and _ROLE_PATH.match(rest.removesuffix(name)) else None
    return None


def dns_name(text: str) -> ForeignName:
    """
    Read a DNS name, written in lower case: that two spellings are one name is not for a template to know.

    :raises ValueError: for anything else.
    """
    name = parse_dns_name(text).name
    if name != text:
        raise ValueError(f"{shown(text)} is not in lower case; write {name}")
    return ForeignName("dns", name, {"name": name})


def oidc_claims(data: bytes) -> ForeignName:
    """
    Read the claims of a token, as JSON.

    :raises ValueError: when it is not one JSON object with an issuer; the message follows the file's name.
    """
    claims = json_claims.parse(data)
    try:
        issuer = json_claims.find(claims, "iss")
    except LookupError as error:
        raise ValueError(f"has no issuer: claim 'iss' {error}") from None
    subject = claims.get("sub")
    about = f" about {shown(subject)}" if isinstance(subject, str) else ""
    return ForeignName("claims", f"of {shown(issuer)}{about}", claims, issuer)


def certificate_subject(subject: x509.Name, issuer: x509.Name) -> ForeignName:
    """
    The subject of a certificate, in the words of RFC 4514, and the issuer's name.

    :raises ValueError: when it is empty.
    """
    if not subject.rdns:
        raise ValueError("has an empty subject, which names nobody")
    words = subject.rfc4514_string()
    names = {oid: name for name, oid in ATTRIBUTES.items()}
    sequence = tuple(
        "+".join(names.get(attribute.oid, attribute.oid.dotted_string) for attribute in rdn) for rdn in subject.rdns
    )
    values: dict[str, Any] = {"subject": words}
    for name, oid in ATTRIBUTES.items():
        found = subject.get_attributes_for_oid(oid)
        if len(found) == 1:
            values[name] = found[0].value
    return ForeignName("certificate", shown(words), values, issuer.rfc4514_string(), sequence)
