"""Tests for listeners with a port for each endpoint, and for limits of listeners: what a configuration may say."""

from __future__ import annotations

from tcpmesh.config import warnings
from tcpmesh.port_ranges import PortRange
from tests.unit.config_samples import SAMPLE, ConfigTestCase, variant

LISTEN = 'listen: "127.0.0.1:15000"'
THREE = '["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]'


def each(listen: str, endpoints: str = THREE) -> str:
    """The sample with such a listener and such endpoints."""
    text = SAMPLE.replace(LISTEN, f"listen: ‸{listen}, per_endpoint: true")
    return text.replace('["127.0.0.1:4143"]', endpoints, 1)


class PerEndpointTests(ConfigTestCase):
    """``per_endpoint``."""

    def loads(self, text: str) -> PortRange:
        listen = self.load(text.replace("‸", "")).outbound[0].listen
        assert isinstance(listen, PortRange)
        return listen

    def test_takes_a_range(self) -> None:
        """As many ports as there are endpoints, on IPv4 or IPv6; one is enough."""
        self.assertEqual(self.loads(each('"127.0.0.1:19092-19094"')), PortRange("127.0.0.1", 19092, 19094))
        self.assertEqual(self.loads(each('"[::1]:19092-19094"')), PortRange("::1", 19092, 19094))
        self.assertEqual(self.loads(each('"127.0.0.1:7-7"', '["127.0.0.1:1"]')), PortRange("127.0.0.1", 7, 7))

    def test_is_needed_for_a_range(self) -> None:
        """What should the ports be for otherwise."""
        self.check_problems(
            variant(LISTEN, 'listen: ‸"127.0.0.1:1-3"'),
            "outbound[0].listen: 127.0.0.1:1-3 is a range of ports; for a port for each endpoint add per_endpoint: "
            "true, else write one port",
        )

    def test_needs_a_range(self) -> None:
        """Not one port, nor a unix socket."""
        for listen in ("127.0.0.1:15000", "unix:/run/a"):
            self.check_problems(
                each(f'"{listen}"'),
                f"outbound[0].listen: per_endpoint needs a port for each endpoint, and {listen} is one address; write "
                'a range such as "127.0.0.1:19092-19094"',
            )

    def test_has_as_many_ports_as_there_are_endpoints(self) -> None:
        """Static discovery has said them all; the message has the range to write."""
        for listen, words in (
            ("127.0.0.1:5-6", "are 2 ports"),
            ("127.0.0.1:5-8", "are 4 ports"),
            ("127.0.0.1:5-5", "is 1 port"),
        ):
            self.check_problems(
                each(f'"{listen}"'),
                f"outbound[0].listen: {listen} {words}, but service 'orders' has 3 endpoints; write 127.0.0.1:5-7",
            )

    def test_is_told_only_what_it_may_write(self) -> None:
        """No port beyond the last one, no range beyond the longest."""
        self.check_problems(
            each('"127.0.0.1:65535-65535"'),
            "outbound[0].listen: 127.0.0.1:65535-65535 is 1 port, but service 'orders' has 3 endpoints; write "
            "127.0.0.1:65533-65535",
        )
        endpoints = ", ".join(f'"127.0.0.1:{port}"' for port in range(1, 1002))
        self.check_problems(
            each('"127.0.0.2:5-7"', f"[{endpoints}]"),
            "outbound[0].listen: 127.0.0.2:5-7 are 3 ports, but service 'orders' has 1001 endpoints; a range has at "
            "most 1000 ports",
        )

    def test_has_endpoints_whose_indexes_agree(self) -> None:
        """Each from 0, and each once."""
        entry = '{{address: "127.0.0.1:{}", metadata: {{index: "{}"}}}}'
        good = ", ".join(entry.format(port, index) for port, index in ((1, 2), (2, 0), (3, 1)))
        self.loads(each('"127.0.0.1:5-7"', f"[{good}]"))
        bad = ", ".join(entry.format(port, index) for port, index in ((1, 1), (2, 1), (3, 3)))
        advice = "metadata: {index: …} gives each endpoint one of 0 to 2"
        text = each('"127.0.0.1:5-7"', f"[{bad}]").replace("‸", "")
        self.assertEqual(
            [message for message, _ in self.problems(text)],
            [
                "outbound[0].listen: service 'orders': 127.0.0.1:2 has the index 1, as 127.0.0.1:1 has; " + advice,
                "outbound[0].listen: service 'orders': 127.0.0.1:3 has the index 3; the last port is that of 2; "
                + advice,
            ],
        )

    def test_says_what_is_wrong_with_a_range(self) -> None:
        """Where it is written."""
        self.check_problems(
            each('"127.0.0.1:7-5"'), "outbound[0].listen: '127.0.0.1:7-5' ends before it begins; write 127.0.0.1:5-7"
        )
        self.check_problems(
            variant(
                'listen: "127.0.0.1:4143", target: "127.0.0.1:5000"',
                'listen: ‸"127.0.0.1:1-3", target: ‸"127.0.0.1:4-5"',
            ),
            *(
                f"inbound[0].{key}: '{ports}' in '127.0.0.1:{ports}' is not a port from 0 to 65535; only an outbound "
                "listener with per_endpoint has a range"
                for key, ports in (("listen", "1-3"), ("target", "4-5"))
            ),
        )

    def test_may_not_overlap(self) -> None:
        """With a listener on any of the ports; of two ranges one address is shown."""
        second = (
            '  - {name: two, listen: ‸"127.0.0.1:15002-15004", per_endpoint: true, service: orders, workload: web}\n'
        )
        first = each('"127.0.0.1:15000-15002"').replace("‸", "")
        where = "outbound[0].listen (127.0.0.1:15002, line 12)"
        self.check_problems(
            first.replace("inbound:\n", f"{second}inbound:\n", 1),
            f"outbound[1].listen: 127.0.0.1:15002 is taken already by {where}",
        )
        self.check_problems(
            first.replace("inbound:\n", f"{second}inbound:\n", 1).replace("15002-15004", "15000-15002"),
            "outbound[1].listen: 127.0.0.1:15000 is taken already by outbound[0].listen (127.0.0.1:15000, line 12)",
        )
        self.check_problems(
            first.replace('listen: "127.0.0.1:4143"', 'listen: ‸"127.0.0.1:15002"'),
            f"inbound[0].listen: 127.0.0.1:15002 is taken already by {where}",
        )
        self.check_problems(
            first.replace('target: "127.0.0.1:5000"', 'target: ‸"127.0.0.1:15001"'),
            "inbound[0].target: 127.0.0.1:15001 is this proxy's own listener outbound[0].listen (127.0.0.1:15001, line "
            "12), so connections would run in a circle; write the application's address",
        )

    def test_must_stay_on_the_machine(self) -> None:
        """As any listener of plaintext; or it is warned of."""
        self.check_problems(
            each('"0.0.0.0:5-7"'),
            "outbound[0].listen: 0.0.0.0:5-7 accepts plaintext from the network; listen on loopback or a unix socket, "
            "or, if everybody there may act as this workload, add plaintext_network: allow",
        )
        text = each('"0.0.0.0:5-7", plaintext_network: allow').replace("‸", "")
        text = text.replace("127.0.0.1:5000", "10.0.0.1:6").replace(
            "workload: web}\nauthorization", "workload: web, plaintext_network: allow}\nauthorization"
        )
        found = " ".join(problem.message for problem in warnings(self.load(text)))
        self.assertIn("accepts plaintext from the network on 0.0.0.0:5-7, and whoever reaches it acts as web", found)
        self.assertIn("if 10.0.0.1:6 is an address of this machine, the target is this proxy's own listener", found)


class ListenerLimitTests(ConfigTestCase):
    """``limits`` of a listener."""

    def test_is_none_unless_it_is_set(self) -> None:
        """In either direction."""
        settings = self.load(SAMPLE)
        self.assertEqual(
            (settings.outbound[0].limits.connections, settings.inbound[0].limits.connections), (None, None)
        )
        text = SAMPLE.replace("name: out,", "name: out, limits: {connections: 7},")
        settings = self.load(text.replace("{name: in,", "{name: in, limits: {connections: 8},"))
        self.assertEqual((settings.outbound[0].limits.connections, settings.inbound[0].limits.connections), (7, 8))

    def test_has_bounds(self) -> None:
        """Nobody at all is not what a limit is for."""
        for number in (0, -1, 1_000_001):
            self.check_problems(
                variant("{name: out,", f"{{name: out, limits: {{connections: ‸{number}}},"),
                f"outbound[0].limits.connections: {number} is not between 1 and 1000000",
            )
