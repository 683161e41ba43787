"""
The two names of one workload: its SPIFFE ID, and the DNS name that Linkerd gives the pods of a service account.

Ring 1.
"""

from __future__ import annotations

import re

import attrs

from tcpmesh.addresses import shown
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.values import PeerIdentity

__all__ = ["ServiceAccountNames", "is_label", "is_subdomain"]

_NAMESPACE, _ACCOUNT = "{namespace}", "{service_account}"
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


def is_label(text: str) -> bool:
    """Whether it can name a namespace (RFC 1123 label)."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Whether it can name a service account (RFC 1123 subdomain)."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


@attrs.frozen
class ServiceAccountNames:
    """
    How service accounts are named here, and how Linkerd names them.

    :ivar template: a SPIFFE ID of which two whole segments are ``{namespace}`` and ``{service_account}``.
    :ivar domain: what follows ``serviceaccount.identity.`` in Linkerd: its own namespace and its trust domain.
    """

    template: str = attrs.field()
    domain: str = "linkerd.cluster.local"

    @template.validator
    def _check(self, _attribute: object, value: str) -> None:
        segments = value.split("/")[3:]
        if not value.startswith("spiffe://") or sorted(part for part in segments if "{" in part) != [
            _NAMESPACE,
            _ACCOUNT,
        ]:
            raise ValueError(
                f"{shown(value)} is no template of a SPIFFE ID: write "
                f"spiffe://example.org/ns/{_NAMESPACE}/sa/{_ACCOUNT}, with each of the two once, as a whole segment"
            )
        SpiffeId.parse(value.replace(_NAMESPACE, "n").replace(_ACCOUNT, "s"))

    def linkerd_name(self, namespace: str, account: str) -> str:
        """The name that Linkerd puts into the certificates of such pods."""
        return f"{account}.{namespace}.serviceaccount.identity.{self.domain}"

    def suffix(self, namespace: str) -> str:
        """How the names of all service accounts of a namespace end."""
        return f".{namespace}.serviceaccount.identity.{self.domain}"

    def spiffe_id(self, namespace: str, account: str) -> str:
        """The SPIFFE ID of a service account; ``*`` for either makes it a pattern."""
        return self.template.replace(_NAMESPACE, namespace).replace(_ACCOUNT, account)

    def account_of(self, name: str) -> tuple[str, str] | None:
        """The namespace and the service account that a DNS name of Linkerd's means, None if it means none."""
        front = name.removesuffix(self.suffix("")[1:])
        account, dot, namespace = front.rpartition(".")
        good = front != name and bool(dot) and is_label(namespace) and is_subdomain(account)
        return (namespace, account) if good else None

    def dns_name_of(self, peer: PeerIdentity) -> str:
        """
        The DNS name of a peer: its own, or that of the service account whose SPIFFE ID it has; empty if there is none.

        A namespace is a label and has no dot, so that no two service accounts have one name.
        """
        if peer.spiffe_id is None:
            return peer.dns_name
        wanted = self.template.split("/")[2:]
        found = [peer.spiffe_id.trust_domain.name, *peer.spiffe_id.segments]
        if len(wanted) != len(found):
            return ""
        namespace = account = ""
        for want, have in zip(wanted, found, strict=True):
            if want == _NAMESPACE and is_label(have):
                namespace = have
            elif want == _ACCOUNT and is_subdomain(have):
                account = have
            elif want != have:
                return ""
        return self.linkerd_name(namespace, account)
