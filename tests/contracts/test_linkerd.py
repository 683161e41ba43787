"""The authorization policy linkerd keeps its contract, and follows its files."""

from __future__ import annotations

from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.errors import ConfigurationError
from tcpmesh.policy.linkerd import LinkerdPolicy
from tcpmesh.sources.linkerd import LinkerdFactory, LinkerdSettings, LinkerdSource, ListenerSettings
from tcpmesh.testing import FakePolicyObserver, PolicySourceContract, authorization_request
from tcpmesh.values import AuthorizationRequest, InboundName

LINKERD = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: orders, namespace: shop}
spec: {podSelector: {}, port: 5432}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: orders}
  requiredAuthenticationRefs: [{kind: ServiceAccount, name: web}]
"""


class LinkerdContractTests(PolicySourceContract, SynchronousTestCase):
    """linkerd"""

    def setUp(self) -> None:
        super().setUp()
        self.file = Path(self.mktemp())
        self.file.write_text(LINKERD)

    def make_factory(self) -> LinkerdFactory:
        return LinkerdFactory()

    def make_settings(self) -> LinkerdSettings:
        return LinkerdSettings([self.file], {InboundName("orders-in"): ListenerSettings("shop", 5432)})

    def allowed(self) -> list[AuthorizationRequest]:
        return [authorization_request("spiffe://example.test/ns/shop/sa/web")]

    def denied(self) -> list[AuthorizationRequest]:
        return [
            authorization_request("spiffe://example.test/ns/shop/sa/batch"),
            authorization_request("spiffe://example.test/web"),
            authorization_request("spiffe://example.test/ns/shop/sa/web", inbound="admin-in"),
        ]

    def test_delivers_another_policy_when_a_file_changes(self) -> None:
        """What was delivered before stays as it was."""
        source = self.create()
        self.assertIsInstance(source, LinkerdSource)
        observer = FakePolicyObserver()
        source.start(observer)
        self.addCleanup(source.stop)
        self.file.write_text(LINKERD.replace("name: web}", "name: batch}"))
        source.reload()
        old, new = observer.policies
        self.assertIsInstance(new, LinkerdPolicy)
        web, batch = self.allowed()[0], self.denied()[0]
        self.assertEqual([self.answer(old, each).effect.value for each in (web, batch)], ["allow", "deny"])
        self.assertEqual([self.answer(new, each).effect.value for each in (web, batch)], ["deny", "allow"])

    def test_a_bad_file_keeps_the_old_policy(self) -> None:
        """It is told with file, line and column, and `check` would have told the same."""
        source, observer = self.create(), FakePolicyObserver()
        source.start(observer)
        self.addCleanup(source.stop)
        self.file.write_text(LINKERD.replace("kind: Server, name: orders}", "kind: Server, name: order}"))
        source.reload()
        self.assertEqual(len(observer.policies), 1)
        self.assertIn(f"{self.file}:11:14: AuthorizationPolicy shop/web-only refers to Server", observer.failures[0])
        problem = self.assertRaises(ConfigurationError, source.check)
        self.assertEqual([str(problem)], observer.failures)

    def test_it_watches_again_and_again(self) -> None:
        """A change is taken without being asked for, once it has settled."""
        source, observer = self.create(), FakePolicyObserver()
        source.start(observer)
        self.addCleanup(source.stop)
        self.file.write_text(LINKERD + "---\n")
        self.clock.pump([5.0, 1.0])
        self.assertEqual([kind for kind, _ in observer.events], ["changed", "changed"])

    def test_a_template_that_is_none_is_refused(self) -> None:
        """Before anything is read."""
        settings = attrs.evolve(self.make_settings(), service_accounts="spiffe://example.test/x")
        self.assertRaises(ValueError, self.make_factory().create, settings, self.make_context())
