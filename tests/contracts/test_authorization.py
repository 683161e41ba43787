"""The built-in authorization policies keep their contract."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.identities import parse_id_pattern
from tcpmesh.policy.language import Policy, Principals, RulesSettings, Targets
from tcpmesh.policy.rules import Rules
from tcpmesh.sources.rules import RulesFactory
from tcpmesh.testing import AuthorizationPolicyContract, authorization_request
from tcpmesh.values import AuthorizationRequest, InboundName


class RulesContractTests(AuthorizationPolicyContract, SynchronousTestCase):
    """rules"""

    def make_factory(self) -> RulesFactory:
        return RulesFactory()

    def make_settings(self) -> RulesSettings:
        web, batch = (Principals([parse_id_pattern(f"spiffe://example.test/{name}")]) for name in ("web", "batch"))
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
