"""
Linkerd's resources, and what the settings say of the listeners, to a policy.

Ring 1. What cannot be kept is refused at its place. The policy controller of Linkerd does the same for a pod; where it
ignores an authorization that refers to nothing, this refuses it, since in files nothing is still to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from tcpmesh.addresses import shown
from tcpmesh.config.problems import did_you_mean
from tcpmesh.errors import ConfigurationError, Mark, Problem
from tcpmesh.policy.linkerd import (
    Authorization,
    Clients,
    LinkerdListener,
    LinkerdPolicy,
    Port,
    Range,
    default_authorization,
)
from tcpmesh.policy.linkerd_names import ServiceAccountNames, is_label, is_subdomain
from tcpmesh.policy.linkerd_resources import mark_of, read_network
from tcpmesh.policy.linkerd_schema import NetworkSpec, Reference, Resource
from tcpmesh.values import Decision, Effect

__all__ = ["compile_policy"]

_RAW = ("unknown", "opaque", "TLS")  # protocols of which Linkerd looks at TCP connections


def compile_policy(
    resources: Sequence[Resource],
    listeners: Mapping[str, LinkerdListener],
    cluster: Sequence[str],
    names: ServiceAccountNames,
) -> LinkerdPolicy:
    """
    Find each listener's Server and everything that admits to it.

    :param listeners: by the name of the inbound listener.
    :param cluster: the networks of the cluster, from which ``cluster-authenticated`` admits.
    :raises ConfigurationError: with everything that refers to nothing or that raw TCP cannot keep.
    """
    compiler = _Compiler(resources, tuple(Range(read_network(text)) for text in cluster), names)
    grants = compiler.grants()
    ports = {name: compiler.port(name, listener, grants) for name, listener in listeners.items()}
    if compiler.problems:
        raise ConfigurationError(compiler.problems)
    return LinkerdPolicy(ports, names)


@attrs.frozen
class _Grant:
    """An authorization, and the Servers that it is for."""

    namespace: str
    server: str | None  # by name; None for all that ``choice`` takes
    choice: Resource | None
    authorization: Authorization

    def covers(self, server: Resource) -> bool:
        if server.namespace != self.namespace:
            return False
        if self.server is not None:
            return server.name == self.server
        if self.choice is None:
            return True
        fits: bool = self.choice.spec.server.selector.matches(server.labels)
        return fits


class _Compiler:
    def __init__(self, resources: Sequence[Resource], cluster: tuple[Range, ...], names: ServiceAccountNames) -> None:
        self._all = resources
        self._by_key = {(one.kind, one.namespace, one.name): one for one in resources}
        self._cluster = cluster
        self._names = names
        self.problems: list[Problem] = []

    def _note(self, message: str, mark: Mark | None) -> None:
        self.problems.append(Problem(message, mark))

    # --- authorizations

    def grants(self) -> list[_Grant]:
        """What every authorization admits, in the order of the files."""
        found: list[_Grant] = []
        for resource in self._all:
            if resource.kind == "AuthorizationPolicy":
                found += self._policy(resource)
            elif resource.kind == "ServerAuthorization":
                found += self._server_authorization(resource)
        return found

    def _policy(self, policy: Resource) -> Iterator[_Grant]:
        target: Reference = policy.spec.target_ref
        networks: tuple[Range, ...] | None = None
        clients: Clients | None = None
        known = len(self.problems)
        counts = {"identity": 0, "network": 0}
        for ref in policy.spec.required_authentication_refs:
            if ref.is_a("NetworkAuthentication"):
                counts["network"] += 1
                authentication = self._find(ref, "NetworkAuthentication", policy)
                networks = _ranges(authentication.spec.networks) if authentication is not None else ()
            elif ref.is_a("MeshTLSAuthentication"):
                counts["identity"] += 1
                authentication = self._find(ref, "MeshTLSAuthentication", policy)
                clients = self._mesh_clients(authentication) if authentication is not None else Clients()
            elif ref.is_core("ServiceAccount"):
                counts["identity"] += 1
                clients = self._accounts([(ref.namespace or policy.namespace, ref.name, ref.mark)], policy)
            else:
                self._note(
                    f"{policy} requires {_kind(ref)}, which is no authentication: write a MeshTLSAuthentication or "
                    "NetworkAuthentication of group policy.linkerd.io, or a ServiceAccount",
                    ref.mark,
                )
        for what, count in counts.items():
            if count > 1:
                self._note(
                    f"{policy} requires {count} authentications by {what}; Linkerd takes one at most", policy.mark
                )
        server = self._target(policy, target)
        if len(self.problems) == known:
            decision = Decision(Effect.ALLOW, policy.id, str(policy.mark), f"{policy} admits it")
            # Without an authentication by identity Linkerd admits clients that have none.
            authorization = Authorization(networks, clients, decision, strangers=not counts["identity"])
            yield _Grant(policy.namespace, server, None, authorization)

    def _target(self, policy: Resource, target: Reference) -> str | None:
        """The name of the Server that a policy is for, None for all of its namespace."""
        if target.is_a("Server"):
            if target.namespace not in (None, policy.namespace):
                self._note(
                    f"{policy} targets a Server of another namespace, {shown(target.namespace or '')}", target.mark
                )
            elif ("Server", policy.namespace, target.name) not in self._by_key:
                self._missing("Server", policy.namespace, target.name, policy, target.mark)
            return target.name
        if target.is_core("Namespace"):
            if target.name != policy.namespace:
                self._note(
                    f"{policy} targets the namespace {shown(target.name)}, and can only target its own", target.mark
                )
            return None
        if target.kind in ("HTTPRoute", "GRPCRoute"):
            self._note(
                f"{policy} is about requests of {target.kind} {shown(target.name)}, and this proxy never looks at the "
                "data: target the Server, or move the policy out of the resources",
                target.mark,
            )
        else:
            self._note(
                f"{policy} targets {_kind(target)}: write a Server of group policy.linkerd.io, or a Namespace",
                target.mark,
            )
        return None

    def _server_authorization(self, resource: Resource) -> Iterator[_Grant]:
        server, client = resource.spec.server, resource.spec.client
        known = len(self.problems)
        if server.name is not None and ("Server", resource.namespace, server.name) not in self._by_key:
            self._missing("Server", resource.namespace, server.name, resource, server.mark)
        if client.networks:
            networks = _ranges(client.networks)
        else:
            networks = self._cluster
            self._need_cluster(f"{resource} names no networks and is for those of the cluster", client.mark)
        tls, clients = client.mesh_tls, None
        if not client.unauthenticated and not tls.unauthenticated_tls:
            accounts = [(one.namespace or resource.namespace, one.name, client.mark) for one in tls.service_accounts]
            clients = _union(_clients(tls.identities), self._accounts(accounts, resource))
        if len(self.problems) == known:
            decision = Decision(Effect.ALLOW, resource.id, str(resource.mark), f"{resource} admits it")
            choice = resource if server.name is None else None
            # unauthenticatedTLS is about TLS that the proxy terminates, not about what is passed through.
            authorization = Authorization(networks, clients, decision, strangers=client.unauthenticated)
            yield _Grant(resource.namespace, server.name, choice, authorization)

    # --- authentications

    def _find(self, ref: Reference, kind: str, whose: Resource) -> Resource | None:
        namespace = ref.namespace or whose.namespace
        found = self._by_key.get((kind, namespace, ref.name))
        if found is None:
            self._missing(kind, namespace, ref.name, whose, ref.mark)
        return found

    def _missing(self, kind: str, namespace: str, name: str, whose: Resource, mark: Mark | None) -> None:
        known = [one.name for one in self._all if (one.kind, one.namespace) == (kind, namespace)]
        self._note(f"{whose} refers to {kind} {namespace}/{name}, which is nowhere{did_you_mean(name, known)}", mark)

    def _mesh_clients(self, authentication: Resource) -> Clients:
        accounts, suffixes = [], []
        for ref in authentication.spec.identity_refs:
            if ref.is_core("ServiceAccount"):
                accounts.append((ref.namespace or authentication.namespace, ref.name, ref.mark))
            elif ref.is_core("Namespace"):
                self._check_name(is_label(ref.name), ref.name, "a namespace", authentication, ref.mark)
                suffixes.append(self._names.suffix(ref.name))
            else:
                self._note(
                    f"{authentication} refers to {_kind(ref)}, which has no identity: write a ServiceAccount or a "
                    "Namespace",
                    ref.mark,
                )
        named = _union(_clients(authentication.spec.identities), self._accounts(accounts, authentication))
        return _union(named, Clients(suffixes=tuple(suffixes)))

    def _accounts(self, accounts: Sequence[tuple[str, str, Mark | None]], whose: Resource) -> Clients:
        for namespace, name, mark in accounts:
            self._check_name(is_label(namespace), namespace, "a namespace", whose, mark)
            self._check_name(is_subdomain(name), name, "a service account", whose, mark)
        return Clients(frozenset(self._names.linkerd_name(namespace, name) for namespace, name, _ in accounts))

    def _check_name(self, good: bool, name: str, what: str, whose: Resource, mark: Mark | None) -> None:
        if not good:
            self._note(f"{whose} refers to {shown(name)}, which cannot be the name of {what}", mark)

    def _need_cluster(self, why: str, mark: Mark | None) -> None:
        if not self._cluster:
            self._note(f"{why}, which nobody knows: set cluster_networks of the policy plugin linkerd", mark)

    # --- listeners

    def port(self, name: str, listener: LinkerdListener, grants: Sequence[_Grant]) -> Port:
        """What holds for one listener."""
        server, notes = self._server_of(name, listener)
        if server is None:
            access, whose, mark = listener.default, f"listener {name!r}", None
        else:
            access, whose = server.spec.access_policy, str(server)
            mark = mark_of(server, "spec.accessPolicy")
            if server.spec.proxy_protocol not in _RAW:
                self._note(
                    f"{server}, which selects listener {name!r}, says that its protocol is "
                    f"{server.spec.proxy_protocol}; this proxy never looks at the data, and Linkerd denies raw TCP "
                    "there: write proxyProtocol: opaque",
                    mark_of(server, "spec.proxyProtocol"),
                )
        if access.startswith("cluster"):
            self._need_cluster(f"{access} of {whose} is for the networks of the cluster", mark)
        last = default_authorization(access, self._cluster, whose, str(mark or "default"))
        own = [grant.authorization for grant in grants if server is not None and grant.covers(server)]
        return Port(server, access, (*own, *([last] if last is not None else [])), notes)

    def _server_of(self, name: str, listener: LinkerdListener) -> tuple[Resource | None, tuple[str, ...]]:
        """The Server that selects a listener; of several, the oldest, as in Linkerd."""
        found = [one for one in self._all if one.kind == "Server" and _selects(one, listener)]
        if len(found) < 2:
            return (found[0] if found else None), ()
        if not all(one.created for one in found):
            others = " and ".join(f"{one} ({one.mark})" for one in found)
            self._note(
                f"listener {name!r} is selected by {others}; in Linkerd the oldest counts, so that each needs its "
                "metadata.creationTimestamp, or one of them has to go",
                found[-1].mark,
            )
            return None, ()
        found.sort(key=lambda one: (one.created, one.name))
        return found[0], tuple(f"{one} selects it too and is younger" for one in found[1:])


def _selects(server: Resource, listener: LinkerdListener) -> bool:
    spec = server.spec
    selector = spec.pod_selector if listener.kind == "pod" else spec.external_workload_selector
    return bool(
        server.namespace == listener.namespace
        and selector is not None
        and (spec.port == listener.port if isinstance(spec.port, int) else spec.port == listener.port_name)
        and selector.matches(listener.labels)
    )


def _ranges(networks: Sequence[NetworkSpec]) -> tuple[Range, ...]:
    return tuple(Range(read_network(one.cidr), tuple(map(read_network, one.except_))) for one in networks)


def _clients(identities: Sequence[str]) -> Clients:
    """As Linkerd's proxy reads them: ``*`` is the end of every DNS name, ``*.x`` is the end ``.x``."""
    exact = frozenset(text for text in identities if not text.startswith("*"))
    return Clients(exact, tuple(text[1:] for text in identities if text.startswith("*")))


def _union(one: Clients, other: Clients) -> Clients:
    return Clients(one.identities | other.identities, (*one.suffixes, *other.suffixes))


def _kind(ref: Reference) -> str:
    return f"{shown(ref.kind)} of group {shown(ref.group)}"
