"""Tests for the values of the configuration: how they are written, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.addresses import shown
from tcpmesh.identity.spiffe import SpiffeId
from tcpmesh.values import (
    DNSName,
    TCPAddress,
    UnixAddress,
    format_duration,
    parse_address,
    parse_dns_name,
    parse_duration,
    parse_expected_identity,
    parse_size,
)


class _ParserTestCase(SynchronousTestCase):
    """Checks tables of texts against one parser."""

    def check_values(self, parse: Callable[[str], Any], table: dict[str, Any]) -> None:
        for text, value in table.items():
            self.assertEqual(parse(text), value, text)

    def check_refusals(self, parse: Callable[[str], Any], table: dict[str, str]) -> None:
        for text, message in table.items():
            error = self.assertRaises(ValueError, parse, text)
            self.assertEqual(str(error), message, text)


class DurationTests(_ParserTestCase):
    """Durations."""

    def test_reads_every_unit(self) -> None:
        """A number and a unit become seconds."""
        self.check_values(
            parse_duration,
            {
                "50ms": 0.05,
                "5s": 5.0,
                "1.5m": 90.0,
                "1h": 3600.0,
                "7d": 604800.0,
                "0s": 0.0,
                "3650d": 315360000.0,
            },
        )

    def test_refuses_everything_else(self) -> None:
        """A missing or unknown unit, a sign, spaces and foreign digits are not guessed at."""
        hint = "is not a duration; write a number and a unit: 50ms, 5s, 10m, 1h or 7d"
        bad = ["5", "", "s", "5 s", "-5s", "+5s", "5sec", "1h30m", "5S", "1e3s", "5s\n", ".5s", "5.s", "inf", "nans"]
        self.check_refusals(parse_duration, {text: f"{text!r} {hint}" for text in bad})
        self.check_refusals(parse_duration, {"٣s": f"'\\u0663s' {hint}"})

    def test_refuses_more_than_ten_years(self) -> None:
        """A duration that no clock can wait for is a typing error."""
        self.check_refusals(
            parse_duration,
            {
                "3651d": "'3651d' is longer than ten years (3650d)",
                "999999999999h": "'999999999999h' is longer than ten years (3650d)",
            },
        )

    def test_formats_in_the_largest_whole_unit(self) -> None:
        """What is shown is what an operator would have written."""
        for seconds, text in {
            0.05: "50ms",
            0.0: "0ms",
            1.0: "1s",
            90.0: "90s",
            1.5: "1.5s",
            3600.0: "1h",
            86400.0: "1d",
            1234567.5: "1234567.5s",
        }.items():
            self.assertEqual(format_duration(seconds), text)

    @given(st.integers(min_value=0, max_value=315360000000))
    def test_format_and_parse_agree(self, milliseconds: int) -> None:
        """Every duration of whole milliseconds survives being written and read."""
        seconds = milliseconds / 1000
        self.assertAlmostEqual(parse_duration(format_duration(seconds)), seconds, places=4)


class SizeTests(_ParserTestCase):
    """Sizes."""

    def test_reads_every_unit(self) -> None:
        """A whole number and a binary unit become bytes."""
        self.check_values(
            parse_size, {"512B": 512, "64KiB": 65536, "1MiB": 1048576, "2GiB": 2147483648, "0B": 0, "1048576GiB": 2**50}
        )

    def test_refuses_everything_else(self) -> None:
        """Decimal units, fractions and bare numbers are not guessed at."""
        hint = "is not a size; write a whole number and a unit: 512B, 64KiB, 1MiB or 2GiB"
        bad = ["64", "64KB", "64k", "1.5MiB", "-1B", "", "1 KiB", "1kib", "9999999999999999B"]
        self.check_refusals(parse_size, {text: f"{text!r} {hint}" for text in bad})
        self.check_refusals(parse_size, {"1048577GiB": "'1048577GiB' is more than 1048576GiB"})


class AddressTests(_ParserTestCase):
    """Addresses."""

    def test_reads_the_three_forms(self) -> None:
        """IPv4 and IPv6 with a port, and unix sockets, in their canonical form."""
        self.check_values(
            parse_address,
            {
                "127.0.0.1:5432": TCPAddress("127.0.0.1", 5432),
                "0.0.0.0:0": TCPAddress("0.0.0.0", 0),
                "[::1]:65535": TCPAddress("::1", 65535),
                "[2001:DB8:0:0::1]:1": TCPAddress("2001:db8::1", 1),
                "[fe80::1%eth0]:80": TCPAddress("fe80::1%eth0", 80),
                "unix:/run/app.sock": UnixAddress("/run/app.sock"),
                "unix:app.sock": UnixAddress("app.sock"),
                "unix:" + "a" * 107: UnixAddress("a" * 107),
            },
        )

    def test_says_what_is_wrong(self) -> None:
        """Each usual mistake has its own explanation."""
        name = "names are resolved by the discovery plugin dns; write an IP address"
        self.check_refusals(
            parse_address,
            {
                "127.0.0.1": "'127.0.0.1' has no port; write 127.0.0.1:5432, [::1]:5432 or unix:/run/app.sock",
                "": "'' has no port; write 127.0.0.1:5432, [::1]:5432 or unix:/run/app.sock",
                "[::1]": "'[::1]' has no port; write 127.0.0.1:5432, [::1]:5432 or unix:/run/app.sock",
                "/run/app.sock": "'/run/app.sock' is a path; for a socket, write unix:/run/app.sock",
                "5432": "'5432' is only a port; write 127.0.0.1:5432",
                ":5432": "'' in ':5432' is not an IP address: "
                "write 0.0.0.0 for every IPv4 address of this machine, [::] for every address",
                "*:5432": "'*' in '*:5432' is not an IP address: "
                "write 0.0.0.0 for every IPv4 address of this machine, [::] for every address",
                "localhost:80": "'localhost' in 'localhost:80' is not an IP address: write 127.0.0.1",
                "db.example.com:80": f"'db.example.com' in 'db.example.com:80' is not an IP address: {name}",
                "tcp:127.0.0.1:80": f"'tcp:127.0.0.1' in 'tcp:127.0.0.1:80' is not an IP address: {name}",
                "127.0.0.01:80": "'127.0.0.01' in '127.0.0.01:80' is not an IP address: "
                "four numbers from 0 to 255, without leading zeros",
                "127.1:80": "'127.1' in '127.1:80' is not an IP address: "
                "four numbers from 0 to 255, without leading zeros",
                "::1:80": "the IPv6 address in '::1:80' needs brackets: [::1]:80",
                "[127.0.0.1]:80": "'[127.0.0.1]:80' puts brackets around an IPv4 address",
                "[::g]:80": "'::g' in '[::g]:80' is not an IPv6 address",
                "[]:80": "'' in '[]:80' is not an IPv6 address",
                "[fe80::1%]:80": "'' in '[fe80::1%]:80' is not the name of a network interface",
                "[fe80::1%a/b]:80": "'a/b' in '[fe80::1%a/b]:80' is not the name of a network interface",
                "[::ffff:127.0.0.1]:80": "'[::ffff:127.0.0.1]:80' is an IPv4 address in IPv6 form; write 127.0.0.1",
                "127.0.0.1:65536": "'65536' in '127.0.0.1:65536' is not a port from 0 to 65535",
                "127.0.0.1:": "'' in '127.0.0.1:' is not a port from 0 to 65535",
                "127.0.0.1:http": "'http' in '127.0.0.1:http' is not a port from 0 to 65535",
                "127.0.0.1:-1": "'-1' in '127.0.0.1:-1' is not a port from 0 to 65535",
                "127.0.0.1:080": "'080' in '127.0.0.1:080' is not a port from 0 to 65535",
                "127.0.0.1:80/tcp": "'127.0.0.1:80/tcp' is not an address; "
                "write 127.0.0.1:5432 or, for a socket, unix:/run/app.sock",
                "unix:": "'unix:' names no path; write unix:/run/app.sock",
                "unix:///run/a.sock": "'unix:///run/a.sock' starts its path with two slashes; write unix:/run/a.sock",
                "unix:/run/": "'unix:/run/' names a directory; write the path of the socket itself",
                "unix:a\0b": "'unix:a\\x00b' has a NUL byte in its path",
                "unix:" + "ä" * 54: f"the path in {shown('unix:' + 'ä' * 54)} "
                "is longer than the 107 bytes a unix socket can have",
            },
        )

    def test_refuses_a_number_of_any_length(self) -> None:
        """A port of thousands of digits is refused like any other, and cut in the message."""
        error = self.assertRaises(ValueError, parse_address, "127.0.0.1:" + "9" * 10000)
        self.assertIn("is not a port from 0 to 65535", str(error))
        self.assertLess(len(str(error)), 300)

    @given(st.one_of(st.text(), st.from_regex(r"[\[\]0-9a-f:.%/]*", fullmatch=True)))
    def test_reads_or_explains_any_text(self, text: str) -> None:
        """Whatever is written is either an address that writes itself the same way, or a ValueError."""
        try:
            address = parse_address(text)
        except ValueError as error:
            self.assertTrue(str(error))
        else:
            self.assertEqual(parse_address(str(address)), address)

    def test_knows_loopback_and_wildcard(self) -> None:
        """What never leaves the machine, and what stands for all of its addresses."""
        for text, loopback, wildcard in [
            ("127.0.0.1:1", True, False),
            ("127.9.9.9:1", True, False),
            ("[::1]:1", True, False),
            ("0.0.0.0:1", False, True),
            ("[::]:1", False, True),
            ("10.0.0.1:1", False, False),
            ("[fe80::1%eth0]:1", False, False),
        ]:
            address = parse_address(text)
            assert isinstance(address, TCPAddress)
            self.assertEqual((address.is_loopback, address.is_wildcard), (loopback, wildcard), text)
        self.assertTrue(UnixAddress("/x").is_loopback)


class DNSNameTests(_ParserTestCase):
    """DNS names of expected peers."""

    def test_reads_names_in_lower_case(self) -> None:
        """Letters, digits and inner hyphens; A-labels; case does not matter (RFC 4343)."""
        self.check_values(
            parse_dns_name,
            {
                "db.example.com": DNSName("db.example.com"),
                "DB.Example.COM": DNSName("db.example.com"),
                "localhost": DNSName("localhost"),
                "1.2.3.4.example": DNSName("1.2.3.4.example"),
                "xn--bcher-kva.example": DNSName("xn--bcher-kva.example"),
                "a" * 63 + ".example": DNSName("a" * 63 + ".example"),
            },
        )

    def test_says_what_is_wrong(self) -> None:
        """Each usual mistake has its own explanation."""
        self.check_refusals(
            parse_dns_name,
            {
                "": "a DNS name is missing",
                "db.example.com.": "'db.example.com.' ends with a dot; write 'db.example.com'",
                "*.example.com": "'*.example.com' has a wildcard; a wildcard names nobody, write each name",
                "bücher.example": "'b\\xfccher.example' is not a DNS name in ASCII form; write its labels as xn--…",
                "a..b": "'a..b' has an empty label (a leading or a double dot)",
                ".a": "'.a' has an empty label (a leading or a double dot)",
                "-a.b": "label '-a' in '-a.b' may only hold letters, digits and, inside, hyphens",
                "a_b.c": "label 'a_b' in 'a_b.c' may only hold letters, digits and, inside, hyphens",
                "a b": "label 'a b' in 'a b' may only hold letters, digits and, inside, hyphens",
                "a\0.b": "label 'a\\x00' in 'a\\x00.b' may only hold letters, digits and, inside, hyphens",
                "a.b:443": "label 'b:443' in 'a.b:443' may only hold letters, digits and, inside, hyphens",
                "xn--a.b": "label 'xn--a' in 'xn--a.b' is not a valid A-label (xn-- and Punycode)",
                "xn--99999999.b": "label 'xn--99999999' in 'xn--99999999.b' is not a valid A-label (xn-- and Punycode)",
                "xn--abc-.b": "label 'xn--abc-' in 'xn--abc-.b' may only hold letters, digits and, inside, hyphens",
                "10.0.0.1": "'10.0.0.1' looks like an IP address; a certificate is matched by DNS name or SPIFFE ID",
                "0x7f.1": "'0x7f.1' looks like an IP address; a certificate is matched by DNS name or SPIFFE ID",
                "a" * 64: f"label '{'a' * 64}' has 64 characters, more than 63",
                "a." * 127: f"{shown('a.' * 127)} ends with a dot; write {shown(('a.' * 127)[:-1])}",
                "a." * 127 + "b": f"{shown('a.' * 127 + 'b')} has 255 characters; a DNS name has at most 253",
            },
        )

    @given(st.one_of(st.text(), st.from_regex(r"[a-zA-Z0-9.\-]*", fullmatch=True)))
    def test_reads_or_explains_any_text(self, text: str) -> None:
        """Whatever is written is either a name that is read the same again, or a ValueError."""
        try:
            name = parse_dns_name(text)
        except ValueError as error:
            self.assertTrue(str(error))
        else:
            self.assertEqual(parse_dns_name(name.name), name)


class ExpectedIdentityTests(_ParserTestCase):
    """SPIFFE IDs and DNS names side by side."""

    def test_reads_both_forms(self) -> None:
        """The prefix says which of the two it is, and is written again."""
        self.assertEqual(str(parse_expected_identity("dns:DB.example.com")), "dns:db.example.com")
        self.check_values(
            parse_expected_identity,
            {
                "spiffe://example.org/orders": SpiffeId.parse("spiffe://example.org/orders"),
                "dns:db.example.com": DNSName("db.example.com"),
            },
        )

    def test_says_what_is_wrong(self) -> None:
        """A text of neither kind is told both; one of a kind is told that kind's rule."""
        neither = (
            "is neither a SPIFFE ID, as spiffe://example.org/orders, nor a DNS name, as dns:db.example.com, nor a "
            "pinned key, as spki:sha256:…"
        )
        self.check_refusals(
            parse_expected_identity,
            {
                "db.example.com": f"'db.example.com' {neither}",
                "": f"'' {neither}",
                "https://example.org": f"'https://example.org' {neither}",
                "dns:": "a DNS name is missing",
                "SPIFFE://example.org/a": "'SPIFFE://example.org/a' has an upper-case scheme: "
                "did you mean 'spiffe://example.org/a'?",
            },
        )
