"""
Linkerd's policy resources as values: one class per mapping, one field per key that means something for raw TCP.

Ring 1. The keys and their defaults are those of Linkerd's custom resource definitions (group policy.linkerd.io). A
field whose key has capital letters names it as its alias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from tcpmesh.addresses import shown
from tcpmesh.errors import Mark
from tcpmesh.identity.spiffe import SpiffeId

__all__ = [
    "KINDS",
    "AccessPolicy",
    "AuthorizationPolicySpec",
    "ClientSpec",
    "MeshTLSAuthenticationSpec",
    "MeshTLSClient",
    "NetworkAuthenticationSpec",
    "NetworkSpec",
    "Reference",
    "Resource",
    "Selector",
    "ServerAuthorizationSpec",
    "ServerSpec",
    "ServiceAccount",
    "check_identity",
]

GROUP = "policy.linkerd.io"

AccessPolicy = Literal[
    "deny", "audit", "all-authenticated", "all-unauthenticated", "cluster-authenticated", "cluster-unauthenticated"
]
_Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]

_DNS_IDENTITY = re.compile(r"(?:\*|[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def check_identity(text: str) -> None:
    """
    Check one of ``identities``: ``*``, ``*.suffix``, a DNS name or a SPIFFE ID.

    :raises ValueError: for anything else, and for a wildcard in a SPIFFE ID.
    """
    if text.startswith("spiffe:"):
        if "*" in text:
            raise ValueError(f"{shown(text)}: Linkerd matches SPIFFE IDs as a whole, without wildcards; write each ID")
        SpiffeId.parse(text)
    elif not (len(text) <= 253 and _DNS_IDENTITY.fullmatch(text)):
        raise ValueError(
            f"{shown(text)} is no identity: write '*', '*.SUFFIX', a DNS name in lower case or a SPIFFE ID"
        )


def _not_empty(_instance: object, _attribute: object, value: Sequence[object]) -> None:
    if not value:
        raise ValueError("the list is empty")


def _check_port(_instance: object, _attribute: object, value: int | str) -> None:
    if isinstance(value, int):
        if not 1 <= value <= 65535:
            raise ValueError(f"{value} is not a port from 1 to 65535")
    elif not _PORT_NAME.fullmatch(value):
        hint = "; remove the quotes" if value.isdigit() else ""
        raise ValueError(f"{shown(value)} is not the name of a port{hint}")


@attrs.frozen
class Expression:
    """One of ``matchExpressions``."""

    key: str
    operator: _Operator
    values: list[str] = attrs.field(factory=list)

    @values.validator
    def _check_values(self, _attribute: object, value: list[str]) -> None:
        if bool(value) != (self.operator in ("In", "NotIn")):
            raise ValueError(f"operator {self.operator} {'has no values' if value else 'needs values'}")

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels fit; NotIn fits those that lack the key, as in Kubernetes."""
        present = self.key in labels
        if self.operator == "Exists":
            return present
        if self.operator == "DoesNotExist":
            return not present
        return (present and labels[self.key] in self.values) == (self.operator == "In")


@attrs.frozen
class Selector:
    """A label selector: every label and every expression must fit; an empty one fits everything."""

    match_labels: dict[str, str] = attrs.field(factory=dict, alias="matchLabels")
    match_expressions: list[Expression] = attrs.field(factory=list, alias="matchExpressions")
    mark: Mark | None = attrs.field(default=None, eq=False)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels fit."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            expression.matches(labels) for expression in self.match_expressions
        )


@attrs.frozen
class Reference:
    """A reference to another object, in the namespace of whoever refers unless it names one."""

    kind: str
    name: str
    group: str = ""
    namespace: str | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)

    def is_a(self, kind: str) -> bool:
        """Whether it refers to one of Linkerd's own kinds."""
        return (self.group, self.kind) == (GROUP, kind)

    def is_core(self, kind: str) -> bool:
        """Whether it refers to one of Kubernetes' own kinds."""
        return self.group in ("", "core") and self.kind == kind


@attrs.frozen
class ServerSpec:
    """A port of some pods or external workloads."""

    port: int | str = attrs.field(validator=_check_port)
    pod_selector: Selector | None = attrs.field(default=None, alias="podSelector")
    external_workload_selector: Selector | None = attrs.field(default=None, alias="externalWorkloadSelector")
    proxy_protocol: Literal["unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS"] = attrs.field(
        default="unknown", alias="proxyProtocol"
    )
    access_policy: AccessPolicy = attrs.field(default="deny", alias="accessPolicy")
    mark: Mark | None = attrs.field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        if (self.pod_selector is None) == (self.external_workload_selector is None):
            raise ValueError("a Server has a podSelector or an externalWorkloadSelector, and not both")


@attrs.frozen
class AuthorizationPolicySpec:
    """All of these authentications are required of whoever uses the target; of none, nothing is."""

    target_ref: Reference = attrs.field(alias="targetRef")
    required_authentication_refs: list[Reference] = attrs.field(alias="requiredAuthenticationRefs")


@attrs.frozen
class MeshTLSAuthenticationSpec:
    """Any of these identities."""

    identities: list[str] = attrs.field(factory=list)
    identity_refs: list[Reference] = attrs.field(factory=list, alias="identityRefs")

    def __attrs_post_init__(self) -> None:
        if not self.identities and not self.identity_refs:
            raise ValueError("it names neither identities nor identityRefs, and so nobody")


@attrs.frozen
class NetworkSpec:
    """Addresses of ``cidr`` that are in none of ``except``."""

    cidr: str
    except_: list[str] = attrs.field(factory=list)


@attrs.frozen
class NetworkAuthenticationSpec:
    """Any of these networks."""

    networks: list[NetworkSpec] = attrs.field(validator=_not_empty)


@attrs.frozen
class ServerChoice:
    """One Server by name, or those whose labels fit."""

    name: str | None = None
    selector: Selector | None = None
    mark: Mark | None = attrs.field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        if (self.name is None) == (self.selector is None):
            raise ValueError("a Server is chosen by name or by selector, and not by both")


@attrs.frozen
class ServiceAccount:
    """A service account, of the authorization's own namespace unless it names one."""

    name: str
    namespace: str | None = None


@attrs.frozen
class MeshTLSClient:
    """Any of these identities, or whoever speaks TLS."""

    identities: list[str] = attrs.field(factory=list)
    service_accounts: list[ServiceAccount] = attrs.field(factory=list, alias="serviceAccounts")
    unauthenticated_tls: bool = attrs.field(default=False, alias="unauthenticatedTLS")


@attrs.frozen
class ClientSpec:
    """Who, and from where; without networks, from the cluster's own."""

    networks: list[NetworkSpec] = attrs.field(factory=list)
    unauthenticated: bool = False
    mesh_tls: MeshTLSClient | None = attrs.field(default=None, alias="meshTLS")
    mark: Mark | None = attrs.field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        tls = self.mesh_tls
        named = tls is not None and (tls.unauthenticated_tls or tls.identities or tls.service_accounts)
        if not self.unauthenticated and not named:
            raise ValueError("it names no client: write unauthenticated: true, or identities in meshTLS")


@attrs.frozen
class ServerAuthorizationSpec:
    """The older form of an authorization: whoever it names may use the Servers."""

    server: ServerChoice
    client: ClientSpec


@attrs.frozen
class Resource:
    """One resource of a file."""

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    created: str  # RFC 3339 in UTC, which compares as text; empty if it is not said
    spec: Any  # of the class in KINDS
    mark: Mark
    marks: Mapping[str, Mark]  # of each value below "spec", by its path

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def id(self) -> str:
        """As Linkerd's metrics and logs name it."""
        return f"{self.kind.lower()}/{self.namespace}/{self.name}"


# By kind: the class of its spec, and the versions in which Linkerd serves it.
KINDS: Mapping[str, tuple[type, Sequence[str]]] = {
    "Server": (ServerSpec, ("v1alpha1", "v1beta1", "v1beta2", "v1beta3")),
    "ServerAuthorization": (ServerAuthorizationSpec, ("v1alpha1", "v1beta1")),
    "AuthorizationPolicy": (AuthorizationPolicySpec, ("v1alpha1",)),
    "MeshTLSAuthentication": (MeshTLSAuthenticationSpec, ("v1alpha1",)),
    "NetworkAuthentication": (NetworkAuthenticationSpec, ("v1alpha1",)),
}
# Keys of a Server's spec that came later than the kind, and the first version that has them.
LATER_KEYS: Mapping[str, str] = {"externalWorkloadSelector": "v1beta2", "accessPolicy": "v1beta3"}
