"""The discovery that lists its endpoints."""

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.static import StaticEndpoint, StaticFactory, StaticSettings
from tcpmesh.testing import FakeDiscoveryObserver, plugin_context
from tcpmesh.values import Address, Endpoint, TCPAddress, UnixAddress

FIRST = TCPAddress("127.0.0.1", 4143)
SECOND = TCPAddress("::1", 4143)
SOCKET = UnixAddress("/run/orders.sock")


def delivered(*endpoints: Address | StaticEndpoint) -> list[tuple[Endpoint, ...]]:
    discovery = StaticFactory().create(StaticSettings(list(endpoints)), plugin_context("orders"))
    observer = FakeDiscoveryObserver()
    discovery.start(observer)
    discovery.stop()
    return observer.deliveries


class StaticDiscoveryTests(SynchronousTestCase):
    def test_delivers_all_at_once_in_their_order(self) -> None:
        """The observer is told one time, of every endpoint."""
        self.assertEqual(delivered(SECOND, FIRST, SOCKET), [(Endpoint(SECOND), Endpoint(FIRST), Endpoint(SOCKET))])

    def test_weights_reach_the_endpoints(self) -> None:
        """An address alone weighs 1, another what it says."""
        [(one, other)] = delivered(FIRST, StaticEndpoint(SECOND, 5))
        self.assertEqual((one.weight, other.weight), (1, 5))

    def test_the_same_port_on_two_hosts_is_two_endpoints(self) -> None:
        """Only equal addresses are duplicates."""
        self.assertEqual(len(delivered(FIRST, SECOND)[0]), 2)

    def test_refuses_what_cannot_be_dialled(self) -> None:
        """Each refusal names the address and the reason."""
        cases: list[tuple[list[Address | StaticEndpoint], str]] = [
            ([], "the list is empty; name at least one address"),
            ([TCPAddress("127.0.0.1", 0)], "127.0.0.1:0 has port 0, which nobody can connect to"),
            ([FIRST, StaticEndpoint(FIRST, 2)], "127.0.0.1:4143 is listed twice; give it a weight instead"),
            ([SOCKET, SOCKET], "unix:/run/orders.sock is listed twice; give it a weight instead"),
        ]
        for endpoints, message in cases:
            error = self.assertRaises(ValueError, StaticSettings, endpoints)
            self.assertEqual(str(error), message)
        error = self.assertRaises(ValueError, StaticEndpoint, FIRST, 0)
        self.assertEqual(str(error), "a weight of 0 gets no connection; 1 is the least")
