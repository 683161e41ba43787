"""The built-in discoveries keep their contract."""

from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.dns_answers import Answer, Record
from tcpmesh.discovery.dns_settings import DnsSettings
from tcpmesh.discovery.endpoint_list import ListedEndpoint
from tcpmesh.discovery.static import StaticDiscovery, StaticFactory, StaticSettings
from tcpmesh.interfaces import PluginContext
from tcpmesh.sources.dns import DnsDiscovery, DnsFactory
from tcpmesh.sources.endpoint_file import EndpointFile, EndpointFileFactory, EndpointFileSettings
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


class FileContractTests(ServiceDiscoveryContract, SynchronousTestCase):
    """file"""

    def make_factory(self) -> EndpointFileFactory:
        return EndpointFileFactory()

    def make_settings(self) -> EndpointFileSettings:
        path = Path(self.mktemp()).absolute()
        path.write_text("['127.0.0.1:4143', {address: '[::1]:4143', weight: 3}]")
        return EndpointFileSettings(path)

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is EndpointFile."""
        self.assertIsInstance(self.create(), EndpointFile)


def answered(_server: TCPAddress, name: str, kind: str) -> Deferred[Answer]:
    """A name server that knows one address of each kind."""
    return succeed(Answer(0, (Record(name, kind, 60, "127.0.0.1" if kind == "A" else "::1"),)))


class AnsweredDnsFactory(DnsFactory):
    """Makes discoveries that ask that name server."""

    def create(self, settings: DnsSettings, context: PluginContext) -> DnsDiscovery:
        return DnsDiscovery(settings, context, answered)


class DnsContractTests(ServiceDiscoveryContract, SynchronousTestCase):
    """dns"""

    def make_factory(self) -> DnsFactory:
        return AnsweredDnsFactory()

    def make_settings(self) -> DnsSettings:
        return DnsSettings("db.example.test", port=5432)

    def test_makes_the_class_under_test(self) -> None:
        """What the contract looked at is DnsDiscovery."""
        self.assertIsInstance(self.create(), DnsDiscovery)
