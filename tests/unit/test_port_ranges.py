"""Tests for ranges of ports: how they are written, and which are refused."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.addresses import TCPAddress, UnixAddress, parse_address
from tcpmesh.port_ranges import MAX_PORTS, PortRange, addresses_of, parse_listen_address, ports_of_ranges


class PortRangeTests(SynchronousTestCase):
    """``tcpmesh.port_ranges``."""

    def refused(self, text: str) -> str:
        return str(self.assertRaises(ValueError, parse_listen_address, text))

    def test_is_read_and_written_alike(self) -> None:
        """IPv4 and IPv6, of one port and of the most; single addresses as ever."""
        for text in (
            "127.0.0.1:19092-19094",
            "[::1]:19092-19094",
            "[fe80::1%eth0]:1-2",
            "127.0.0.1:7-7",
            f"10.0.0.1:{65536 - MAX_PORTS}-65535",
            "127.0.0.1:0",
            "[::1]:80",
            "unix:/run/app:1-2",
        ):
            self.assertEqual(str(parse_listen_address(text)), text)
        self.assertEqual(parse_listen_address("unix:/run/app:1-2"), UnixAddress("/run/app:1-2"))

    def test_has_an_address_for_each_port(self) -> None:
        """In order; a single address is the only one of itself."""
        found = parse_listen_address("[::1]:9-11")
        self.assertEqual(found, PortRange("::1", 9, 11))
        self.assertEqual(addresses_of(found), tuple(TCPAddress("::1", port) for port in (9, 10, 11)))
        self.assertEqual(addresses_of(TCPAddress("127.0.0.1", 5)), (TCPAddress("127.0.0.1", 5),))
        assert isinstance(found, PortRange)
        self.assertEqual(len(found), 3)

    def test_is_counted_by_its_ports(self) -> None:
        """Only ranges are: other listeners are few."""
        listens = [parse_listen_address(text) for text in ("127.0.0.1:5-7", "127.0.0.1:80", "unix:/run/a", "[::1]:9-9")]
        self.assertEqual(ports_of_ranges(listens), 4)

    def test_is_on_loopback_or_not(self) -> None:
        """As its address is."""
        for text, loopback in (("127.0.0.9:1-2", True), ("[::1]:1-2", True), ("0.0.0.0:1-2", False)):
            found = parse_listen_address(text)
            self.assertIs(found.is_loopback, loopback)

    def test_says_what_is_wrong(self) -> None:
        """Reversed, without a beginning, too long, or no address at all."""
        self.assertEqual(
            self.refused("127.0.0.1:19094-19092"),
            "'127.0.0.1:19094-19092' ends before it begins; write 127.0.0.1:19092-19094",
        )
        self.assertEqual(
            self.refused("127.0.0.1:0-2"),
            "'127.0.0.1:0-2' begins at port 0, which asks for any port; a range names its ports",
        )
        self.assertEqual(self.refused("[::1]:1000-2000"), "'[::1]:1000-2000' has 1001 ports; a range has at most 1000")
        self.assertEqual(
            self.refused("127.0.0.1:65535-65536"),
            "in '127.0.0.1:65535-65536': '65536' in '127.0.0.1:65536' is not a port from 0 to 65535",
        )
        self.assertEqual(
            self.refused("localhost:1-2"),
            "in 'localhost:1-2': 'localhost' in 'localhost:1' is not an IP address: write 127.0.0.1",
        )
        self.assertEqual(self.refused("::1:1-2"), "in '::1:1-2': the IPv6 address in '::1:1' needs brackets: [::1]:1")
        for text in ("127.0.0.1:1-", "127.0.0.1:-2", "127.0.0.1:1-2-3", "127.0.0.1:01-02", "127.0.0.1:1 - 2", "1-2"):
            self.assertTrue(self.refused(text), text)

    def test_is_no_address_to_dial(self) -> None:
        """Elsewhere a range is refused, with the one place where it may stand."""
        error = self.assertRaises(ValueError, parse_address, "127.0.0.1:1-2")
        self.assertEqual(
            str(error),
            "'1-2' in '127.0.0.1:1-2' is not a port from 0 to 65535; only an outbound listener with per_endpoint has a "
            "range",
        )
