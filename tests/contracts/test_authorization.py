"""The built-in authorization policies keep their contract."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.policy.rules import Policy, Principals, Rules, RulesFactory, RulesSettings, Targets
from tcpmesh.testing import AuthorizationPolicyContract, authorization_request
from tcpmesh.values import AuthorizationRequest, InboundName


class RulesContractTests(AuthorizationPolicyContract, SynchronousTestCase):
    """rules"""

    def make_factory(self) -> RulesFactory:
        return RulesFactory()

    def make_settings(self) -> RulesSettings:
        web, batch = (Principals([SpiffeId.parse(f"spiffe://example.test/{name}")]) for name in ("web", "batch"))
        return RulesSettings(
            [
                Policy("web-may", "allow", [web, batch], Targets([InboundName("orders-in")])),
                Policy("batch-may-not", "deny", [batch]),
            ]
        )

    def allowed(self) -> list[AuthorizationRequest]:
        return [authorization_request("spiffe://example.test/web")]

    def denied(self) -> list[AuthorizationRequest]:
        return [
            authorization_request("spiffe://example.test/batch"),
            authorization_request("spiffe://example.test/other"),
            authorization_request("spiffe://example.test/web", inbound="admin-in"),
        ]

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is Rules."""
        self.assertIsInstance(self.create(), Rules)
