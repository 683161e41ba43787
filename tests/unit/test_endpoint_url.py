"""The URLs of bundle endpoints."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tcpmesh.identity.endpoint_url import parse_endpoint_url


class EndpointURLTests(SynchronousTestCase):
    def test_reads_names_addresses_ports_and_queries(self) -> None:
        """A host in lower case, 443 and / where nothing is written."""
        for text, host, port, path, named in (
            ("https://a.test", "a.test", 443, "/", True),
            ("https://A.Test:8443/x/y.json?z=1", "a.test", 8443, "/x/y.json?z=1", True),
            ("https://192.0.2.1/b", "192.0.2.1", 443, "/b", False),
            ("https://[2001:DB8::1]:1/", "2001:db8::1", 1, "/", False),
        ):
            url = parse_endpoint_url(text)
            self.assertEqual((url.host, url.port, url.path, url.is_dns_name), (host, port, path, named))
            self.assertEqual(parse_endpoint_url(url.text), url)

    def test_shows_no_query(self) -> None:
        """There may be a token in it."""
        self.assertEqual(str(parse_endpoint_url("https://a.test:1/b?token=x")), "https://a.test:1/b?...")
        self.assertEqual(str(parse_endpoint_url("https://a.test:1/b")), "https://a.test:1/b")

    def test_refuses_what_is_no_such_url(self) -> None:
        """In the words of what is wrong; what stands before an @ is not repeated."""
        for text, word in (
            ("", "not an https://"),
            ("http://a.test/", "not an https://"),
            ("HTTPS://a.test/", "not an https://"),
            ("https://u:secret@a.test/", "user information"),
            ("http://u:secret@a.test/", "user information"),
            ("https://a.test/#f", "fragment"),
            ("https://", "DNS name is missing"),
            ("https:///b", "DNS name is missing"),
            ("https://a.test?x", "is not a URL"),
            ("https://a.test/\n", "is not a URL"),
            ("https://a.test/ b", "is not a URL"),
            ("https://a.test/é", "is not a URL"),
            ("https://a.test/ ?token=secret", "is not a URL"),
            ("https://a.test:/", "not a port"),
            ("https://a.test:0/", "not a port"),
            ("https://a.test:65536/", "not a port"),
            ("https://a.test:99999999999999999999/", "not a port"),
            ("https://1.2.3/", "neither an IPv4"),
            ("https://0x7f.1/", "neither an IPv4"),
            ("https://[::g]/", "not an IPv6"),
            ("https://[]/", "not an IPv6"),
            ("https://*.test/", "wildcard"),
            ("https://a..test/", "empty label"),
            ("https://a.test/" + "b" * 2048, "characters"),
        ):
            message = str(self.assertRaises(ValueError, parse_endpoint_url, text))
            self.assertIn(word, message, text)
            self.assertNotIn("secret", message)
