"""The discovery that lists its endpoints."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.discovery.endpoint_list import ListedEndpoint
from tcpmesh.discovery.static import StaticFactory, StaticSettings
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.testing import FakeDiscoveryObserver, plugin_context
from tcpmesh.values import Address, DNSName, Endpoint, TCPAddress, UnixAddress
from tests.unit.config_samples import ConfigTestCase, variant

FIRST = TCPAddress("127.0.0.1", 4143)
SECOND = TCPAddress("::1", 4143)
SOCKET = UnixAddress("/run/orders.sock")


def delivered(*endpoints: Address | ListedEndpoint) -> list[tuple[Endpoint, ...]]:
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
        [(one, other)] = delivered(FIRST, ListedEndpoint(SECOND, 5))
        self.assertEqual((one.weight, other.weight), (1, 5))

    def test_the_same_port_on_two_hosts_is_two_endpoints(self) -> None:
        """Only equal addresses are duplicates."""
        self.assertEqual(len(delivered(FIRST, SECOND)[0]), 2)

    def test_refuses_what_cannot_be_dialled(self) -> None:
        """Each refusal names the address and the reason."""
        cases: list[tuple[list[Address | ListedEndpoint], str]] = [
            ([], "the list is empty; name at least one address"),
            ([TCPAddress("127.0.0.1", 0)], "127.0.0.1:0 has port 0, which nobody can connect to"),
            ([FIRST, ListedEndpoint(FIRST, 2)], "127.0.0.1:4143 is listed twice; give it a weight instead"),
            ([SOCKET, SOCKET], "unix:/run/orders.sock is listed twice; give it a weight instead"),
        ]
        for endpoints, message in cases:
            error = self.assertRaises(ValueError, StaticSettings, endpoints)
            self.assertEqual(str(error), message)
        too_many: list[Address | ListedEndpoint] = [TCPAddress("10.0.0.1", port) for port in range(1, 10_002)]
        error = self.assertRaises(ValueError, StaticSettings, too_many)
        self.assertEqual(str(error), "10001 endpoints are listed; a service has at most 10000")

    def test_refuses_addresses_that_are_nobodys(self) -> None:
        """Those to listen on, those of many receivers, reserved ones."""
        for host, reason in (
            ("0.0.0.0", "is an address to listen on, and none to connect to"),
            ("0.1.2.3", "is an address to listen on, and none to connect to"),
            ("::", "is an address to listen on, and none to connect to"),
            ("224.0.0.1", "is a multicast address, and TCP has one receiver"),
            ("ff02::1", "is a multicast address, and TCP has one receiver"),
            ("255.255.255.255", "is a reserved address, at which nobody answers"),
            ("240.0.0.1", "is a reserved address, at which nobody answers"),
        ):
            address = TCPAddress(host, 4143)
            error = self.assertRaises(ValueError, StaticSettings, [address])
            self.assertEqual(str(error), f"{address} {reason}")

    def test_all_that_is_said_reaches_the_endpoint(self) -> None:
        """Metadata in the order of its keys, so that equal endpoints are equal."""
        told = ListedEndpoint(FIRST, 2, "eu-1b", 1, (SpiffeId.parse("spiffe://a.test/b"),), {"rack": "7", "host": "h"})
        [(one,)] = delivered(told)
        self.assertEqual(
            one,
            Endpoint(FIRST, 2, "eu-1b", 1, (SpiffeId.parse("spiffe://a.test/b"),), (("host", "h"), ("rack", "7"))),
        )
        hash(one)

    def test_a_weight_may_be_zero(self) -> None:
        """Such an endpoint keeps its connections and gets no new ones."""
        [(one,)] = delivered(ListedEndpoint(FIRST, weight=0))
        self.assertEqual(one, Endpoint(FIRST, 0))

    def test_refuses_what_is_out_of_bounds(self) -> None:
        """Each field says what it may be."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"weight": 65536}, "a weight is a whole number from 0 to 65535, not '65536'"),
            ({"weight": -1}, "a weight is a whole number from 0 to 65535, not '-1'"),
            ({"priority": -1}, "a priority is a whole number from 0 to 65535, not '-1'"),
            ({"zone": "a b"}, "'a b' is not the name of a zone"),
            ({"zone": "z" * 64}, "the name of a zone has at most 63 characters"),
            ({"expect": ()}, "the list is empty; leave it out, or name who may answer"),
            ({"expect": (DNSName("a.test"), SpiffeId.parse("spiffe://a.test/b"))}, "SPIFFE IDs, dns: names and spki:"),
            ({"expect": (SpiffeId.parse("spiffe://a.test"),)}, "spiffe://a.test names a whole trust domain"),
            ({"metadata": {str(number): "" for number in range(17)}}, "17 pairs of metadata; at most 16 are kept"),
            ({"metadata": {"": "x"}}, "a key of metadata has 1 to 63 characters, '' has not"),
            ({"metadata": {"a": "x" * 256}}, "a value of metadata has at most 255 characters, that of 'a' has not"),
        ]
        for fields, message in cases:
            error = self.assertRaises(ValueError, ListedEndpoint, FIRST, **fields)
            self.assertIn(message, str(error))


class ConfiguredEndpointTests(ConfigTestCase):
    """What of a listed endpoint depends on the rest of the configuration."""

    def test_every_key_is_read(self) -> None:
        """Beside addresses alone."""
        settings = self.load(
            variant(
                '["127.0.0.1:4143"]',
                '["10.0.0.1:1", {address: "10.0.0.2:1", weight: 3, zone: z, priority: 1, '
                'expect: ["spiffe://example.org/other"], metadata: {rack: "7"}}]',
            )
        )
        found = settings.services["orders"].discovery.settings.endpoints[1]
        self.assertEqual(
            found,
            ListedEndpoint(
                TCPAddress("10.0.0.2", 1), 3, "z", 1, (SpiffeId.parse("spiffe://example.org/other"),), {"rack": "7"}
            ),
        )

    def test_names_are_refused_with_the_plugin_that_resolves_them(self) -> None:
        """A host name is no address."""
        self.check_problems(
            variant('["127.0.0.1:4143"]', '[‸"db.example.test:5432"]'),
            "services.orders.discovery.endpoints[0]: 'db.example.test' in 'db.example.test:5432' is not an IP address: "
            "names are resolved by the discovery plugin dns; write an IP address",
        )

    def test_no_endpoint_is_a_listener_that_sends_out(self) -> None:
        """Its connections would come back to it for ever."""
        self.check_problems(
            variant('["127.0.0.1:4143"]', '[‸"127.0.0.1:15000"]'),
            "services.orders.discovery.endpoints[0]: 127.0.0.1:15000 is this proxy's own listener outbound[0].listen "
            "(127.0.0.1:15000, line 12), so connections would run in a circle; write the address of a server",
        )

    def test_identities_are_of_the_kind_of_the_services(self) -> None:
        """Since trust and sni are the service's."""
        self.check_problems(
            variant('["127.0.0.1:4143"]', '[{address: "10.0.0.1:1", expect: ‸["dns:a.test"]}]'),
            "services.orders.discovery.endpoints[0].expect: dns:a.test is of another kind than the service's own, "
            "which are SPIFFE IDs; make it a service of its own",
        )
