"""
Linkerd's inbound policy for raw TCP, told once more and as plainly as possible, to compare the plugin with.

Written from what Linkerd's policy controller and proxy do, on the dictionaries that YAML gives; nothing is compiled,
looked up or shared with the plugin. Every reference is taken to be good.
"""

from __future__ import annotations

import ipaddress
from typing import Any

Resource = dict[str, Any]


class Reference:
    """
    One cluster: its resources, and one port of one pod in it.

    :ivar pod: ``namespace``, ``labels``, ``port``, ``port_name``, ``kind`` and ``default``.
    """

    def __init__(self, resources: list[Resource], pod: dict[str, Any], cluster: list[str]) -> None:
        self.resources = resources
        self.pod = pod
        self.cluster = [{"cidr": text} for text in cluster]

    def of_kind(self, kind: str) -> list[Resource]:
        return [one for one in self.resources if one["kind"] == kind]

    def get(self, kind: str, namespace: str, name: str) -> Resource:
        (found,) = [
            one
            for one in self.of_kind(kind)
            if one["metadata"]["name"] == name and one["metadata"]["namespace"] == namespace
        ]
        return found

    # --- which Server

    def server(self) -> Resource | None:
        """Of the Servers that select the port, the oldest, then the first by name."""
        selecting = []
        for server in self.of_kind("Server"):
            spec = server["spec"]
            key = "podSelector" if self.pod["kind"] == "pod" else "externalWorkloadSelector"
            port = self.pod["port"] if isinstance(spec["port"], int) else self.pod["port_name"]
            if (
                server["metadata"]["namespace"] == self.pod["namespace"]
                and key in spec
                and spec["port"] == port
                and selects(spec[key], self.pod["labels"])
            ):
                selecting.append(server)
        selecting.sort(key=lambda one: (one["metadata"].get("creationTimestamp", ""), one["metadata"]["name"]))
        return selecting[0] if selecting else None

    # --- who is admitted

    def admits(self, ip: str | None, names: list[tuple[str, str]]) -> bool:
        """
        Whether a client comes in.

        :param names: of the client: each ``uri`` or ``dns``, and the name; none for TLS that is passed through.
        """
        server = self.server()
        if server is None:
            return self.by_default(self.pod["default"], ip, names)
        if self.by_default(server["spec"].get("accessPolicy", "deny"), ip, names):
            return True
        for policy in self.of_kind("AuthorizationPolicy"):
            if policy["metadata"]["namespace"] != server["metadata"]["namespace"]:
                continue
            target = policy["spec"]["targetRef"]
            if target["kind"] == "Server" and target["name"] != server["metadata"]["name"]:
                continue
            if self.policy_admits(policy, ip, names):
                return True
        return any(
            self.server_authorization_admits(one, server, ip, names) for one in self.of_kind("ServerAuthorization")
        )

    def by_default(self, name: str, ip: str | None, names: list[tuple[str, str]]) -> bool:
        if name == "deny":
            return False
        if name == "audit":
            return True
        where, _, who = name.partition("-")
        if where == "cluster" and not in_networks(self.cluster, ip):
            return False
        return who == "unauthenticated" or has_identity(["*"], names)

    def policy_admits(self, policy: Resource, ip: str | None, names: list[tuple[str, str]]) -> bool:
        own = policy["metadata"]["namespace"]
        for ref in policy["spec"]["requiredAuthenticationRefs"]:
            namespace = ref.get("namespace", own)
            if ref["kind"] == "ServiceAccount":
                good = has_identity([account(namespace, ref["name"])], names)
            elif ref["kind"] == "NetworkAuthentication":
                networks = self.get("NetworkAuthentication", namespace, ref["name"])["spec"]["networks"]
                good = in_networks(networks, ip)
            else:
                found = self.get("MeshTLSAuthentication", namespace, ref["name"])
                good = has_identity(self.identities(found), names)
            if not good:
                return False
        return True

    def identities(self, authentication: Resource) -> list[str]:
        found = list(authentication["spec"].get("identities", []))
        for ref in authentication["spec"].get("identityRefs", []):
            if ref["kind"] == "Namespace":
                found.append(account_suffix(ref["name"]))
            else:
                found.append(account(ref.get("namespace", authentication["metadata"]["namespace"]), ref["name"]))
        return found

    def server_authorization_admits(
        self, authorization: Resource, server: Resource, ip: str | None, names: list[tuple[str, str]]
    ) -> bool:
        own = authorization["metadata"]["namespace"]
        if own != server["metadata"]["namespace"]:
            return False
        choice = authorization["spec"]["server"]
        if "name" in choice:
            if choice["name"] != server["metadata"]["name"]:
                return False
        elif not selects(choice["selector"], server["metadata"].get("labels", {})):
            return False
        client = authorization["spec"]["client"]
        if not in_networks(client.get("networks") or self.cluster, ip):
            return False
        tls = client.get("meshTLS", {})
        if client.get("unauthenticated"):
            return True
        if tls.get("unauthenticatedTLS"):
            return bool(names)  # TLS that is passed through is not TLS with this proxy
        accounts = [account(one.get("namespace", own), one["name"]) for one in tls.get("serviceAccounts", [])]
        return has_identity([*tls.get("identities", []), *accounts], names)


def account(namespace: str, name: str) -> str:
    return f"{name}.{namespace}.serviceaccount.identity.linkerd.cluster.local"


def account_suffix(namespace: str) -> str:
    return f"*.{namespace}.serviceaccount.identity.linkerd.cluster.local"


def has_identity(identities: list[str], names: list[tuple[str, str]]) -> bool:
    """A URI is matched as a whole; a DNS name also by its end."""
    for kind, name in names:
        for identity in identities:
            if identity == name:
                return True
            if kind == "dns" and (identity == "*" or (identity.startswith("*.") and name.endswith(identity[1:]))):
                return True
    return False


def in_networks(networks: list[dict[str, Any]], ip: str | None) -> bool:
    """In one of them, and there in none of its exceptions; no address is in none."""
    if ip is None:
        return False
    address = ipaddress.ip_address(ip)

    def contains(cidr: str) -> bool:
        network = ipaddress.ip_network(cidr, strict=False)
        return network.version == address.version and address in network

    return any(contains(one["cidr"]) and not any(contains(part) for part in one.get("except", [])) for one in networks)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        key, values = expression["key"], expression.get("values", [])
        good = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[expression["operator"]]
        if not good:
            return False
    return True
