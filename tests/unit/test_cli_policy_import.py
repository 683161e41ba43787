"""tcpmesh policy import: what can be said in rules, what cannot, and what there is to import."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.cli import main
from tests.unit.test_linkerd_resources import GOOD

REST = """
version: 1
trust_domain: example.test
identity:
  sources: {local: {plugin: embedded, state: state}}
  workloads: {orders: {id: "spiffe://example.test/orders"}}
inbound: [{name: orders-in, listen: "127.0.0.1:4143", target: "127.0.0.1:5000", workload: orders}]
"""
LINKERD = """
authorization:
  - plugin: linkerd
    resources: [linkerd.yaml]
    listeners: {orders-in: {namespace: shop, labels: {app: db}, port: PORT, default: DEFAULT}}
"""
WEB = '["web.shop.serviceaccount.identity.linkerd.cluster.local"]'


class ImportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def run_import(self, authorization: str, resources: str = GOOD) -> tuple[Any, str, str]:
        """Status, standard output and error."""
        (self.directory / "linkerd.yaml").write_text(resources)
        mesh = self.directory / "mesh.yaml"
        mesh.write_text(REST + authorization)
        out, err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", out)
        self.patch(sys, "stderr", err)
        arguments = ["policy", "import", "--from", "linkerd", "--config", str(mesh)]
        return self.assertRaises(SystemExit, main, arguments).code, out.getvalue(), err.getvalue()

    def imported(self, port: int = 5432, default: str = "deny", resources: str = GOOD) -> Any:
        """The policies."""
        authorization = LINKERD.replace("PORT", str(port)).replace("DEFAULT", default)
        status, out, err = self.run_import(authorization, resources)
        self.assertEqual((status, err), (0, ""))
        return yaml.safe_load(out)["policies"]

    def from_(self, identities: str) -> Any:
        """Whom the one policy is for when the resources name these."""
        (policy,) = self.imported(resources=GOOD.replace(WEB, identities))
        self.assertEqual((policy["action"], policy["to"]), ("allow", {"inbound": ["orders-in"]}))
        return policy["from"]

    def test_identities(self) -> None:
        """Service accounts by their SPIFFE ID, ends of names as patterns, and other DNS names as what they are."""
        account = "serviceaccount.identity.linkerd.cluster.local"
        every = "spiffe://example.test/ns/*/sa/*"
        for identities, expected in {
            WEB: [{"ids": ["spiffe://example.test/ns/shop/sa/web"]}],
            '["spiffe://example.test/vm/7"]': [{"ids": ["spiffe://example.test/vm/7"]}],
            f'["*.shop.{account}"]': [{"ids": ["spiffe://example.test/ns/shop/sa/*"]}],
            '["*"]': [{"ids": [every]}],
            '["*.cluster.local"]': [{"ids": [every]}, {"dns": ["**.cluster.local"]}],
            '["db.example.org", "*.example.net"]': [{"dns": ["db.example.org", "**.example.net"]}],
        }.items():
            self.assertEqual(self.from_(identities), expected, identities)

    def test_default_policies(self) -> None:
        """Nothing for deny; everybody, or every service account."""
        self.assertEqual(self.imported(80, "deny"), [])
        (policy,) = self.imported(80, "all-unauthenticated")
        self.assertEqual(policy["from"], [{"any": "authenticated"}, {"any": "unauthenticated"}])
        (policy,) = self.imported(80, "all-authenticated")
        self.assertEqual(policy["from"], [{"ids": ["spiffe://example.test/ns/*/sa/*"]}])

    def test_what_cannot_be_said_is_named(self) -> None:
        """With the authorization's line, and status 1; nothing is written."""
        resources = GOOD.replace(WEB, '["*.web.shop.serviceaccount.identity.linkerd.cluster.local"]')
        authorization = LINKERD.replace("PORT", "5432").replace("DEFAULT", "deny")
        status, out, err = self.run_import(authorization, resources)
        self.assertEqual((status, out), (1, ""))
        self.assertIn("linkerd.yaml:11:1: authorizationpolicy/shop/web-only at orders-in: '*.web.shop.", err)
        self.assertIn("means a part of the name of a service account; name the accounts", err)

    def test_a_configuration_without_the_plugin(self) -> None:
        """Status 1: nothing says what to read."""
        status, out, err = self.run_import("authorization: [{plugin: rules, policies: []}]\n")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("there is no plugin linkerd in authorization", err)

    def test_resources_that_cannot_be_used(self) -> None:
        """Their own complaint, with its line."""
        authorization = LINKERD.replace("PORT", "5432").replace("DEFAULT", "deny")
        status, _, err = self.run_import(authorization, GOOD.replace("kind: Server, name: db", "kind: Server, name: x"))
        self.assertEqual(status, 1)
        self.assertIn("linkerd.yaml:15:14: AuthorizationPolicy shop/web-only refers to Server shop/x", err)

    def test_what_would_let_in_whom_the_plugin_denies_is_refused(self) -> None:
        """Policies that allow deny nobody: where allowing is the default, or two entries must both admit."""
        entry = LINKERD.replace("PORT", "5432").replace("DEFAULT", "deny")
        for authorization, said in (
            (
                f"defaults: {{inbound: allow}}\n{entry}",
                "defaults.inbound is allow, and without the plugin linkerd would",
            ),
            (
                entry + entry.replace("authorization:\n", ""),
                "inbound listener 'orders-in' is in two entries of the plugin linkerd, both of which must admit a peer",
            ),
        ):
            status, out, err = self.run_import(authorization)
            self.assertEqual((status, out), (1, ""))
            self.assertIn(said, err)

    def test_a_plugin_beside_it_is_hinted_at(self) -> None:
        """What it allows counts once nothing denies any more; the policies are written all the same."""
        entry = LINKERD.replace("PORT", "5432").replace("DEFAULT", "deny")
        status, out, err = self.run_import(f"{entry}  - {{plugin: rules, policies: []}}\n")
        self.assertEqual((status, len(yaml.safe_load(out)["policies"])), (0, 1))
        self.assertIn("the other entries of authorization may allow once it is gone", err)

    def test_two_entries_give_one_file(self) -> None:
        """Of different listeners; no two policies have one name, however long the listeners' names are."""
        entry = LINKERD.replace("PORT", "5432").replace("DEFAULT", "deny")
        long = "orders-in-" + "x" * 50
        second = entry.replace("authorization:\n", "").replace("orders-in", long)
        listener = f'  - {{name: {long}, listen: "127.0.0.1:4144", target: "127.0.0.1:5001", workload: orders}}\n'
        rest = REST.replace("inbound: [{", "inbound:\n  - {").replace("orders}]", "orders}").rstrip() + "\n"
        self.patch(sys.modules[__name__], "REST", rest + listener)
        status, out, err = self.run_import(entry + second)
        self.assertEqual((status, err), (0, ""))
        names = [policy["name"].partition(":")[0] for policy in yaml.safe_load(out)["policies"]]
        self.assertEqual(names, ["linkerd 1", "linkerd 2"])
