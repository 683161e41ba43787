"""The plugin linkerd gives the answers of a plain telling of Linkerd's rules, on random resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.files import PolicyReader
from tcpmesh.policy.linkerd import LinkerdListener, LinkerdPolicy
from tcpmesh.policy.linkerd_compile import compile_policy
from tcpmesh.policy.linkerd_export import as_rules, rules_yaml
from tcpmesh.policy.linkerd_names import ServiceAccountNames
from tcpmesh.policy.linkerd_resources import read_resources
from tcpmesh.policy.rules import Rules
from tcpmesh.testing import authorization_request, peer_identity
from tcpmesh.values import UNAUTHENTICATED, Effect, TCPAddress, UnixAddress
from tests.linkerd_reference import Reference, account

NAMESPACES = ["shop", "ops"]
NAMES = ["a", "b"]
ACCESS = [
    "deny",
    "audit",
    "all-authenticated",
    "all-unauthenticated",
    "cluster-authenticated",
    "cluster-unauthenticated",
]
CIDRS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "10.1.2.3/8", "192.0.2.0/24", "0.0.0.0/0", "fd00::/8", "::/0"]
SPIFFE = ["spiffe://example.test/ns/shop/sa/web", "spiffe://example.test/vm/7", "spiffe://other.test/ns/shop/sa/web"]
IDENTITIES = [
    "*",
    "*.shop.serviceaccount.identity.linkerd.cluster.local",
    "*.cluster.local",
    "web.shop.serviceaccount.identity.linkerd.cluster.local",
    "db.example.test",
    "*.example.test",
    *SPIFFE,
]
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]), max_size=2)
EXPRESSIONS = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "tier"]),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2),
        }
    ),
    st.fixed_dictionaries(
        {"key": st.sampled_from(["app", "tier"]), "operator": st.sampled_from(["Exists", "DoesNotExist"])}
    ),
)
SELECTORS = st.fixed_dictionaries(
    {}, optional={"matchLabels": LABELS, "matchExpressions": st.lists(EXPRESSIONS, max_size=1)}
)
NETWORKS = st.lists(
    st.fixed_dictionaries(
        {"cidr": st.sampled_from(CIDRS)}, optional={"except": st.lists(st.sampled_from(CIDRS[1:5]), max_size=2)}
    ),
    min_size=1,
    max_size=2,
)
# The client's address, its identity as the plugin sees it, and all of its names as Linkerd would see them.
SOURCES = ["10.1.2.3", "10.9.9.9", "192.0.2.7", "203.0.113.1", "fd00::1", "2001:db8::1", None]
PEERS: list[tuple[tuple[str | None, str], list[tuple[str, str]]]] = [
    ((SPIFFE[0], ""), [("uri", SPIFFE[0]), ("dns", account("shop", "web"))]),
    (
        ("spiffe://example.test/ns/ops/sa/web", ""),
        [("uri", "spiffe://example.test/ns/ops/sa/web"), ("dns", account("ops", "web"))],
    ),
    ((SPIFFE[1], ""), [("uri", SPIFFE[1])]),
    ((SPIFFE[2], ""), [("uri", SPIFFE[2])]),
    ((None, "db.example.test"), [("dns", "db.example.test")]),
    ((None, "example.test"), [("dns", "example.test")]),
    ((None, account("shop", "web")), [("dns", account("shop", "web"))]),
    ((None, ""), []),
]


def metadata(draw: Any, name: str, namespace: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": draw(LABELS)}


def resource(kind: str, version: str, meta: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": f"policy.linkerd.io/{version}", "kind": kind, "metadata": meta, "spec": spec}


def places(draw: Any, least: int = 0) -> list[tuple[str, str]]:
    everywhere = [(namespace, name) for namespace in NAMESPACES for name in NAMES]
    return draw(st.lists(st.sampled_from(everywhere), min_size=least, max_size=3, unique=True))


def one_server(draw: Any, namespace: str, name: str, number: int) -> dict[str, Any]:
    meta = {
        **metadata(draw, name, namespace),
        "creationTimestamp": f"2026-01-0{draw(st.integers(1, 3))}T00:00:0{number}Z",
    }
    which = draw(st.sampled_from(["podSelector", "podSelector", "externalWorkloadSelector"]))
    spec = {
        which: draw(SELECTORS),
        "port": draw(st.sampled_from([80, 80, "db"])),
        "proxyProtocol": draw(st.sampled_from(["unknown", "opaque", "TLS"])),
        "accessPolicy": draw(st.sampled_from(["deny", *ACCESS])),
    }
    return resource("Server", "v1beta3", meta, spec)


def one_policy(draw: Any, namespace: str, name: str, servers: list[Any], names: dict[str, list[Any]]) -> dict[str, Any]:
    own = [one["metadata"]["name"] for one in servers if one["metadata"]["namespace"] == namespace]
    target = {"kind": "Namespace", "name": namespace}
    if own and draw(st.booleans()):
        target = {"group": "policy.linkerd.io", "kind": "Server", "name": draw(st.sampled_from(own))}
    required = []
    if names["NetworkAuthentication"] and draw(st.booleans()):
        there, which = draw(st.sampled_from(names["NetworkAuthentication"]))
        required.append(reference("NetworkAuthentication", there, which, namespace))
    who = draw(st.sampled_from(["nobody", "account", "mesh", "mesh"]))
    if who == "account":
        required.append({"kind": "ServiceAccount", "name": "web"})
    elif who == "mesh" and names["MeshTLSAuthentication"]:
        there, which = draw(st.sampled_from(names["MeshTLSAuthentication"]))
        required.append(reference("MeshTLSAuthentication", there, which, namespace))
    spec = {"targetRef": target, "requiredAuthenticationRefs": required}
    return resource("AuthorizationPolicy", "v1alpha1", metadata(draw, name, namespace), spec)


def reference(kind: str, there: str, name: str, own: str) -> dict[str, str]:
    found = {"group": "policy.linkerd.io", "kind": kind, "name": name}
    return found if there == own else {**found, "namespace": there}


def one_mesh_authentication(draw: Any, namespace: str, name: str) -> dict[str, Any]:
    if draw(st.booleans()):
        spec: dict[str, Any] = {"identities": draw(st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=2))}
    else:
        refs = [
            {"kind": "ServiceAccount", "name": "web"},
            {"kind": "ServiceAccount", "name": "web", "namespace": "ops"},
        ]
        refs.append({"kind": "Namespace", "name": "shop"})
        spec = {"identityRefs": draw(st.lists(st.sampled_from(refs), min_size=1, max_size=2))}
    return resource("MeshTLSAuthentication", "v1alpha1", metadata(draw, name, namespace), spec)


def one_server_authorization(draw: Any, namespace: str, name: str, servers: list[Any]) -> dict[str, Any]:
    own = [one["metadata"]["name"] for one in servers if one["metadata"]["namespace"] == namespace]
    choice = {"name": draw(st.sampled_from(own))} if own and draw(st.booleans()) else {"selector": draw(SELECTORS)}
    client: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"unauthenticated": True},
                {"meshTLS": {"unauthenticatedTLS": True}},
                {"meshTLS": {"identities": [draw(st.sampled_from(IDENTITIES))]}},
                {"meshTLS": {"serviceAccounts": [{"name": "web"}, {"name": "web", "namespace": "ops"}]}},
            ]
        )
    )
    if draw(st.booleans()):
        client = {**client, "networks": draw(NETWORKS)}
    spec = {"server": choice, "client": client}
    return resource("ServerAuthorization", "v1beta1", metadata(draw, name, namespace), spec)


@st.composite
def clusters(draw: Any) -> list[dict[str, Any]]:
    """Resources in which every reference is good."""
    servers = [one_server(draw, *place, number) for number, place in enumerate(places(draw, least=1))]
    mesh = [one_mesh_authentication(draw, *place) for place in places(draw)]
    networks = [
        resource("NetworkAuthentication", "v1alpha1", metadata(draw, name, namespace), {"networks": draw(NETWORKS)})
        for namespace, name in places(draw)
    ]
    names = {
        one[0]["kind"]: [(each["metadata"]["namespace"], each["metadata"]["name"]) for each in one]
        for one in (mesh, networks)
        if one
    }
    names = {"MeshTLSAuthentication": [], "NetworkAuthentication": [], **names}
    policies = [one_policy(draw, *place, servers, names) for place in places(draw)]
    older = [one_server_authorization(draw, *place, servers) for place in places(draw)]
    found = [*servers, *mesh, *networks, *policies, *older]
    return draw(st.permutations(found))


PODS = st.fixed_dictionaries(
    {
        "namespace": st.sampled_from(NAMESPACES),
        "labels": LABELS,
        "port": st.just(80),
        "port_name": st.sampled_from(["", "db"]),
        "kind": st.sampled_from(["pod", "pod", "external-workload"]),
        "default": st.sampled_from(ACCESS),
    }
)
CLUSTER = ["10.0.0.0/8", "fd00::/8"]


class DifferentialTests(SynchronousTestCase):
    def compile(self, resources: list[dict[str, Any]], pod: dict[str, Any]) -> LinkerdPolicy:
        return compile_policy(
            read_resources([(Path("cluster.yaml"), yaml.safe_dump_all(resources).encode())]),
            {"orders-in": LinkerdListener(**pod)},
            CLUSTER,
            ServiceAccountNames("spiffe://example.test/ns/{namespace}/sa/{service_account}"),
        )

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(clusters(), PODS)
    def test_rules_made_of_it_decide_alike(self, resources: list[dict[str, Any]], pod: dict[str, Any]) -> None:
        """What `tcpmesh policy import` writes allows whom the plugin allows, and nobody else."""
        policy = self.compile(resources, pod)
        written = rules_yaml(as_rules(policy)).encode()
        policies = PolicyReader([], ["orders-in"], []).read([(Path("imported.yaml"), written)])
        rules = Rules(policies, lambda: 0.0, {"orders-in": (80,)})
        for (spiffe_id, dns_name), names in PEERS:
            for ip in SOURCES if spiffe_id or not dns_name else ():
                source = TCPAddress(ip, 4711) if ip is not None else UnixAddress("/run/x")
                peer = peer_identity(spiffe_id) if spiffe_id else UNAUTHENTICATED
                request = authorization_request(peer, source=source)
                wanted = policy.decide(request).effect is Effect.ALLOW
                self.assertEqual(rules.decide(request).effect is Effect.ALLOW, wanted, f"{names} from {ip}")

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(clusters(), PODS)
    def test_decides_as_linkerd_would(self, resources: list[dict[str, Any]], pod: dict[str, Any]) -> None:
        """Every peer from every place, at a pod with and without a Server."""
        policy = self.compile(resources, pod)
        plain = Reference(resources, pod, CLUSTER)
        event("a Server" if plain.server() else "no Server")
        for (spiffe_id, dns_name), names in PEERS:
            for ip in SOURCES:
                request = authorization_request(
                    peer_identity(spiffe_id, dns_name=dns_name),
                    source=TCPAddress(ip, 4711) if ip is not None else UnixAddress("/run/x"),
                )
                wanted = plain.admits(ip, names)
                event(f"admitted: {wanted}")
                decision = policy.decide(request)
                self.assertEqual(
                    decision.effect, Effect.ALLOW if wanted else Effect.DENY, f"{names} from {ip}: {decision}"
                )
