"""The built-in load balancers keep their contract."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.balance.least_connections import LeastConnections, LeastConnectionsFactory
from tcpmesh.balance.p2c_ewma import P2cEwma, P2cEwmaFactory
from tcpmesh.balance.random_choice import RandomChoice, RandomChoiceFactory
from tcpmesh.balance.round_robin import RoundRobin, RoundRobinFactory
from tcpmesh.balance.source_hash import SourceHash, SourceHashFactory
from tcpmesh.testing import LoadBalancerContract, SourceBalancerContract


class RoundRobinContractTests(LoadBalancerContract, SynchronousTestCase):
    """round-robin"""

    def make_factory(self) -> RoundRobinFactory:
        return RoundRobinFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is RoundRobin."""
        self.assertIsInstance(self.create(), RoundRobin)


class RandomChoiceContractTests(LoadBalancerContract, SynchronousTestCase):
    """random"""

    def make_factory(self) -> RandomChoiceFactory:
        return RandomChoiceFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is RandomChoice."""
        self.assertIsInstance(self.create(), RandomChoice)


class LeastConnectionsContractTests(LoadBalancerContract, SynchronousTestCase):
    """least-connections"""

    def make_factory(self) -> LeastConnectionsFactory:
        return LeastConnectionsFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is LeastConnections."""
        self.assertIsInstance(self.create(), LeastConnections)


class P2cEwmaContractTests(LoadBalancerContract, SynchronousTestCase):
    """p2c-ewma"""

    def make_factory(self) -> P2cEwmaFactory:
        return P2cEwmaFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is P2cEwma."""
        self.assertIsInstance(self.create(), P2cEwma)


class SourceHashContractTests(SourceBalancerContract, SynchronousTestCase):
    """source-hash"""

    def make_factory(self) -> SourceHashFactory:
        return SourceHashFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is SourceHash."""
        self.assertIsInstance(self.create(), SourceHash)
