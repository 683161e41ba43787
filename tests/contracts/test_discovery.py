"""The built-in discoveries keep their contract."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.endpoint_list import ListedEndpoint
from tcpmesh.discovery.static import StaticDiscovery, StaticFactory, StaticSettings
from tcpmesh.testing import ServiceDiscoveryContract
from tcpmesh.values import TCPAddress, UnixAddress


class StaticContractTests(ServiceDiscoveryContract, SynchronousTestCase):
    """static"""

    def make_factory(self) -> StaticFactory:
        return StaticFactory()

    def make_settings(self) -> StaticSettings:
        return StaticSettings(
            [TCPAddress("127.0.0.1", 4143), ListedEndpoint(TCPAddress("::1", 4143), 3), UnixAddress("/run/orders.sock")]
        )

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is StaticDiscovery."""
        self.assertIsInstance(self.create(), StaticDiscovery)
