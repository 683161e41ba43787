"""Networks: which addresses are in them, however they are written."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.policy.networks import Networks, parse_network, source_number
from tcpmesh.values import TCPAddress, UnixAddress


def number(host: str) -> int | None:
    return source_number(TCPAddress(host, 40000))


_NETWORK = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address), st.integers(0, 32)),
    st.tuples(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address), st.integers(0, 128)),
).map(lambda drawn: ipaddress.ip_network(drawn, strict=False))


class NetworkTests(SynchronousTestCase):
    """One network."""

    def test_holds_its_addresses(self) -> None:
        """From the first to the last, of its own family."""
        for text, inside, outside in [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "::a00:1"]),
            ("192.0.2.1", ["192.0.2.1"], ["192.0.2.0", "192.0.2.2"]),
            ("0.0.0.0/0", ["1.2.3.4"], ["::1", "::1.2.3.4"]),
            ("::/0", ["::1", "fd00::1"], ["1.2.3.4"]),
            ("fd00::/8", ["fd00::1", "fdff::"], ["fe00::", "fc00::"]),
        ]:
            network = parse_network(text)
            self.assertEqual(str(network), text)
            for host in inside:
                self.assertTrue(network.contains(number(host)), f"{text} {host}")
            for host in outside:
                self.assertFalse(network.contains(number(host)), f"{text} {host}")

    def test_ipv4_in_ipv6_form_is_ipv4(self) -> None:
        """A socket for both families reports IPv4 peers so; a rule on either must not be passed by."""
        mapped = number("::ffff:10.1.2.3")
        self.assertEqual(mapped, number("10.1.2.3"))
        self.assertTrue(parse_network("10.0.0.0/8").contains(mapped))
        self.assertFalse(parse_network("::/0").contains(mapped))

    def test_the_interface_of_a_link_local_address_is_not_looked_at(self) -> None:
        """fe80::1%eth0 is in fe80::/10."""
        self.assertTrue(parse_network("fe80::/10").contains(number("fe80::1%eth0")))

    def test_a_unix_socket_is_nowhere(self) -> None:
        """Also not in the network of everything."""
        self.assertIsNone(source_number(UnixAddress("/run/app.sock")))
        self.assertFalse(parse_network("0.0.0.0/0").contains(None))
        self.assertNotIn(None, Networks([parse_network("0.0.0.0/0"), parse_network("::/0")]))

    def test_refuses_what_is_no_network(self) -> None:
        """Each refusal says what to write."""
        for text, message in {
            "10.1.0.0/8": "has bits behind its first 8; write 10.0.0.0/8, or 10.1.0.0",
            "10.0.0.0/33": "is not a network; write 10.0.0.0/8, fd00::/8 or one IP address",
            "10.0.0.0/08": "behind the '/' stands how many bits are fixed",
            "10.0.0.0/255.0.0.0": "behind the '/' stands how many bits are fixed",
            "10.0.0.0/": "behind the '/' stands how many bits are fixed",
            "010.0.0.0/8": "is not a network",
            "10/8": "is not a network",
            "": "is not a network",
            "localhost": "is not a network",
            "fe80::1%eth0": "names an interface",
            "::ffff:10.0.0.0/104": "is IPv4 in IPv6 form; write 10.0.0.0/8",
            "10.0.0.0/٨": "behind the '/' stands how many bits are fixed",
        }.items():
            self.assertIn(message, str(self.assertRaises(ValueError, parse_network, text)))

    @given(st.lists(_NETWORK, max_size=6), st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1))
    def test_many_agree_with_each_alone(self, drawn: list[ipaddress.IPv4Network], low: int, high: int) -> None:
        """One search, whether they overlap, touch or lie apart; at their edges too."""
        networks = [parse_network(str(one)) for one in drawn if not str(one).startswith("::ffff:")]
        together = Networks(networks)
        edges = [number for one in networks for number in (one.first - 1, one.first, one.last, one.last + 1)]
        for place in [low, 2**32 + high, *edges]:
            self.assertEqual(place in together, any(one.contains(place) for one in networks))
