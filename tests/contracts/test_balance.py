"""The built-in load balancers keep their contract."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.round_robin import RoundRobin, RoundRobinFactory
from tcpmesh.testing import LoadBalancerContract


class RoundRobinContractTests(LoadBalancerContract, SynchronousTestCase):
    """round-robin"""

    def make_factory(self) -> RoundRobinFactory:
        return RoundRobinFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is RoundRobin."""
        self.assertIsInstance(self.create(), RoundRobin)
