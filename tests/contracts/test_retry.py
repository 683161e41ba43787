"""The built-in retry strategies keep their contract."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.retry.exponential import Exponential, ExponentialFactory
from tcpmesh.retry.fixed import Fixed, FixedFactory
from tcpmesh.retry.none import NoRetry, NoRetryFactory
from tcpmesh.testing import RetryStrategyContract


class NoRetryContractTests(RetryStrategyContract, SynchronousTestCase):
    """none"""

    def make_factory(self) -> NoRetryFactory:
        return NoRetryFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is NoRetry."""
        self.assertIsInstance(self.create(), NoRetry)


class FixedContractTests(RetryStrategyContract, SynchronousTestCase):
    """fixed"""

    def make_factory(self) -> FixedFactory:
        return FixedFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is Fixed."""
        self.assertIsInstance(self.create(), Fixed)


class ExponentialContractTests(RetryStrategyContract, SynchronousTestCase):
    """exponential"""

    def make_factory(self) -> ExponentialFactory:
        return ExponentialFactory()

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is Exponential."""
        self.assertIsInstance(self.create(), Exponential)
