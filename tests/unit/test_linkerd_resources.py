"""Linkerd's resources in files: what is read, and what is refused at its line."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import ConfigurationError
from tcpmesh.policy.linkerd import LinkerdListener, LinkerdPolicy
from tcpmesh.policy.linkerd_compile import compile_policy
from tcpmesh.policy.linkerd_names import ServiceAccountNames
from tcpmesh.policy.linkerd_resources import read_network, read_resources
from tcpmesh.policy.networks import parse_network, source_number
from tcpmesh.policy_interfaces import NearRule
from tcpmesh.testing import authorization_request, peer_identity
from tcpmesh.values import Decision, Effect, TCPAddress

NAMES = ServiceAccountNames("spiffe://example.test/ns/{namespace}/sa/{service_account}")
WEB = "spiffe://example.test/ns/shop/sa/web"
LISTENER = LinkerdListener("shop", 5432, {"app": "db"}, port_name="postgres")

SERVER = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: db, namespace: shop, labels: {app: db}}
spec:
  podSelector: {matchLabels: {app: db}}
  port: 5432
  proxyProtocol: opaque
"""
POLICY = """
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: db}
  requiredAuthenticationRefs:
  - {group: policy.linkerd.io, kind: MeshTLSAuthentication, name: web}
"""
MESH = """
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: web, namespace: shop}
spec:
  identities: ["web.shop.serviceaccount.identity.linkerd.cluster.local"]
"""
NETWORK = """
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: lan, namespace: shop}
spec:
  networks:
  - cidr: 10.0.0.0/8
    except: [10.9.0.0/16]
"""
OLD = """
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: old, namespace: shop}
spec:
  server: {name: db}
  client:
    meshTLS:
      serviceAccounts: [{name: web}]
"""
GOOD = SERVER + POLICY + MESH + NETWORK


def compiled(text: str, cluster: tuple[str, ...] = (), listener: LinkerdListener = LISTENER) -> LinkerdPolicy:
    resources = read_resources([(Path("linkerd.yaml"), dedent(text).encode())])
    return compile_policy(resources, {"orders-in": listener}, cluster, NAMES)


def decide(policy: LinkerdPolicy, spiffe_id: str = WEB, ip: str = "10.1.1.1") -> Decision:
    return policy.decide(authorization_request(peer_identity(spiffe_id), source=TCPAddress(ip, 4711)))


class DecisionTests(SynchronousTestCase):
    def test_an_answer_names_the_resource_and_its_line(self) -> None:
        """Allowed: the authorization; denied: the Server, and who came from where under which names."""
        policy = compiled(GOOD)
        allowed, denied = decide(policy), decide(policy, WEB + "2", ip="192.0.2.7")
        self.assertEqual(
            (allowed.effect, allowed.policy, allowed.rule, allowed.reason),
            (
                Effect.ALLOW,
                "authorizationpolicy/shop/web-only",
                "linkerd.yaml:11:1",
                "AuthorizationPolicy shop/web-only admits it",
            ),
        )
        self.assertEqual(
            (denied.effect, denied.policy, denied.rule), (Effect.DENY, "server/shop/db", "linkerd.yaml:2:1")
        )
        self.assertEqual(
            denied.reason,
            "none of the authorizations of Server shop/db admits spiffe://example.test/ns/shop/sa/web2 "
            "(web2.shop.serviceaccount.identity.linkerd.cluster.local) from 192.0.2.7",
        )

    def test_says_what_keeps_an_authorization_from_admitting(self) -> None:
        """Identity and network, each with what would be needed; nothing where all fits, and Linkerd denies nothing."""
        network = "  - {group: policy.linkerd.io, kind: NetworkAuthentication, name: lan}"
        text = GOOD.replace("name: web}\n", f"name: web}}\n{network}\n", 1)
        policy = compiled(text.replace("proxyProtocol: opaque", "accessPolicy: all-authenticated"))

        def near(spiffe_id: str, ip: str) -> list[NearRule]:
            request = authorization_request(peer_identity(spiffe_id), source=TCPAddress(ip, 4711))
            self.assertEqual(list(policy.near_rules(request, Effect.DENY)), [])
            return list(policy.near_rules(request, Effect.ALLOW))

        first, last = near("spiffe://example.test/vm/7", "10.9.1.1")
        self.assertEqual((first.policy, first.place), ("authorizationpolicy/shop/web-only", "linkerd.yaml:11:1"))
        self.assertEqual(
            first.misses,
            (
                "is for 10.0.0.0/8 except 10.9.0.0/16, not 10.9.1.1",
                "names web.shop.serviceaccount.identity.linkerd.cluster.local, not spiffe://example.test/vm/7",
            ),
        )
        self.assertEqual(
            (last.policy, last.misses), ("all-authenticated", ("names *, not spiffe://example.test/vm/7",))
        )
        near_by, _ = near(WEB + "2", "10.1.1.1")
        self.assertEqual(len(near_by.misses), 1)
        self.assertLess(near_by.distance, first.distance)
        self.assertEqual(near(WEB, "10.1.1.1")[0].misses, ())
        self.assertEqual(list(policy.near_rules(authorization_request(inbound="admin-in"), Effect.ALLOW)), [])

    def test_abstains_about_other_listeners(self) -> None:
        """A listener that the settings do not describe is not Linkerd's business."""
        request = authorization_request(WEB, inbound="admin-in")
        self.assertEqual(compiled(GOOD).decide(request).effect, Effect.ABSTAIN)

    def test_audit_admits_and_says_that_it_would_not(self) -> None:
        """Only whom nothing else admits; the record names the policy audit."""
        policy = compiled(GOOD.replace("proxyProtocol: opaque", "accessPolicy: audit"))
        self.assertEqual(decide(policy).policy, "authorizationpolicy/shop/web-only")
        audited = decide(policy, "spiffe://example.test/vm/7")
        self.assertEqual((audited.effect, audited.policy, audited.rule), (Effect.ALLOW, "audit", "linkerd.yaml:8:17"))
        self.assertIn("without it, it would be denied", audited.reason)

    def test_without_a_server_the_default_holds(self) -> None:
        """The listener's, as a pod's annotation would."""
        other = LinkerdListener("shop", 80, {"app": "db"}, default="all-authenticated")
        policy = compiled(GOOD, listener=other)
        self.assertEqual(decide(policy).policy, "all-authenticated")
        denied = decide(policy, "spiffe://example.test/vm/7")
        self.assertEqual((denied.effect, denied.policy), (Effect.DENY, "default"))
        nobody = decide(compiled(GOOD, listener=LinkerdListener("shop", 80, {})))
        self.assertEqual(nobody.reason, "the default policy admits nobody")

    def test_a_spiffe_id_is_admitted_as_a_whole_only(self) -> None:
        """An ID that is no service account's has no DNS name, and '*' does not mean it."""
        vm = "spiffe://example.test/vm/7"
        for identities, effect in {
            f'["{vm}"]': Effect.ALLOW,
            f'["{vm}7"]': Effect.DENY,
            '["*"]': Effect.DENY,
            '["*.cluster.local"]': Effect.DENY,
        }.items():
            text = GOOD.replace('["web.shop.serviceaccount.identity.linkerd.cluster.local"]', identities)
            self.assertEqual(decide(compiled(text), vm).effect, effect, identities)

    def test_names_of_service_accounts_cannot_be_feigned(self) -> None:
        """What is no namespace or account, of another trust domain, or deeper, has no name in Linkerd."""
        for spiffe_id in (
            "spiffe://example.test/ns/shop.serviceaccount.identity.linkerd.cluster.local/sa/web",
            "spiffe://example.test/ns/shop/sa/Web",
            "spiffe://example.test/ns/shop/sa/web_1",
            "spiffe://example.test/ns/shop/sa/-web",
            "spiffe://example.test/ns/shop/sa/web/x",
            "spiffe://example.test/ns/shop/sb/web",
            "spiffe://other.test/ns/shop/sa/web",
        ):
            self.assertEqual(NAMES.dns_name_of(peer_identity(spiffe_id)), "", spiffe_id)
        dotted = NAMES.dns_name_of(peer_identity("spiffe://example.test/ns/c/sa/a.b"))
        self.assertEqual(dotted, "a.b.c.serviceaccount.identity.linkerd.cluster.local")

    def test_reads_lists_as_kubectl_writes_them(self) -> None:
        """What Kubernetes adds to metadata, a status, and empty documents do no harm."""
        items = "".join("- " + document.strip().replace("\n", "\n  ") + "\n" for document in GOOD.split("---"))
        items = items.replace("metadata: {", "status: {x: 1}\n  metadata: {uid: 1, resourceVersion: '7', ")
        policy = compiled(f"---\n---\napiVersion: v1\nkind: List\nitems:\n{items}")
        self.assertEqual(decide(policy).effect, Effect.ALLOW)

    def test_the_oldest_of_several_servers_counts(self) -> None:
        """By its creation, and the start-up block says that there is a younger one."""
        first, second = (
            SERVER.replace("metadata: {name: db", f"metadata: {{name: {name}, creationTimestamp: {created}")
            for name, created in (("a", "2026-02-01T00:00:00Z"), ("b", '"2026-01-01T00:00:00Z"'))
        )
        policy = compiled(f"{first}---{second}")
        self.assertEqual(decide(policy).policy, "server/shop/b")
        self.assertIn("Server shop/a selects it too and is younger", policy.describe()[0])

    def test_a_host_address_with_a_prefix_is_its_network(self) -> None:
        """As Linkerd reads it."""
        network = read_network("10.1.2.3/8")
        self.assertEqual(network, parse_network("10.0.0.0/8"))
        self.assertEqual(read_network("fd00::1/8"), parse_network("fd00::/8"))
        self.assertTrue(read_network("::/0").contains(source_number(TCPAddress("2001:db8::1", 1))))
        self.assertFalse(read_network("::/0").contains(source_number(TCPAddress("10.0.0.1", 1))))
        for text in ("10.0.0.0/33", "10.0.0/8", "10.0.0.0/08", "10.0.0.0/-1", "x/8", "", "::ffff:10.0.0.0/104"):
            self.assertRaises(ValueError, read_network, text)


class RefusalTests(SynchronousTestCase):
    """Each complaint, with its line."""

    def check(self, old: str, new: str, *complaints: str, text: str = GOOD) -> None:
        self.assertIn(old, text)
        error = self.assertRaises(ConfigurationError, compiled, text.replace(old, new, 1))
        self.assertEqual(str(error).splitlines(), list(complaints))

    def test_what_refers_to_nothing(self) -> None:
        """A Server, an authentication; with what was probably meant."""
        self.check(
            "kind: MeshTLSAuthentication, name: web}",
            "kind: MeshTLSAuthentication, name: wep}",
            "linkerd.yaml:17:5: AuthorizationPolicy shop/web-only refers to MeshTLSAuthentication shop/wep, which is "
            "nowhere; did you mean 'web'?",
        )
        self.check(
            "kind: Server, name: db}",
            "kind: Server, name: dbs}",
            "linkerd.yaml:15:14: AuthorizationPolicy shop/web-only refers to Server shop/dbs, which is nowhere; did "
            "you mean 'db'?",
        )
        self.check(
            "server: {name: db}",
            "server: {name: database}",
            "linkerd.yaml:7:11: ServerAuthorization shop/old refers to Server shop/database, which is nowhere",
            "linkerd.yaml:9:5: ServerAuthorization shop/old names no networks and is for those of the cluster, which "
            "nobody knows: set cluster_networks of the policy plugin linkerd",
            text=OLD,
        )

    def test_what_is_about_requests(self) -> None:
        """Routes, and protocols of which Linkerd looks at the requests."""
        self.check(
            "kind: Server, name: db}",
            "kind: HTTPRoute, name: db}",
            "linkerd.yaml:15:14: AuthorizationPolicy shop/web-only is about requests of HTTPRoute 'db', and this proxy "
            "never looks at the data: target the Server, or move the policy out of the resources",
        )
        self.check(
            "kind: Server\n",
            "kind: GRPCRoute\n",
            "linkerd.yaml:2:1: a GRPCRoute is about requests, and this proxy never looks at the data; move it out of "
            "the resources",
        )
        for protocol in ("HTTP/1", "HTTP/2", "gRPC"):
            self.check(
                "proxyProtocol: opaque",
                f"proxyProtocol: {protocol}",
                "linkerd.yaml:8:18: Server shop/db, which selects listener 'orders-in', says that its protocol is "
                f"{protocol}; this proxy never looks at the data, and Linkerd denies raw TCP there: write "
                "proxyProtocol: opaque",
            )
        compiled(GOOD.replace("proxyProtocol: opaque", "proxyProtocol: gRPC").replace("port: 5432", "port: 80"))

    def test_what_is_no_resource(self) -> None:
        """Kinds, versions, and keys of a later version."""
        self.check(
            "kind: Server\n",
            "kind: Servers\n",
            "linkerd.yaml:2:1: 'Servers' is no kind of Linkerd's inbound policy; did you mean 'Server'?",
        )
        self.check(
            "v1beta3",
            "v2",
            "linkerd.yaml:2:1: the apiVersion of a Server is policy.linkerd.io/v1alpha1, policy.linkerd.io/v1beta1, "
            "policy.linkerd.io/v1beta2 or policy.linkerd.io/v1beta3; got 'policy.linkerd.io/v2'",
        )
        self.check(
            "proxyProtocol: opaque",
            "accessPolicy: audit",
            "linkerd.yaml:8:3: accessPolicy is known from policy.linkerd.io/v1beta3 on, and ignored in "
            "policy.linkerd.io/v1beta2",
            text=GOOD.replace("v1beta3", "v1beta2"),
        )
        self.check(
            "  proxyProtocol: opaque",
            "  proxyProtocoll: opaque",
            "linkerd.yaml:8:3: unknown key 'proxyProtocoll' in spec; did you mean 'proxyProtocol'?",
        )
        self.check(
            ", namespace: shop, labels: {app: db}}",
            "}",
            "linkerd.yaml:4:11: key 'namespace' is missing in metadata, or no text",
        )
        self.check("spec:", "specs:", "linkerd.yaml:2:1: this Server has no spec")
        self.check(
            "\n---\n",
            "\n--- x\n---\n",
            "linkerd.yaml:10:5: this is no resource: expected apiVersion, kind, metadata and spec",
        )

    def test_identities_and_networks_at_their_own_place(self) -> None:
        """Wildcards inside, upper case, SPIFFE wildcards, networks that are none."""
        one = '["web.shop.serviceaccount.identity.linkerd.cluster.local"]'
        for text in ("web*.shop", "*web", "**", "web..shop", "Web.shop", "a.*", ""):
            self.check(
                one,
                f'["*", "{text}"]',
                f"linkerd.yaml:24:21: {text!a} is no identity: write '*', '*.SUFFIX', a DNS name in lower case or a "
                "SPIFFE ID",
            )
        self.check(
            one,
            '["spiffe://a.test/*"]',
            "linkerd.yaml:24:16: 'spiffe://a.test/*': Linkerd matches SPIFFE IDs as a whole, without wildcards; write "
            "each ID",
        )
        self.check(
            "10.9.0.0/16",
            "10.9.0.0/33",
            "linkerd.yaml:33:14: '10.9.0.0/33' is not a network; write 10.0.0.0/8, fd00::/8 or one IP address",
        )

    def test_what_names_nobody(self) -> None:
        """No identities, no networks, no client, no selector, both selectors."""
        self.check(
            '  identities: ["web.shop.serviceaccount.identity.linkerd.cluster.local"]',
            "  identities: []",
            "linkerd.yaml:24:3: spec: it names neither identities nor identityRefs, and so nobody",
        )
        self.check(
            "networks:\n  - cidr: 10.0.0.0/8\n    except: [10.9.0.0/16]",
            "networks: []",
            "linkerd.yaml:31:13: spec.networks: the list is empty",
        )
        self.check(
            "serviceAccounts: [{name: web}]",
            "unauthenticatedTLS: false",
            "linkerd.yaml:9:5: spec.client: it names no client: write unauthenticated: true, or identities in meshTLS",
            text=OLD,
        )
        self.check(
            "  podSelector: {matchLabels: {app: db}}\n",
            "",
            "linkerd.yaml:6:3: spec: a Server has a podSelector or an externalWorkloadSelector, and not both",
        )

    def test_references_of_a_wrong_kind(self) -> None:
        """What requires no authentication, refers to no account, or asks for two of one sort."""
        self.check(
            "{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: web}",
            "{kind: Namespace, name: shop}",
            "linkerd.yaml:17:5: AuthorizationPolicy shop/web-only requires 'Namespace' of group '', which is no "
            "authentication: write a MeshTLSAuthentication or NetworkAuthentication of group policy.linkerd.io, or a "
            "ServiceAccount",
        )
        self.check(
            "  - {group",
            "  - {kind: ServiceAccount, name: web}\n  - {group",
            "linkerd.yaml:11:1: AuthorizationPolicy shop/web-only requires 2 authentications by identity; Linkerd "
            "takes one at most",
        )
        self.check(
            '  identities: ["web.shop.serviceaccount.identity.linkerd.cluster.local"]',
            "  identityRefs: [{kind: ServiceAccount, name: Web}, {kind: Pod, name: x}, {kind: Namespace, name: a.b}]",
            "linkerd.yaml:24:53: MeshTLSAuthentication shop/web refers to 'Pod' of group '', which has no identity: "
            "write a ServiceAccount or a Namespace",
            "linkerd.yaml:24:75: MeshTLSAuthentication shop/web refers to 'a.b', which cannot be the name of a "
            "namespace",
            "linkerd.yaml:24:18: MeshTLSAuthentication shop/web refers to 'Web', which cannot be the name of a service "
            "account",
        )
        self.check(
            "{group: policy.linkerd.io, kind: Server, name: db}",
            "{kind: Namespace, name: ops}",
            "linkerd.yaml:15:14: AuthorizationPolicy shop/web-only targets the namespace 'ops', and can only target "
            "its own",
        )

    def test_servers_whose_age_is_not_known(self) -> None:
        """Two that select one port, and nothing says which is older; and one that is there twice."""
        self.check(
            "---",
            f"---{SERVER.replace('name: db', 'name: other')}---",
            "linkerd.yaml:11:1: listener 'orders-in' is selected by Server shop/db (linkerd.yaml:2:1) and Server "
            "shop/other (linkerd.yaml:11:1); in Linkerd the oldest counts, so that each needs its "
            "metadata.creationTimestamp, or one of them has to go",
        )
        self.check(
            "---", f"---{SERVER}---", "linkerd.yaml:11:1: Server shop/db is defined twice; first at linkerd.yaml:2:1"
        )

    def test_cluster_networks_that_nobody_knows(self) -> None:
        """A policy of the cluster's networks needs them."""
        self.check(
            "proxyProtocol: opaque",
            "accessPolicy: cluster-authenticated",
            "linkerd.yaml:8:17: cluster-authenticated of Server shop/db is for the networks of the cluster, which "
            "nobody knows: set cluster_networks of the policy plugin linkerd",
        )

    def test_ports_that_are_none(self) -> None:
        """An empty name would be that of every port without one."""
        for text in ('""', "0", "65536", '"5432"', "-1", '"Db"'):
            error = self.assertRaises(ConfigurationError, compiled, GOOD.replace("port: 5432", f"port: {text}"))
            self.assertIn("linkerd.yaml:7:9: spec.port: ", str(error), text)

    def test_templates_that_are_none(self) -> None:
        """Both variables once, each a whole segment of a SPIFFE ID."""
        for text in (
            "spiffe://example.test/ns/{namespace}",
            "spiffe://example.test/{namespace}/{service_account}/{namespace}",
            "spiffe://example.test/{namespace}-{service_account}",
            "spiffe://{namespace}/{service_account}",
            "spiffe://example.test//{namespace}/{service_account}",
            "{namespace}/{service_account}",
            "https://example.test/{namespace}/{service_account}",
        ):
            self.assertRaises(ValueError, ServiceAccountNames, text)
