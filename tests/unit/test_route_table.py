"""Which route is for a server name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.dns_patterns import DnsPattern, parse_dns_pattern
from tcpmesh.route_table import MAX_SERVER_NAME, RouteTable, normal_server_name

LABELS = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(lambda front, rest: f"{front}{rest}", st.sampled_from(["", "*.", "**."]), NAMES)


def table(*patterns: str) -> RouteTable[str]:
    """Each route is called as its pattern is written; the one for all others "default"."""
    return RouteTable((None if text == "default" else parse_dns_pattern(text), text) for text in patterns)


def plain(patterns: list[str], name: str) -> str | None:
    """The same by looking at each pattern: the most telling of those that match."""
    matching = [text for text in patterns if text != "default" and parse_dns_pattern(text).matches(name)]
    order = sorted(matching, key=lambda text: (not text.startswith("*"), text.startswith("*."), len(text.split("."))))
    return order[-1] if order else ("default" if "default" in patterns else None)


class NormalTests(SynchronousTestCase):
    """Names as clients send them."""

    def test_compares_without_case_and_final_dot(self) -> None:
        """Which some clients send although they must not."""
        for text in ("orders.example.test", "ORDERS.example.Test", "orders.example.test."):
            self.assertEqual(normal_server_name(text), "orders.example.test")
        self.assertEqual(normal_server_name("XN--BCHER-KVA.test"), "xn--bcher-kva.test")

    def test_what_is_no_name(self) -> None:
        """It has the route of those who ask for none."""
        long = ".".join(["a"] * 200)
        for text in ("", ".", "..", "a..b", ".a", "a..", "b\u00fccher.test", "a\n.test", "a\x7f", long, "x" * 70000):
            self.assertEqual(normal_server_name(text), "", text[:20])
        self.assertEqual(len(normal_server_name("a" * MAX_SERVER_NAME)), MAX_SERVER_NAME)


class RouteTableTests(SynchronousTestCase):
    """The choice among routes."""

    def test_the_nearest_wins(self) -> None:
        """The very name, one label in front, the longest end, all others; in whatever order they are written."""
        patterns = ["default", "**.test", "**.example.test", "*.example.test", "orders.example.test"]
        for written in (patterns, patterns[::-1]):
            routes = table(*written)
            for name, expected in (
                ("orders.example.test", "orders.example.test"),
                ("Orders.Example.Test.", "orders.example.test"),
                ("billing.example.test", "*.example.test"),
                ("a.billing.example.test", "**.example.test"),
                ("example.test", "**.test"),
                ("notexample.test", "**.test"),
                ("a.notexample.test", "**.test"),
                ("test", "default"),
                ("other.invalid", "default"),
                ("", "default"),
                ("192.0.2.1", "default"),
            ):
                self.assertEqual(routes.find(name), expected, name)

    def test_there_may_be_none(self) -> None:
        """Without a route for all others."""
        routes = table("orders.test", "*.example.test")
        for name in ("", "orders.test.invalid", "aorders.test", "a.b.example.test", "example.test", "*.example.test.x"):
            self.assertIsNone(routes.find(name), name)

    def test_a_wildcard_is_no_name(self) -> None:
        """What a client sends is never a pattern; a label that is a star is a label."""
        self.assertEqual(table("*.example.test", "default").find("*.example.test"), "*.example.test")
        self.assertEqual(table("a.example.test", "default").find("*.example.test"), "default")

    def test_is_what_looking_at_each_pattern_gives(self) -> None:
        """For random routes and names."""

        @given(st.lists(st.one_of(PATTERNS, st.just("default")), unique=True, max_size=8), NAMES)
        def check(patterns: list[str], name: str) -> None:
            self.assertEqual(table(*patterns).find(name), plain(patterns, name))

        check()

    def test_takes_any_text(self) -> None:
        """A stranger chooses it."""

        @given(st.text(max_size=300))
        def check(name: str) -> None:
            self.assertIn(table("a.test", "**.test", "default").find(name), ("a.test", "**.test", "default"))

        check()

    def test_patterns_are_those_of_policies(self) -> None:
        """One language of names in one file: what a policy's to.sni matches, the same route matches."""

        @given(PATTERNS, NAMES)
        def check(text: str, name: str) -> None:
            pattern: DnsPattern = parse_dns_pattern(text)
            self.assertEqual(table(text).find(name) is not None, pattern.matches(name))

        check()
