"""The keys proxy_protocol: what they mean, and what is refused."""

from __future__ import annotations

from tcpmesh.proxy_protocol_settings import ProxySources, parse_proxy_source
from tcpmesh.values import TCPAddress, UnixAddress
from tests.unit.config_samples import ConfigTestCase, variant

PLACE = "inbound[0].proxy_protocol"


def inbound(mapping: str, listen: str = "127.0.0.1:4143") -> str:
    """The sample with this mapping at its inbound listener."""
    old = '{name: in, listen: "127.0.0.1:4143",'
    return variant(old, f'{{name: in, proxy_protocol: {mapping}, listen: "{listen}",')


class ProxyProtocolTests(ConfigTestCase):
    """``proxy_protocol`` of listeners and services."""

    def test_reads_everything(self) -> None:
        """Networks, single addresses, a time and a version."""
        text = inbound('{accept_from: [10.0.0.0/8, "fd00::/8", 192.0.2.1], timeout: 1s, send: v2}')
        settings = self.load(text).inbound[0].proxy_protocol
        self.assertEqual(
            [str(source.network) for source in settings.accept_from], ["10.0.0.0/8", "fd00::/8", "192.0.2.1"]
        )
        self.assertEqual((settings.timeout, settings.send), (1.0, "v2"))

    def test_is_off_by_default(self) -> None:
        """Nobody sends one, and nobody is sent one."""
        settings = self.load(inbound("{}"))
        self.assertEqual(
            (settings.inbound[0].proxy_protocol.accept_from, settings.inbound[0].proxy_protocol.send), ([], "none")
        )
        self.assertEqual(settings.services["orders"].proxy_protocol, "none")

    def test_reads_a_services_version(self) -> None:
        """One word."""
        text = variant("    expect:", "    proxy_protocol: v1\n    expect:")
        self.assertEqual(self.load(text).services["orders"].proxy_protocol, "v1")
        self.check_problems(
            variant("    expect:", "    proxy_protocol: ‸v3\n    expect:"),
            "services.orders.proxy_protocol: expected 'none', 'v1' or 'v2', got 'v3'",
        )

    def test_a_unix_socket_is_a_source_of_its_own(self) -> None:
        """No network comes there, and nobody comes to TCP over a unix socket."""
        self.load(inbound("{accept_from: [unix]}", "unix:in.sock"))
        self.check_problems(
            inbound("{accept_from: [‸unix]}"),
            f"{PLACE}.accept_from[0]: nobody comes to 127.0.0.1:4143 over a unix socket; write networks "
            "such as 10.0.0.0/8",
        )
        self.check_problems(
            inbound("{accept_from: [‸10.0.0.0/8]}", "unix:/run/in.sock"),
            f"{PLACE}.accept_from[0]: nobody comes to unix:/run/in.sock from a network; for whoever connects "
            "there, write unix",
        )

    def test_not_everybody_is_a_load_balancer(self) -> None:
        """Whoever is taken at its word can claim to be anywhere."""
        for network in ("0.0.0.0/0", '"::/0"'):
            self.check_problems(
                inbound(f"{{accept_from: [‸{network}]}}"),
                f"{PLACE}.accept_from[0]: {network.strip(chr(34))} is everybody; name the load balancers, whose word "
                "is taken for it",
            )
        for parts, whole in (
            ("0.0.0.0/1, 128.0.0.0/1, 10.0.0.0/8", "0.0.0.0/0"),
            ("0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/2", "0.0.0.0/0"),
            ('"8000::/1", "::/1"', "::/0"),
        ):
            self.check_problems(
                inbound(f"{{accept_from: ‸[{parts}]}}"),
                f"{PLACE}.accept_from: together they hold {whole}, which is everybody; name the load balancers",
            )

    def test_refuses_what_means_nothing(self) -> None:
        """Empty lists, names instead of networks, times out of bounds."""
        self.check_problems(
            inbound("{accept_from: ‸[]}"),
            f"{PLACE}.accept_from: the list is empty; name who sends a header, or leave the key out so that nobody may",
        )
        self.check_problems(
            inbound("{accept_from: [‸lb.example.com]}"),
            f"{PLACE}.accept_from[0]: 'lb.example.com' is not a network; write 10.0.0.0/8, fd00::/8 or one IP address",
        )
        self.check_problems(inbound("{timeout: ‸10ms}"), f"{PLACE}.timeout: 10ms is too short; write 100ms to 1m")
        self.check_problems(inbound("{timeout: ‸2m}"), f"{PLACE}.timeout: 2m is too long; write 100ms to 1m")


class SourcesTests(ConfigTestCase):
    """Who must begin with a header."""

    def test_are_searched_by_address(self) -> None:
        """IPv4 in IPv6 form is IPv4; a unix socket counts only where it is named."""
        sources = ProxySources([parse_proxy_source(text) for text in ("10.0.0.0/8", "fd00::/8")])
        for host in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3"):
            self.assertIn(TCPAddress(host, 1), sources)
        for address in (TCPAddress("11.0.0.1", 1), TCPAddress("fe00::1", 1), UnixAddress("")):
            self.assertNotIn(address, sources)
        self.assertIn(UnixAddress(""), ProxySources([parse_proxy_source("unix")]))
        self.assertNotIn(TCPAddress("10.0.0.1", 1), ProxySources([parse_proxy_source("unix")]))
        self.assertNotIn(TCPAddress("10.0.0.1", 1), ProxySources([]))
