"""
The authorization policy ``linkerd``: Linkerd's own resources from files, taken anew when they change.

Ring 3, without a reactor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tcpmesh.identity.spiffe import TrustDomain
from tcpmesh.interfaces import (
    IAuthorizationPolicy,
    IAuthorizationPolicyFactory,
    ICheckable,
    IPolicyObserver,
    IPolicySource,
    IReloadable,
    PluginContext,
)
from tcpmesh.policy.linkerd import LinkerdListener, LinkerdPolicy
from tcpmesh.policy.linkerd_compile import compile_policy
from tcpmesh.policy.linkerd_names import ServiceAccountNames, is_label, is_subdomain
from tcpmesh.policy.linkerd_resources import read_network, read_resources
from tcpmesh.policy.linkerd_schema import AccessPolicy
from tcpmesh.sources.watched_files import FileContent, WatchedFiles, check_interval
from tcpmesh.values import AuthorizationRequest, Decision, Duration, Effect, InboundName

__all__ = ["LinkerdFactory", "LinkerdSettings", "LinkerdSource", "ListenerSettings"]


def _not_empty(_instance: object, _attribute: object, value: Sequence[object]) -> None:
    if not value:
        raise ValueError("nothing is named here")


def _check_namespace(_instance: object, _attribute: object, value: str) -> None:
    if not is_label(value):
        raise ValueError(f"{value!a} is not the name of a namespace: small letters, digits and hyphens")


def _check_port(_instance: object, _attribute: object, value: int) -> None:
    if not 1 <= value <= 65535:
        raise ValueError(f"{value} is not a port from 1 to 65535")


def _check_networks(_instance: object, _attribute: object, value: Sequence[str]) -> None:
    for text in value:
        read_network(text)


def _check_domain(_instance: object, _attribute: object, value: str) -> None:
    if not is_subdomain(value):
        raise ValueError(f"{value!a} is not a domain; the default is linkerd.cluster.local")


@attrs.frozen
class ListenerSettings:
    """
    For which pod and port an inbound listener stands: what Linkerd's Servers select it by.

    ``default`` is what holds without a Server, instead of the policy's own ``default``.
    """

    namespace: str = attrs.field(validator=_check_namespace)
    port: int = attrs.field(validator=_check_port)
    port_name: str | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    kind: Literal["pod", "external-workload"] = "pod"
    default: AccessPolicy | None = None


@attrs.frozen
class LinkerdSettings:
    """
    ``resources``: files and directories with Linkerd's resources; ``listeners``: what they are about here.

    ``service_accounts`` is the SPIFFE ID of a service account, ``linkerd_domain`` what its name in Linkerd ends with.
    """

    resources: list[Path] = attrs.field(validator=_not_empty)
    listeners: dict[InboundName, ListenerSettings] = attrs.field(validator=_not_empty)
    default: AccessPolicy = "deny"
    cluster_networks: list[str] = attrs.field(factory=list, validator=_check_networks)
    service_accounts: str | None = None
    linkerd_domain: str = attrs.field(default="linkerd.cluster.local", validator=_check_domain)
    interval: Duration = attrs.field(default=Duration(5.0), validator=check_interval)

    def names(self, own: TrustDomain) -> ServiceAccountNames:
        """
        Say how service accounts are named.

        :param own: the proxy's own trust domain, for the default.
        :raises ValueError: for a template that is none.
        """
        template = self.service_accounts or f"spiffe://{own}/ns/{{namespace}}/sa/{{service_account}}"
        return ServiceAccountNames(template, self.linkerd_domain)


@implementer(IAuthorizationPolicy, IPolicySource, ICheckable, IReloadable)
class LinkerdSource:
    """Delivers what the files say, and again whenever they have changed and can be used."""

    def __init__(self, settings: LinkerdSettings, context: PluginContext) -> None:
        self._cluster = settings.cluster_networks
        self._names = settings.names(context.trust_domain)
        self._listeners = {
            str(name): LinkerdListener(
                one.namespace, one.port, one.labels, one.port_name or "", one.kind, one.default or settings.default
            )
            for name, one in settings.listeners.items()
        }
        self._files: WatchedFiles[LinkerdPolicy] = WatchedFiles(
            settings.resources, self._read, context.clock, context.log, interval=settings.interval
        )

    def _read(self, contents: Sequence[FileContent]) -> LinkerdPolicy:
        resources = read_resources([(content.path, content.data) for content in contents])
        return compile_policy(resources, self._listeners, self._cluster, self._names)

    def check(self) -> None:
        """
        Read everything, deliver nothing. (ICheckable)

        :raises ConfigurationError: with everything that is wrong.
        """
        self._files.load()

    def start(self, observer: IPolicyObserver) -> None:
        """
        Read everything and deliver.

        :raises ConfigurationError: with everything that is wrong.
        """
        self._files.start(observer.policy_changed, observer.policy_failed)

    def reload(self) -> Deferred[None]:
        """Look now; what is returned fires when it was delivered, or told of. (IReloadable)"""
        return self._files.reload_in_thread()

    def stop(self) -> None:
        """Watch no longer."""
        self._files.stop()

    def decide(self, request: AuthorizationRequest) -> Decision:
        """Deny: what decides is what ``start`` delivers."""
        return Decision(Effect.DENY, "linkerd", "", "Linkerd's resources have not been read yet")

    def describe(self) -> Sequence[str]:
        """Nothing: what is delivered describes itself."""
        return []


@implementer(IAuthorizationPolicyFactory)
class LinkerdFactory:
    """Makes policies from Linkerd's resources."""

    name = "linkerd"
    description = "Linkerd's Servers and authorizations, from files, taken anew when they change"
    settings = LinkerdSettings

    def create(self, settings: LinkerdSettings, context: PluginContext) -> LinkerdSource:
        """
        Make one policy; its files are read when it starts.

        :raises ValueError: when ``service_accounts`` is not a template of SPIFFE IDs.
        """
        return LinkerdSource(settings, context)
